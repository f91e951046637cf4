"""Random nodes of elementwise operators, reductions and matrix products."""

import numpy as np
from fuzz_graph import ANY, FLOATS, INTEGERS, NUMBERS, SIGNED, Unfit

GENERATORS = {}
WIDE = (np.float32, np.float64)


def generator(function):
    GENERATORS[function.__name__] = function
    return function


def small(tensor, bound):
    """True when no element is larger than `bound`; then the result of a steep function stays comparable."""
    with np.errstate(invalid="ignore"):
        return tensor.array.size == 0 or not (np.abs(tensor.array.astype(np.float64)) > bound).any()


def unary(name, dtypes, bound=None, exact=False, since=1, steps=False, **attributes):
    """Registers a function of one input; `steps` when it jumps, so that its input must be exact."""

    def make(g):
        if g.opset < since:
            raise Unfit
        x = g.take(dtypes, exact=steps)
        if bound is not None and not g.special and not small(x, bound):
            raise Unfit
        drawn = {key: draw(g) for key, draw in attributes.items() if g.chance(0.6)}
        g.node(name, [x], exact=exact, **drawn)

    GENERATORS[name] = make


def real(*values):
    return lambda g: float(g.pick(*values))


for op in ("Neg", "Abs", "Sign"):
    unary(op, (*FLOATS, *SIGNED), exact=True, steps=op == "Sign")
for op in ("Floor", "Ceil", "Round"):

    def rounding(g, op=op):
        g.node(op, [g.take(FLOATS, exact=True)], exact=True)

    GENERATORS[op] = rounding
for op, bound in dict(Exp=12, Sin=50, Cos=50, Tan=1.2, Asin=0.95, Acos=0.95, Atan=1e9, Sinh=9, Cosh=9, Asinh=1e6, Atanh=0.9).items():
    unary(op, (np.float32, np.float64), bound=bound)
for op in ("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign"):
    unary(op, FLOATS, bound=1e4)
unary("Relu", (*FLOATS, np.int32, np.int8, np.int64), exact=True)
unary("LeakyRelu", FLOATS, alpha=real(0.0, 0.1, -0.5, 2.0))
unary("Elu", WIDE, bound=20, alpha=real(0.5, 1.0, 2.0))
unary("Selu", WIDE, bound=20, alpha=real(1.5, 1.0), gamma=real(1.0, 2.0))
unary("Celu", (np.float32,), bound=20, since=12, alpha=real(0.5, 1.0, 3.0))
unary("HardSigmoid", FLOATS, alpha=real(0.2, 0.5), beta=real(0.5, 0.1))
unary("HardSwish", FLOATS, since=14)
unary("Mish", WIDE, bound=30, since=18)
unary("ThresholdedRelu", WIDE, steps=True, alpha=real(0.5, 1.0, -1.0))
unary("Gelu", WIDE, bound=30, since=20, approximate=lambda g: g.pick("none", "tanh"))
unary("Swish", WIDE, bound=50, since=24, alpha=real(0.5, 1.0, 2.0))
unary("Shrink", FLOATS, steps=True, lambd=real(0.5, 1.0), bias=real(0.0, 0.25))
unary("Identity", ANY, exact=True)
unary("Not", (np.bool_,), exact=True)
unary("BitwiseNot", INTEGERS, since=18, exact=True)
unary("IsNaN", FLOATS, exact=True)
unary("IsInf", WIDE, exact=True, detect_positive=lambda g: g.between(0, 1), detect_negative=lambda g: g.between(0, 1))


@generator
def Sqrt(g):
    # Near zero the root multiplies rounding errors.
    x = g.take(FLOATS, exact=True)
    g.node("Sqrt", [x if g.special else g.node("Abs", [x], exact=True)])


@generator
def Log(g):
    x = g.take(WIDE)
    x = g.node("Abs", [x], exact=True)
    g.node("Log", [g.node("Add", [x, g.constant(np.array(0.5, x.dtype))])])


@generator
def Reciprocal(g):
    x = g.take(FLOATS)
    x = g.node("Abs", [x], exact=True)
    g.node("Reciprocal", [g.node("Add", [x, g.constant(np.array(0.5, x.dtype))])])


