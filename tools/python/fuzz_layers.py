"""Random nodes of convolutions, pools, normalisations, recurrent layers, images, quantisation and attention."""

import numpy as np
from fuzz_arithmetic import small
from fuzz_graph import Unfit

GENERATORS = {}
F32 = np.dtype(np.float32)


def generator(function):
    GENERATORS[function.__name__] = function
    return function


def window(g, axes, sizes, kernel, dilated=True):
    """Strides, dilations and pads with which a kernel fits into an input."""
    strides = [g.pick(1, 1, 2, 3) for _ in range(axes)]
    dilations = [g.pick(1, 1, 2) if dilated else 1 for _ in range(axes)]
    attributes = dict(strides=strides)
    if dilated:
        attributes["dilations"] = dilations
    mode = g.pick("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    pads = [0] * (2 * axes)
    if mode == "NOTSET":
        pads = [g.between(0, min(2, k - 1)) for k in kernel + kernel]
        attributes["pads"] = pads
    else:
        attributes["auto_pad"] = mode
    for i in range(axes):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if not mode.startswith("SAME") and sizes[i] + pads[i] + pads[i + axes] < reach:
            raise Unfit
    return attributes


def image(g, low=3, high=5, dtypes=(np.float32,), exact=False):
    return g.take(dtypes, low, high, fits=all, exact=exact, make=lambda: g.positive(low, high))


@generator
def Conv(g):
    x = image(g, dtypes=(np.float32, np.float32, np.float64))
    axes = x.array.ndim - 2
    kernel = [g.between(1, min(3, s + 1)) for s in x.shape[2:]]
    groups = g.pick(*(d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0))
    filters = groups * g.between(1, 3)
    if not small(x, 1e4):
        raise Unfit
    w = g.like([filters, x.shape[1] // groups, *kernel], x.dtype)
    bias = g.like([filters], x.dtype) if g.chance(0.5) else None
    attributes = window(g, axes, x.shape[2:], kernel)
    g.node("Conv", [x, w, bias], kernel_shape=kernel, group=groups, **attributes)


@generator
def ConvTranspose(g):
    x = image(g)
    axes = x.array.ndim - 2
    kernel = [g.between(1, 3) for _ in range(axes)]
    groups = g.pick(*(d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0))
    filters = g.between(1, 3)
    strides = [g.pick(1, 2, 3) for _ in range(axes)]
    pads = [g.between(0, k // 2) for k in kernel + kernel]
    if any((s - 1) * t + k - a - b < 1 for s, t, k, a, b in zip(x.shape[2:], strides, kernel, pads, pads[axes:])):
        raise Unfit
    if not small(x, 1e4):
        raise Unfit
    w = g.like([x.shape[1], filters, *kernel], x.dtype)
    bias = g.like([filters * groups], x.dtype) if g.chance(0.5) else None
    padding = [g.between(0, s - 1) for s in strides]
    g.node("ConvTranspose", [x, w, bias], group=groups, strides=strides, pads=pads, output_padding=padding)


@generator
def MaxPool(g):
    x = image(g, dtypes=(np.float32, np.float64, np.int8, np.uint8) if g.opset >= 12 else (np.float32, np.float64))
    kernel = [g.between(1, min(3, s + 1)) for s in x.shape[2:]]
    attributes = window(g, len(kernel), x.shape[2:], kernel)
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = g.between(0, 1)
    g.node("MaxPool", [x], outputs=1, exact=True, kernel_shape=kernel, **attributes)


@generator
def AveragePool(g):
    x = image(g)
    kernel = [g.between(1, min(3, s + 1)) for s in x.shape[2:]]
    attributes = window(g, len(kernel), x.shape[2:], kernel, dilated=g.opset >= 19)
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = g.between(0, 1)
    g.node("AveragePool", [x], kernel_shape=kernel, count_include_pad=g.between(0, 1), **attributes)


@generator
def LpPool(g):
    x = image(g)
    kernel = [g.between(1, min(3, s + 1)) for s in x.shape[2:]]
    attributes = window(g, len(kernel), x.shape[2:], kernel, dilated=g.opset >= 18)
    g.node("LpPool", [x], kernel_shape=kernel, p=g.pick(1, 2), **attributes)


for op in ("GlobalAveragePool", "GlobalMaxPool"):

    def overall(g, op=op):
        g.node(op, [image(g)], exact=op == "GlobalMaxPool")

    GENERATORS[op] = overall


@generator
def BatchNormalization(g):
    x = image(g, 2, 5)
    channels = [x.shape[1]]
    scale, bias, mean = (g.like(channels, F32) for _ in range(3))
    variance = g.add((g.numpy.integers(1, 40, channels) / 8).astype(np.float32))
    g.node("BatchNormalization", [x, scale, bias, mean, variance], epsilon=float(g.pick(1e-5, 1e-2)))


@generator
def InstanceNormalization(g):
    x = image(g, 3, 5, exact=True)
    g.node("InstanceNormalization", [x, g.like([x.shape[1]], F32), g.like([x.shape[1]], F32)], epsilon=1e-2)


@generator
def LayerNormalization(g):
    if g.opset < 17:
        raise Unfit
    x = g.take((np.float32, np.float64), 1, 4, exact=True, fits=all, make=lambda: g.positive(1, 4))
    axis = g.axis(x.array.ndim)
    shape = x.shape[axis:]
    bias = g.like(shape, x.dtype) if g.chance(0.6) else None
    g.node("LayerNormalization", [x, g.like(shape, x.dtype), bias], axis=axis, epsilon=1e-2)


@generator
def RMSNormalization(g):
    if g.opset < 23:
        raise Unfit
    x = g.take((np.float32,), 1, 4, exact=True, fits=all, make=lambda: g.positive(1, 4))
    axis = g.axis(x.array.ndim)
    g.node("RMSNormalization", [x, g.like(x.shape[axis:], x.dtype)], axis=axis, epsilon=1e-2)


@generator
def GroupNormalization(g):
    if g.opset < 21:
        raise Unfit
    x = image(g, 3, 4, exact=True)
    groups = g.pick(*(d for d in range(1, x.shape[1] + 1) if x.shape[1] % d == 0))
    inputs = [x, g.like([x.shape[1]], F32), g.like([x.shape[1]], F32)]
    g.node("GroupNormalization", inputs, num_groups=groups, epsilon=1e-2)


@generator
def LRN(g):
    g.node("LRN", [image(g, 3, 4)], size=g.pick(1, 3, 5), alpha=0.1, beta=0.5, bias=1.5)


@generator
def MeanVarianceNormalization(g):
    g.node("MeanVarianceNormalization", [image(g, 4, 4, exact=True)])


def recurrent(g, op, gates):
    seq, batch, size, hidden = g.between(1, 5), g.between(1, 3), g.between(1, 5), g.between(1, 6)
    direction = g.pick("forward", "reverse", "bidirectional")
    both = 2 if direction == "bidirectional" else 1
    half = lambda *shape: g.add((g.array(list(shape)) / 8).astype(np.float32))  # noqa: E731
    inputs = [g.like([seq, batch, size], F32), half(both, gates * hidden, size), half(both, gates * hidden, hidden)]
    inputs.append(half(both, 2 * gates * hidden) if g.chance(0.7) else None)
    lengths = g.numpy.integers(1, seq + 1, batch).astype(np.int32)
    inputs.append(g.add(lengths) if g.chance(0.4) else None)
    inputs.append(half(both, batch, hidden) if g.chance(0.5) else None)
    if op == "LSTM":
        inputs.append(half(both, batch, hidden) if g.chance(0.5) else None)
        inputs.append(half(both, 3 * hidden) if g.chance(0.4) else None)
    attributes = dict(linear_before_reset=g.between(0, 1)) if op == "GRU" else {}
    g.node(op, inputs, outputs=3 if op == "LSTM" else 2, hidden_size=hidden, direction=direction, **attributes)


for op, gates in dict(LSTM=4, GRU=3, RNN=1).items():
    GENERATORS[op] = lambda g, op=op, gates=gates: recurrent(g, op, gates)


@generator
def Resize(g):
    if g.opset < 13:
        raise Unfit
    x = g.take((np.float32,), 4, 4, fits=all, make=lambda: g.positive(4, 4))
    mode = g.pick("nearest", "linear", "cubic")
    ways = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
    attributes = dict(mode=mode, coordinate_transformation_mode=g.pick(*ways))
    if mode == "nearest":
        attributes["nearest_mode"] = g.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if g.chance(0.5) and attributes["coordinate_transformation_mode"] != "align_corners":
        scales = np.array([1, 1, g.pick(0.5, 1.0, 2.0, 4.0), g.pick(0.5, 1.0, 2.0, 1.5)], np.float32)
        if min(int(s * f) for s, f in zip(x.shape, scales)) < 1:
            raise Unfit
        g.node("Resize", [x, None, g.constant(scales)], **attributes)
    else:
        sizes = [*x.shape[:2], g.between(1, 9), g.between(1, 9)]
        g.node("Resize", [x, None, None, g.ints(sizes)], **attributes)


@generator
def GridSample(g):
    if g.opset < 16:
        raise Unfit
    x = image(g, 4, 4)
    grid = (g.numpy.integers(-40, 41, (x.shape[0], *g.positive(2, 2, 16), 2)) / 32 + 1 / 512).astype(np.float32)
    names = ("linear", "nearest", "cubic") if g.opset >= 20 else ("bilinear", "nearest", "bicubic")
    padding = g.pick("zeros", "border", "reflection")
    g.node("GridSample", [x, g.add(grid)], mode=g.pick(*names), padding_mode=padding, align_corners=g.between(0, 1))


@generator
def RoiAlign(g):
    x = image(g, 4, 4)
    count = g.between(1, 4)
    corners = np.sort(g.numpy.random((count, 2, 2)) * 10 - 1, axis=1).reshape(count, 4).astype(np.float32)
    batch = g.numpy.integers(0, x.shape[0], count).astype(np.int64)
    attributes = dict(output_height=g.between(1, 3), output_width=g.between(1, 3), sampling_ratio=g.between(0, 3))
    if g.opset >= 16:
        attributes["coordinate_transformation_mode"] = g.pick("half_pixel", "output_half_pixel")
    g.node("RoiAlign", [x, g.add(corners), g.add(batch)], spatial_scale=float(g.pick(1.0, 0.5)), **attributes)


@generator
def QuantizeLinear(g):
    x = g.take((np.float32,), 1, 4, exact=True)
    dtype = g.pick(np.uint8, np.int8)
    along = g.opset >= 13 and g.chance(0.4)
    axis = g.axis(x.array.ndim)
    shape = [x.shape[axis]] if along else []
    scale = g.add(np.array(2.0 ** g.numpy.integers(-4, 2, shape), np.float32))
    zero = g.add(g.numpy.integers(0, 9, shape).astype(dtype))
    g.node("QuantizeLinear", [x, scale, zero], exact=True, **(dict(axis=axis) if along else {}))


@generator
def DequantizeLinear(g):
    x = g.take((np.uint8, np.int8, np.int32), 1, 4)
    along = g.opset >= 13 and g.chance(0.4)
    axis = g.axis(x.array.ndim)
    shape = [x.shape[axis]] if along else []
    scale = g.add(np.array(2.0 ** g.numpy.integers(-4, 2, shape), np.float32))
    zero = g.add(g.numpy.integers(0, 9, shape).astype(x.dtype)) if x.dtype != np.int32 else None
    g.node("DequantizeLinear", [x, scale, zero], exact=True, **(dict(axis=axis) if along else {}))


@generator
def DynamicQuantizeLinear(g):
    x = g.take((np.float32,), 0, 4, exact=True, fits=all, make=lambda: g.positive(0, 4))
    # The scale is a quotient: elements in the middle of two steps may round either way, so only it is compared.
    scaled = g.node("DynamicQuantizeLinear", [x], outputs=3)
    assert scaled


@generator
def Attention(g):
    if g.opset < 23:
        raise Unfit
    batch, heads, groups, size = g.between(1, 2), g.between(1, 2), g.between(1, 2), g.pick(2, 4, 8)
    length, keys = g.between(1, 5), g.between(1, 6)
    q = g.like([batch, heads * groups, length, size], F32)
    k, v = g.like([batch, heads, keys, size], F32), g.like([batch, heads, keys, g.pick(2, 4, 8)], F32)
    mask = g.like(g.pick([length, keys], [1, 1, length, keys], [batch, heads * groups, length, keys]), F32)
    attributes = dict(is_causal=g.between(0, 1)) | (dict(scale=0.25) if g.chance(0.5) else {})
    g.node("Attention", [q, k, v, mask if g.chance(0.4) else None], **attributes)
