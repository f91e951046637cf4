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
    u32 part_k, parts;   // a part of K, and how many there are
    u32 activation;
    float activation_alpha, activation_beta;
};

// What follows a sum, and where it goes: V neighbouring positions of channel m of the group.
template <class S> struct ImageStore {
    S *data; // the group's first channel of the first image
    const S *bias, *residual;
    const ConvParams &p;
    template <int V> __device__ __forceinline__ void put(u32 m, u32 n, const float (&sums)[V]) const {
        u32 b = n / p.positions, position = n - b * p.positions;
        i64 at = ((i64)b * p.groups * p.out_channels + m) * p.positions + position;
        float addend = bias ? widen<float>(bias[m]) : 0.0f;
        Pack<S, V> pack, more;
        if (residual) more = load_pack<S, V>(residual + at);
        _Pragma("unroll") for (int i = 0; i < V; i++) {
            float value = sums[i] + addend;
            if (residual) value += widen<float>(more.at[i]);
            if (p.activation == ACTIVATION_RELU) value = value > 0.0f || value != value ? value : 0.0f;
            else if (p.activation != ACTIVATION_NONE)
                value = activate(value, p.activation, p.activation_alpha, p.activation_beta);
            pack.at[i] = Narrow<S>::from(value);
        }
        *(Pack<S, V> *)(data + at) = pack;
    }
};

