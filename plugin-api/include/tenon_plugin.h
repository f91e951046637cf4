/* tenon_plugin.h - the contract between the Tenon runtime (the host) and a provider plugin.
 *
 * A provider is one shared library that exports one symbol, tenon_provider_entry. It returns a table of functions that
 * lives as long as the process; the host never unloads a provider. This header is normative: the Rust crate beside it
 * mirrors it and is held to it by compiled assertions.
 *
 * Versioning
 *   Every table and every argument struct starts with `struct_size`, which its creator sets to the size it knows.
 *   Minor versions only append members. A reader touches a member only when `struct_size` covers it
 *   (TENON_HAS below) and treats a missing member as zero. When the major versions differ the host refuses the
 *   provider and prints both versions. Four small value structs are frozen and carry no size, so that arrays of them
 *   keep their stride: tenon_str, tenon_tensor, tenon_cost and tenon_copy.
 *
 * Errors
 *   A function that can fail returns `tenon_status*`: NULL is success, anything else belongs to the caller, who reads
 *   it and calls its `release`. No exception or panic may cross a function of this header in either direction.
 *
 * Ownership words used below
 *   borrowed for the call   valid until the function returns; copy what you need
 *   borrowed from X         valid until X is destroyed
 *   owned by the caller     the caller ends it with the function named there
 *
 * Thread words used below
 *   any thread              may be called from several threads at once
 *   one at a time (X)       calls that name the same X must not overlap
 *
 * Data
 *   Strings are UTF-8, not terminated. Enumerations are uint32_t. Flags are uint32_t holding 0 or 1. Sizes are in bytes
 *   and times in nanoseconds unless a name says otherwise. Tensors are contiguous and row-major; elements under 8 bits
 *   are packed low bits first, as ONNX packs them. A string tensor of n elements is one flat buffer: n + 1 little-endian
 *   uint64_t offsets counted from the end of the offsets, then the bytes.
 */
#ifndef TENON_PLUGIN_H
#define TENON_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TENON_ABI_MAJOR 1u
#define TENON_ABI_MINOR 0u

/* True when `member` of `*s`, a struct that starts with struct_size, is known to the struct's creator. */
#define TENON_HAS(s, type, member) ((s)->struct_size >= offsetof(type, member) + sizeof((s)->member))

#if defined(_WIN32)
#define TENON_EXPORT __declspec(dllexport)
#else
#define TENON_EXPORT __attribute__((visibility("default")))
#endif

/* ------------------------------------------------------------------------------------------------ value types ---- */

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

/* What kind of memory a pointer names. Since 1.0. */
typedef uint32_t tenon_memory;
enum {
    TENON_MEMORY_HOST = 0,   /* ordinary host memory */
    TENON_MEMORY_PINNED = 1, /* host memory the device can copy from and to without staging */
    TENON_MEMORY_DEVICE = 2  /* the device's own memory: an address only the provider may follow */
};

/* A tensor whose bytes belong to somebody else. Frozen. Since 1.0.
 * dims has rank entries (NULL allowed when rank is 0); data is aligned to 64 bytes unless a function says otherwise and
 * may be NULL when bytes is 0. memory tells whether data is a host or a device address. */
typedef struct tenon_tensor {
    void* data;
    size_t bytes;
    const int64_t* dims;
    uint32_t rank;
    tenon_dtype dtype;
    tenon_memory memory;
    uint32_t reserved; /* 0 */
} tenon_tensor;

/* Estimated cost of running a set of nodes once. Negative members are unknown. Frozen. Since 1.0. */
typedef struct tenon_cost {
    double time_ns; /* expected time on the device, launches included, transfers excluded */
    double flops;
    double bytes; /* bytes of device memory moved */
} tenon_cost;

/* A key and a value, as text: options, device facts. Since 1.0. */
typedef struct tenon_option {
    size_t struct_size;
    tenon_str key;
    tenon_str value;
} tenon_option;

/* ----------------------------------------------------------------------------------------------------- status ---- */

typedef uint32_t tenon_code;
enum {
    TENON_CODE_INVALID_ARGUMENT = 1, /* the caller broke the contract or the model is not valid */
    TENON_CODE_UNSUPPORTED = 2,      /* legal, but this provider cannot do it */
    TENON_CODE_OUT_OF_MEMORY = 3,
    TENON_CODE_DEVICE_LOST = 4, /* nothing on this device will work again in this process */
    TENON_CODE_NOT_FOUND = 5,
    TENON_CODE_CANCELLED = 6,
    TENON_CODE_INTERNAL = 7,
    TENON_CODE_NOT_READY = 8 /* the work asked about has not finished */
};

