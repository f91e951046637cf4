// Compiles device kernels for the host: the threads of a block are fibres, blocks run one after the other.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <utility>

#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
template <class To, class From> static inline To reinterpret(From from) {
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned bits) { return reinterpret<float>(bits); }
static inline unsigned __float_as_uint(float value) { return reinterpret<unsigned>(value); }
static inline double __longlong_as_double(long long bits) { return reinterpret<double>(bits); }
static inline long long __double_as_longlong(double value) { return reinterpret<long long>(value); }

static inline double sinpi(double x) { return sin(M_PI * remainder(x, 2.0)); }
static inline double cospi(double x) { return cos(M_PI * remainder(x, 2.0)); }
static inline float sinpif(float x) { return (float)sinpi((double)x); }

// The fibres of the block that runs.
enum { MAX_THREADS = 1024, STACK = 64 * 1024 };
struct Fibre {
    ucontext_t context;
    Index index;
    bool done;
    char *stack;
};
static Fibre fibres[MAX_THREADS];
static ucontext_t scheduler;
static unsigned current, live, arrived, generation;
static unsigned wave_arrived[MAX_THREADS / 32], wave_generation[MAX_THREADS / 32], lane_words[MAX_THREADS];
static bool has_fibres;

static void yield() {
    Fibre &own = fibres[current];
    swapcontext(&own.context, &scheduler);
    threadIdx = own.index;
}

static inline void __syncthreads() {
    if (!has_fibres) abort();
    unsigned mine = generation;
    if (++arrived == live) {
        arrived = 0;
        generation++;
        return;
    }
    while (generation == mine) yield();
}

static void wave_barrier() {
    if (!has_fibres) abort();
    unsigned wave = current / 32, mine = wave_generation[wave];
    if (++wave_arrived[wave] == 32) {
        wave_arrived[wave] = 0;
        wave_generation[wave]++;
        return;
    }
    while (wave_generation[wave] == mine) yield();
}

#define WAVE 32
static inline unsigned wave_xor(unsigned value, int mask) {
    unsigned own = current;
    lane_words[own] = value;
    wave_barrier();
    unsigned other = lane_words[own ^ mask];
    wave_barrier();
    return other;
}

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float exp2_normal(float x) { return exp2f(x); }
static inline void store_words(void *to, unsigned a, unsigned b, unsigned c, unsigned d) {
    unsigned words[4] = {a, b, c, d};
    __builtin_memcpy(to, words, 16);
}
static inline float maximum(float x, float y) { return x != x || x > y ? x : y; }
static inline float minimum(float x, float y) { return x != x || x < y ? x : y; }

// Blocks run one after the other, and threads change places at barriers alone.
static inline unsigned atomicAdd(unsigned *at, unsigned value) { return (*at += value) - value; }
static inline void __threadfence() {}
static inline unsigned atomic_add(unsigned *at, unsigned value) { return atomicAdd(at, value); }
static inline unsigned atomic_max(unsigned *at, unsigned value) {
    unsigned before = *at;
    if (value > before) *at = value;
    return before;
}

// Conversions of half types, rounding to the nearest even.
static inline float f16_to_f32(unsigned short h) { return (float)reinterpret<_Float16>(h); }
static inline unsigned short f32_to_f16(float f) { return reinterpret<unsigned short>((_Float16)f); }
static inline unsigned short f64_to_f16(double f) { return reinterpret<unsigned short>((_Float16)f); }
static inline unsigned short f32_to_bf16(float f) {
    unsigned bits = __float_as_uint(f);
    if (f != f) return (unsigned short)(bits >> 16 | 0x40);
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Kernels run one after the other.
static inline void dependency_wait() {}
static inline void dependency_launch() {}

static void (*body)(const void *);
static const void *body_argument;

static void fibre_main() {
    body(body_argument);
    fibres[current].done = true;
    live--;
    if (arrived > 0 && arrived == live) {
        arrived = 0;
        generation++;
    }
    swapcontext(&fibres[current].context, &scheduler);
}

static void run_block(bool with_fibres) {
    unsigned count = blockDim.x * blockDim.y * blockDim.z;
    has_fibres = with_fibres;
    for (unsigned i = 0; i < count; i++) {
        Index index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        if (!with_fibres) {
            threadIdx = index;
            body(body_argument);
            continue;
        }
        Fibre &fibre = fibres[i];
        fibre.index = index;
        fibre.done = false;
        if (!fibre.stack) fibre.stack = (char *)malloc(STACK);
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack;
        fibre.context.uc_stack.ss_size = STACK;
        fibre.context.uc_link = 0;
        makecontext(&fibre.context, fibre_main, 0);
    }
    if (!with_fibres) return;
    live = count;
    arrived = 0;
    memset(wave_arrived, 0, sizeof wave_arrived);
    while (live > 0)
        for (unsigned i = 0; i < count; i++)
            if (!fibres[i].done) {
                current = i;
                threadIdx = fibres[i].index;
                swapcontext(&scheduler, &fibres[i].context);
            }
}

template <class... A, size_t... I>
static void call(void (*kernel)(A...), const void *const *args, std::index_sequence<I...>) {
    kernel(*(const typename std::remove_reference<A>::type *)args[I]...);
}

template <class... A> struct Kernel {
    void (*function)(A...);
    const void *const *args;
    static void run(const void *self) {
        const Kernel &own = *(const Kernel *)self;
        call(own.function, own.args, std::index_sequence_for<A...>());
    }
};

// One grid at a time: callers hold a lock.
template <class... A>
static void run_grid(void (*function)(A...), const void *const *args, const unsigned *grid, const unsigned *block,
                     bool with_fibres) {
    Kernel<A...> kernel = {function, args};
    body = Kernel<A...>::run;
    body_argument = &kernel;
    blockDim = {block[0], block[1], block[2]};
    gridDim = {grid[0], grid[1], grid[2]};
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                run_block(with_fibres);
            }
}

#define HOST_KERNEL(NAME, WITH_FIBRES)                                                                    \
    extern "C" void host_##NAME(const void *const *args, const unsigned *grid, const unsigned *block) { \
        run_grid(NAME, args, grid, block, WITH_FIBRES);                                                  \
    }