// The product: 256 threads as 16 x 16 compute a tile of 16 TM channels by 16 TN positions, 16 deep at a time. While one
// pair of tiles is multiplied, the next is on its way from memory into registers, then into the other pair.
//
//   a [2][16][16 TM + 4]  filter: row k, channels contiguous       thread (ty, tx): channels ty TM + i,
//   b [2][16][16 TN + 4]  patches: row k, positions contiguous                      positions 4 tx + j (+ 64)
//
// A thread reads patches of one position only: which taps fall inside the image is found once, as a bit each.
// Blocks: x along positions, y along channels, z along groups, then along the parts of K.
template <class S, int TM, int TN>
__device__ __forceinline__ void conv_product(S *y, float *parts, const S *x, const S *filter, const S *bias,
                                             const S *residual, const ConvParams &p) {
    constexpr int BM = 16 * TM, BN = 16 * TN, BK = 16, A_PITCH = BM + 4, B_PITCH = BN + 4, ROWS = 256 / BN;
    __shared__ Pack<float, 2 * BK * A_PITCH> a_space;
    __shared__ Pack<float, 2 * BK * B_PITCH> b_space;
    __shared__ int tap_offsets[CONV_TAPS];
    begin_kernel();
    u32 thread = threadIdx.x, tx = thread % 16, ty = thread / 16;
    u32 group = blockIdx.z % p.groups, part = blockIdx.z / p.groups;
    u32 m_first = blockIdx.y * BM, n_first = blockIdx.x * BN, n_count = p.batch * p.positions;
    u32 k_count = p.in_channels * p.taps, k_begin = part * p.part_k;
    u32 k_end = k_begin + p.part_k < k_count ? k_begin + p.part_k : k_count;
    u32 plane = p.input[0] * p.input[1] * p.input[2];
    for (u32 tap = thread; tap < p.taps; tap += 256) {
        u32 row = tap / p.kernel[2], d = row / p.kernel[1];
        tap_offsets[tap] = (int)((d * p.dilations[0] * p.input[1] + (row - d * p.kernel[1]) * p.dilations[1]) * p.input[2] +
                                 (tap - row * p.kernel[2]) * p.dilations[2]);
    }
    // The position that this thread reads: the corner of its window, and the taps inside the image.
    u32 own = n_first + thread % BN;
    u64 low = 0, high = 0;
    const S *corner = x;
    if (own < n_count) {
        u32 b = own / p.positions, rest = own - b * p.positions, row = rest / p.output[2];
        int w = (int)((rest - row * p.output[2]) * p.strides[2]) - p.pads[2];
        int h = (int)(row % p.output[1] * p.strides[1]) - p.pads[1];
        int d = (int)(row / p.output[1] * p.strides[0]) - p.pads[0];
        corner = x + ((i64)b * p.groups + group) * p.in_channels * plane +
                 ((i64)d * (int)p.input[1] + h) * (int)p.input[2] + w;
        u32 tap = 0;
        for (u32 kd = 0; kd < p.kernel[0]; kd++)
            for (u32 kh = 0; kh < p.kernel[1]; kh++)
                for (u32 kw = 0; kw < p.kernel[2]; kw++, tap++) {
                    bool inside = (u32)(d + (int)(kd * p.dilations[0])) < p.input[0] &&
                                  (u32)(h + (int)(kh * p.dilations[1])) < p.input[1] &&
                                  (u32)(w + (int)(kw * p.dilations[2])) < p.input[2];
                    if (tap < 64) low |= (u64)inside << tap;
                    else high |= (u64)inside << (tap - 64);
                }
    }
    u32 channel[TN], tap_of[TN], tap_step = BK % p.taps, channel_step = BK / p.taps;
    _Pragma("unroll") for (int i = 0; i < TN; i++) {
        u32 k = k_begin + thread / BN + i * ROWS;
        channel[i] = k / p.taps;
        tap_of[i] = k - channel[i] * p.taps;
    }
    const S *weights = filter + ((i64)group * p.out_channels + m_first) * k_count;
    // The parts of K begin at multiples of its depth.
    bool is_packed = TM >= 4 && k_count % 4 == 0;
    float a_next[TM], b_next[TN], sums[TM][TN];
    _Pragma("unroll") for (int i = 0; i < TM; i++) _Pragma("unroll") for (int j = 0; j < TN; j++) sums[i][j] = 0.0f;
    __syncthreads();

    auto read = [&](u32 k0) {
        if (TM >= 4 && is_packed) {
            // Four of K at a time: 64 channels at once.
            _Pragma("unroll") for (int i = 0; i < TM; i += 4) {
                u32 m = i * 16 + thread / 4, k = k0 + thread % 4 * 4;
                bool inside = m_first + m < p.out_channels && k < k_end;
                Pack<S, 4> pack;
                if (inside) pack = load_pack<S, 4>(weights + (i64)m * k_count + k);
                _Pragma("unroll") for (int q = 0; q < 4; q++) a_next[(i + q) % TM] = inside ? widen<float>(pack.at[q]) : 0.0f;
            }
        } else {
            _Pragma("unroll") for (int i = 0; i < TM; i++) {
                u32 m = i * 16 + thread / 16, k = k0 + thread % 16;
                bool inside = m_first + m < p.out_channels && k < k_end;
                a_next[i] = inside ? widen<float>(weights[(i64)m * k_count + k]) : 0.0f;
            }
        }
        _Pragma("unroll") for (int i = 0; i < TN; i++) {
            u32 tap = tap_of[i];
            u64 bits = tap < 64 ? low >> tap : high >> (tap - 64);
            bool inside = (bits & 1) && k0 + thread / BN + i * ROWS < k_end;
            b_next[i] = inside ? widen<float>(corner[(i64)channel[i] * plane + tap_offsets[tap]]) : 0.0f;
            channel[i] += channel_step;
            tap_of[i] += tap_step;
            if (tap_of[i] >= p.taps) {
                tap_of[i] -= p.taps;
                channel[i]++;
            }
        }
    };
    auto keep = [&](u32 turn) {
        float *a = a_space.at + turn * (BK * A_PITCH), *b = b_space.at + turn * (BK * B_PITCH);
        if (TM >= 4 && is_packed) {
            _Pragma("unroll") for (int i = 0; i < TM; i += 4) {
                u32 m = i * 16 + thread / 4;
                _Pragma("unroll") for (int q = 0; q < 4; q++) a[(thread % 4 * 4 + q) * A_PITCH + m] = a_next[(i + q) % TM];
            }
        } else {
            _Pragma("unroll") for (int i = 0; i < TM; i++) a[thread % 16 * A_PITCH + i * 16 + thread / 16] = a_next[i];
        }
        b += thread / BN * B_PITCH + thread % BN;
        _Pragma("unroll") for (int i = 0; i < TN; i++) b[i * ROWS * B_PITCH] = b_next[i];
    };
    read(k_begin);
    keep(0);
    __syncthreads();
    u32 turn = 0;
    for (u32 k0 = k_begin; k0 < k_end; k0 += BK, turn ^= 1) {
        bool more = k0 + BK < k_end;
        if (more) read(k0 + BK);
        const float *a = a_space.at + turn * (BK * A_PITCH) + ty * TM, *b = b_space.at + turn * (BK * B_PITCH) + tx * 4;
        _Pragma("unroll") for (int k = 0; k < BK; k++) {
            constexpr int WIDE = TM < 4 ? TM : 4;
            float left[TM], right[TN];
            _Pragma("unroll") for (int i = 0; i < TM; i += WIDE) {
                Pack<float, WIDE> pack = load_pack<float, WIDE>(a + k * A_PITCH + i);
                _Pragma("unroll") for (int q = 0; q < WIDE; q++) left[i + q] = pack.at[q];
            }
            _Pragma("unroll") for (int j = 0; j < TN; j += 4) {
                Pack<float, 4> pack = load_pack<float, 4>(b + k * B_PITCH + j * 16);
                _Pragma("unroll") for (int q = 0; q < 4; q++) right[j + q] = pack.at[q];
            }
            _Pragma("unroll") for (int i = 0; i < TM; i++)
                _Pragma("unroll") for (int j = 0; j < TN; j++) sums[i][j] += left[i] * right[j];
        }
        if (more) keep(turn ^ 1);
        __syncthreads();
    }

    i64 first = (i64)group * p.out_channels;
    ImageStore<S> store = {y + first * p.positions, bias ? bias + first : bias,
                           residual ? residual + first * p.positions : residual, p};
    float *own_parts = parts ? parts + ((i64)part * p.groups * p.out_channels + first) * n_count : parts;
    _Pragma("unroll") for (int i = 0; i < TM; i++) {
        u32 m = m_first + ty * TM + i;
        if (m >= p.out_channels) break;
        _Pragma("unroll") for (int j = 0; j < TN; j += 4) {
            u32 n = n_first + j * 16 + tx * 4;
            float four[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
            if (n >= n_count) continue;
            if (parts) {
                _Pragma("unroll") for (int q = 0; q < 4; q++)
                    if (n + q < n_count) own_parts[(i64)m * n_count + n + q] = four[q];
            } else if (p.positions % 4 == 0) {
                store.put(m, n, four);
            } else {
                _Pragma("unroll") for (int q = 0; q < 4; q++) {
                    float one[1] = {four[q]};
                    if (n + q < n_count) store.put(m, n + q, one);
                }
            }
        }
    }
}

// Patches as the rows of a matrix of 16-bit words, patches[position][k], for a product on matrix units: 64 positions by 64
// of K through shared memory, so that both sides are touched in runs. Blocks: x along positions, y along K.
__device__ __forceinline__ void gather_patches(u16 *patches, const u16 *x, const ConvParams &p) {
    constexpr int N = 64, PITCH = N + 2;
    __shared__ Pack<u16, N * PITCH> space;
    begin_kernel();
    u32 lane = threadIdx.x % 32, y = threadIdx.x / 32;
    u32 n_count = p.batch * p.positions, k_count = p.in_channels * p.taps;
    u32 n_first = blockIdx.x * N, k_first = blockIdx.y * N, plane = p.input[0] * p.input[1] * p.input[2];
    _Pragma("unroll") for (int half = 0; half < N; half += 32) {
        u32 n = n_first + half + lane, b = n / p.positions, rest = n - b * p.positions, row = rest / p.output[2];
        int w0 = (int)((rest - row * p.output[2]) * p.strides[2]) - p.pads[2];
        int h0 = (int)(row % p.output[1] * p.strides[1]) - p.pads[1];
        int d0 = (int)(row / p.output[1] * p.strides[0]) - p.pads[0];
        const u16 *image = x + (i64)b * p.in_channels * plane;
        _Pragma("unroll") for (int i = 0; i < N / 8; i++) {
            u32 k = k_first + i * 8 + y, channel = k / p.taps, tap = k - channel * p.taps;
            u32 tap_row = tap / p.kernel[2], tap_plane = tap_row / p.kernel[1];
            int w = w0 + (int)((tap - tap_row * p.kernel[2]) * p.dilations[2]);
            int h = h0 + (int)((tap_row - tap_plane * p.kernel[1]) * p.dilations[1]);
            int d = d0 + (int)(tap_plane * p.dilations[0]);
            bool inside = n < n_count && k < k_count && (u32)w < p.input[2] && (u32)h < p.input[1] && (u32)d < p.input[0];
            u16 value = 0;
            if (inside) value = image[(i64)channel * plane + ((i64)d * p.input[1] + h) * p.input[2] + w];
            space.at[(half + lane) * PITCH + i * 8 + y] = value;
        }
    }
    __syncthreads();
    _Pragma("unroll") for (int i = 0; i < N / 8; i++) {
        u32 r = i * 8 + y, n = n_first + r, k = k_first + lane * 2;
        // K is even.
        if (n < n_count && k < k_count)
            *(Pack<u16, 2> *)(patches + (i64)n * k_count + k) = load_pack<u16, 2>(space.at + r * PITCH + lane * 2);
    }
}

extern "C" __global__ void __launch_bounds__(256)
    conv_patches(void *patches, const void *x, const __grid_constant__ ConvParams p) {
    gather_patches((u16 *)patches, (const u16 *)x, p);
}

// Adds the parts of K: a thread an output.
template <class S>
__device__ __forceinline__ void conv_join(S *y, const float *parts, const S *bias, const S *residual,
                                          const ConvParams &p) {
    begin_kernel();
    u32 n_count = p.batch * p.positions, outputs = p.groups * p.out_channels * n_count;
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= outputs) return;
    float sum[1] = {0.0f};
    _Pragma("unroll 4") for (u32 part = 0; part < p.parts; part++) sum[0] += parts[(i64)part * outputs + at];
    u32 channel = at / n_count;
    ImageStore<S> store = {y, bias, residual, p};
    store.put(channel, at - channel * n_count, sum);
}

