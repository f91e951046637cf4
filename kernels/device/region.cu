//! Values at places that tensors name: pooling over regions of interest, windows whose elements are moved by offsets, and
//! grids of an affine transformation. Bilinear values lie between four pixels.

// Elements of a type that the launch names: f32, f16, bf16, and f64 where a kernel computes in T of double.
template <class T> __device__ __forceinline__ T element(const void *from, i64 at, u32 dtype) {
    return dtype == DTYPE_F32   ? widen<T>(((const float *)from)[at])
           : dtype == DTYPE_F16 ? widen<T>(((const f16 *)from)[at])
           : dtype == DTYPE_F64 && sizeof(T) == 8 ? widen<T>(((const double *)from)[at])
                                                  : widen<T>(((const bf16 *)from)[at]);
}
template <class T> __device__ __forceinline__ void put_element(void *to, i64 at, T v, u32 dtype) {
    if (dtype == DTYPE_F32) ((float *)to)[at] = Narrow<float>::from(v);
    else if (dtype == DTYPE_F16) ((f16 *)to)[at] = Narrow<f16>::from(v);
    else if (dtype == DTYPE_F64 && sizeof(T) == 8) ((double *)to)[at] = Narrow<double>::from(v);
    else ((bf16 *)to)[at] = Narrow<bf16>::from(v);
}

struct RegionParams {
    u32 dtype, total, images, channels, height, width; // elements of the result; of the images
    u32 rows, columns;                          // bins of a region
    u32 samples;                                // of a bin along each side; 0: as many as it has pixels
    u32 is_max, half_pixel;
    float scale;
};

#define REGION_SAMPLES 4096.0f // of a bin along one side, at most, where its size decides

// The pixels before and after a coordinate, and their weights; none where it lies more than a pixel outside.
struct Between {
    u32 pixel[2];
    float weight[2];
};

__device__ __forceinline__ Between between(float at, u32 size) {
    Between place = {{0, 0}, {0.0f, 0.0f}};
    if (!(at >= -1.0f && at <= (float)size)) return place;
    at = at > 0.0f ? at : 0.0f;
    u32 low = (u32)at;
    if (low + 1 >= size) {
        place.pixel[0] = place.pixel[1] = size - 1, place.weight[0] = 1.0f;
        return place;
    }
    place.pixel[0] = low, place.pixel[1] = low + 1;
    place.weight[1] = at - (float)low, place.weight[0] = 1.0f - place.weight[1];
    return place;
}

// One side of a bin: where its samples are.
struct Side {
    float start, bin;
    u32 samples;
    __device__ __forceinline__ Side(float low, float high, u32 bins, u32 number, const RegionParams &p) {
        float offset = p.half_pixel ? 0.5f : 0.0f, size;
        low = low * p.scale - offset, high = high * p.scale - offset;
        size = high - low;
        // Without the half pixel a region is a pixel large at least.
        if (!p.half_pixel && !(size > 1.0f)) size = 1.0f;
        bin = size / (float)bins;
        start = low + (float)number * bin;
        float own = ceilf(bin);
        samples = p.samples ? p.samples : own > 0.0f ? (u32)(own < REGION_SAMPLES ? own : REGION_SAMPLES) : 0;
    }
    __device__ __forceinline__ float at(u32 sample) const {
        return start + ((float)sample + 0.5f) * bin / (float)samples;
    }
};

// The mean of a bin's samples, or its largest weighted pixel. A thread a bin.
extern "C" __global__ void __launch_bounds__(256)
    region_align(void *to, const void *images, const void *regions, const i64 *numbers,
                 const __grid_constant__ RegionParams p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 bins = p.rows * p.columns, bin = at % bins, channel = at / bins % p.channels, region = at / bins / p.channels;
    i64 image = numbers[region];
    if (image < 0 || image >= (i64)p.images) {
        put_element(to, at, __uint_as_float(0x7fc00000u), p.dtype);
        return;
    }
    i64 plane = (image * p.channels + channel) * p.height * p.width;
    auto corner = [&](int i) { return element<float>(regions, (i64)region * 4 + i, p.dtype); };
    Side rows(corner(1), corner(3), p.rows, bin / p.columns, p), columns(corner(0), corner(2), p.columns, bin % p.columns, p);
    float sum = 0.0f, best = 0.0f;
    bool any = false;
    for (u32 i = 0; i < rows.samples; i++) {
        Between row = between(rows.at(i), p.height);
        for (u32 j = 0; j < columns.samples; j++) {
            Between column = between(columns.at(j), p.width);
            _Pragma("unroll") for (int k = 0; k < 4; k++) {
                i64 place = plane + (i64)row.pixel[k / 2] * p.width + column.pixel[k % 2];
                float pixel = element<float>(images, place, p.dtype);
                float v = pixel * (row.weight[k / 2] * column.weight[k % 2]);
                sum += v;
                if (!any || v > best || v != v) best = v, any = true;
            }
        }
    }
    u32 count = rows.samples * columns.samples;
    put_element(to, at, p.is_max ? best : sum / (float)(count ? count : 1), p.dtype);
}

// Halves go away from zero.
__device__ __forceinline__ double whole(double v) { return v < 0.0 ? -floor(0.5 - v) : floor(v + 0.5); }

// The pixels [begin, end) of a bin.
struct Span {
    u32 begin, end;
    __device__ __forceinline__ Span(float low, float high, u32 bins, u32 number, u32 size, float scale) {
        double start = whole((double)low * scale), extent = whole((double)high * scale) - start + 1.0;
        double bin = (extent > 1.0 ? extent : 1.0) / bins;
        begin = bounded(floor(number * bin) + start, size);
        end = bounded(-floor(-(number + 1.0) * bin) + start, size);
    }
    static __device__ __forceinline__ u32 bounded(double v, u32 size) {
        return v > 0.0 ? v < (double)size ? (u32)v : size : 0;
    }
};

