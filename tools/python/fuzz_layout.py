"""Random nodes of operators that move, choose and generate elements."""

import math

import numpy as np
from fuzz_graph import ANY, Unfit

GENERATORS = {}
MOVED = (np.float32, np.float32, np.float64, np.int64, np.int32, np.uint8, np.int8, np.bool_, np.float16)


def generator(function):
    GENERATORS[function.__name__] = function
    return function


@generator
def Transpose(g):
    x = g.take(ANY, 0, 5)
    perm = list(range(x.array.ndim))
    g.random.shuffle(perm)
    g.node("Transpose", [x], exact=True, **(dict(perm=perm) if g.chance(0.85) and perm else {}))


@generator
def Reshape(g):
    x = g.take(ANY)
    rest, shape = x.array.size, []
    if rest == 0:
        shape = list(x.shape)
        g.random.shuffle(shape)
        if g.opset < 14 or 0 in x.shape and g.chance(0.5):
            raise Unfit
        g.node("Reshape", [x, g.ints(shape)], exact=True, allowzero=1)
        return
    for _ in range(g.between(0, 4)):
        factor = g.pick(*(f for f in range(1, rest + 1) if rest % f == 0))
        shape.append(factor)
        rest //= factor
    shape.append(rest)
    g.random.shuffle(shape)
    if g.chance(0.4):
        shape[g.between(0, len(shape) - 1)] = -1
    zero = [i for i in range(min(len(shape), x.array.ndim)) if shape[i] == x.shape[i]]
    if zero and g.chance(0.4):
        shape[g.pick(*zero)] = 0
    g.node("Reshape", [x, g.ints(shape)], exact=True)


@generator
def Flatten(g):
    x = g.take(ANY)
    rank = x.array.ndim
    g.node("Flatten", [x], exact=True, axis=g.between(-rank, rank))


@generator
def Squeeze(g):
    x = g.take(ANY, 1, 5, fits=lambda s: 1 in s)
    ones = [i for i, s in enumerate(x.shape) if s == 1]
    axes = None if g.chance(0.2) else g.random.sample(ones, g.between(1, len(ones)))
    axes = axes and [a - x.array.ndim if g.chance(0.3) else a for a in axes]
    if g.opset < 13:
        g.node("Squeeze", [x], exact=True, **({} if axes is None else dict(axes=axes)))
    else:
        g.node("Squeeze", [x, None if axes is None else g.ints(axes)], exact=True)


@generator
def Unsqueeze(g):
    x = g.take(ANY, 0, 4)
    count = g.between(1, 2)
    rank = x.array.ndim + count
    axes = g.random.sample(range(rank), count)
    axes = [a - rank if g.chance(0.3) else a for a in axes]
    if g.opset < 13:
        g.node("Unsqueeze", [x], exact=True, axes=axes)
    else:
        g.node("Unsqueeze", [x, g.ints(axes)], exact=True)


@generator
def Expand(g):
    x = g.take(ANY, 0, 4)
    g.node("Expand", [x, g.ints(g.broadcast(x.shape))], exact=True)


@generator
def Tile(g):
    x = g.take(MOVED, 0, 4)
    repeats = [g.pick(0, 1, 1, 2, 3) for _ in x.shape]
    if x.array.size * math.prod(repeats) > 4000:
        raise Unfit
    g.node("Tile", [x, g.ints(repeats)], exact=True)


@generator
def Concat(g):
    x = g.take(ANY, 1, 5)
    axis = g.axis(x.array.ndim)
    parts = [x]
    for _ in range(g.between(0, 3)):
        shape = list(x.shape)
        shape[axis] = g.pick(0, 1, 2, 3)
        parts.append(g.like(shape, x.dtype))
    g.random.shuffle(parts)
    g.node("Concat", parts, exact=True, axis=axis)