/* A failure. Since 1.0. */
typedef struct tenon_status tenon_status;
struct tenon_status {
    size_t struct_size;
    tenon_code code;
    int32_t provider_code; /* the driver's own error number, 0 when there is none */
    tenon_str message;     /* one sentence: what, where, expected, what to do; borrowed from the status */
    /* Ends the status. Any thread. Never NULL. */
    void (*release)(tenon_status* self);
};

/* ------------------------------------------------------------------------------------------------------- host ---- */

typedef uint32_t tenon_log_level;
enum { TENON_LOG_ERROR = 1, TENON_LOG_WARN = 2, TENON_LOG_INFO = 3, TENON_LOG_DEBUG = 4, TENON_LOG_TRACE = 5 };

/* What the host offers to a provider. Lives as long as the process. Since 1.0. */
typedef struct tenon_host_api {
    size_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    tenon_str name;    /* "tenon", or the name of the program that hosts the provider */
    tenon_str version; /* of the host */

    /* Writes a line to the host's log. target names the part of the provider that speaks. Any thread. Since 1.0. */
    void (*log)(tenon_log_level level, tenon_str target, tenon_str message);
    /* 1 when lines of this level are kept; ask before building a costly message. Any thread. Since 1.0. */
    uint32_t (*log_enabled)(tenon_log_level level);
} tenon_host_api;

/* ---------------------------------------------------------------------------------------------------- objects ---- */

/* Objects of a provider. Each is made and ended by functions of the table; the host never looks inside. */
typedef struct tenon_device tenon_device;         /* an opened device */
typedef struct tenon_stream tenon_stream;         /* an in-order queue of work on one device */
typedef struct tenon_event tenon_event;           /* a point in a stream */
typedef struct tenon_recording tenon_recording;   /* a captured sequence of work, launched as one */
typedef struct tenon_executable tenon_executable; /* a compiled subgraph */
typedef struct tenon_kv_pool tenon_kv_pool;       /* pages of a key-value cache */
typedef struct tenon_group tenon_group;           /* devices that run collectives together */

/* ---------------------------------------------------------------------------------------------------- devices ---- */

typedef uint32_t tenon_device_kind;
enum { TENON_DEVICE_CPU = 1, TENON_DEVICE_GPU = 2, TENON_DEVICE_NPU = 3, TENON_DEVICE_OTHER = 4 };

/* Facts about a device that can be opened. Borrowed from the provider for the life of the process. Since 1.0. */
typedef struct tenon_device_info {
    size_t struct_size;
    uint32_t index; /* what open_device takes */
    tenon_device_kind kind;
    tenon_str name; /* as the vendor prints it */
    tenon_str arch; /* the target that compile takes: "x86_64", "sm90", "gfx950" */
    tenon_str chip; /* the chip's row in the provider's tables: "h100-sxm", "mi355x"; empty when unknown */
    tenon_str pci;  /* "0000:3b:00.0", empty when not on a PCI bus */
    uint64_t memory_bytes;
    double memory_gb_per_s;   /* peak bandwidth of its memory in 1e9 bytes a second, 0 when unknown */
    double peak_f32_tflops;   /* 0 when unknown, like the next two */
    double peak_bf16_tflops;
    double peak_int8_tops;
    uint32_t shares_host_memory; /* 1: tensors in TENON_MEMORY_HOST need no copy */
    uint32_t compute_units;
} tenon_device_info;

/* Arguments of open_device. Since 1.0. */
typedef struct tenon_open_args {
    size_t struct_size;
    uint32_t index;
    uint32_t option_count;
    const tenon_option* const* options; /* borrowed for the call; an unknown key is an error that lists the known ones */
} tenon_open_args;

/* Memory figures of an opened device. Since 1.0. */
typedef struct tenon_memory_info {
    size_t struct_size;   /* set by the caller */
    uint64_t total_bytes; /* out */
    uint64_t free_bytes;  /* out: right now, for everybody on the machine */
    uint64_t used_bytes;  /* out: by this open device */
    uint64_t peak_bytes;  /* out: the most that used_bytes has been */
} tenon_memory_info;