def pair(g, dtypes, exact=False):
    a = g.take(dtypes, exact=exact)
    b = g.like(g.broadcast(a.shape), a.dtype, exact)
    return (a, b) if g.chance(0.5) else (b, a)


for op in ("Add", "Sub", "Mul"):

    def binary(g, op=op):
        a, b = pair(g, (*NUMBERS, np.uint64, np.uint32) if g.opset >= 14 else (*FLOATS, np.int64, np.int32))
        g.node(op, [a, b], exact=a.dtype in (np.float32, np.float64))

    GENERATORS[op] = binary


@generator
def Div(g):
    a = g.take((*FLOATS, np.int32, np.int64, np.uint8) if g.opset >= 14 else (*FLOATS, np.int32, np.int64))
    divisor = g.array(g.broadcast(a.shape), a.dtype)
    divisor = np.where(np.abs(divisor.astype(np.float64)) < 0.5, np.array(1, a.dtype), divisor).astype(a.dtype)
    g.node("Div", [a, g.add(divisor)])


@generator
def Mod(g):
    if g.opset < 13:
        raise Unfit
    a = g.take((*INTEGERS, *FLOATS), exact=True)
    divisor = g.array(g.broadcast(a.shape), a.dtype)
    divisor = np.where(divisor == 0, np.array(3, a.dtype), divisor).astype(a.dtype)
    fmod = 1 if a.dtype.kind == "f" else g.between(0, 1)
    g.node("Mod", [a, g.add(divisor)], exact=True, fmod=fmod)


@generator
def Pow(g):
    a = g.take((np.float32, np.float64, np.int32, np.int64))
    if not small(a, 30):
        raise Unfit
    exponent = g.numpy.integers(0, 4, g.broadcast(a.shape))
    dtype = g.pick(np.float32, np.float64, np.int32, np.int64) if g.opset >= 12 else a.dtype
    g.node("Pow", [a, g.add(exponent.astype(dtype))])


for op in ("And", "Or", "Xor"):

    def logical(g, op=op):
        g.node(op, list(pair(g, (np.bool_,))), exact=True)

    GENERATORS[op] = logical
for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):

    def bitwise(g, op=op):
        if g.opset < 18:
            raise Unfit
        g.node(op, list(pair(g, INTEGERS)), exact=True)

    GENERATORS[op] = bitwise


@generator
def BitShift(g):
    a = g.take((np.uint8, np.uint32, np.uint64))
    amounts = g.numpy.integers(0, 8, g.broadcast(a.shape)).astype(a.dtype)
    g.node("BitShift", [a, g.add(amounts)], exact=True, direction=g.pick("LEFT", "RIGHT"))


for op, since in dict(Equal=7, Greater=9, Less=9, GreaterOrEqual=12, LessOrEqual=12).items():

    def comparison(g, op=op, since=since):
        if g.opset < since:
            raise Unfit
        kinds = (np.float32, np.float64, np.int32, np.int64, *((np.bool_,) if op == "Equal" else ()))
        g.node(op, list(pair(g, kinds, exact=True)), exact=True)

    GENERATORS[op] = comparison
for op in ("Max", "Min", "Sum", "Mean"):

    def variadic(g, op=op):
        wide = op in ("Max", "Min") and g.opset >= 12
        a = g.take((*FLOATS, np.int32, np.int64, np.uint32, np.uint64) if wide else WIDE)
        rest = [g.like(g.broadcast(a.shape), a.dtype) for _ in range(g.between(0, 3))]
        g.node(op, [a, *rest], exact=op in ("Max", "Min") and not g.special)

    GENERATORS[op] = variadic


@generator
def Clip(g):
    x = g.take((*FLOATS, np.int32, np.int64, np.int8, np.uint8) if g.opset >= 12 else (np.float32,))
    low, high = (np.array(v, x.dtype) for v in (g.pick(0, 1, 2), g.pick(2, 3, 7)))
    bounds = [g.add(low) if g.chance(0.8) else None, g.add(high) if g.chance(0.8) else None]
    g.node("Clip", [x, *bounds], exact=True)


