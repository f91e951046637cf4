//! Pooling over windows of one to three spatial dimensions, a thread an output; and resizing of images.

struct PoolParams {
    u32 planes; // batch times channels
    u32 input[3], output[3], kernel[3], strides[3], dilations[3];
    int pads[3], pads_end[3];
    u32 op; // POOL_*
    u32 counts_padding;
    u32 is_column_major; // positions of maxima count along the height first
    float p;
};

template <class S>
__device__ __forceinline__ void pool_windows(S *y, i64 *positions, const S *x, const PoolParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    u32 outputs = p.output[0] * p.output[1] * p.output[2];
    if (at >= p.planes * outputs) return;
    u32 plane = at / outputs, rest = at % outputs, row = rest / p.output[2];
    int start[3] = {(int)(row / p.output[1] * p.strides[0]) - p.pads[0],
                    (int)(row % p.output[1] * p.strides[1]) - p.pads[1],
                    (int)(rest % p.output[2] * p.strides[2]) - p.pads[2]};
    const S *from = x + (i64)plane * p.input[0] * p.input[1] * p.input[2];
    float value = p.op == POOL_MAX ? -__uint_as_float(0x7f800000u) : 0.0f;
    u32 best = 0, seen = 0, inside = 0;
    bool any = false;
    for (u32 kd = 0; kd < p.kernel[0]; kd++)
        for (u32 kh = 0; kh < p.kernel[1]; kh++)
            for (u32 kw = 0; kw < p.kernel[2]; kw++) {
                int d = start[0] + (int)(kd * p.dilations[0]);
                int h = start[1] + (int)(kh * p.dilations[1]);
                int w = start[2] + (int)(kw * p.dilations[2]);
                // What lies behind the padding at the end (a window rounded up) counts nowhere.
                if (d < (int)p.input[0] + p.pads_end[0] && h < (int)p.input[1] + p.pads_end[1] &&
                    w < (int)p.input[2] + p.pads_end[2])
                    seen++;
                if ((u32)d >= p.input[0] || (u32)h >= p.input[1] || (u32)w >= p.input[2]) continue;
                inside++;
                float v = widen<float>(from[((i64)d * p.input[1] + h) * p.input[2] + w]);
                if (p.op == POOL_MAX) {
                    if (!any || v > value || v != v) {
                        value = v;
                        any = true;
                        best = p.is_column_major ? ((u32)w * p.input[1] + h) * p.input[0] + d
                                                 : ((u32)d * p.input[1] + h) * p.input[2] + w;
                    }
                } else if (p.op == POOL_AVERAGE) {
                    value += v;
                } else {
                    value += powf(fabsf(v), p.p);
                }
            }
    if (p.op == POOL_AVERAGE) value /= (float)(p.counts_padding ? seen : inside);
    if (p.op == POOL_LP) value = powf(value, 1.0f / p.p);
    y[at] = Narrow<S>::from(value);
    if (positions) positions[at] = (i64)plane * p.input[0] * p.input[1] * p.input[2] + best;
}

struct ResizeParams {
    u32 total;
    u32 rank; // innermost first
    u32 input[RESIZE_RANK], output[RESIZE_RANK];
    // source = (position + shift) * times / over + offset
    float times[RESIZE_RANK], over[RESIZE_RANK], offset[RESIZE_RANK], shift[RESIZE_RANK];
    u32 is_linear;
    u32 nearest; // NEAREST_*
};

__device__ __forceinline__ float source_position(const ResizeParams &p, u32 d, u32 position) {
    return ((float)position + p.shift[d]) * p.times[d] / p.over[d] + p.offset[d];
}

template <class S> __device__ __forceinline__ void resize(S *y, const S *x, const ResizeParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 rest = at;
    i64 stride = 1, base = 0;
    i64 high[RESIZE_RANK];
    float weight[RESIZE_RANK];
    _Pragma("unroll") for (int d = 0; d < RESIZE_RANK; d++) {
        high[d] = 0;
        weight[d] = 0.0f;
        if (d >= p.rank) continue;
        u32 position = rest % p.output[d];
        rest /= p.output[d];
        int last = (int)p.input[d] - 1;
        if (p.input[d] == p.output[d] && p.times[d] == p.over[d]) {
            base += position * stride;
        } else if (p.is_linear) {
            float source = source_position(p, d, position);
            source = source < 0.0f ? 0.0f : source > (float)last ? (float)last : source;
            int from = (int)source;
            int to = from < last ? from + 1 : last;
            base += from * stride;
            high[d] = (to - from) * stride;
            weight[d] = source - (float)from;
        } else {
            float source = source_position(p, d, position);
            float down = floorf(source), up = ceilf(source);
            float chosen = p.nearest == NEAREST_FLOOR           ? down
                           : p.nearest == NEAREST_CEIL          ? up
                           : p.nearest == NEAREST_PREFER_CEIL   ? floorf(source + 0.5f)
                                                                : ceilf(source - 0.5f);
            int index = (int)chosen;
            base += (index < 0 ? 0 : index > last ? last : index) * stride;
        }
        stride *= p.input[d];
    }
    float value = 0.0f;
    if (!p.is_linear) {
        y[at] = x[base];
        return;
    }
    for (u32 corner = 0; corner < (1u << p.rank); corner++) {
        float share = 1.0f;
        i64 offset = base;
        _Pragma("unroll") for (int d = 0; d < RESIZE_RANK; d++) {
            bool is_high = corner >> d & 1;
            share *= is_high ? weight[d] : 1.0f - weight[d];
            offset += is_high ? high[d] : 0;
        }
        if (share != 0.0f) value += share * widen<float>(x[offset]);
    }
    y[at] = Narrow<S>::from(value);
}

#define POOL_KERNEL(SUFFIX, S)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        pool_##SUFFIX(void *y, void *positions, const void *x, const __grid_constant__ PoolParams p) {           \
        pool_windows<S>((S *)y, (i64 *)positions, (const S *)x, p);                                              \
    }
#define POOL_KERNELS(SUFFIX, S)                                                                                  \
    POOL_KERNEL(SUFFIX, S)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        resize_##SUFFIX(void *y, const void *x, const __grid_constant__ ResizeParams p) {                        \
        resize<S>((S *)y, (const S *)x, p);                                                                      \
    }

POOL_KERNELS(f32, float)
POOL_KERNELS(f16, f16)
POOL_KERNELS(bf16, bf16)
POOL_KERNEL(u8, u8)
POOL_KERNEL(i8, i8)