/* ------------------------------------------------------------------------------------------------------- copy ---- */

/* One copy of bytes. Frozen. Since 1.0. */
typedef struct tenon_copy {
    void* dst;
    const void* src;
    size_t bytes;
    tenon_memory dst_memory;
    tenon_memory src_memory;
    tenon_device* dst_device; /* the device dst belongs to; NULL for host memory */
    tenon_device* src_device; /* likewise; differs from dst_device in a peer copy between devices of one provider */
} tenon_copy;

/* ----------------------------------------------------------------------------------------------------- graphs ---- */

/* A value of a graph. Since 1.0. */
typedef struct tenon_value {
    size_t struct_size;
    tenon_str name;
    tenon_dtype dtype;            /* UNDEFINED when not known */
    int32_t rank;                 /* -1 when not known */
    const int64_t* dims;          /* rank entries; -1 where not known before the run */
    const tenon_str* dim_symbols; /* rank entries: the name of an unknown dimension, equal names are equal sizes; or NULL */
    const tenon_tensor* constant; /* the value itself when it is a constant, in host memory, perhaps unaligned; or NULL */
} tenon_value;

typedef uint32_t tenon_attribute_kind;
enum {
    TENON_ATTRIBUTE_INT = 1,
    TENON_ATTRIBUTE_FLOAT = 2,
    TENON_ATTRIBUTE_STRING = 3,
    TENON_ATTRIBUTE_TENSOR = 4,
    TENON_ATTRIBUTE_INTS = 5,
    TENON_ATTRIBUTE_FLOATS = 6,
    TENON_ATTRIBUTE_STRINGS = 7
};

/* An attribute of a node. kind says which members hold it: a single value is in i, f, s or tensor; a list is `count`
 * elements at ints, floats or strings. Since 1.0. */
typedef struct tenon_attribute {
    size_t struct_size;
    tenon_str name;
    tenon_attribute_kind kind;
    float f;
    int64_t i;
    tenon_str s;
    const tenon_tensor* tensor; /* in host memory, perhaps unaligned */
    size_t count;
    const int64_t* ints;
    const float* floats;
    const tenon_str* strings;
} tenon_attribute;

#define TENON_NO_VALUE UINT32_MAX /* an omitted optional input or an output that nobody uses */

/* A node of a graph: an operator with no nested graph; control flow stays with the host. Since 1.0. */
typedef struct tenon_node {
    size_t struct_size;
    tenon_str name;
    tenon_str domain;     /* "" is ai.onnx */
    tenon_str op_type;
    uint32_t version;     /* the opset version imported for the domain */
    uint32_t input_count;
    const uint32_t* inputs; /* indices of values or TENON_NO_VALUE */
    uint32_t output_count;
    uint32_t attribute_count;
    const uint32_t* outputs;
    const tenon_attribute* const* attributes;
} tenon_node;

/* A graph or a subgraph, as claim and compile see it. Everything in it is borrowed for the call, except that the bytes of
 * constants live longer in compile (tenon_compile_args). Since 1.0. */
typedef struct tenon_graph {
    size_t struct_size;
    size_t value_count;
    const tenon_value* const* values;
    size_t node_count;
    const tenon_node* const* nodes; /* in topological order */
    size_t input_count;             /* constants are not inputs */
    const uint32_t* inputs;
    size_t output_count;
    const uint32_t* outputs;
} tenon_graph;

/* Where a provider says what it can run. The host owns it; borrowed for the call. Since 1.0. */
typedef struct tenon_claim_sink {
    size_t struct_size;
    void* context; /* first argument of both functions */
    /* The provider would run these nodes (indices into graph->nodes) together. A node may be claimed once. */
    void (*claim)(void* context, const uint32_t* nodes, size_t node_count, tenon_cost cost);
    /* The provider will not run this node, and why: a sentence a user understands. */
    void (*decline)(void* context, uint32_t node, tenon_str reason);
} tenon_claim_sink;

typedef uint32_t tenon_attention_layout;
enum { TENON_ATTENTION_CONTIGUOUS = 1, TENON_ATTENTION_PAGED = 2 };

