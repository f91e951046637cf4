//! Convolution of one to three spatial dimensions as an implicit product, depthwise convolution, and transposed
//! convolution by gathering. Layouts are channels first; a missing spatial dimension has extent 1 in front.
//!
//! Product: M = output channels of a group, N = batch and output positions, K = input channels of a group and taps.

struct ConvParams {
    u32 batch, groups;
    u32 in_channels, out_channels; // of a group
    u32 input[3], output[3], kernel[3], strides[3], dilations[3];
    int pads[3]; // in front
    u32 taps, positions; // products of kernel and of output
    u32 taps_magic, taps_shift; // division of k by taps
    u32 activation;
    float activation_alpha, activation_beta;
};

template <class S> struct Filter {
    const S *data;
    u32 k_count;
    struct Cursor {};
    __device__ __forceinline__ bool is_along_k() const { return true; }
    __device__ __forceinline__ float at(u32 m, u32 k, u32 m_count, u32, Cursor &) const {
        return m < m_count && k < k_count ? widen<float>(data[(i64)m * k_count + k]) : 0.0f;
    }
};

template <class S> struct Patches {
    const S *data; // the group's first channel of the first image
    const ConvParams &p;
    // A thread reads few columns, again and again: where their windows begin is worked out once for the last one.
    struct Cursor {
        u32 n;
        int d, h, w;
        i64 image;
        __device__ __forceinline__ Cursor() : n(0xffffffffu), d(0), h(0), w(0), image(0) {}
    };
    __device__ __forceinline__ bool is_along_k() const { return false; }
    __device__ __forceinline__ float at(u32 k, u32 n, u32 k_count, u32 n_count, Cursor &cursor) const {
        if (k >= k_count || n >= n_count) return 0.0f;
        if (n != cursor.n) {
            u32 b = n / p.positions, rest = n - b * p.positions;
            u32 row = rest / p.output[2];
            cursor.n = n;
            cursor.w = (int)((rest - row * p.output[2]) * p.strides[2]) - p.pads[2];
            cursor.d = (int)(row / p.output[1] * p.strides[0]) - p.pads[0];
            cursor.h = (int)(row % p.output[1] * p.strides[1]) - p.pads[1];
            cursor.image = (i64)b * p.groups * p.in_channels;
        }
        u32 c = p.taps == 1 ? k : __umulhi(k, p.taps_magic) >> p.taps_shift;
        u32 tap = k - c * p.taps;
        u32 tap_row = tap / p.kernel[2];
        int w = cursor.w + (int)((tap - tap_row * p.kernel[2]) * p.dilations[2]);
        int h = cursor.h, d = cursor.d;
        if (p.kernel[0] == 1) {
            h += (int)(tap_row * p.dilations[1]);
        } else {
            d += (int)(tap_row / p.kernel[1] * p.dilations[0]);
            h += (int)(tap_row % p.kernel[1] * p.dilations[1]);
        }
        if ((u32)w >= p.input[2] || (u32)h >= p.input[1] || (u32)d >= p.input[0]) return 0.0f;
        i64 plane = (cursor.image + c) * p.input[0] + d;
        return widen<float>(data[(plane * p.input[1] + h) * p.input[2] + w]);
    }
};

template <class S> struct ImageStore {
    S *data; // the group's first channel of the first image
    const S *bias, *residual;
    const ConvParams &p;
    __device__ __forceinline__ void put(u32 m, u32 n, float sum) const {
        u32 b = n / p.positions, position = n - b * p.positions;
        i64 at = ((i64)b * p.groups * p.out_channels + m) * p.positions + position;
        float value = sum;
        if (bias) value += widen<float>(bias[m]);
        if (residual) value += widen<float>(residual[at]);
        data[at] = Narrow<S>::from(activate(value, p.activation, p.activation_alpha, p.activation_beta));
    }
};

template <class S, int TM, int TN>
__device__ __forceinline__ void conv_tile(S *y, const S *x, const S *filter, const S *bias, const S *residual,
                                          const ConvParams &p) {
    u32 group = blockIdx.z, k_count = p.in_channels * p.taps;
    Filter<S> left = {filter + (i64)group * p.out_channels * k_count, k_count};
    i64 in_plane = (i64)p.input[0] * p.input[1] * p.input[2];
    Patches<S> right = {x + group * p.in_channels * in_plane, p};
    i64 first = (i64)group * p.out_channels;
    ImageStore<S> store = {y + first * p.positions, bias ? bias + first : bias,
                           residual ? residual + first * p.positions : residual, p};
    tile_product<TM, TN>(left, right, store, p.out_channels, p.batch * p.positions, k_count, blockIdx.y * (16 * TM),
                         blockIdx.x * (16 * TN), 0);
}