@generator
def Where(g):
    x = g.take(ANY)
    y = g.like(g.broadcast(x.shape), x.dtype)
    condition = g.like(g.broadcast(x.shape), np.dtype(bool))
    if np.prod(np.broadcast_shapes(x.shape, y.shape, condition.shape)) > 4000:
        raise Unfit
    g.node("Where", [condition, x, y], exact=True)


@generator
def PRelu(g):
    x = g.take((*WIDE, np.int32, np.int64) if g.opset >= 16 else WIDE)
    slope = [1 if g.chance(0.3) else s for s in x.shape][g.between(0, len(x.shape)) :]
    g.node("PRelu", [x, g.like(slope, x.dtype)], exact=x.dtype.kind == "i")


@generator
def Cast(g):
    x = g.take(ANY)
    kinds = {np.float32: 1, np.uint8: 2, np.int8: 3, np.uint16: 4, np.int16: 5, np.int32: 6, np.int64: 7}
    kinds |= {np.bool_: 9, np.float16: 10, np.float64: 11, np.uint32: 12, np.uint64: 13}
    to = g.pick(*kinds)
    fraction = x.dtype.kind == "f" and np.dtype(to).kind != "f"
    # Out of range of the integer type the standard leaves the result open.
    if fraction and (not x.exact or np.dtype(to).kind != "b" and not fits(x.array, to)):
        raise Unfit
    if x.dtype.kind == "f" and np.dtype(to).kind == "f" and not g.special and not small(x, 6e4):
        raise Unfit
    g.node("Cast", [x], exact=True, to=kinds[to])


def fits(array, dtype):
    limits = np.iinfo(dtype)
    array = array.astype(np.float64)
    return array.size == 0 or bool(np.isfinite(array).all() and array.min() >= limits.min and array.max() <= limits.max)


# ---- reductions ----
def reduced(g, op, x, exact=False, **attributes):
    rank = x.array.ndim
    axes = None if g.chance(0.25) or rank == 0 else g.axes(rank)
    attributes["keepdims"] = g.between(0, 1)
    if g.opset < (13 if op == "ReduceSum" else 18):
        if axes is not None:
            attributes["axes"] = axes
        return g.node(op, [x], exact=exact, **attributes)
    if g.chance(0.2):
        attributes["noop_with_empty_axes"] = g.between(0, 1)
        if axes is None and op != "ReduceSum" and attributes["noop_with_empty_axes"]:
            raise Unfit  # The standard applies the elementwise part, ONNX Runtime does not.
    return g.node(op, [x, None if axes is None else g.ints(axes)], exact=exact, **attributes)


for op in ("ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSumExp"):

    def reduction(g, op=op):
        floating = op in ("ReduceMean", "ReduceL2", "ReduceLogSumExp", "ReduceProd")
        x = g.take(WIDE if floating else (*WIDE, np.int32, np.int64))
        if x.array.size == 0 and op == "ReduceMean" or not small(x, 1e3) or op == "ReduceProd" and x.array.size > 20:
            raise Unfit
        reduced(g, op, x)

    GENERATORS[op] = reduction
for op in ("ReduceMax", "ReduceMin"):

    def extreme(g, op=op):
        x = g.take((*WIDE, np.int32, np.int64, np.int8, np.uint8) if g.opset >= 12 else WIDE)
        if x.array.size == 0:
            raise Unfit
        reduced(g, op, x, exact=True)

    GENERATORS[op] = extreme
for op in ("ArgMax", "ArgMin"):

    def arg(g, op=op):
        x = g.take((*WIDE, np.int32), 1, exact=True, fits=lambda s: all(s), make=lambda: g.positive(1, 4))
        last = {"select_last_index": g.between(0, 1)} if g.opset >= 12 else {}
        g.node(op, [x], exact=True, axis=g.axis(x.array.ndim), keepdims=g.between(0, 1), **last)

    GENERATORS[op] = arg


