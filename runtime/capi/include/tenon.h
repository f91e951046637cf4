/* tenon.h - the C interface of Tenon for host applications: open ONNX models and run them.
 *
 * Link with libtenon. The CPU provider is built in; other providers are shared libraries that
 * tenon_environment_load_provider adds. A program that also includes tenon_plugin.h includes that header first.
 *
 *     tenon_environment* environment = NULL;
 *     tenon_session* session = NULL;
 *     tenon_error* error = tenon_environment_create(&environment);
 *     if (!error) error = tenon_session_create(environment, TENON_STR("model.onnx"), NULL, &session);
 *     if (!error) error = tenon_session_run(session, inputs, 2, outputs, 1);
 *     if (error) { print it; tenon_error_release(error); }
 *
 * Versioning
 *   Option and info structs start with `struct_size`, which the caller sets to sizeof the struct. Minor versions only
 *   append members; a member that struct_size does not cover reads as zero and is not written. Zero is the default of
 *   every option. Three value structs are frozen and carry no size, so that arrays of them keep their stride:
 *   tenon_str, tenon_value_view and tenon_dim_override.
 *
 * Errors
 *   A function that can fail returns `tenon_error*`: NULL is success, anything else belongs to the caller, who ends it
 *   with tenon_error_release. What a failing function would have returned through a pointer is left as it was.
 *   No exception or panic leaves the library; callbacks must not throw or longjmp into it.
 *
 * Lifetime words used below
 *   borrowed for the call   valid until the function returns
 *   borrowed from X         valid until X is destroyed
 *
 * Threads
 *   Every function may be called from any thread, at once too, also for one environment or session; only destroying an
 *   object must not overlap another call that names it.
 *
 * Data
 *   Strings are UTF-8, not terminated. Tensors are contiguous and row-major; elements under 8 bits are packed low bits
 *   first, as ONNX packs them. A string tensor of n elements is one flat buffer: n + 1 little-endian uint64_t offsets
 *   counted from the end of the offsets, then the bytes.
 */
#ifndef TENON_H
#define TENON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. */
#define TENON_API_MAJOR 1u
#define TENON_API_MINOR 0u

/* ------------------------------------------------------------------------------------------------ value types ---- */

#ifndef TENON_PLUGIN_H /* these are the same in both headers */
#if defined(_WIN32)
#define TENON_EXPORT __declspec(dllexport)
#else
#define TENON_EXPORT __attribute__((visibility("default")))
#endif

/* A string or a run of bytes. data may be NULL when len is 0. Frozen. Since 1.0. */
typedef struct tenon_str {
    const char* data;
    size_t len;
} tenon_str;

/* Element types; the numbers are those of onnx.TensorProto.DataType. Since 1.0. */
typedef uint32_t tenon_dtype;
enum {
    TENON_DTYPE_UNDEFINED = 0,
    TENON_DTYPE_F32 = 1,
    TENON_DTYPE_U8 = 2,
    TENON_DTYPE_I8 = 3,
    TENON_DTYPE_U16 = 4,
    TENON_DTYPE_I16 = 5,
    TENON_DTYPE_I32 = 6,
    TENON_DTYPE_I64 = 7,
    TENON_DTYPE_STRING = 8,
    TENON_DTYPE_BOOL = 9,
    TENON_DTYPE_F16 = 10,
    TENON_DTYPE_F64 = 11,
    TENON_DTYPE_U32 = 12,
    TENON_DTYPE_U64 = 13,
    TENON_DTYPE_COMPLEX64 = 14,
    TENON_DTYPE_COMPLEX128 = 15,
    TENON_DTYPE_BF16 = 16,
    TENON_DTYPE_F8E4M3FN = 17,
    TENON_DTYPE_F8E4M3FNUZ = 18,
    TENON_DTYPE_F8E5M2 = 19,
    TENON_DTYPE_F8E5M2FNUZ = 20,
    TENON_DTYPE_U4 = 21,
    TENON_DTYPE_I4 = 22,
    TENON_DTYPE_F4E2M1 = 23,
    TENON_DTYPE_F8E8M0 = 24,
    TENON_DTYPE_U2 = 25,
    TENON_DTYPE_I2 = 26,
    TENON_DTYPE_F6E2M3 = 27,
    TENON_DTYPE_F6E3M2 = 28
};

typedef uint32_t tenon_log_level;
enum { TENON_LOG_ERROR = 1, TENON_LOG_WARN = 2, TENON_LOG_INFO = 3, TENON_LOG_DEBUG = 4, TENON_LOG_TRACE = 5 };
#endif

/* A tenon_str of a terminated string, for C. */
#define TENON_STR(text) ((tenon_str){(text), __builtin_strlen(text)})

/* The version of the library, such as "0.1.0". Lives as long as the process. Since 1.0. */
TENON_EXPORT tenon_str tenon_version(void);