@generator
def Split(g):
    x = g.take(ANY, 1, 5)
    axis = g.axis(x.array.ndim)
    size = x.shape[axis]
    count = g.between(1, 4)
    cuts = sorted(g.between(0, size) for _ in range(count - 1))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, size])]
    if g.opset < 13:
        g.node("Split", [x], outputs=count, exact=True, axis=axis, split=sizes)
    elif g.opset >= 18 and g.chance(0.4) and 0 < count <= size and (count - 1) * -(-size // count) < size:
        g.node("Split", [x], outputs=count, exact=True, axis=axis, num_outputs=count)
    else:
        g.node("Split", [x, g.ints(sizes)], outputs=count, exact=True, axis=axis)


@generator
def Slice(g):
    x = g.take(ANY, 1, 5)
    axes = g.axes(x.array.ndim)
    far = [2**62, -(2**62)] if g.chance(0.2) else [100, -100]
    where = lambda: g.pick(*far, -8, -3, -2, -1, 0, 1, 2, 3, 5)  # noqa: E731
    starts, ends = [where() for _ in axes], [where() for _ in axes]
    steps = [g.pick(1, 1, 2, 3, -1, -2, -7) for _ in axes]
    inputs = [x, g.ints(starts), g.ints(ends), g.ints(axes)]
    g.node("Slice", inputs + ([g.ints(steps)] if g.chance(0.7) else []), exact=True)


@generator
def Pad(g):
    x = g.take((np.float32, np.float64, np.int64, np.int32, np.uint8, np.int8, np.bool_), 1, 4)
    modes = ["constant", "edge", "reflect", *(["wrap"] if g.opset >= 19 else [])]
    mode = "constant" if x.dtype == np.bool_ else g.pick(*modes)
    axes = list(range(x.array.ndim))
    listed = g.opset >= 18 and g.chance(0.4)
    if listed:
        axes = g.axes(x.array.ndim)

    def amount(axis):
        size = x.shape[axis]
        if mode == "constant":
            return g.pick(0, 0, 1, 2, 3, -1 if size > 2 else 0)
        if size == 0:
            raise Unfit
        return g.between(0, 3 if mode == "edge" else size - 1)

    pads = [amount(a) for a in axes] + [amount(a) for a in axes]
    value = g.add(g.array([], x.dtype)) if mode == "constant" and g.chance(0.6) else None
    g.node("Pad", [x, g.ints(pads), value, g.ints(axes) if listed else None], exact=True, mode=mode)


@generator
def Gather(g):
    x = g.take(ANY, 1, 4, fits=all, make=lambda: g.positive(1, 4))
    axis = g.axis(x.array.ndim)
    size = x.shape[axis]
    indices = g.numpy.integers(-size, size, g.shape(0, 2, limit=12)).astype(g.pick(np.int64, np.int32))
    g.node("Gather", [x, g.add(indices)], exact=True, axis=axis)


@generator
def GatherElements(g):
    x = g.take(ANY, 1, 4, fits=all, make=lambda: g.positive(1, 4))
    axis = g.axis(x.array.ndim)
    shape = [g.between(1, s) for s in x.shape]
    shape[axis] = g.between(0, 6)
    indices = g.numpy.integers(-x.shape[axis], x.shape[axis], shape).astype(g.pick(np.int64, np.int32))
    g.node("GatherElements", [x, g.add(indices)], exact=True, axis=axis)


@generator
def GatherND(g):
    x = g.take(MOVED, 1, 4, fits=all, make=lambda: g.positive(1, 4))
    batch = g.between(0, min(1, x.array.ndim - 1)) if g.opset >= 12 else 0
    depth = g.between(1, x.array.ndim - batch)
    lead = [*x.shape[:batch], *g.positive(0, 2, 12)]
    columns = [g.numpy.integers(-x.shape[batch + j], x.shape[batch + j], lead) for j in range(depth)]
    g.node("GatherND", [x, g.add(np.stack(columns, -1).astype(np.int64))], exact=True, batch_dims=batch)


def reductions(g, dtype):
    if dtype == np.bool_ or g.opset < 16:
        return "none"
    return g.pick("none", "none", "add", "mul", *(("max", "min") if g.opset >= 18 else ()))


@generator
def ScatterElements(g):
    x = g.take((np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_), 1, 4, fits=all, make=lambda: g.positive(1, 4))
    axis = g.axis(x.array.ndim)
    shape = [g.between(1, s) for s in x.shape]
    reduction = reductions(g, x.dtype)
    if reduction == "none":
        indices = np.argsort(g.numpy.random(shape), axis=axis)
    else:
        indices = g.numpy.integers(-x.shape[axis], x.shape[axis], shape)
    attributes = dict(axis=axis) | ({} if reduction == "none" else dict(reduction=reduction))
    g.node("ScatterElements", [x, g.add(indices.astype(np.int64)), g.like(shape, x.dtype)], exact=True, **attributes)


@generator
def ScatterND(g):
    x = g.take((np.float32, np.float64, np.int64, np.int32), 1, 4, fits=all, make=lambda: g.positive(1, 4))
    depth = g.between(1, x.array.ndim)
    reduction = reductions(g, x.dtype)
    rows = g.between(1, 4)
    indices = np.stack([g.numpy.integers(0, x.shape[j], [rows]) for j in range(depth)], -1)
    if reduction == "none":
        indices = np.unique(indices, axis=0)
    updates = g.like([len(indices), *x.shape[depth:]], x.dtype)
    attributes = {} if reduction == "none" else dict(reduction=reduction)
    g.node("ScatterND", [x, g.add(indices.astype(np.int64)), updates], exact=True, **attributes)


@generator
def TopK(g):
    x = g.take((np.float32, np.float64, np.int64, np.int32), 1, 4, exact=True, fits=all, make=lambda: g.positive(1, 4))
    axis = g.axis(x.array.ndim)
    count = g.ints([g.between(1, x.shape[axis])])
    g.node("TopK", [x, count], outputs=2, exact=True, axis=axis, largest=g.between(0, 1), sorted=1)


@generator
def OneHot(g):
    indices = g.take((np.int64, np.int32, np.float32), 0, 3, exact=True)
    if indices.dtype.kind == "f":
        indices = g.node("Floor", [indices], exact=True)
    depth = g.ints([g.between(1, 6)]) if g.chance(0.5) else g.add(np.array(g.between(1, 6), np.int64), constant=True)
    values = g.add(g.array([2], g.pick(np.float32, np.int64, np.int32)))
    rank = indices.array.ndim
    g.node("OneHot", [indices, depth, values], exact=True, axis=g.between(-rank - 1, rank))


@generator
def NonZero(g):
    g.node("NonZero", [g.take((np.float32, np.int64, np.int32, np.uint8, np.bool_), exact=True)], exact=True)


@generator
def Unique(g):
    x = g.take((np.float32, np.float64, np.int64, np.int8), 1, 3, exact=True, fits=all, make=lambda: g.positive(1, 3))
    axis = dict(axis=g.axis(x.array.ndim)) if g.chance(0.5) else {}
    g.node("Unique", [x], outputs=4, exact=True, sorted=g.between(0, 1), **axis)


@generator
def Compress(g):
    x = g.take(MOVED, 1, 4, fits=all, make=lambda: g.positive(1, 4))
    axis = dict(axis=g.axis(x.array.ndim)) if g.chance(0.6) else {}
    length = x.shape[axis["axis"]] if axis else x.array.size
    condition = g.array([g.between(1, length)], np.bool_)
    g.node("Compress", [x, g.add(condition)], exact=True, **axis)


@generator
def Shape(g):
    ends = {} if g.opset < 15 or g.chance(0.5) else dict(start=g.between(-3, 3), end=g.between(-3, 4))
    g.node("Shape", [g.take(ANY)], exact=True, **ends)


@generator
def Size(g):
    g.node("Size", [g.take(ANY)], exact=True)


@generator
def ConstantOfShape(g):
    from onnx import numpy_helper

    value = numpy_helper.from_array(g.array([1], g.pick(np.float32, np.int64, np.bool_, np.int32, np.float16)))
    g.node("ConstantOfShape", [g.ints(g.shape(0, 4))], exact=True, **(dict(value=value) if g.chance(0.8) else {}))


@generator
def Range(g):
    dtype = g.pick(np.float32, np.float64, np.int64, np.int32, np.int16)
    start, limit, step = g.between(-9, 9), g.between(-9, 9), g.pick(-3, -1, 1, 2)
    g.node("Range", [g.add(np.array(v, dtype)) for v in (start, limit, step)], exact=True)


@generator
def Trilu(g):
    if g.opset < 14:
        raise Unfit
    x = g.take((np.float32, np.float64, np.int64, np.bool_), 2, 4)
    k = g.add(np.array(g.between(-6, 6), np.int64)) if g.chance(0.7) else None
    g.node("Trilu", [x, k], exact=True, upper=g.between(0, 1))


@generator
def EyeLike(g):
    g.node("EyeLike", [g.take((np.float32, np.int64, np.int32), 2, 2)], exact=True, k=g.between(-4, 4), dtype=g.pick(1, 6, 7, 11))


@generator
def DepthToSpace(g):
    block = g.between(1, 3)
    shape = [g.between(1, 2), block * block * g.between(1, 3), g.between(1, 4), g.between(1, 4)]
    x = g.like(shape, np.dtype(g.pick(np.float32, np.float64, np.uint8)))
    g.node("DepthToSpace", [x], exact=True, blocksize=block, mode=g.pick("DCR", "CRD"))


@generator
def SpaceToDepth(g):
    block = g.between(1, 3)
    shape = [g.between(1, 2), g.between(1, 3), block * g.between(1, 4), block * g.between(1, 4)]
    g.node("SpaceToDepth", [g.like(shape, np.dtype(np.float32))], exact=True, blocksize=block)


@generator
def CenterCropPad(g):
    if g.opset < 18:
        raise Unfit
    x = g.take((np.float32, np.int64), 1, 4, fits=all, make=lambda: g.positive(1, 4))
    axes = g.axes(x.array.ndim)
    g.node("CenterCropPad", [x, g.ints([g.between(1, 8) for _ in axes])], exact=True, axes=axes)


@generator
def ReverseSequence(g):
    x = g.take(MOVED, 2, 4, fits=all, make=lambda: g.positive(2, 4))
    time = g.between(0, 1)
    lengths = g.numpy.integers(1, x.shape[time] + 1, x.shape[1 - time]).astype(np.int64)
    g.node("ReverseSequence", [x, g.add(lengths)], exact=True, time_axis=time, batch_axis=1 - time)


@generator
def NonMaxSuppression(g):
    batch, boxes, classes = g.between(1, 2), g.between(1, 12), g.between(1, 3)
    corners = g.add((g.numpy.integers(0, 33, (batch, boxes, 4)) / 32).astype(np.float32))
    scores = g.add((g.numpy.integers(0, 9, (batch, classes, boxes)) / 8).astype(np.float32))
    limits = [g.ints([g.between(0, 6)]), g.add(np.array([g.pick(0.125, 0.3, 0.55)], np.float32))]
    if g.chance(0.5):
        limits.append(g.add(np.array([g.pick(0.05, 0.2, 0.55)], np.float32)))
    g.node("NonMaxSuppression", [corners, scores, *limits], exact=True, center_point_box=g.between(0, 1))