@generator
def CumSum(g):
    x = g.take((*WIDE, np.int32, np.int64), 1)
    axis = np.array(g.axis(x.array.ndim), g.pick(np.int32, np.int64))
    g.node("CumSum", [x, g.add(axis)], exclusive=g.between(0, 1), reverse=g.between(0, 1))


for op in ("Softmax", "LogSoftmax", "Hardmax"):

    def softmax(g, op=op):
        x = g.take((*WIDE, *(() if op == "Hardmax" else (np.float16,))), 1, exact=op == "Hardmax")
        g.node(op, [x], exact=op == "Hardmax", axis=g.axis(x.array.ndim))

    GENERATORS[op] = softmax


@generator
def LpNormalization(g):
    x = g.take(WIDE, 1, exact=True, fits=all, make=lambda: g.positive(1, 4))
    g.node("LpNormalization", [x], axis=g.axis(x.array.ndim), p=g.pick(1, 2))


# ---- products ----
@generator
def MatMul(g):
    a = g.take((*WIDE, np.float16, np.int32, np.int64), 1, 4)
    if not small(a, 300):
        raise Unfit
    inner = a.shape[-1]
    columns = [] if g.chance(0.15) else [g.pick(0, 1, 2, 3, 5, 8, 17)]
    batch = list(a.shape[:-2])[g.between(0, len(a.shape[:-2])) :] if columns else []
    batch = [1 if g.chance(0.2) else s for s in batch]
    g.node("MatMul", [a, g.like([*batch, inner, *columns], a.dtype)])


@generator
def Gemm(g):
    a = g.take((*WIDE, np.float16), 2, 2)
    if not small(a, 300):
        raise Unfit
    flip_a, flip_b = g.between(0, 1), g.between(0, 1)
    rows, inner = a.shape[::-1] if flip_a else a.shape
    columns = g.pick(0, 1, 2, 3, 5, 8)
    b = g.like((columns, inner) if flip_b else (inner, columns), a.dtype)
    c = g.like(g.pick((), (1,), (columns,), (rows, 1), (1, columns), (rows, columns)), a.dtype) if g.chance(0.6) else None
    attributes = dict(transA=flip_a, transB=flip_b)
    if g.chance(0.4):
        attributes |= dict(alpha=float(g.pick(0.5, -2.0, 0.0)), beta=float(g.pick(0.5, 2.0, 0.0)))
    g.node("Gemm", [a, b, c], **attributes)


@generator
def MatMulInteger(g):
    # ONNX Runtime leaves the sums over nothing unset.
    a = g.take((np.uint8, np.int8), 2, 3, lambda shape: shape[-1] > 0, exact=True)
    b = g.add(g.array([a.shape[-1], g.pick(1, 2, 5, 9)], g.pick(np.uint8, np.int8)))
    zeros = [g.add(np.array(g.between(0, 5), t.dtype)) if g.chance(0.5) else None for t in (a, b)]
    g.node("MatMulInteger", [a, b, *zeros], exact=True)


@generator
def Einsum(g):
    if g.opset < 12:
        raise Unfit
    equation = g.pick(
        "ij,jk->ik", "bij,bjk->bik", "ij,kj", "i,j->ij", "ii->i", "ij->ji", "...ij,...jk->...ik", "ij,ij->", "bij,bj->bi",
        "ijk->j", "...i->...", "bnth,bnsh->bnts", "b...d,d->b...", "ij,j,jk->ki", "i->", "ijk,ijl->kl",
    )  # fmt: skip
    sizes, leading, inputs = {}, g.positive(0, 2), []
    dtype = np.dtype(g.pick(np.float32, np.float64, np.int32, np.int64))
    for term in equation.split("->")[0].split(","):
        shape = []
        for letter in term.replace("...", "#"):
            shape += leading if letter == "#" else [sizes.setdefault(letter, g.between(1, 5))]
        inputs.append(g.like(shape, dtype))
    g.node("Einsum", inputs, equation=equation)


@generator
def Det(g):
    size = g.between(1, 4)
    g.node("Det", [g.like([*g.positive(0, 2, 20), size, size], np.dtype(np.float32))])