/* What a device's attention kernels take; bit n of a dtype mask is tenon_dtype n. Since 1.0. */
typedef struct tenon_attention_caps {
    size_t struct_size;
    uint32_t layouts;          /* out: TENON_ATTENTION_CONTIGUOUS | TENON_ATTENTION_PAGED */
    uint32_t max_head_size;    /* out: 0 means no attention kernel at all */
    uint32_t head_size_step;   /* out: head sizes are multiples of this */
    uint32_t grouped_query;    /* out: fewer key-value heads than query heads */
    uint32_t sliding_window;   /* out */
    uint32_t attention_sink;   /* out: a learned logit a head in the denominator */
    uint32_t softcap;          /* out */
    uint32_t additive_bias;    /* out */
    uint32_t query_dtypes;     /* out: mask */
    uint32_t kv_dtypes;        /* out: mask */
    uint64_t page_tokens;      /* out: bit n set: pages of 2^n tokens are taken */
} tenon_attention_caps;

/* ---------------------------------------------------------------------------------------------------- compile ---- */

/* Arguments of compile. Since 1.0. */
typedef struct tenon_compile_args {
    size_t struct_size;
    const tenon_graph* graph; /* nodes the provider claimed; borrowed for the call */
    tenon_str target;         /* empty: the device's own arch; else an arch or chip that need not be present, and the
                                 result can be serialised but not run */
    uint32_t constants_stay;  /* 1: the bytes of constants stay valid and unchanged until the executable is destroyed, so
                                 the provider may refer to them; 0: they are borrowed for the call */
    uint32_t specialize;      /* 1: dims of the graph's values are exact for every run; 0: as known */
    uint32_t option_count;
    uint32_t reserved;
    const tenon_option* const* options;
} tenon_compile_args;

/* Receives bytes of unknown length, in order, in pieces. The host owns it; borrowed for the call. Since 1.0. */
typedef struct tenon_byte_sink {
    size_t struct_size;
    void* context;
    tenon_status* (*write)(void* context, const void* bytes, size_t len);
} tenon_byte_sink;

/* -------------------------------------------------------------------------------------------------------- run ---- */

/* Gives the provider memory for an output once its shape is known. The host owns it; borrowed for the call. Since 1.0.
 *   index   position in the executable's outputs
 *   dtype, dims, rank, bytes   of the output; dims is borrowed for the call
 *   data    out: at least bytes bytes, aligned to 64, in the memory kind of the executable's device; not NULL unless
 *           bytes is 0; the provider fills it in stream order and forgets it when run returns. It is the memory of an
 *           input only where the operator of the output updates that input in place (a cache of keys and values that
 *           is as long afterwards): the provider then moves nothing
 * May be called once an output in a run, from the thread that called run. */
typedef tenon_status* (*tenon_allocate_output)(void* context, uint32_t index, tenon_dtype dtype, const int64_t* dims,
                                               uint32_t rank, size_t bytes, void** data);

/* Arguments of run. Since 1.0. */
typedef struct tenon_run_args {
    size_t struct_size;
    tenon_stream* stream;        /* NULL: a stream of the provider's choice, and run returns when the work is done */
    const tenon_tensor* inputs;  /* one for each graph input, in its order, in the device's memory (host memory when the
                                    device shares it); unchanged until the work is done */
    size_t input_count;
    void* workspace;             /* workspace_bytes bytes of device memory for this run alone, or NULL when that was 0 */
    size_t workspace_bytes;
    void* context;               /* first argument of allocate_output */
    tenon_allocate_output allocate_output;
} tenon_run_args;

/* --------------------------------------------------------------------------------------------- language models ---- */

/* Arguments of kv_pool_create: a pool of pages [pages][layers][2 (key, value)][kv_heads][page_tokens][head_size].
 * Since 1.0. */
typedef struct tenon_kv_pool_args {
    size_t struct_size;
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t head_size;
    uint32_t page_tokens;
    uint64_t pages;
    tenon_dtype dtype;
    uint32_t reserved;
} tenon_kv_pool_args;

