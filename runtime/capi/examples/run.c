/* run.c - opens models through tenon.h and runs them.
 *
 *     cc -std=c11 -O2 -I include examples/run.c -L DIR -ltenon -Wl,-rpath,DIR -lpthread -o run
 *     run check ADD.onnx              every way to pass values, and the errors
 *     run sessions ADD.onnx COUNT     creates, runs and destroys sessions, and watches the memory of the process
 *     run threads ADD.onnx            eight threads run one session
 *     run --bench ADD.onnx CHAIN.onnx time of one run, and of one node of a chain of 100
 *
 * ADD.onnx computes float[4] sum = a + b; CHAIN.onnx adds b to a 100 times.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tenon.h"

_Static_assert(sizeof(tenon_value_view) == 56, "layout of tenon_value_view");
_Static_assert(sizeof(tenon_value_info) == 56, "layout of tenon_value_info");
_Static_assert(sizeof(tenon_session_options) == 56, "layout of tenon_session_options");
_Static_assert(sizeof(tenon_provider_info) == 80, "layout of tenon_provider_info");
_Static_assert(sizeof(tenon_dim_override) == 24, "layout of tenon_dim_override");

#define REQUIRE(condition)                                                                  \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "run.c:%d: not true: %s\n", __LINE__, #condition);              \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

static void ok(tenon_error* error) {
    if (!error) return;
    tenon_str message = tenon_error_message(error);
    fprintf(stderr, "error %u: %.*s\n", tenon_error_kind(error), (int)message.len, message.data);
    tenon_error_release(error);
    exit(1);
}

/* Expects an error of a kind whose message holds `part`. */
static void fails(tenon_error* error, tenon_error_kind_t kind, const char* part) {
    if (!error) {
        fprintf(stderr, "no error, expected one about '%s'\n", part);
        exit(1);
    }
    tenon_str message = tenon_error_message(error);
    char text[1024];
    snprintf(text, sizeof text, "%.*s", (int)message.len, message.data);
    if (tenon_error_kind(error) != kind || !strstr(text, part)) {
        fprintf(stderr, "error %u: %s; expected %u with '%s'\n", tenon_error_kind(error), text, kind, part);
        exit(1);
    }
    tenon_error_release(error);
}

static int64_t FOUR[1] = {4};

static tenon_value_view input(float* data) {
    tenon_value_view view = {0};
    view.data = data;
    view.bytes = 4 * sizeof(float);
    view.dims = FOUR;
    view.rank = 1;
    view.dtype = TENON_DTYPE_F32;
    return view;
}

static tenon_value_view output(float* data, int64_t* dims) {
    tenon_value_view view = {0};
    view.data = data;
    view.capacity = 4 * sizeof(float);
    view.dims = dims;
    view.dim_capacity = 1;
    return view;
}

static void require_sum(const tenon_value_view* view, const float* a, const float* b) {
    REQUIRE(view->bytes == 16 && view->rank == 1 && view->dims[0] == 4 && view->dtype == TENON_DTYPE_F32);
    for (int i = 0; i < 4; i++) REQUIRE(((const float*)view->data)[i] == a[i] + b[i]);
}

/* The end of an asynchronous run. */
typedef struct finish {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    int done;
    tenon_error* error;
    tenon_value_view output;
} finish;

static void finished(void* user, tenon_error* error, tenon_value_view* outputs, size_t count) {
    finish* end = user;
    pthread_mutex_lock(&end->mutex);
    end->error = error;
    if (count == 1) end->output = outputs[0];
    end->done = 1;
    pthread_cond_signal(&end->condition);
    pthread_mutex_unlock(&end->mutex);
}

static void wait_for(finish* end) {
    pthread_mutex_lock(&end->mutex);
    while (!end->done) pthread_cond_wait(&end->condition, &end->mutex);
    pthread_mutex_unlock(&end->mutex);
}

static void count_line(void* user, tenon_log_level level, tenon_str target, tenon_str message) {
    (void)message;
    REQUIRE(level >= TENON_LOG_ERROR && level <= TENON_LOG_TRACE && target.len > 0);
    __atomic_fetch_add((int*)user, 1, __ATOMIC_RELAXED);
}