// The largest pixel of a bin, 0 where it has none. Regions: image, left, top, right, bottom. A thread a bin.
extern "C" __global__ void __launch_bounds__(256)
    region_max(void *to, const void *images, const void *regions, const __grid_constant__ RegionParams p) {
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 bins = p.rows * p.columns, bin = at % bins, channel = at / bins % p.channels, region = at / bins / p.channels;
    auto corner = [&](int i) { return element<float>(regions, (i64)region * 5 + i, p.dtype); };
    float image = corner(0);
    float best = 0.0f;
    bool any = false;
    if (!(image >= 0.0f && image < (float)p.images)) {
        put_element(to, at, __uint_as_float(0x7fc00000u), p.dtype);
        return;
    }
    i64 plane = ((i64)image * p.channels + channel) * p.height * p.width;
    Span rows(corner(2), corner(4), p.rows, bin / p.columns, p.height, p.scale);
    Span columns(corner(1), corner(3), p.columns, bin % p.columns, p.width, p.scale);
    for (u32 y = rows.begin; y < rows.end; y++)
        for (u32 x = columns.begin; x < columns.end; x++) {
            float v = element<float>(images, plane + (i64)y * p.width + x, p.dtype);
            if (!any || v > best || v != v) best = v, any = true;
        }
    put_element(to, at, best, p.dtype);
}

struct DeformParams {
    u32 dtype, images, channels, points; // points of a result
    u32 size[2], kernel[2], strides[2], dilations[2];
    int pads[2];
    u32 columns;                  // of the result
    u32 group_channels;           // that share offsets
};

// Columns [images, channels, taps, points]: what each tap of the window at each point reads. A thread an element.
extern "C" __global__ void __launch_bounds__(256)
    deform_columns(void *to, const void *images, const void *offsets, const void *mask,
                   const __grid_constant__ DeformParams p) {
    begin_kernel();
    u32 taps = p.kernel[0] * p.kernel[1];
    i64 total = (i64)p.images * p.channels * taps * p.points, step = (i64)gridDim.x * blockDim.x;
    for (i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += step) {
        u32 point = (u32)(at % p.points), row = (u32)(at / p.points), tap = row % taps, plane = row / taps;
        u32 channel = plane % p.channels, image = plane / p.channels, groups = p.channels / p.group_channels;
        i64 field = ((i64)image * groups + channel / p.group_channels) * taps + tap;
        float y = element<float>(offsets, 2 * field * p.points + point, p.dtype);
        float x = element<float>(offsets, (2 * field + 1) * p.points + point, p.dtype);
        y += (float)((int)(point / p.columns * p.strides[0] + tap / p.kernel[1] * p.dilations[0]) - p.pads[0]);
        x += (float)((int)(point % p.columns * p.strides[1] + tap % p.kernel[1] * p.dilations[1]) - p.pads[1]);
        float low_y = floorf(y), low_x = floorf(x), value = 0.0f;
        if (low_y >= -1.0f && low_y < (float)p.size[0] && low_x >= -1.0f && low_x < (float)p.size[1]) {
            i64 from = (i64)plane * p.size[0] * p.size[1];
            float fy = y - low_y, fx = x - low_x;
            int top = (int)low_y, left = (int)low_x;
            _Pragma("unroll") for (int k = 0; k < 4; k++) {
                u32 v = (u32)(top + k / 2), u = (u32)(left + k % 2);
                float weight = (k / 2 ? fy : 1.0f - fy) * (k % 2 ? fx : 1.0f - fx);
                if (v < p.size[0] && u < p.size[1])
                    value += element<float>(images, from + (i64)v * p.size[1] + u, p.dtype) * weight;
            }
        }
        if (mask) value *= element<float>(mask, field * p.points + point, p.dtype);
        put_element(to, at, value, p.dtype);
    }
}

struct AffineParams {
    u32 dtype, total, rank, aligns_corners; // points of all grids
    u32 points;                      // of one grid
    u32 size[3];                     // innermost first
};

// Positions [grids, points, rank], innermost dimension first, from matrices [grids, rank, rank + 1]. A thread a point.
extern "C" __global__ void __launch_bounds__(256)
    affine_grid(void *to, const void *matrices, const __grid_constant__ AffineParams p) {
    typedef double T;
    begin_kernel();
    u32 at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.total) return;
    u32 rest = at % p.points;
    i64 matrix = (i64)(at / p.points) * p.rank * (p.rank + 1);
    T position[3];
    _Pragma("unroll") for (int d = 0; d < 3; d++) {
        T i = (T)(rest % p.size[d]), n = (T)p.size[d];
        rest /= p.size[d];
        position[d] = !p.aligns_corners ? ((T)2 * i + (T)1) / n - (T)1
                      : p.size[d] == 1  ? (T)-1
                                        : (T)2 * i / (n - (T)1) - (T)1;
    }
    _Pragma("unroll") for (int d = 0; d < 3; d++) {
        if (d >= (int)p.rank) break;
        i64 row = matrix + d * (p.rank + 1);
        T sum = element<T>(matrices, row + p.rank, p.dtype);
        _Pragma("unroll") for (int e = 0; e < 3; e++)
            if (e < (int)p.rank) sum += element<T>(matrices, row + e, p.dtype) * position[e];
        put_element(to, (i64)at * p.rank + d, sum, p.dtype);
    }
}