/* One batched sampling step over logits in device memory. Since 1.0. All pointers are device addresses, borrowed until
 * the work is done. temperatures, top_k, top_p and min_p hold batch entries; 0 temperature is greedy; top_k 0, top_p 1
 * and min_p 0 switch a filter off; seeds holds batch uint64_t.
 *   order       scores count from the largest down, equal ones by position. A row keeps its first top_k, of those the
 *               shortest run that makes up top_p of their probability at this temperature (one token at least), and of
 *               those the ones at least min_p as probable as the likeliest. Probabilities are as precise as f32
 *   greedy      the first of the largest scores; also where the temperature is NaN or negative, or where no score is above
 *               minus infinity. NaN scores are never chosen, except the first token of a row of nothing else
 *   seeds       a row's draw depends on its seed and its scores alone, not on its place in the batch: one seed gives one
 *               random number, so a host gives each step of a sequence a seed of its own
 *   log_probs   natural logarithms of the tokens' probabilities in the rows as they are: no temperature, no filter */
typedef struct tenon_sample_args {
    size_t struct_size;
    tenon_stream* stream;
    const void* logits; /* [batch][vocabulary] */
    tenon_dtype logits_dtype;
    uint32_t batch;
    uint32_t vocabulary;
    uint32_t reserved;
    const float* temperatures;
    const uint32_t* top_k;
    const float* top_p;
    const float* min_p;
    const uint64_t* seeds;
    int32_t* tokens;  /* out: [batch] */
    float* log_probs; /* out: [batch], or NULL */
} tenon_sample_args;

typedef uint32_t tenon_reduction;
enum { TENON_REDUCE_SUM = 1, TENON_REDUCE_MAX = 2, TENON_REDUCE_MIN = 3, TENON_REDUCE_AVERAGE = 4 };

/* ------------------------------------------------------------------------------------------------- observation ---- */

/* One kernel or copy that ran between timeline_start and timeline_stop. Borrowed for the call. Since 1.0. */
typedef struct tenon_timeline_entry {
    size_t struct_size;
    tenon_str symbol;     /* the kernel's symbol, which names its parameters */
    tenon_str node;       /* the node it ran for; nodes fused together are joined by '+' */
    tenon_str op_type;
    tenon_str parameters; /* shapes and the chosen row, as readable text */
    uint64_t start_ns;    /* on the host's monotonic clock */
    uint64_t duration_ns;
    uint64_t stream;      /* equal for entries of one stream */
    double flops;         /* negative when unknown */
    double bytes;         /* negative when unknown */
} tenon_timeline_entry;

/* Receives the timeline. The host owns it; borrowed for the call. Since 1.0. */
typedef struct tenon_timeline_sink {
    size_t struct_size;
    void* context;
    void (*entry)(void* context, const tenon_timeline_entry* entry);
} tenon_timeline_sink;

/* --------------------------------------------------------------------------------------------------- the table ---- */