static void check_description(tenon_environment* environment, tenon_session* session) {
    REQUIRE(tenon_version().len > 0);
    REQUIRE(tenon_environment_provider_count(environment) == 1);
    tenon_provider_info provider = {.struct_size = sizeof provider};
    ok(tenon_environment_provider(environment, 0, &provider));
    REQUIRE(provider.name.len == 3 && memcmp(provider.name.data, "cpu", 3) == 0);
    REQUIRE(provider.score > 0 && provider.device_count > 0 && provider.reason.len == 0);
    fails(tenon_environment_provider(environment, 1, &provider), TENON_ERROR_INVALID_INPUT, "no provider 1");

    REQUIRE(tenon_session_input_count(session) == 2 && tenon_session_output_count(session) == 1);
    tenon_value_info info = {.struct_size = sizeof info};
    ok(tenon_session_input(session, 1, &info));
    REQUIRE(info.name.len == 1 && info.name.data[0] == 'b' && info.kind == TENON_VALUE_TENSOR);
    REQUIRE(info.dtype == TENON_DTYPE_F32 && info.rank == 1 && info.dims[0] == 4 && info.dim_symbols[0].len == 0);
    ok(tenon_session_output(session, 0, &info));
    REQUIRE(info.name.len == 3 && memcmp(info.name.data, "sum", 3) == 0);
    fails(tenon_session_output(session, 1, &info), TENON_ERROR_INVALID_INPUT, "no output 1");
    /* A caller built against a version whose struct ended after `name` gets no more than that. */
    tenon_value_info shorter = {.struct_size = offsetof(tenon_value_info, kind), .rank = 77};
    ok(tenon_session_input(session, 0, &shorter));
    REQUIRE(shorter.name.len == 1 && shorter.rank == 77);
    shorter.struct_size = 0;
    fails(tenon_session_input(session, 0, &shorter), TENON_ERROR_INVALID_INPUT, "struct_size");
}

static void check_outputs(tenon_session* session) {
    float a[4] = {1, 2, 3, 4}, b[4] = {10, 20, 30, 40};
    const tenon_value_view inputs[2] = {input(a), input(b)};
    alignas(64) float room[8];
    int64_t dims[1] = {-7};

    tenon_value_view aligned = output(room, dims);
    ok(tenon_session_run(session, inputs, 2, &aligned, 1));
    REQUIRE(aligned.data == room && aligned.owner == NULL);
    require_sum(&aligned, a, b);

    dims[0] = -7;
    b[0] = 100;
    tenon_value_view unaligned = output(room + 1, dims);
    ok(tenon_session_run(session, inputs, 2, &unaligned, 1));
    require_sum(&unaligned, a, b);

    tenon_value_view owned = {0};
    ok(tenon_session_run(session, inputs, 2, &owned, 1));
    REQUIRE(owned.owner != NULL);
    require_sum(&owned, a, b);
    fails(tenon_session_run(session, inputs, 2, &owned, 1), TENON_ERROR_INVALID_INPUT, "tenon_value_release");
    tenon_value_release(&owned);
    REQUIRE(owned.data == NULL && owned.owner == NULL);
    tenon_value_release(&owned);
    tenon_value_release(NULL);

    ok(tenon_session_run(session, inputs, 2, NULL, 0));
}

static void check_run_errors(tenon_session* session) {
    float a[4] = {1, 2, 3, 4};
    alignas(64) float room[8];
    int64_t dims[1];
    tenon_value_view out = output(room, dims), inputs[3] = {input(a), input(a), input(a)};

    fails(tenon_session_run(NULL, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "'session' is NULL");
    fails(tenon_session_run(session, NULL, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "'inputs' is NULL");
    fails(tenon_session_run(session, inputs, 2, NULL, 1), TENON_ERROR_INVALID_INPUT, "'outputs' is NULL");
    fails(tenon_session_run(session, inputs, 1, &out, 1), TENON_ERROR_INVALID_INPUT, "'b'");
    fails(tenon_session_run(session, inputs, 3, &out, 1), TENON_ERROR_INVALID_INPUT, "2 inputs");
    tenon_value_view outs[2] = {out, {0}};
    fails(tenon_session_run(session, inputs, 2, outs, 2), TENON_ERROR_INVALID_INPUT, "1 outputs");

    inputs[1].dtype = TENON_DTYPE_I32;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "'b'");
    inputs[1].dtype = 999;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "no tenon_dtype");
    inputs[1] = input(a);
    inputs[1].bytes = 12;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "12 were given");
    inputs[1] = input(NULL);
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "data is NULL");
    inputs[1] = input(a);
    inputs[1].dims = NULL;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "'dims' is NULL");
    int64_t negative[1] = {-4};
    inputs[1].dims = negative;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "negative");
    inputs[1] = input(a);

    out.capacity = 15;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "16 bytes");
    out.data = room + 1;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "16 bytes");
    out = output(room, dims);
    out.dim_capacity = 0;
    fails(tenon_session_run(session, inputs, 2, &out, 1), TENON_ERROR_INVALID_INPUT, "room for 0");
    out = output(room, dims);
    ok(tenon_session_run(session, inputs, 2, &out, 1));
    require_sum(&out, a, a);
    fails(tenon_session_run_async(session, inputs, 2, NULL, NULL), TENON_ERROR_INVALID_INPUT, "'callback' is NULL");
}