/* ------------------------------------------------------------------------------------------------------ error ---- */

typedef uint32_t tenon_error_kind_t;
enum {
    TENON_ERROR_IO = 1,            /* the operating system could not read a file */
    TENON_ERROR_INVALID_MODEL = 2, /* the model breaks a rule of the ONNX standard */
    TENON_ERROR_UNSUPPORTED = 3,   /* legal, but this build does not have it */
    TENON_ERROR_INVALID_INPUT = 4, /* an argument or a value for the model is wrong */
    TENON_ERROR_LIMIT = 5,         /* a size or depth exceeds a limit */
    TENON_ERROR_PROVIDER = 6,      /* a provider failed */
    TENON_ERROR_CANCELLED = 7,
    TENON_ERROR_INTERNAL = 8 /* a bug in the library */
};

/* A failure. Since 1.0. */
typedef struct tenon_error tenon_error;

/* Kind of a failure; 0 for NULL. Since 1.0. */
TENON_EXPORT tenon_error_kind_t tenon_error_kind(const tenon_error* error);
/* One sentence: what, where, expected, what to do; borrowed from the error; empty for NULL. Since 1.0. */
TENON_EXPORT tenon_str tenon_error_message(const tenon_error* error);
/* Ends an error. NULL is allowed. Since 1.0. */
TENON_EXPORT void tenon_error_release(tenon_error* error);

/* -------------------------------------------------------------------------------------------------------- log ---- */

/* Receives a line. Strings are borrowed for the call. Called from any thread, several at once. */
typedef void (*tenon_log_callback)(void* user, tenon_log_level level, tenon_str target, tenon_str message);

/* Sends lines of `level` and more severe to `callback`; NULL ends logging. Applies to the whole process. A
 * call of the callback before, under way on another thread, may still be finishing when this returns. Since 1.0. */
TENON_EXPORT tenon_error* tenon_set_log(tenon_log_callback callback, void* user, tenon_log_level level);

/* ------------------------------------------------------------------------------------------------ environment ---- */

/* The providers that sessions can use. Since 1.0. */
typedef struct tenon_environment tenon_environment;

/* Makes an environment that holds the built-in CPU provider. Since 1.0. */
TENON_EXPORT tenon_error* tenon_environment_create(tenon_environment** environment);
/* Ends an environment; its sessions go on. NULL is allowed. Since 1.0. */
TENON_EXPORT void tenon_environment_destroy(tenon_environment* environment);
/* Loads a provider's shared library, which stays loaded for the life of the process. Of two providers with one name the
 * one with the higher score is kept. Since 1.0. */
TENON_EXPORT tenon_error* tenon_environment_load_provider(tenon_environment* environment, tenon_str path);

/* A provider. Strings are borrowed from the environment. Since 1.0. */
typedef struct tenon_provider_info {
    size_t struct_size; /* set by the caller */
    tenon_str name;
    tenon_str vendor;
    tenon_str version;
    tenon_str reason;      /* why it cannot be used here, or empty */
    uint32_t score;        /* 0: not usable here */
    uint32_t device_count; /* devices that can be opened */
} tenon_provider_info;

/* How many providers there are, usable or not; 0 for NULL. Since 1.0. */
TENON_EXPORT size_t tenon_environment_provider_count(const tenon_environment* environment);
/* Describes provider `index`. Since 1.0. */
TENON_EXPORT tenon_error* tenon_environment_provider(const tenon_environment* environment, size_t index,
                                                     tenon_provider_info* info);

/* ---------------------------------------------------------------------------------------------------- session ---- */

/* An opened model. Since 1.0. */
typedef struct tenon_session tenon_session;

/* A size for a symbolic dimension of the model's inputs. Frozen. Since 1.0. */
typedef struct tenon_dim_override {
    tenon_str name;
    size_t size;
} tenon_dim_override;

/* How a session is opened; everything is borrowed for the call. Since 1.0. */
typedef struct tenon_session_options {
    size_t struct_size;
    const tenon_str* providers; /* "name[:device][,key=value]...", such as "cuda:0,cache=off", preferred ones first */
    size_t provider_count;      /* 0: every usable provider, best first */
    uint32_t strict;  /* 1: a node that no listed provider takes is an error instead of running on the CPU */
    uint32_t threads; /* of the CPU provider; 0: one for each processor */
    uint32_t disable_optimization; /* 1: run the graph as the file has it */
    uint32_t disable_fusion;       /* 1: rewrite the graph but fuse no operators */
    const tenon_dim_override* dims;
    size_t dim_count;
} tenon_session_options;

/* Opens a model file. Weights stay in the file, which must not change while the session lives. options may be NULL.
 * Since 1.0. */
TENON_EXPORT tenon_error* tenon_session_create(const tenon_environment* environment, tenon_str path,
                                               const tenon_session_options* options, tenon_session** session);
