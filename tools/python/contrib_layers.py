"""Generators of products, convolutions, normalisations and recurrent layers of com.microsoft."""

import numpy as np
from contrib_case import Case, flag, floats, generator, pick


@generator
def FusedMatMul(rng):
    rank = pick(rng, 2, 3, 4)
    batch = [int(rng.integers(1, 4)) for _ in range(rank - 2)]
    m, k, n = (int(rng.integers(1, 12)) for _ in range(3))
    trans_a, trans_b = int(flag(rng)), int(flag(rng))
    batch_a = int(rank > 2 and flag(rng, 0.3))
    batch_b = int(rank > 2 and flag(rng, 0.3))

    def operand(rows, columns, transpose, batch_first):
        dims = [columns, rows] if transpose else [rows, columns]
        if batch_first:
            return floats(rng, dims[0], *batch, dims[1])
        return floats(rng, *batch, *dims)

    inputs = {"A": operand(m, k, trans_a, batch_a), "B": operand(k, n, trans_b, batch_b)}
    attributes = dict(
        alpha=float(pick(rng, 1.0, 0.5, -2.0)), transA=trans_a, transB=trans_b, transBatchA=batch_a, transBatchB=batch_b
    )
    return Case("FusedMatMul", inputs, attributes, constant=pick(rng, (), ("B",)))


@generator
def FusedGemm(rng):
    m, k, n = (int(rng.integers(1, 12)) for _ in range(3))
    trans_a, trans_b = int(flag(rng)), int(flag(rng))
    activation = pick(rng, "Relu", "LeakyRelu", "Tanh", "Sigmoid")
    attributes = dict(alpha=0.5, beta=2.0, transA=trans_a, transB=trans_b, activation=activation)
    if activation == "LeakyRelu":
        attributes["activation_alpha"] = 0.2
    inputs = {
        "A": floats(rng, *((k, m) if trans_a else (m, k))),
        "B": floats(rng, *((n, k) if trans_b else (k, n))),
        "C": pick(rng, None, floats(rng, n), floats(rng, m, 1), floats(rng, m, n), floats(rng, 1)),
    }
    return Case("FusedGemm", inputs, attributes)


