//! Elements computed from those around a place: values at the points of a grid, resampling along one axis with a wide
//! kernel, sums of squares over neighbouring channels, blocks summed back into images.

#define GRID_NEAREST 0
#define GRID_LINEAR 1
#define GRID_CUBIC 2
#define PADDING_ZEROS 0
#define PADDING_BORDER 1
#define PADDING_REFLECTION 2

// To the nearest, ties to even.
__device__ __forceinline__ float to_nearest(float x) {
    float low = floorf(x), part = x - low;
    bool is_odd = low * 0.5f != floorf(low * 0.5f);
    return part > 0.5f || (part == 0.5f && is_odd) ? low + 1.0f : low;
}

// Keys' cubic kernel at a distance, with parameter a.
__device__ __forceinline__ float cubic_kernel(float x, float a) {
    if (x <= 1.0f) return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
    if (x < 2.0f) return ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a;
    return 0.0f;
}

struct GridParams {
    u32 total, channels, points; // elements of the result, channels, points of one image
    u32 size[3];                 // of the image, innermost first; 1 behind the rank
    u32 rank, mode, padding, aligns_corners, grid_type;
};

// Mirrored at the borders until it lies between them.
__device__ __forceinline__ float reflected(float x, float low, float high) {
    float range = high - low;
    if (!(range > 0.0f) || !(x - x == 0.0f)) return low;
    float phase = x - low;
    phase -= floorf(phase / (2.0f * range)) * (2.0f * range);
    return low + (phase < 2.0f * range - phase ? phase : 2.0f * range - phase);
}

// The pixel coordinate of a point, brought inside the image where the mode asks for it.
__device__ __forceinline__ float pixel_at(float n, u32 size, const GridParams &p) {
    float length = (float)size;
    float x = p.aligns_corners ? (n + 1.0f) / 2.0f * (length - 1.0f) : ((n + 1.0f) * length - 1.0f) / 2.0f;
    if (p.mode == GRID_CUBIC || p.padding == PADDING_ZEROS) return x;
    float margin = p.aligns_corners ? 0.0f : 0.5f, low = -margin, high = length - 1.0f + margin;
    if (x >= low && x <= high) return x;
    if (p.padding == PADDING_REFLECTION) return reflected(x, low, high);
    return x > length - 1.0f ? length - 1.0f : x > 0.0f ? x : 0.0f;
}

// The pixel that a whole coordinate means; -1 where zeros surround the image.
__device__ __forceinline__ int pixel_of(float at, u32 size, const GridParams &p) {
    float last = (float)size - 1.0f;
    if (at >= 0.0f && at <= last) return (int)at;
    if (p.padding == PADDING_ZEROS) return -1;
    if (p.padding == PADDING_REFLECTION) {
        float margin = p.aligns_corners ? 0.0f : 0.5f;
        at = reflected(at, -margin, last + margin);
    }
    return at > last ? (int)last : at > 0.0f ? (int)at : 0;
}

// Pixels and weights along one dimension.
struct GridTaps {
    int pixel[4];
    float weight[4];
};

__device__ __forceinline__ GridTaps grid_taps(float x, u32 size, const GridParams &p) {
    GridTaps taps;
    float low = floorf(x), t = x - low;
    if (p.mode == GRID_NEAREST) low = to_nearest(x);
    float first = p.mode == GRID_CUBIC ? low - 1.0f : low;
    _Pragma("unroll") for (int i = 0; i < 4; i++) {
        taps.pixel[i] = pixel_of(first + (float)i, size, p);
        taps.weight[i] = p.mode == GRID_CUBIC ? cubic_kernel(i == 0 ? t + 1.0f : i == 1 ? t : i == 2 ? 1.0f - t : 2.0f - t, -0.75f)
                         : p.mode == GRID_LINEAR ? (i == 0 ? 1.0f - t : t)
                                                 : 1.0f;
    }
    return taps;
}