// A thread an output: for groups of one or few channels.
template <class S>
__device__ __forceinline__ void conv_direct(S *y, const S *x, const S *filter, const S *bias, const S *residual,
                                            const ConvParams &p) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    u32 channels = p.groups * p.out_channels;
    if (at >= p.batch * channels * p.positions) return;
    u32 position = at % p.positions, plane = at / p.positions;
    u32 channel = plane % channels, b = plane / channels, group = channel / p.out_channels;
    u32 row = position / p.output[2];
    int w0 = (int)(position % p.output[2] * p.strides[2]) - p.pads[2];
    int h0 = (int)(row % p.output[1] * p.strides[1]) - p.pads[1];
    int d0 = (int)(row / p.output[1] * p.strides[0]) - p.pads[0];
    const S *weights = filter + (i64)channel * p.in_channels * p.taps;
    float sum = 0.0f;
    for (u32 c = 0; c < p.in_channels; c++) {
        i64 image = (i64)b * p.groups * p.in_channels + group * p.in_channels + c;
        for (u32 kd = 0; kd < p.kernel[0]; kd++) {
            int d = d0 + (int)(kd * p.dilations[0]);
            for (u32 kh = 0; kh < p.kernel[1]; kh++) {
                int h = h0 + (int)(kh * p.dilations[1]);
                for (u32 kw = 0; kw < p.kernel[2]; kw++, weights++) {
                    int w = w0 + (int)(kw * p.dilations[2]);
                    if ((u32)w >= p.input[2] || (u32)h >= p.input[1] || (u32)d >= p.input[0]) continue;
                    i64 from = ((image * p.input[0] + d) * p.input[1] + h) * p.input[2] + w;
                    sum += widen<float>(x[from]) * widen<float>(*weights);
                }
            }
        }
    }
    if (bias) sum += widen<float>(bias[channel]);
    if (residual) sum += widen<float>(residual[at]);
    y[at] = Narrow<S>::from(activate(sum, p.activation, p.activation_alpha, p.activation_beta));
}

// Transposed: `input` is the small side, the filter is [in, out / groups, taps]; a thread gathers one output.
template <class S>
__device__ __forceinline__ void conv_transpose(S *y, const S *x, const S *filter, const S *bias, const ConvParams &p) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    u32 channels = p.groups * p.out_channels;
    if (at >= p.batch * channels * p.positions) return;
    u32 position = at % p.positions, plane = at / p.positions;
    u32 channel = plane % channels, b = plane / channels;
    u32 group = channel / p.out_channels, m = channel % p.out_channels;
    u32 row = position / p.output[2];
    int w0 = (int)(position % p.output[2]) + p.pads[2];
    int h0 = (int)(row % p.output[1]) + p.pads[1];
    int d0 = (int)(row / p.output[1]) + p.pads[0];
    float sum = 0.0f;
    for (u32 kd = 0; kd < p.kernel[0]; kd++) {
        int d = d0 - (int)(kd * p.dilations[0]);
        if (d < 0 || d % p.strides[0] || d / p.strides[0] >= p.input[0]) continue;
        for (u32 kh = 0; kh < p.kernel[1]; kh++) {
            int h = h0 - (int)(kh * p.dilations[1]);
            if (h < 0 || h % p.strides[1] || h / p.strides[1] >= p.input[1]) continue;
            for (u32 kw = 0; kw < p.kernel[2]; kw++) {
                int w = w0 - (int)(kw * p.dilations[2]);
                if (w < 0 || w % p.strides[2] || w / p.strides[2] >= p.input[2]) continue;
                u32 tap = (kd * p.kernel[1] + kh) * p.kernel[2] + kw;
                for (u32 c = 0; c < p.in_channels; c++) {
                    i64 channel_in = (i64)group * p.in_channels + c;
                    i64 image = (i64)b * p.groups * p.in_channels + channel_in;
                    i64 from = ((image * p.input[0] + d / p.strides[0]) * p.input[1] + h / p.strides[1]) * p.input[2] +
                               w / p.strides[2];
                    i64 weight = (channel_in * p.out_channels + m) * p.taps + tap;
                    sum += widen<float>(x[from]) * widen<float>(filter[weight]);
                }
            }
        }
    }
    if (bias) sum += widen<float>(bias[channel]);
    y[at] = Narrow<S>::from(activate(sum, p.activation, p.activation_alpha, p.activation_beta));
}

#define CONV_ARGUMENTS                                                                          \
    void *y, const void *x, const void *filter, const void *bias, const void *residual,         \
        const __grid_constant__ ConvParams p
#define CONV_POINTERS(S) (S *)y, (const S *)x, (const S *)filter, (const S *)bias

#define CONV_KERNELS(SUFFIX, S)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) conv_tile32_##SUFFIX(CONV_ARGUMENTS) {                     \
        conv_tile<S, 2, 2>(CONV_POINTERS(S), (const S *)residual, p);                                            \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) conv_tile64_##SUFFIX(CONV_ARGUMENTS) {                     \
        conv_tile<S, 4, 4>(CONV_POINTERS(S), (const S *)residual, p);                                            \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) conv_tile128_##SUFFIX(CONV_ARGUMENTS) {                    \
        conv_tile<S, 8, 8>(CONV_POINTERS(S), (const S *)residual, p);                                            \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) conv_direct_##SUFFIX(CONV_ARGUMENTS) {                     \
        conv_direct<S>(CONV_POINTERS(S), (const S *)residual, p);                                                \
    }                                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) conv_transpose_##SUFFIX(CONV_ARGUMENTS) {                  \
        conv_transpose<S>(CONV_POINTERS(S), p);                                                                  \
    }

CONV_KERNELS(f32, float)
CONV_KERNELS(f16, f16)
CONV_KERNELS(bf16, bf16)