/* What a provider is. Optional functions may be NULL; the comment says so. Since 1.0 unless a member says otherwise. */
typedef struct tenon_provider_api {
    size_t struct_size;
    uint32_t abi_major; /* TENON_ABI_MAJOR the provider was built with */
    uint32_t abi_minor;

    /* -- identity -- */
    tenon_str name;       /* short and lower case, what users type: "cpu", "cuda", "rocm" */
    tenon_str vendor;
    tenon_str version;
    tenon_str build_info; /* compiler, features, embedded kernels: for bug reports */

    /* Called before anything else, with the host's table, which stays valid for the life of the process. Several hosts
     * in one process may share a provider: after a success, later calls succeed and keep the first host's table.
     * One at a time. */
    tenon_status* (*initialize)(const tenon_host_api* host);
    /* How well this library fits this machine: 0 when it is not usable here, and then *reason (borrowed from the
     * provider) says why; larger is better among several builds of one provider. Any thread, cheap, no device is
     * opened. */
    uint32_t (*score)(tenon_str* reason);

    /* -- devices -- */
    /* The devices present, in a fixed order: *infos (count pointers) is borrowed from the provider. Any thread. */
    tenon_status* (*enumerate_devices)(const tenon_device_info* const** infos, size_t* count);
    /* Opens a device; *device is owned by the caller (close_device). Any thread. */
    tenon_status* (*open_device)(const tenon_open_args* args, tenon_device** device);
    /* Ends a device. Everything made from it must have been ended before. One at a time (device). */
    void (*close_device)(tenon_device* device);
    /* Fills in memory figures. Any thread. */
    tenon_status* (*memory_info)(tenon_device* device, tenon_memory_info* info);

    /* -- memory -- */
    /* bytes bytes of the kind asked for, aligned to 64 (256 for device memory); *data is owned by the caller (free).
     * Any thread. */
    tenon_status* (*allocate)(tenon_device* device, tenon_memory memory, size_t bytes, void** data);
    /* Ends memory that allocate gave; the device no longer uses it. Any thread. */
    void (*free)(tenon_device* device, tenon_memory memory, void* data);
    /* Device memory that is valid for work queued on stream after this call. Owned by the caller (free_ordered). NULL
     * when the provider has none; the host then uses allocate. One at a time (stream). */
    tenon_status* (*allocate_ordered)(tenon_stream* stream, size_t bytes, void** data);
    /* Ends memory that allocate_ordered gave, once the work queued so far is done. NULL when allocate_ordered is.
     * One at a time (stream). */
    tenon_status* (*free_ordered)(tenon_stream* stream, void* data);
    /* Copies in stream order. With a NULL stream the copy is done on return. Host memory that is not pinned may be
     * staged: then the source is read before the call returns. One at a time (stream). */
    tenon_status* (*copy)(tenon_stream* stream, const tenon_copy* copies, size_t count);

    /* -- streams -- */
    /* A new stream, owned by the caller (stream_destroy). Any thread. */
    tenon_status* (*stream_create)(tenon_device* device, tenon_stream** stream);
    /* A stream object over a native queue (cudaStream_t, hipStream_t) that belongs to somebody else; ended by
     * stream_destroy, which leaves the native queue alone. NULL when there is no such thing. Any thread. */
    tenon_status* (*stream_wrap)(tenon_device* device, void* native, tenon_stream** stream);
    /* Ends a stream after waiting for its work. One at a time (stream). */
    void (*stream_destroy)(tenon_stream* stream);
    /* Returns when everything queued so far is done, with the first failure of that work if there was one. Any thread. */
    tenon_status* (*stream_synchronize)(tenon_stream* stream);
    /* A new event, owned by the caller (event_destroy). Any thread. */
    tenon_status* (*event_create)(tenon_device* device, tenon_event** event);
    /* Ends an event. One at a time (event). */
    void (*event_destroy)(tenon_event* event);
    /* Places event after the work queued so far. One at a time (stream). */
    tenon_status* (*event_record)(tenon_event* event, tenon_stream* stream);
    /* Work queued on stream after this call waits for event. event may belong to another device of this provider.
     * One at a time (stream). */
    tenon_status* (*event_wait)(tenon_event* event, tenon_stream* stream);
    /* NULL when event has been reached, TENON_CODE_NOT_READY when not yet. Any thread. */
    tenon_status* (*event_query)(tenon_event* event);
    /* Returns when event has been reached. Any thread. */
    tenon_status* (*event_synchronize)(tenon_event* event);
    /* From here to capture_end, work queued on stream is recorded and not run. NULL, like the next three, when the
     * provider cannot. One at a time (stream). */
    tenon_status* (*capture_begin)(tenon_stream* stream);
    /* Ends recording; *recording is owned by the caller (recording_destroy). One at a time (stream). */
    tenon_status* (*capture_end)(tenon_stream* stream, tenon_recording** recording);
    /* Queues the recorded work on stream, with the addresses it was recorded with. One at a time (stream, recording). */
    tenon_status* (*recording_launch)(tenon_recording* recording, tenon_stream* stream);
    /* Ends a recording that is not running. One at a time (recording). */
    void (*recording_destroy)(tenon_recording* recording);

    /* -- capability -- */
    /* Says for every node of graph, through sink, whether this device would run it. device may be NULL when target (an
     * arch or chip) names one that is not present; otherwise target is empty. Any thread. */
    tenon_status* (*claim)(tenon_device* device, tenon_str target, const tenon_graph* graph,
                           const tenon_claim_sink* sink);
    /* Fills in what attention kernels take. NULL when there are none. Any thread. */
    tenon_status* (*attention_caps)(tenon_device* device, tenon_attention_caps* caps);

    /* -- compile -- */
    /* Compiles a subgraph of nodes this provider claimed; *executable is owned by the caller (executable_destroy). device
     * may be NULL only when args->target is not empty. Any thread. */
    tenon_status* (*compile)(tenon_device* device, const tenon_compile_args* args, tenon_executable** executable);
    /* Ends an executable that is not running. One at a time (executable). */
    void (*executable_destroy)(tenon_executable* executable);
    /* Writes the executable for a later executable_deserialize, constants left out. NULL when the provider has no
     * compile cache. Any thread. */
    tenon_status* (*executable_serialize)(tenon_executable* executable, const tenon_byte_sink* sink);
    /* Restores what executable_serialize wrote. args holds the same graph as at compile time, for its constants. A blob
     * of another build, device or graph is TENON_CODE_UNSUPPORTED: compile anew. NULL when executable_serialize is.
     * Any thread. */
    tenon_status* (*executable_deserialize)(tenon_device* device, const tenon_compile_args* args, const void* bytes,
                                            size_t len, tenon_executable** executable);
    /* 1 when the provider will not read the bytes of constant `value` (index into the compiled graph's values) again, so
     * that the host may drop them. Ask after the first run; answers may change from 0 to 1. NULL means always 0.
     * Any thread. */
    uint32_t (*executable_released)(tenon_executable* executable, uint32_t value);

    /* -- run -- */
    /* Bytes of workspace a run with inputs of these shapes needs (data members are not read). 0 when the provider keeps
     * its own. NULL means always 0. Any thread. */
    tenon_status* (*workspace_bytes)(tenon_executable* executable, const tenon_tensor* inputs, size_t input_count,
                                     size_t* bytes);
    /* Queues one run. Outputs are asked for through args->allocate_output. Any thread; several runs of one executable
     * may be in flight on different streams. */
    tenon_status* (*run)(tenon_executable* executable, const tenon_run_args* args);

    /* -- language models: every function here may be NULL -- */
    /* A pool of pages in device memory; *pool is owned by the caller (kv_pool_destroy). Any thread. */
    tenon_status* (*kv_pool_create)(tenon_device* device, const tenon_kv_pool_args* args, tenon_kv_pool** pool);
    /* Ends a pool that no queued work uses. One at a time (pool). */
    void (*kv_pool_destroy)(tenon_kv_pool* pool);
    /* The device address of the pool and its size, for executables that take pages. Any thread. */
    tenon_status* (*kv_pool_data)(tenon_kv_pool* pool, void** data, size_t* bytes);
    /* Copies whole pages in stream order: pairs holds count pairs (from, to). One at a time (stream). */
    tenon_status* (*kv_pool_copy_pages)(tenon_kv_pool* pool, tenon_stream* stream, const uint64_t* pairs, size_t count);
    /* Draws one token a sequence. One at a time (stream). */
    tenon_status* (*sample)(tenon_device* device, const tenon_sample_args* args);
    /* Joins count devices of this provider for collectives, the rank of each being its position; *group is owned by the
     * caller (group_destroy). Any thread. */
    tenon_status* (*group_create)(tenon_device* const* devices, size_t count, tenon_group** group);
    /* Ends a group that no queued work uses. One at a time (group). */
    void (*group_destroy)(tenon_group* group);
    /* Reduces count elements over the group; every member calls it with its own rank, buffers and stream. src may equal
     * dst. One at a time (stream). */
    tenon_status* (*all_reduce)(tenon_group* group, uint32_t rank, tenon_stream* stream, const void* src, void* dst,
                                size_t count, tenon_dtype dtype, tenon_reduction reduction);
    /* Gathers count elements of every member, by rank, into dst. One at a time (stream). */
    tenon_status* (*all_gather)(tenon_group* group, uint32_t rank, tenon_stream* stream, const void* src, void* dst,
                                size_t count, tenon_dtype dtype);

    /* -- observation -- */
    /* Starts keeping entries for everything that runs on device. NULL, like the next, when the provider cannot.
     * One at a time (device). */
    tenon_status* (*timeline_start)(tenon_device* device);
    /* Stops, waits for the work and hands over the entries in order of start. One at a time (device). */
    tenon_status* (*timeline_stop)(tenon_device* device, const tenon_timeline_sink* sink);
    /* A named table outside this contract, or NULL. Borrowed from the provider for the life of the process. May itself be
     * NULL. Any thread. */
    const void* (*extension)(tenon_str name);
} tenon_provider_api;

/* The one symbol a provider exports: its table, valid for the life of the process. Any thread, no side effects. */
typedef const tenon_provider_api* (*tenon_provider_entry_fn)(void);
#define TENON_PROVIDER_ENTRY "tenon_provider_entry"
TENON_EXPORT const tenon_provider_api* tenon_provider_entry(void);

#ifdef __cplusplus
}
#endif
#endif /* TENON_PLUGIN_H */