// A thread an element of the result. RANK: dimensions of the image.
template <class S, int RANK>
__device__ __forceinline__ void grid_sample(S *to, const S *image, const void *grid, const GridParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 point = at % p.points, plane = at / p.points, batch = plane / p.channels;
    const S *from = image + (i64)plane * p.size[0] * p.size[1] * p.size[2];
    i64 place = ((i64)batch * p.points + point) * RANK;
    GridTaps taps[RANK];
    _Pragma("unroll") for (int d = 0; d < RANK; d++) {
        float n = p.grid_type == DTYPE_F32   ? ((const float *)grid)[place + d]
                  : p.grid_type == DTYPE_F16 ? widen<float>(((const f16 *)grid)[place + d])
                                             : widen<float>(((const bf16 *)grid)[place + d]);
        taps[d] = grid_taps(pixel_at(n, p.size[d], p), p.size[d], p);
    }
    int count = p.mode == GRID_CUBIC ? 4 : p.mode == GRID_LINEAR ? 2 : 1;
    if (p.mode == GRID_NEAREST) {
        i64 source = 0;
        bool is_inside = true;
        _Pragma("unroll") for (int d = RANK - 1; d >= 0; d--) {
            is_inside = is_inside && taps[d].pixel[0] >= 0;
            source = source * p.size[d] + taps[d].pixel[0];
        }
        to[at] = is_inside ? from[source] : Narrow<S>::from(0.0f);
        return;
    }
    float sum = 0.0f;
    _Pragma("unroll") for (int k = 0; k < (RANK > 2 ? 4 : 1); k++) {
        if (RANK > 2 && (k >= count || taps[RANK - 1].pixel[k] < 0)) continue;
        float outer = RANK > 2 ? taps[RANK - 1].weight[k] : 1.0f;
        i64 front = RANK > 2 ? taps[RANK - 1].pixel[k] : 0;
        _Pragma("unroll") for (int j = 0; j < (RANK > 1 ? 4 : 1); j++) {
            if (RANK > 1 && (j >= count || taps[RANK > 1].pixel[j] < 0)) continue;
            float middle = RANK > 1 ? outer * taps[RANK > 1].weight[j] : outer;
            i64 row = RANK > 1 ? front * p.size[1] + taps[RANK > 1].pixel[j] : 0;
            _Pragma("unroll") for (int i = 0; i < 4; i++) {
                if (i >= count || taps[0].pixel[i] < 0) continue;
                sum += widen<float>(from[row * p.size[0] + taps[0].pixel[i]]) * (middle * taps[0].weight[i]);
            }
        }
    }
    to[at] = Narrow<S>::from(sum);
}

struct ResampleParams {
    u32 total, input, output, inner; // elements of the result; elements along the axis before and after; behind it
    float times, over, shift, offset; // the source position of output i: (i + shift) * times / over + offset
    float shrink, cubic;             // distances are multiplied by it; the cubic kernel's parameter
    u32 is_cubic, excludes_outside, normalizes;
};

// One axis of [outer][input][inner] resampled.
template <class S, class D>
__device__ __forceinline__ void resample(D *to, const S *from, const ResampleParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 column = at % p.inner, position = at / p.inner % p.output, outer = at / p.inner / p.output;
    float source = ((float)position + p.shift) * p.times / p.over + p.offset;
    int before = (int)floorf(-(p.is_cubic ? 2.0f : 1.0f) / p.shrink) + 1, width = 2 - 2 * before;
    int first = (int)floorf(source) + before;
    float sum = 0.0f, weights = 0.0f;
    const S *line = from + (i64)outer * p.input * p.inner + column;
    for (int i = first; i < first + width; i++) {
        bool is_outside = i < 0 || i >= (int)p.input;
        if (is_outside && p.excludes_outside) continue;
        float distance = (float)i - source;
        distance = (distance < 0.0f ? -distance : distance) * p.shrink;
        float weight = p.is_cubic ? cubic_kernel(distance, p.cubic) : distance < 1.0f ? 1.0f - distance : 0.0f;
        int pixel = i < 0 ? 0 : is_outside ? (int)p.input - 1 : i;
        sum += weight * widen<float>(line[(i64)pixel * p.inner]);
        weights += weight;
    }
    if (p.normalizes && weights != 0.0f) sum = sum / weights;
    to[at] = Narrow<D>::from(sum);
}

// x / (bias + alpha / size * sum of squares of neighbouring channels)^beta, of [batch][channels][inner].
template <class S>
__device__ __forceinline__ void local_response(S *to, const S *from, u32 total, u32 channels, u32 inner, u32 size,
                                               float alpha, float beta, float bias) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= total) return;
    int channel = (int)(at / inner % channels), begin = channel - (int)(size - 1) / 2, end = channel + (int)(size / 2);
    begin = begin < 0 ? 0 : begin, end = end < (int)channels ? end : (int)channels - 1;
    float sum = 0.0f;
    for (int c = begin; c <= end; c++) {
        float v = widen<float>(from[at + (i64)(c - channel) * inner]);
        sum += v * v;
    }
    float base = bias + alpha / (float)size * sum;
    float power = beta == 0.75f ? sqrtf(base) * sqrtf(sqrtf(base)) : expf(beta * logf(base));
    to[at] = Narrow<S>::from(widen<float>(from[at]) / power);
}