static void check_open_errors(tenon_environment* environment, tenon_str path) {
    tenon_session* none = NULL;
    fails(tenon_environment_create(NULL), TENON_ERROR_INVALID_INPUT, "'environment' is NULL");
    fails(tenon_session_create(NULL, path, NULL, &none), TENON_ERROR_INVALID_INPUT, "'environment' is NULL");
    fails(tenon_session_create(environment, path, NULL, NULL), TENON_ERROR_INVALID_INPUT, "'session' is NULL");
    fails(tenon_session_create(environment, TENON_STR("no/such/file.onnx"), NULL, &none), TENON_ERROR_IO, "no/such/file");
    fails(tenon_session_create(environment, TENON_STR("\xff\xfe"), NULL, &none), TENON_ERROR_INVALID_INPUT, "UTF-8");
    tenon_error* garbage = tenon_session_create_from_memory(environment, "garbage!", 8, NULL, &none);
    REQUIRE(garbage != NULL);
    tenon_error_release(garbage);
    tenon_error* unloaded = tenon_environment_load_provider(environment, TENON_STR("no/such/provider.so"));
    REQUIRE(unloaded != NULL);
    tenon_error_release(unloaded);
    tenon_str missing = TENON_STR("nothing:0");
    tenon_session_options options = {.struct_size = sizeof options, .providers = &missing, .provider_count = 1};
    fails(tenon_session_create(environment, path, &options, &none), TENON_ERROR_INVALID_INPUT, "'nothing'");
    REQUIRE(none == NULL);
    REQUIRE(tenon_error_kind(NULL) == 0 && tenon_error_message(NULL).len == 0 && tenon_session_input_count(NULL) == 0);
    tenon_error_release(NULL);
    tenon_session_destroy(NULL);
    tenon_environment_destroy(NULL);
}

static void* read_file(const char* path, size_t* bytes) {
    FILE* file = fopen(path, "rb");
    REQUIRE(file != NULL);
    char* data = malloc(1 << 20);
    *bytes = fread(data, 1, 1 << 20, file);
    fclose(file);
    return data;
}

/* A session in memory with every option, and an asynchronous run that outlives it. */
static void check_memory_and_async(tenon_environment* environment, const char* path) {
    size_t bytes;
    void* model = read_file(path, &bytes);
    tenon_str cpu = TENON_STR("cpu:0");
    tenon_session_options options = {.struct_size = sizeof options, .providers = &cpu, .provider_count = 1, .strict = 1,
                                     .threads = 1, .disable_optimization = 1, .disable_fusion = 1};
    tenon_session* session = NULL;
    ok(tenon_session_create_from_memory(environment, model, bytes, &options, &session));
    free(model);
    float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
    finish end = {.done = 0};
    pthread_mutex_init(&end.mutex, NULL);
    pthread_cond_init(&end.condition, NULL);
    {
        tenon_value_view inputs[2] = {input(a), input(b)};
        ok(tenon_session_run_async(session, inputs, 2, finished, &end));
        memset(inputs, 0xff, sizeof inputs);
    }
    tenon_session_destroy(session);
    wait_for(&end);
    ok(end.error);
    require_sum(&end.output, a, b);
    tenon_value_release(&end.output);

    ok(tenon_session_create(environment, TENON_STR(path), NULL, &session));
    end.done = 0;
    ok(tenon_session_run_async(session, NULL, 0, finished, &end));
    wait_for(&end);
    fails(end.error, TENON_ERROR_INVALID_INPUT, "'a'");
    tenon_session_destroy(session);
    pthread_cond_destroy(&end.condition);
    pthread_mutex_destroy(&end.mutex);
}

static void check(const char* path) {
    tenon_environment* environment = NULL;
    tenon_session* session = NULL;
    int lines = 0;
    fails(tenon_set_log(count_line, &lines, 9), TENON_ERROR_INVALID_INPUT, "log level 9");
    ok(tenon_set_log(count_line, &lines, TENON_LOG_TRACE));
    ok(tenon_environment_create(&environment));
    ok(tenon_session_create(environment, TENON_STR(path), NULL, &session));
    check_description(environment, session);
    check_outputs(session);
    check_run_errors(session);
    check_open_errors(environment, TENON_STR(path));
    check_memory_and_async(environment, path);
    ok(tenon_set_log(NULL, NULL, 0));
    tenon_session_destroy(session);
    tenon_environment_destroy(environment);
    REQUIRE(__atomic_load_n(&lines, __ATOMIC_RELAXED) > 0);
    printf("log lines: %d\n", __atomic_load_n(&lines, __ATOMIC_RELAXED));
}