// Depthwise: a thread computes four neighbouring outputs of a row from what their windows share.
template <class S, int KW, int STRIDE>
__device__ __forceinline__ void conv_depthwise(S *y, const S *x, const S *filter, const S *bias, const S *residual,
                                               const ConvParams &p) {
    constexpr int OUT = 4, IN = (OUT - 1) * STRIDE + KW;
    begin_kernel();
    u32 strips = (p.output[2] + OUT - 1) / OUT, at = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = at / strips, plane = row / p.output[1];
    if (plane >= p.batch * p.groups) return;
    u32 first = (at - row * strips) * OUT, channel = plane % p.groups;
    row -= plane * p.output[1];
    int w0 = (int)(first * STRIDE) - p.pads[2], h0 = (int)(row * p.strides[1]) - p.pads[1];
    const S *image = x + (i64)plane * p.input[1] * p.input[2], *weights = filter + channel * p.kernel[1] * KW;
    float sums[OUT];
    _Pragma("unroll") for (int i = 0; i < OUT; i++) sums[i] = 0.0f;
    for (u32 kh = 0; kh < p.kernel[1]; kh++) {
        int h = h0 + (int)(kh * p.dilations[1]);
        if ((u32)h >= p.input[1]) continue;
        const S *line = image + (i64)h * p.input[2];
        float values[IN];
        _Pragma("unroll") for (int i = 0; i < IN; i++)
            values[i] = (u32)(w0 + i) < p.input[2] ? widen<float>(line[w0 + i]) : 0.0f;
        _Pragma("unroll") for (int kw = 0; kw < KW; kw++) {
            float weight = widen<float>(weights[kh * KW + kw]);
            _Pragma("unroll") for (int i = 0; i < OUT; i++) sums[i] += values[i * STRIDE + kw] * weight;
        }
    }
    ImageStore<S> store = {y, bias, residual, p};
    // Planes are channels of images, whose positions follow each other.
    u32 n = plane / p.groups * p.positions + row * p.output[2] + first;
    _Pragma("unroll") for (int i = 0; i < OUT; i++) {
        float one[1] = {sums[i]};
        if (first + i < p.output[2]) store.put(channel, n + i, one);
    }
}