struct FoldParams {
    u32 total, area;          // elements of the images, and of one
    u32 image[3], block[3];   // innermost first; 1 behind the rank
    u32 count[3];             // blocks along each dimension
    u32 stride[3], dilation[3];
    int pad[3];
};

// The number of the block whose element `reach` from its start lies at a padded position; -1 for none.
__device__ __forceinline__ int block_over(u32 at, u32 reach, u32 stride, u32 count) {
    if (at < reach) return -1;
    u32 number = (at - reach) / stride;
    return number < count && number * stride == at - reach ? (int)number : -1;
}

// Images from blocks [batch][channels][block][place]: every pixel is the sum of what the blocks over it hold.
template <class S> __device__ __forceinline__ void fold_blocks(S *to, const S *from, const FoldParams &p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 x = at % p.image[0], y = at / p.image[0] % p.image[1], z = at / p.image[0] / p.image[1] % p.image[2];
    u32 blocks = p.count[0] * p.count[1] * p.count[2], size = p.block[0] * p.block[1] * p.block[2];
    const S *own = from + (i64)(at / p.area) * size * blocks;
    float sum = 0.0f;
    _Pragma("unroll 1") for (u32 k = 0; k < size; k++) {
        u32 k0 = k % p.block[0], k1 = k / p.block[0] % p.block[1], k2 = k / p.block[0] / p.block[1];
        // The numbers of the block that covers the pixel with element k.
        int n0 = block_over(x + p.pad[0], k0 * p.dilation[0], p.stride[0], p.count[0]);
        int n1 = block_over(y + p.pad[1], k1 * p.dilation[1], p.stride[1], p.count[1]);
        int n2 = block_over(z + p.pad[2], k2 * p.dilation[2], p.stride[2], p.count[2]);
        if (n0 < 0 || n1 < 0 || n2 < 0) continue;
        sum += widen<float>(own[(i64)k * blocks + ((i64)n2 * p.count[1] + n1) * p.count[0] + n0]);
    }
    to[at] = Narrow<S>::from(sum);
}

#define GRID_KERNEL(SUFFIX, S, RANK)                                                                           \
    extern "C" __global__ void __launch_bounds__(256) grid_sample_##SUFFIX##_r##RANK(                          \
        void *to, const void *image, const void *grid, const __grid_constant__ GridParams p) {                 \
        grid_sample<S, RANK>((S *)to, (const S *)image, grid, p);                                              \
    }
#define RESAMPLE_KERNEL(FROM, TO, S, D)                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        resample_##FROM##_##TO(void *to, const void *from, const __grid_constant__ ResampleParams p) {         \
        resample<S, D>((D *)to, (const S *)from, p);                                                           \
    }
#define WINDOW_KERNELS(SUFFIX, S)                                                                              \
    GRID_KERNEL(SUFFIX, S, 1)                                                                                  \
    GRID_KERNEL(SUFFIX, S, 2)                                                                                  \
    GRID_KERNEL(SUFFIX, S, 3)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        local_response_##SUFFIX(void *to, const void *from, u32 total, u32 channels, u32 inner, u32 size,      \
                                float alpha, float beta, float bias) {                                         \
        local_response((S *)to, (const S *)from, total, channels, inner, size, alpha, beta, bias);             \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        fold_blocks_##SUFFIX(void *to, const void *from, const __grid_constant__ FoldParams p) {               \
        fold_blocks((S *)to, (const S *)from, p);                                                              \
    }

WINDOW_KERNELS(f32, float)
WINDOW_KERNELS(f16, f16)
WINDOW_KERNELS(bf16, bf16)
RESAMPLE_KERNEL(f32, f32, float, float)
RESAMPLE_KERNEL(f16, f32, f16, float)
RESAMPLE_KERNEL(f32, f16, float, f16)
RESAMPLE_KERNEL(f16, f16, f16, f16)
RESAMPLE_KERNEL(bf16, f32, bf16, float)
RESAMPLE_KERNEL(f32, bf16, float, bf16)
RESAMPLE_KERNEL(bf16, bf16, bf16, bf16)
