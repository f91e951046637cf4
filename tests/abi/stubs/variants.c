/* Providers with one thing wrong or unusual each: the frozen stub with a changed table. One macro picks the variant. */
#define STUB_IS_INCLUDED
#include "1.0/provider.c"

#if defined(SCORE_ZERO)
static uint32_t no_score(tenon_str* reason) {
    const tenon_str text = TEXT("no stub hardware on this machine");
    *reason = text;
    return 0;
}
#endif

#if defined(CLAIMS_TWICE) || defined(CLAIMS_OUTSIDE) || defined(CLAIMS_NOTHING)
static tenon_status* odd_claim(tenon_device* device, tenon_str target, const tenon_graph* graph,
                               const tenon_claim_sink* sink) {
    (void)device, (void)target, (void)graph, (void)sink;
#if !defined(CLAIMS_NOTHING)
#if defined(CLAIMS_TWICE)
    const uint32_t nodes[] = {0, 0};
#else
    const uint32_t nodes[] = {0, (uint32_t)graph->node_count};
#endif
    tenon_cost cost = {1.0, -1.0, -1.0};
    sink->claim(sink->context, nodes, 2, cost);
#endif
    return NULL;
}
#endif

#if defined(OPENS_NULL)
static tenon_status* open_null(const tenon_open_args* args, tenon_device** device) {
    (void)args;
    *device = NULL;
    return NULL;
}
#endif

#if defined(LONGER_TABLE)
/* What a later minor version looks like: the same table with members behind it. */
typedef struct longer_table {
    tenon_provider_api known;
    void (*unknown)(void);
    uint64_t more[8];
} longer_table;
#endif

#if !defined(NO_SYMBOL)
TENON_EXPORT const tenon_provider_api* tenon_provider_entry(void) {
#if defined(NULL_TABLE)
    return NULL;
#elif defined(LONGER_TABLE)
    static longer_table changed;
    changed.known = table;
    changed.known.struct_size = sizeof(longer_table);
    changed.known.abi_minor = 7;
    return &changed.known;
#else
    static tenon_provider_api changed;
    changed = table;
#if defined(WRONG_MAJOR)
    changed.abi_major = 2;
    changed.abi_minor = 3;
#elif defined(SHORT_TABLE)
    /* Everything behind run is garbage that the host must not read. */
    changed.struct_size = offsetof(tenon_provider_api, kv_pool_create);
    memset((char*)&changed + changed.struct_size, 0xa5, sizeof changed - changed.struct_size);
#elif defined(TOO_SHORT_TABLE)
    changed.struct_size = offsetof(tenon_provider_api, compile);
#elif defined(TINY_TABLE)
    changed.struct_size = sizeof(size_t);
#elif defined(NULL_FUNCTION)
    changed.stream_synchronize = NULL;
#elif defined(HALF_FAMILY)
    changed.capture_begin = stream_synchronize;
#elif defined(NO_NAME)
    changed.name.len = 0;
#elif defined(SCORE_ZERO)
    changed.score = no_score;
#elif defined(CLAIMS_TWICE) || defined(CLAIMS_OUTSIDE) || defined(CLAIMS_NOTHING)
    changed.claim = odd_claim;
#elif defined(OPENS_NULL)
    changed.open_device = open_null;
#else
#error "no such variant"
#endif
    return &changed;
#endif
}
#endif