@generator
def MatMulNBits(rng):
    bits = pick(rng, 4, 4, 8, 2)
    block = pick(rng, 16, 32, 64, 128)
    k, n, m = int(rng.integers(1, 200)), int(rng.integers(1, 40)), pick(rng, 1, 3, 9)
    blocks = -(-k // block)
    dtype = pick(rng, np.float32, np.float32, np.float16)
    zeros = pick(rng, "none", "packed", "float")
    zero_points = None
    if zeros == "packed":
        zero_points = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    elif zeros == "float":
        zero_points = rng.uniform(0, 2**bits, (n, blocks)).astype(dtype)
    inputs = {
        "A": floats(rng, *pick(rng, (m, k), (2, m, k)), dtype=dtype),
        "B": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "scales": floats(rng, n, blocks, scale=0.05, dtype=dtype),
        "zero_points": zero_points,
        "g_idx": None,
        "bias": pick(rng, None, floats(rng, n, dtype=dtype)),
    }
    attributes = dict(K=k, N=n, bits=bits, block_size=block, accuracy_level=pick(rng, 0, 1))
    half = dtype == np.float16
    constant = ("B", "scales", "zero_points")
    return Case("MatMulNBits", inputs, attributes, constant=constant, rtol=1e-2, atol=5e-2 if half else 1e-3)


@generator
def MatMulBnb4(rng):
    block = pick(rng, 16, 32, 64)
    k, n, m = int(rng.integers(1, 5)) * 32, int(rng.integers(1, 20)), pick(rng, 1, 3, 9)
    inputs = {
        "A": floats(rng, m, k),
        "B": rng.integers(0, 256, (n * k + 1) // 2).astype(np.uint8),
        "absmax": np.abs(floats(rng, -(-n * k // block))),
    }
    attributes = dict(K=k, N=n, block_size=block, quant_type=pick(rng, 0, 1))
    return Case("MatMulBnb4", inputs, attributes, constant=("B", "absmax"), atol=1e-4)


def byte_weights(rng, *shape):
    signed = flag(rng)
    low, high, dtype = (-128, 128, np.int8) if signed else (0, 256, np.uint8)
    return rng.integers(low, high, shape).astype(dtype), dtype


@generator
def DynamicQuantizeMatMul(rng):
    m, k, n = (int(rng.integers(1, 40)) for _ in range(3))
    weights, dtype = byte_weights(rng, k, n)
    per_column = flag(rng)
    inputs = {
        "A": floats(rng, *pick(rng, (m, k), (2, m, k))),
        "B": weights,
        "b_scale": np.abs(floats(rng, n if per_column else 1, scale=0.02)) + np.float32(1e-3),
        "b_zero_point": pick(rng, None, rng.integers(0, 20, n if per_column else 1).astype(dtype)),
        "bias": pick(rng, None, floats(rng, n)),
    }
    return Case("DynamicQuantizeMatMul", inputs, constant=pick(rng, (), ("B",)), rtol=1e-3, atol=1e-3)


@generator
def MatMulIntegerToFloat(rng):
    m, k, n = (int(rng.integers(1, 40)) for _ in range(3))
    weights, dtype = byte_weights(rng, k, n)
    a_type = pick(rng, np.uint8, dtype)
    per_column = flag(rng)
    inputs = {
        "A": rng.integers(0, 127, (m, k)).astype(a_type),
        "B": weights,
        "a_scale": np.float32([0.02]),
        "b_scale": np.abs(floats(rng, n if per_column else 1, scale=0.02)) + np.float32(1e-3),
        "a_zero_point": pick(rng, None, np.array([7]).astype(a_type)),
        "b_zero_point": pick(rng, None, rng.integers(0, 20, n if per_column else 1).astype(dtype)),
        "bias": pick(rng, None, floats(rng, n)),
    }
    return Case("MatMulIntegerToFloat", inputs, constant=pick(rng, (), ("B",)), atol=1e-3)


@generator
def QGemm(rng):
    m, k, n = (int(rng.integers(1, 30)) for _ in range(3))
    trans_a, trans_b = int(flag(rng)), int(flag(rng))
    a_type = pick(rng, np.uint8, np.int8)
    weights, dtype = byte_weights(rng, *((n, k) if trans_b else (k, n)))
    per_column = flag(rng)
    quantized = flag(rng)
    inputs = {
        "A": rng.integers(0, 127, (k, m) if trans_a else (m, k)).astype(a_type),
        "a_scale": np.float32(0.02),
        "a_zero_point": np.array(9).astype(a_type),
        "B": weights,
        "b_scale": np.abs(floats(rng, n, scale=0.02)) + np.float32(1e-3) if per_column else np.float32(0.03),
        "b_zero_point": rng.integers(0, 20, n).astype(dtype) if per_column else np.array(3).astype(dtype),
        "C": pick(rng, None, rng.integers(-500, 500, (m, n)).astype(np.int32), rng.integers(-500, 500, n).astype(np.int32)),
        "y_scale": np.float32(0.5) if quantized else None,
        "y_zero_point": np.array(5).astype(a_type) if quantized else None,
    }
    attributes = dict(transA=trans_a, transB=trans_b, alpha=float(pick(rng, 1.0, 0.5)))
    return Case("QGemm", inputs, attributes, constant=pick(rng, (), ("B",)), atol=1e-3)


@generator
def MatMulInteger16(rng):
    m, k, n = (int(rng.integers(1, 20)) for _ in range(3))
    inputs = {
        "A": rng.integers(-1000, 1000, (m, k)).astype(np.int16),
        "B": rng.integers(-1000, 1000, (k, n)).astype(np.int16),
    }
    return Case("MatMulInteger16", inputs)


# ---- convolutions and pools ----


def window(rng, rank):
    kernel = [int(rng.integers(1, 4)) for _ in range(rank)]
    attributes = dict(
        kernel_shape=kernel,
        strides=[int(rng.integers(1, 3)) for _ in range(rank)],
        dilations=[int(rng.integers(1, 3)) for _ in range(rank)],
        pads=[int(rng.integers(0, k)) for k in kernel] + [int(rng.integers(0, k)) for k in kernel],
    )
    return kernel, attributes


@generator
def FusedConv(rng):
    rank = pick(rng, 1, 2, 2, 2)
    group = pick(rng, 1, 1, 2, 3)
    kernel, attributes = window(rng, rank)
    inputs_per_group, outputs = int(rng.integers(1, 4)), int(rng.integers(1, 4)) * group
    activation = pick(rng, "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid")
    parameters = {"LeakyRelu": [0.1], "Clip": [-0.5, 0.7], "HardSigmoid": [0.2, 0.4]}.get(activation)
    attributes.update(group=group, activation=activation)
    if parameters:
        attributes["activation_params"] = parameters
    inputs = {
        "X": floats(rng, int(rng.integers(1, 3)), inputs_per_group * group, *rng.integers(8, 13, rank)),
        "W": floats(rng, outputs, inputs_per_group, *kernel),
        "B": pick(rng, None, floats(rng, outputs)),
    }
    return Case("FusedConv", inputs, attributes, constant=pick(rng, (), ("W",)))


@generator
def QLinearConv(rng):
    group = pick(rng, 1, 1, 2, 4)
    kernel, attributes = window(rng, 2)
    inputs_per_group, outputs = int(rng.integers(1, 5)), int(rng.integers(1, 4)) * group
    last = flag(rng)
    attributes.update(group=group, channels_last=int(last))
    spatial = [int(v) for v in rng.integers(8, 12, 2)]
    channels = inputs_per_group * group
    dims = [2, *spatial, channels] if last else [2, channels, *spatial]
    weights, dtype = byte_weights(rng, outputs, inputs_per_group, *kernel)
    x_type = dtype if dtype == np.int8 and flag(rng) else np.uint8
    per_channel = flag(rng)
    inputs = {
        "x": rng.integers(0, 127, dims).astype(x_type),
        "x_scale": np.float32(0.02),
        "x_zero_point": np.array(13).astype(x_type),
        "w": weights,
        "w_scale": np.abs(floats(rng, outputs, scale=0.02)) + np.float32(1e-3) if per_channel else np.float32(0.03),
        "w_zero_point": np.zeros(outputs, dtype) if per_channel else np.array(0 if dtype == np.int8 else 120).astype(dtype),
        "y_scale": np.float32(0.6),
        "y_zero_point": np.array(21).astype(x_type),
        "B": pick(rng, None, rng.integers(-900, 900, outputs).astype(np.int32)),
    }
    constant = pick(rng, (), ("w",))
    return Case("QLinearConv", inputs, attributes, constant=constant, rtol=0, atol=0)


@generator
def NhwcMaxPool(rng):
    _, attributes = window(rng, 2)
    attributes["ceil_mode"] = int(flag(rng))
    dtype = pick(rng, np.uint8, np.int8)
    return Case("NhwcMaxPool", {"x": rng.integers(0, 120, (2, 9, 11, int(rng.integers(1, 40)))).astype(dtype)}, attributes)


@generator
def ConvTransposeWithDynamicPads(rng):
    group = pick(rng, 1, 2)
    inputs = {
        "X": floats(rng, 2, 2 * group, 5, 6),
        "W": floats(rng, 2 * group, 3, 3, 3),
        "Pads": rng.integers(0, 2, 4).astype(np.int64),
        "B": pick(rng, None, floats(rng, 3 * group)),
    }
    attributes = dict(group=group, strides=[2, int(rng.integers(1, 3))], kernel_shape=[3, 3])
    return Case("ConvTransposeWithDynamicPads", inputs, attributes)


@generator
def CausalConvWithState(rng):
    batch, channels, length, taps = 2, int(rng.integers(1, 7)), int(rng.integers(1, 9)), int(rng.integers(1, 5))
    inputs = {
        "input": floats(rng, batch, channels, length),
        "weight": floats(rng, channels, 1, taps),
        "bias": pick(rng, None, floats(rng, channels)),
        "past_state": pick(rng, None, floats(rng, batch, channels, taps - 1)),
    }
    attributes = dict(activation=pick(rng, "none", "silu", "swish"))
    return Case("CausalConvWithState", inputs, attributes, outputs=2)


# ---- norms ----


@generator
def SkipLayerNormalization(rng):
    batch, rows, width = 2, int(rng.integers(1, 6)), int(rng.integers(1, 40))
    dtype = pick(rng, np.float32, np.float32, np.float16)
    x = floats(rng, batch, rows, width, dtype=dtype)
    skip = floats(rng, *pick(rng, (batch, rows, width), (1, rows, width), (rows, width)), dtype=dtype)
    inputs = {
        "input": x,
        "skip": skip,
        "gamma": floats(rng, width, dtype=dtype),
        "beta": pick(rng, None, floats(rng, width, dtype=dtype)),
        "bias": pick(rng, None, floats(rng, width, dtype=dtype)),
    }
    half = dtype == np.float16
    return Case("SkipLayerNormalization", inputs, dict(epsilon=1e-4), outputs=4, wanted=(0, 3), atol=5e-2 if half else 1e-4)


@generator
def SkipSimplifiedLayerNormalization(rng):
    rows, width = int(rng.integers(1, 6)), int(rng.integers(1, 40))
    dtype = pick(rng, np.float32, np.float32, np.float16)
    dims = pick(rng, (2, rows, width), (rows, width))
    inputs = {
        "input": floats(rng, *dims, dtype=dtype),
        "skip": floats(rng, *dims, dtype=dtype),
        "gamma": floats(rng, width, dtype=dtype),
        "bias": pick(rng, None, floats(rng, width, dtype=dtype)),
    }
    half = dtype == np.float16
    return Case(
        "SkipSimplifiedLayerNormalization", inputs, dict(epsilon=1e-5), outputs=4, wanted=(0, 3), atol=2e-2 if half else 1e-4
    )


@generator
def SimplifiedLayerNormalization(rng):
    dims = [int(rng.integers(1, 6)) for _ in range(3)]
    axis = pick(rng, -1, 2, 1)
    x = floats(rng, *dims)
    inputs = {"X": x, "scale": floats(rng, *(dims[axis:] if axis > 0 else dims[-1:]))}
    return Case("SimplifiedLayerNormalization", inputs, dict(axis=axis, epsilon=1e-5), outputs=1, domain="")


@generator
def EmbedLayerNormalization(rng):
    batch, rows, width = 2, int(rng.integers(1, 7)), int(rng.integers(1, 30))
    segments = flag(rng)
    inputs = {
        "input_ids": rng.integers(0, 11, (batch, rows)).astype(np.int32),
        "segment_ids": rng.integers(0, 2, (batch, rows)).astype(np.int32) if segments else None,
        "word_embedding": floats(rng, 11, width),
        "position_embedding": floats(rng, 9, width),
        "segment_embedding": floats(rng, 2, width) if segments else None,
        "gamma": floats(rng, width),
        "beta": floats(rng, width),
        "mask": pick(rng, None, rng.integers(0, 2, (batch, rows)).astype(np.int32)),
        "position_ids": pick(rng, None, rng.integers(0, 9, (batch, rows)).astype(np.int32)),
    }
    return Case("EmbedLayerNormalization", inputs, dict(epsilon=1e-6), outputs=3, atol=1e-4)


@generator
def BranchwiseRMSNorm(rng):
    branches, width = int(rng.integers(1, 4)), int(rng.integers(1, 20))
    flat = flag(rng)
    x = floats(rng, 3, branches * width) if flat else floats(rng, 3, branches, width)
    scale = pick(rng, None, floats(rng, width), floats(rng, branches, width), floats(rng, branches * width))
    attributes = dict(epsilon=1e-5, num_branches=branches if flat else 0)
    return Case("BranchwiseRMSNorm", {"X": x, "scale": scale}, attributes)


@generator
def GatedRMSNorm(rng):
    heads, width = int(rng.integers(1, 4)), int(rng.integers(1, 20))
    x = floats(rng, 2, 3, heads * width)
    inputs = {"X": x, "scale": floats(rng, width), "gate": floats(rng, *x.shape)}
    return Case("GatedRMSNorm", inputs, dict(activation=pick(rng, "silu", "swish", "sigmoid"), epsilon=1e-5))


# ---- recurrent ----


@generator
def DynamicQuantizeLSTM(rng):
    direction = pick(rng, "forward", "reverse", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    steps, batch, size, hidden = int(rng.integers(1, 6)), 1, int(rng.integers(1, 9)), int(rng.integers(1, 9))
    per_column = flag(rng)
    w, dtype = byte_weights(rng, directions, size, 4 * hidden)
    r = rng.integers(0, 100, (directions, hidden, 4 * hidden)).astype(dtype)
    scale_dims = (directions, 4 * hidden) if per_column else (directions,)

    def scales():
        return np.abs(floats(rng, *scale_dims, scale=0.01)) + np.float32(1e-3)

    inputs = {
        "X": floats(rng, steps, batch, size),
        "W": w,
        "R": r,
        "B": pick(rng, None, floats(rng, directions, 8 * hidden)),
        "sequence_lens": None,
        "initial_h": pick(rng, None, floats(rng, directions, batch, hidden, scale=0.5)),
        "initial_c": None,
        "P": pick(rng, None, floats(rng, directions, 3 * hidden)),
        "W_scale": scales(),
        "W_zero_point": np.zeros(scale_dims, dtype),
        "R_scale": scales(),
        "R_zero_point": np.zeros(scale_dims, dtype),
    }
    constant = ("W", "R", "W_scale", "W_zero_point", "R_scale", "R_zero_point")
    attributes = dict(direction=direction, hidden_size=hidden)
    return Case("DynamicQuantizeLSTM", inputs, attributes, outputs=3, constant=constant, rtol=1e-2, atol=1e-2)


# ---- attention ----
