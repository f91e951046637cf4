/* A whole provider of contract 1.0 in C, frozen with the header beside it: one device on host memory that runs
 * Identity and declines everything else. It must keep loading and running under every later 1.x host. */
#include "tenon_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT(literal) {literal, sizeof(literal) - 1}

static const tenon_host_api* host;

/* ---- status ---- */

typedef struct owned_status {
    tenon_status status;
    char text[160];
} owned_status;

/* How many statuses are alive; the test asks through extension("live_statuses"). */
static int32_t live_statuses;

static void release(tenon_status* self) {
    live_statuses -= 1;
    free(self);
}

static tenon_status* fail(tenon_code code, int32_t provider_code, const char* text) {
    owned_status* owned = calloc(1, sizeof *owned);
    if (owned == NULL) abort();
    strncpy(owned->text, text, sizeof owned->text - 1);
    owned->status.struct_size = sizeof(tenon_status);
    owned->status.code = code;
    owned->status.provider_code = provider_code;
    owned->status.message.data = owned->text;
    owned->status.message.len = strlen(owned->text);
    owned->status.release = release;
    live_statuses += 1;
    return &owned->status;
}

static int is(tenon_str text, const char* expected) {
    return text.len == strlen(expected) && memcmp(text.data, expected, text.len) == 0;
}

/* ---- identity and devices ---- */

static tenon_status* initialize(const tenon_host_api* api) {
    if (host != NULL) return NULL;
    if (api->abi_major != TENON_ABI_MAJOR) return fail(TENON_CODE_INVALID_ARGUMENT, 0, "another major version");
    host = api;
    if (TENON_HAS(host, tenon_host_api, log)) {
        tenon_str target = TEXT("stub"), message = TEXT("loaded");
        host->log(TENON_LOG_DEBUG, target, message);
    }
    return NULL;
}

static uint32_t score(tenon_str* reason) {
    reason->data = NULL;
    reason->len = 0;
    return 1;
}

static const tenon_device_info info = {
    .struct_size = sizeof(tenon_device_info),
    .index = 0,
    .kind = TENON_DEVICE_OTHER,
    .name = TEXT("C stub"),
    .arch = TEXT("stub"),
    .memory_bytes = 1 << 20,
    .shares_host_memory = 1,
    .compute_units = 1,
};
static const tenon_device_info* const infos[] = {&info};

static tenon_status* enumerate_devices(const tenon_device_info* const** out, size_t* count) {
    *out = infos;
    *count = 1;
    return NULL;
}

static int device_object, stream_object, event_object, executable_object;

static tenon_status* open_device(const tenon_open_args* args, tenon_device** device) {
    for (uint32_t i = 0; i < args->option_count; i++) {
        if (is(args->options[i]->key, "fail")) return fail(TENON_CODE_DEVICE_LOST, -77, "the stub was told to fail");
        return fail(TENON_CODE_INVALID_ARGUMENT, 0, "unknown option: the only option is fail");
    }
    *device = (tenon_device*)&device_object;
    return NULL;
}

static void close_device(tenon_device* device) { (void)device; }

static tenon_status* memory_info(tenon_device* device, tenon_memory_info* out) {
    (void)device;
    out->total_bytes = 1 << 20;
    return NULL;
}

/* ---- memory, streams, events ---- */

static tenon_status* allocate(tenon_device* device, tenon_memory memory, size_t bytes, void** data) {
    (void)device, (void)memory;
    *data = aligned_alloc(256, (bytes + 256) / 256 * 256);
    return *data ? NULL : fail(TENON_CODE_OUT_OF_MEMORY, 0, "malloc failed");
}

static void free_memory(tenon_device* device, tenon_memory memory, void* data) {
    (void)device, (void)memory;
    free(data);
}

static tenon_status* copy(tenon_stream* stream, const tenon_copy* copies, size_t count) {
    (void)stream;
    for (size_t i = 0; i < count; i++) memmove(copies[i].dst, copies[i].src, copies[i].bytes);
    return NULL;
}

static tenon_status* stream_create(tenon_device* device, tenon_stream** stream) {
    (void)device;
    *stream = (tenon_stream*)&stream_object;
    return NULL;
}

static void stream_destroy(tenon_stream* stream) { (void)stream; }

static tenon_status* stream_synchronize(tenon_stream* stream) {
    (void)stream;
    return NULL;
}

static tenon_status* event_create(tenon_device* device, tenon_event** event) {
    (void)device;
    *event = (tenon_event*)&event_object;
    return NULL;
}

static void event_destroy(tenon_event* event) { (void)event; }

static tenon_status* event_on_stream(tenon_event* event, tenon_stream* stream) {
    (void)event, (void)stream;
    return NULL;
}

static tenon_status* event_synchronize(tenon_event* event) {
    (void)event;
    return NULL;
}

/* ---- capability, compile, run ---- */

static tenon_status* claim(tenon_device* device, tenon_str target, const tenon_graph* graph,
                           const tenon_claim_sink* sink) {
    if (device == NULL && !is(target, "stub")) return fail(TENON_CODE_UNSUPPORTED, 0, "the stub knows no other target");
    for (uint32_t node = 0; node < graph->node_count; node++) {
        if (is(graph->nodes[node]->op_type, "Identity")) {
            tenon_cost cost = {100.0, 0.0, -1.0};
            sink->claim(sink->context, &node, 1, cost);
        } else {
            tenon_str reason = TEXT("the C stub runs nothing but Identity");
            sink->decline(sink->context, node, reason);
        }
    }
    return NULL;
}

static tenon_status* compile(tenon_device* device, const tenon_compile_args* args, tenon_executable** executable) {
    (void)device;
    if (args->graph->node_count != 1) return fail(TENON_CODE_UNSUPPORTED, 0, "the C stub compiles one node");
    *executable = (tenon_executable*)&executable_object;
    return NULL;
}

static void executable_destroy(tenon_executable* executable) { (void)executable; }

static tenon_status* run(tenon_executable* executable, const tenon_run_args* args) {
    (void)executable;
    const tenon_tensor* input = &args->inputs[0];
    void* data = NULL;
    tenon_status* status = args->allocate_output(args->context, 0, input->dtype, input->dims, input->rank,
                                                 input->bytes, &data);
    if (status != NULL) return status;
    if (input->bytes != 0) memcpy(data, input->data, input->bytes);
    return NULL;
}

static const void* extension(tenon_str name) { return is(name, "live_statuses") ? &live_statuses : NULL; }

/* ---- the table ---- */

static const tenon_provider_api table = {
    .struct_size = sizeof(tenon_provider_api),
    .abi_major = TENON_ABI_MAJOR,
    .abi_minor = TENON_ABI_MINOR,
    .name = TEXT("stub"),
    .vendor = TEXT("Tenon tests"),
    .version = TEXT("1.0"),
    .build_info = TEXT("C"),
    .initialize = initialize,
    .score = score,
    .enumerate_devices = enumerate_devices,
    .open_device = open_device,
    .close_device = close_device,
    .memory_info = memory_info,
    .allocate = allocate,
    .free = free_memory,
    .copy = copy,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronize = stream_synchronize,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_on_stream,
    .event_wait = event_on_stream,
    .event_query = event_synchronize,
    .event_synchronize = event_synchronize,
    .claim = claim,
    .compile = compile,
    .executable_destroy = executable_destroy,
    .run = run,
    .extension = extension,
};

#ifndef STUB_IS_INCLUDED
TENON_EXPORT const tenon_provider_api* tenon_provider_entry(void) { return &table; }
#endif