/* Opens a model in memory, which is copied; external data is not reachable. options may be NULL. Since 1.0. */
TENON_EXPORT tenon_error* tenon_session_create_from_memory(const tenon_environment* environment, const void* data,
                                                           size_t bytes, const tenon_session_options* options,
                                                           tenon_session** session);
/* Ends a session. Asynchronous runs under way go on to their callbacks. NULL is allowed. Since 1.0. */
TENON_EXPORT void tenon_session_destroy(tenon_session* session);

typedef uint32_t tenon_value_kind;
enum {
    TENON_VALUE_UNKNOWN = 0,
    TENON_VALUE_TENSOR = 1,
    TENON_VALUE_SEQUENCE = 2,
    TENON_VALUE_OPTIONAL = 3,
    TENON_VALUE_MAP = 4
};

/* What the model declares of an input or output. Pointers are borrowed from the session. Since 1.0. */
typedef struct tenon_value_info {
    size_t struct_size; /* set by the caller */
    tenon_str name;
    tenon_value_kind kind;
    tenon_dtype dtype;            /* of a tensor or of an optional's tensor; UNDEFINED when not known */
    int32_t rank;                 /* -1 when not known */
    uint32_t has_default;         /* 1: an input that may be left out */
    const int64_t* dims;          /* rank entries; -1 where not known before the run */
    const tenon_str* dim_symbols; /* rank entries: the name of an unknown dimension, or empty */
} tenon_value_info;

/* How many inputs or outputs the model has; 0 for NULL. Since 1.0. */
TENON_EXPORT size_t tenon_session_input_count(const tenon_session* session);
TENON_EXPORT size_t tenon_session_output_count(const tenon_session* session);
/* Describes input or output `index`. Since 1.0. */
TENON_EXPORT tenon_error* tenon_session_input(const tenon_session* session, size_t index, tenon_value_info* info);
TENON_EXPORT tenon_error* tenon_session_output(const tenon_session* session, size_t index, tenon_value_info* info);

/* -------------------------------------------------------------------------------------------------------- run ---- */

/* A tensor that goes into or comes out of a run. Start from all zeros. Frozen. Since 1.0.
 *
 * Input: the caller sets data, bytes, dims, rank and dtype; the library reads the memory during the run and never
 * writes it. data aligned for its elements saves a copy. All zeros leaves out an input that has a default.
 *
 * Output in the caller's memory: the caller sets data and capacity, and dims and dim_capacity to learn the sizes (or
 * leaves both 0). On return bytes, rank, dtype and the entries of dims are set. data must overlap no input and no other
 * output; aligned to 64 bytes the model writes straight into it, otherwise a copy is made at the end. After an error its
 * contents are not defined.
 *
 * Output in the library's memory: data is NULL. On return data, bytes, dims, rank and dtype are set; the memory at data
 * and dims is read-only and lives until tenon_value_release, whatever happens to the session. */
typedef struct tenon_value_view {
    void* data;
    size_t bytes;
    size_t capacity; /* output: bytes of room at data */
    int64_t* dims;
    uint32_t rank;
    uint32_t dim_capacity; /* output: entries of room at dims */
    tenon_dtype dtype;
    uint32_t reserved; /* 0 */
    void* owner;       /* output: what tenon_value_release ends; NULL before a run */
} tenon_value_view;

/* Ends the library's memory of an output and makes the view all zeros; a view without such memory is left as it is.
 * NULL is allowed. Since 1.0. */
TENON_EXPORT void tenon_value_release(tenon_value_view* value);

/* Runs the model. inputs are in the model's order; the last ones may be missing when they have defaults. outputs are in
 * the model's order too; fewer than the model has drops the others. An output that is a sequence or a map is refused.
 * Since 1.0. */
TENON_EXPORT tenon_error* tenon_session_run(const tenon_session* session, const tenon_value_view* inputs,
                                            size_t input_count, tenon_value_view* outputs, size_t output_count);

/* Receives the end of an asynchronous run, once, on a thread of the library. Either error is not NULL and belongs to the
 * callee, or outputs holds all outputs of the model in the library's memory: the array is borrowed for the call, the
 * memory of each view belongs to the callee, who copies the view or releases it. */
typedef void (*tenon_run_callback)(void* user, tenon_error* error, tenon_value_view* outputs, size_t output_count);

/* Starts a run on a thread of its own and returns. The views and dims are borrowed for the call; the memory at data of
 * every input must stay valid and unchanged until callback is called. After an error callback is never called.
 * Since 1.0. */
TENON_EXPORT tenon_error* tenon_session_run_async(const tenon_session* session, const tenon_value_view* inputs,
                                                  size_t input_count, tenon_run_callback callback, void* user);

#ifdef __cplusplus
}
#endif

#endif