/* Resident memory in KiB. */
static long resident(void) {
    FILE* status = fopen("/proc/self/status", "r");
    REQUIRE(status != NULL);
    char line[256];
    long kib = -1;
    while (fgets(line, sizeof line, status)) {
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    }
    fclose(status);
    return kib;
}

static void sessions(const char* path, int count) {
    tenon_environment* environment = NULL;
    ok(tenon_environment_create(&environment));
    float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
    const tenon_value_view inputs[2] = {input(a), input(b)};
    long before = 0;
    for (int i = 0; i < count; i++) {
        tenon_session* session = NULL;
        tenon_value_view out = {0};
        ok(tenon_session_create(environment, TENON_STR(path), NULL, &session));
        ok(tenon_session_run(session, inputs, 2, &out, 1));
        tenon_session_destroy(session);
        require_sum(&out, a, b); /* outputs outlive the session */
        tenon_value_release(&out);
        if (i == count / 4) before = resident();
    }
    long after = resident();
    printf("resident: %ld KiB after a quarter, %ld KiB at the end\n", before, after);
    REQUIRE(after <= before + 512);
    tenon_environment_destroy(environment);
}

typedef struct worker {
    pthread_t thread;
    const tenon_session* session;
    int number;
} worker;

static void* work(void* user) {
    const worker* self = user;
    for (int i = 0; i < 2000; i++) {
        float a[4], b[4];
        for (int k = 0; k < 4; k++) {
            a[k] = (float)(self->number * 10000 + i + k);
            b[k] = (float)(i * 3 - k);
        }
        alignas(64) float room[4];
        int64_t dims[1];
        const tenon_value_view inputs[2] = {input(a), input(b)};
        tenon_value_view out = {0};
        if (i % 2) out = output(room, dims);
        ok(tenon_session_run(self->session, inputs, 2, &out, 1));
        require_sum(&out, a, b);
        tenon_value_release(&out);
    }
    return NULL;
}

static void threads(const char* path) {
    tenon_environment* environment = NULL;
    tenon_session* session = NULL;
    ok(tenon_environment_create(&environment));
    ok(tenon_session_create(environment, TENON_STR(path), NULL, &session));
    worker workers[8];
    for (int i = 0; i < 8; i++) {
        workers[i].session = session;
        workers[i].number = i;
        REQUIRE(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < 8; i++) pthread_join(workers[i].thread, NULL);
    tenon_session_destroy(session);
    tenon_environment_destroy(environment);
}

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int ascending(const void* a, const void* b) {
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}

/* Median and best time of a run in nanoseconds over 21 rounds. */
static void measure(tenon_environment* environment, const char* path, int plain, int runs, double* median, double* best) {
    tenon_session_options options = {.struct_size = sizeof options};
    options.disable_optimization = options.disable_fusion = (uint32_t)plain;
    tenon_session* session = NULL;
    ok(tenon_session_create(environment, TENON_STR(path), &options, &session));
    alignas(64) float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8}, room[4];
    int64_t dims[1];
    const tenon_value_view inputs[2] = {input(a), input(b)};
    tenon_value_view out = output(room, dims);
    double times[21];
    for (int round = -2; round < 21; round++) {
        double start = now_ns();
        for (int i = 0; i < runs; i++) {
            tenon_error* error = tenon_session_run(session, inputs, 2, &out, 1);
            if (error) ok(error);
        }
        if (round >= 0) times[round] = (now_ns() - start) / runs;
    }
    qsort(times, 21, sizeof *times, ascending);
    *median = times[10];
    *best = times[0];
    tenon_session_destroy(session);
}

static void bench(const char* add, const char* chain) {
    tenon_environment* environment = NULL;
    ok(tenon_environment_create(&environment));
    double median, best;
    measure(environment, add, 0, 20000, &median, &best);
    printf("one Add: %.0f ns a run (best %.0f)\n", median, best);
    measure(environment, chain, 1, 1000, &median, &best);
    printf("chain of 100, not optimised: %.1f ns a node (best %.1f)\n", median / 100, best / 100);
    tenon_environment_destroy(environment);
}

int main(int argc, char** argv) {
    const char* mode = argc > 1 ? argv[1] : "";
    if (argc == 3 && strcmp(mode, "check") == 0) {
        check(argv[2]);
    } else if (argc == 4 && strcmp(mode, "sessions") == 0) {
        sessions(argv[2], atoi(argv[3]));
    } else if (argc == 3 && strcmp(mode, "threads") == 0) {
        threads(argv[2]);
    } else if (argc == 4 && strcmp(mode, "--bench") == 0) {
        bench(argv[2], argv[3]);
    } else {
        fprintf(stderr, "usage: run check ADD | sessions ADD COUNT | threads ADD | --bench ADD CHAIN\n");
        return 2;
    }
    puts("ok");
    return 0;
}