// A thread an output: for groups of one or few channels.
template <class S>
__device__ __forceinline__ void conv_direct(S *y, const S *x, const S *filter, const S *bias, const S *residual,
                                            const ConvParams &p) {
    begin_kernel();
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
    begin_kernel();
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

#define CONV_PRODUCT(SUFFIX, S, SIDES, TM, TN)                                                                   \
    extern "C" __global__ void __launch_bounds__(256) conv_product_##SIDES##_##SUFFIX(                           \
        void *y, void *parts, const void *x, const void *filter, const void *bias, const void *residual,         \
        const __grid_constant__ ConvParams p) {                                                                  \
        conv_product<S, TM, TN>((S *)y, (float *)parts, (const S *)x, (const S *)filter, (const S *)bias,        \
                                (const S *)residual, p);                                                         \
    }

#define CONV_DEPTHWISE(SUFFIX, S, KW, STRIDE)                                                                    \
    extern "C" __global__ void __launch_bounds__(256) conv_depthwise_##KW##s##STRIDE##_##SUFFIX(CONV_ARGUMENTS) { \
        conv_depthwise<S, KW, STRIDE>(CONV_POINTERS(S), (const S *)residual, p);                                 \
    }

#define CONV_KERNELS(SUFFIX, S)                                                                                  \
    CONV_PRODUCT(SUFFIX, S, 32x64, 2, 4)                                                                         \
    CONV_PRODUCT(SUFFIX, S, 64x64, 4, 4)                                                                         \
    CONV_PRODUCT(SUFFIX, S, 128x64, 8, 4)                                                                        \
    CONV_DEPTHWISE(SUFFIX, S, 3, 1)                                                                              \
    CONV_DEPTHWISE(SUFFIX, S, 3, 2)                                                                              \
    CONV_DEPTHWISE(SUFFIX, S, 5, 1)                                                                              \
    CONV_DEPTHWISE(SUFFIX, S, 5, 2)                                                                              \
    CONV_DEPTHWISE(SUFFIX, S, 7, 1)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) conv_join_##SUFFIX(                                        \
        void *y, const void *parts, const void *bias, const void *residual,                                      \
        const __grid_constant__ ConvParams p) {                                                                  \
        conv_join<S>((S *)y, (const float *)parts, (const S *)bias, (const S *)residual, p);                     \
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
