"""Writes test vectors for com.microsoft operators: random options and shapes, expected outputs from ONNX Runtime's CPU kernels.

Each case is a folder like those of the ONNX backend suite: `model.onnx`, `meta.json` (tolerances) and
`test_data_set_0/{input,output}_<i>.pb`. Combinations that ONNX Runtime refuses are skipped and counted.

    python contrib_vectors.py OUT [--count 20] [--seed 1] [--ops GroupQueryAttention,MoE] [--limit-bytes 2000000]
"""

import argparse
import json
import pathlib
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DOMAIN = "com.microsoft"


@dataclass
class Case:
    """One node with its inputs; a value of None is an omitted input."""

    op: str
    inputs: dict
    attributes: dict = field(default_factory=dict)
    outputs: int = 1
    domain: str = DOMAIN
    constant: tuple = ()
    rtol: float = 1e-3
    atol: float = 1e-5
    wanted: tuple = ()


GENERATORS = {}


def generator(function):
    GENERATORS[function.__name__] = function
    return function


def floats(rng, *shape, scale=1.0, dtype=np.float32):
    return (rng.standard_normal(shape) * scale).astype(dtype)


def pick(rng, *values):
    return values[int(rng.integers(len(values)))]


def flag(rng, likelihood=0.5):
    return bool(rng.random() < likelihood)


# ---- products ----


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
    return Case("QLinearConv", inputs, attributes, constant=constant, rtol=0, atol=1)


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


def angles(rng, rows, half, dtype=np.float32):
    table = rng.uniform(0, 2 * np.pi, (rows, half))
    return np.cos(table).astype(dtype), np.sin(table).astype(dtype)


@generator
def RotaryEmbedding(rng):
    batch, rows, heads, width = 2, int(rng.integers(1, 6)), int(rng.integers(1, 4)), pick(rng, 8, 16)
    four = flag(rng)
    partial = flag(rng, 0.4)
    dim = width // 2 if partial else width
    cos, sin = angles(rng, 20, dim // 2)
    x = floats(rng, batch, heads, rows, width) if four else floats(rng, batch, rows, heads * width)
    ids = pick(rng, np.array([3], np.int64), rng.integers(0, 20, (batch, rows)).astype(np.int64))
    attributes = dict(interleaved=int(flag(rng)), scale=float(pick(rng, 1.0, 1.0, 0.5)))
    if partial:
        attributes.update(num_heads=heads, rotary_embedding_dim=dim)
    return Case("RotaryEmbedding", {"input": x, "position_ids": ids, "cos": cos, "sin": sin}, attributes)


@generator
def MRotaryEmbedding(rng):
    batch, rows, heads, width = 2, int(rng.integers(1, 6)), int(rng.integers(1, 4)), 16
    cos, sin = angles(rng, 20, width // 2)
    x = floats(rng, batch, heads, rows, width) if flag(rng) else floats(rng, batch, rows, heads * width)
    attributes = dict(
        mrope_section=pick(rng, [4, 2, 2], [8, 0, 0], [3, 3, 2]), interleaved=int(flag(rng)), mrope_layout=int(flag(rng))
    )
    if x.ndim == 3:
        attributes.update(num_heads=heads, rotary_embedding_dim=width)
    ids = rng.integers(0, 20, (3, batch, rows)).astype(np.int64)
    return Case("MRotaryEmbedding", {"input": x, "position_ids": ids, "cos": cos, "sin": sin}, attributes)


@generator
def GroupQueryAttention(rng):
    kv_heads = pick(rng, 1, 2)
    heads, width = kv_heads * pick(rng, 1, 2, 4), pick(rng, 16, 32)
    dtype = pick(rng, np.float32, np.float32, np.float16)
    prompt = flag(rng)
    batch = pick(rng, 1, 2)
    if prompt:
        rows, pasts = int(rng.integers(1, 9)), [0] * batch
    else:
        rows = 1 if batch > 1 else pick(rng, 1, 3)
        pasts = [int(rng.integers(1, 9)) for _ in range(batch)]
    total = max(pasts) + rows
    shared = flag(rng)
    room = total + 5 if shared else max(pasts)
    packed = flag(rng)
    rotary = flag(rng)
    query = floats(rng, batch, rows, (heads + 2 * kv_heads if packed else heads) * width, dtype=dtype)
    new = [None if packed else floats(rng, batch, rows, kv_heads * width, dtype=dtype) for _ in range(2)]
    cos, sin = angles(rng, total + 8, width // 2, dtype) if rotary else (None, None)
    attributes = dict(num_heads=heads, kv_num_heads=kv_heads, do_rotary=int(rotary))
    inputs = {
        "query": query,
        "key": new[0],
        "value": new[1],
        "past_key": None,
        "past_value": None,
        "seqlens_k": np.array([past + rows - 1 for past in pasts], np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "cos_cache": cos,
        "sin_cache": sin,
        "position_ids": None,
        "attention_bias": None,
        "head_sink": None,
    }
    if room > 0:
        inputs["past_key"] = floats(rng, batch, kv_heads, room, width, dtype=dtype)
        inputs["past_value"] = floats(rng, batch, kv_heads, room, width, dtype=dtype)
    if rotary:
        attributes["rotary_interleaved"] = int(flag(rng))
    if flag(rng, 0.3):
        attributes["scale"] = 0.3
    if flag(rng, 0.3):
        attributes["softcap"] = 2.0
    if flag(rng, 0.3):
        attributes["local_window_size"] = int(rng.integers(1, 6))
    if flag(rng, 0.3):
        attributes["smooth_softmax"] = 1
    elif flag(rng, 0.3):
        inputs["head_sink"] = floats(rng, heads, dtype=dtype)
    if flag(rng, 0.3):
        bias_dims = (pick(rng, 1, batch), pick(rng, 1, heads), rows, total)
        inputs["attention_bias"] = floats(rng, *bias_dims, dtype=dtype)
    wanted = (0,)
    if flag(rng, 0.2):
        attributes["qk_output"] = pick(rng, 1, 2)
        wanted = (0, 3)
    half = dtype == np.float16
    return Case(
        "GroupQueryAttention", inputs, attributes, outputs=4, wanted=wanted, rtol=5e-3, atol=1e-2 if half else 1e-4
    )


@generator
def GroupQueryAttentionQuantized(rng):
    kv_heads = pick(rng, 1, 2)
    heads, width = kv_heads * pick(rng, 1, 2), 16
    rows, past = 1, int(rng.integers(1, 9))
    total, room = past + rows, past + rows + 3
    bits = pick(rng, 8, 4)
    per_channel = flag(rng)
    dtype = np.int8 if bits == 8 else np.uint8
    low, high = (-128, 128) if bits == 8 else (0, 256)
    cache_dims = (1, kv_heads, room, width if bits == 8 else width // 2)

    def scale():
        size = (1, kv_heads, 1, width) if per_channel else (1,)
        return (np.abs(floats(rng, *size)) * (0.02 if bits == 8 else 0.3) + 0.01).astype(np.float32)

    quant_type = "PER_CHANNEL" if per_channel else "PER_TENSOR"
    inputs = {
        "query": floats(rng, 1, rows, heads * width),
        "key": floats(rng, 1, rows, kv_heads * width),
        "value": floats(rng, 1, rows, kv_heads * width),
        "past_key": rng.integers(low, high, cache_dims).astype(dtype),
        "past_value": rng.integers(low, high, cache_dims).astype(dtype),
        "seqlens_k": np.array([total - 1], np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "cos_cache": None,
        "sin_cache": None,
        "position_ids": None,
        "attention_bias": None,
        "head_sink": None,
        "k_scale": scale(),
        "v_scale": scale(),
    }
    attributes = dict(
        num_heads=heads, kv_num_heads=kv_heads, k_quant_type=quant_type, v_quant_type=quant_type, kv_cache_bit_width=bits
    )
    return Case("GroupQueryAttention", inputs, attributes, outputs=3, wanted=(0,), rtol=1e-2, atol=2e-2)


@generator
def MultiHeadAttention(rng):
    batch, heads, width = 2, int(rng.integers(1, 4)), pick(rng, 4, 8)
    rows = int(rng.integers(1, 6))
    form = pick(rng, "separate", "cross", "cache")
    keys = rows if form == "separate" else int(rng.integers(1, 7))
    v_width = width if form != "separate" else pick(rng, width, 4)
    past = int(rng.integers(1, 4)) if form == "separate" and flag(rng) and v_width == width else 0
    total = past + keys
    inputs = {"query": None, "key": None, "value": None, "bias": None, "mask": None, "attention_bias": None}
    inputs["query"] = floats(rng, batch, rows, heads * width)
    if form == "cache":
        inputs["key"] = floats(rng, batch, heads, keys, width)
        inputs["value"] = floats(rng, batch, heads, keys, width)
    else:
        inputs["key"] = floats(rng, batch, keys, heads * width)
        inputs["value"] = floats(rng, batch, keys, heads * v_width)
    if form in ("separate", "cross") and flag(rng):
        inputs["bias"] = floats(rng, heads * (2 * width + v_width))
    mask = pick(rng, "none", "none", "keys", "rows")
    if mask == "keys":
        inputs["mask"] = rng.integers(0, 2, (batch, total)).astype(np.int32)
    elif mask == "rows":
        inputs["mask"] = rng.integers(0, 2, (batch, rows, total)).astype(np.int32)
    if flag(rng, 0.3):
        inputs["attention_bias"] = floats(rng, pick(rng, 1, batch), pick(rng, 1, heads), rows, total)
    attributes = dict(num_heads=heads)
    if past:
        inputs["past_key"] = floats(rng, batch, heads, past, width)
        inputs["past_value"] = floats(rng, batch, heads, past, width)
    if form == "separate" and flag(rng, 0.3):
        attributes["unidirectional"] = 1
    if flag(rng, 0.3):
        attributes["scale"] = 0.4
    # ONNX Runtime leaves the past out unless the present is asked for.
    outputs = 3 if past or form != "cache" and flag(rng) else 1
    # A mask adds -10000 to scores: where it hides every key, little of their precision is left.
    return Case("MultiHeadAttention", inputs, attributes, outputs=outputs, atol=3e-3 if mask != "none" else 1e-4)


@generator
def Attention(rng):
    batch, heads, width, rows = 2, int(rng.integers(1, 4)), pick(rng, 4, 8), int(rng.integers(1, 6))
    hidden, v_width = int(rng.integers(4, 12)), pick(rng, width, width, 6)
    past = int(rng.integers(1, 4)) if v_width == width and flag(rng, 0.4) else 0
    total = past + rows
    sizes = [heads * width, heads * width, heads * v_width]
    mask = pick(rng, None, "lengths", "raw", "rows", "range")
    masks = {
        None: None,
        "lengths": rng.integers(1, total + 1, batch).astype(np.int32),
        "range": np.concatenate([np.full(batch, total), rng.integers(0, total, batch)]).astype(np.int32),
        "raw": rng.integers(0, 2, (batch, total)).astype(np.int32),
        "rows": rng.integers(0, 2, (batch, rows, total)).astype(np.int32),
    }
    inputs = {
        "input": floats(rng, batch, rows, hidden),
        "weights": floats(rng, hidden, sum(sizes), scale=0.3),
        "bias": floats(rng, sum(sizes)),
        "mask_index": masks[mask],
        "past": floats(rng, 2, batch, heads, past, width) if past else None,
        "attention_bias": pick(rng, None, None, floats(rng, pick(rng, 1, batch), pick(rng, 1, heads), rows, total)),
    }
    attributes = dict(num_heads=heads)
    if v_width != width:
        attributes["qkv_hidden_sizes"] = sizes
    if flag(rng, 0.4):
        attributes["unidirectional"] = 1
    outputs = 2 if past or flag(rng, 0.3) and v_width == width else 1
    return Case("Attention", inputs, attributes, outputs=outputs, constant=pick(rng, (), ("weights",)), atol=3e-3 if mask else 1e-4)


@generator
def QAttention(rng):
    batch, heads, width, rows, hidden = 2, int(rng.integers(1, 4)), pick(rng, 4, 8), int(rng.integers(1, 6)), 8
    past = int(rng.integers(1, 4)) if flag(rng, 0.3) else 0
    columns = 3 * heads * width
    weights, dtype = byte_weights(rng, hidden, columns)
    per_column = flag(rng)
    inputs = {
        "input": rng.integers(0, 255, (batch, rows, hidden)).astype(np.uint8),
        "weight": weights,
        "bias": floats(rng, columns),
        "input_scale": np.float32(0.02),
        "weight_scale": np.abs(floats(rng, columns, scale=0.02)) + np.float32(1e-3) if per_column else np.float32(0.01),
        "mask_index": pick(rng, None, rng.integers(1, past + rows + 1, batch).astype(np.int32)),
        "input_zero_point": np.uint8(120),
        "weight_zero_point": rng.integers(0, 20, columns).astype(dtype) if per_column else np.array(3).astype(dtype),
        "past": floats(rng, 2, batch, heads, past, width) if past else None,
    }
    attributes = dict(num_heads=heads, unidirectional=int(flag(rng, 0.4)))
    outputs = 2 if past else 1
    constant = pick(rng, (), ("weight",))
    return Case("QAttention", inputs, attributes, outputs=outputs, constant=constant, atol=3e-3)


@generator
def DecoderMaskedMultiHeadAttention(rng):
    batch, heads, width = 2, int(rng.integers(1, 4)), pick(rng, 4, 8)
    cross = flag(rng)
    past = int(rng.integers(1, 5))
    hidden = heads * width
    inputs = {"query": floats(rng, batch, 1, hidden)}
    if cross:
        inputs["key"], inputs["value"] = (floats(rng, batch, heads, past, width) for _ in range(2))
        inputs["mask_index"] = pick(rng, None, rng.integers(0, 2, (batch, past)).astype(np.int32))
        return Case("DecoderMaskedMultiHeadAttention", inputs, dict(num_heads=heads), atol=3e-3)
    inputs["key"], inputs["value"] = (floats(rng, batch, 1, hidden) for _ in range(2))
    inputs["mask_index"] = pick(rng, None, rng.integers(0, 2, (batch, past + 1)).astype(np.int32))
    inputs["attention_bias"] = pick(rng, None, floats(rng, 1, heads, 1, past + 1))
    inputs["past_key"], inputs["past_value"] = (floats(rng, batch, heads, past, width) for _ in range(2))
    for name in ("past_sequence_length", "beam_width", "cache_indirection"):
        inputs[name] = None
    inputs["bias"] = pick(rng, None, floats(rng, 3 * hidden))
    return Case("DecoderMaskedMultiHeadAttention", inputs, dict(num_heads=heads), outputs=3, atol=3e-3)


@generator
def SparseAttention(rng):
    kv_heads, width, block = pick(rng, 1, 2), 16, 16
    heads, layouts, blocks = kv_heads * 2, pick(rng, 1, 2), 4
    room = blocks * block
    batch = pick(rng, 1, 2)
    prompt = flag(rng)
    past = 0 if prompt else int(rng.integers(1, room - 2))
    rows = int(rng.integers(1, room)) if prompt else 1
    total = past + rows
    masks = np.tril(rng.integers(0, 2, (layouts, blocks, blocks)))
    masks[:, np.arange(blocks), np.arange(blocks)] = 1
    starts = np.concatenate([np.zeros((layouts, 1), int), np.cumsum(masks.sum(-1), -1)], -1).astype(np.int32)
    columns = np.full((layouts, int(starts.max())), -1, np.int32)
    for layout in range(layouts):
        found = np.nonzero(masks[layout])[1]
        columns[layout, : len(found)] = found
    rotary = flag(rng)
    cos, sin = angles(rng, room, width // 2) if rotary else (None, None)
    inputs = {
        "query": floats(rng, batch, rows, heads * width),
        "key": floats(rng, batch, rows, kv_heads * width),
        "value": floats(rng, batch, rows, kv_heads * width),
        "past_key": floats(rng, batch, kv_heads, room, width),
        "past_value": floats(rng, batch, kv_heads, room, width),
        "block_row_indices": starts,
        "block_col_indices": columns,
        "total_sequence_length": np.int32(total),
        "key_total_sequence_lengths": np.full(batch, total, np.int32),
        "cos_cache": cos,
        "sin_cache": sin,
    }
    attributes = dict(num_heads=heads, kv_num_heads=kv_heads, sparse_block_size=block, do_rotary=int(rotary), scale=0.25)
    return Case("SparseAttention", inputs, attributes, outputs=3, wanted=(0,), atol=1e-4)


@generator
def GatedDeltaNet(rng):
    q_heads, dk, dv, batch, rows = pick(rng, 1, 2), pick(rng, 4, 6), pick(rng, 4, 5), 2, int(rng.integers(1, 6))
    v_heads = q_heads * pick(rng, 1, 2)
    rule = pick(rng, "linear", "gated", "delta", "gated_delta")
    gated, delta = "gated" in rule, "delta" in rule
    gate = pick(rng, "none", "softplus", "sigmoid") if gated else "none"
    tokens = batch * rows
    per_channel = flag(rng, 0.3)
    inputs = {
        "query": floats(rng, tokens, q_heads, dk),
        "key": floats(rng, tokens, q_heads, dk),
        "value": floats(rng, tokens, v_heads, dv),
        "cu_seqlens": pick(rng, None, np.array([0, rows - 1, tokens], np.int32)),
        "decay": None,
        "beta": rng.random((tokens, v_heads)).astype(np.float32) if delta else None,
        "initial_state": floats(rng, batch, v_heads, dv, dk),
        "a_log": floats(rng, v_heads, scale=0.3) if gate != "none" else None,
        "dt_bias": floats(rng, v_heads) if gate != "none" else None,
    }
    if gated:
        dims = (tokens, v_heads, dk) if per_channel else (tokens, v_heads)
        inputs["decay"] = -np.abs(floats(rng, *dims)) if gate == "none" else floats(rng, *dims)
    attributes = dict(update_rule=rule, gate_activation=gate, qk_l2_norm=1 if delta else int(flag(rng)))
    if delta:
        attributes["beta_activation"] = pick(rng, "none", "sigmoid")
    return Case("GatedDeltaNet", inputs, attributes, outputs=2, atol=1e-4)


@generator
def LinearAttentionGate(rng):
    heads = int(rng.integers(1, 7))
    with_beta = flag(rng)
    inputs = {
        "a": floats(rng, 2, 3, heads),
        "dt_bias": floats(rng, heads),
        "decay_scale": -np.abs(floats(rng, heads)),
        "b": floats(rng, 2, 3, heads) if with_beta else None,
    }
    return Case("LinearAttentionGate", inputs, outputs=2 if with_beta else 1)


@generator
def LinearAttention(rng):
    kv_heads = pick(rng, 1, 2)
    heads, dk, dv = kv_heads * pick(rng, 1, 2), pick(rng, 4, 6), pick(rng, 4, 5)
    batch, rows = 2, int(rng.integers(1, 6))
    rule = pick(rng, "linear", "gated", "delta", "gated_delta")
    key = floats(rng, batch, rows, kv_heads * dk)
    inputs = {
        "query": floats(rng, batch, rows, heads * dk),
        "key": key / np.float32(3),
        "value": floats(rng, batch, rows, kv_heads * dv),
        "past_state": pick(rng, None, floats(rng, batch, kv_heads, dk, dv)),
        "decay": -np.abs(floats(rng, batch, rows, pick(rng, kv_heads, kv_heads * dk))) if "gated" in rule else None,
        "beta": rng.random((batch, rows, pick(rng, kv_heads, 1))).astype(np.float32) if "delta" in rule else None,
    }
    attributes = dict(q_num_heads=heads, kv_num_heads=kv_heads, update_rule=rule)
    return Case("LinearAttention", inputs, attributes, outputs=2, atol=1e-4)


# ---- experts ----


def routing(rng, experts):
    return dict(k=int(rng.integers(1, min(experts, 3) + 1)), normalize_routing_weights=int(flag(rng)))


@generator
def MoE(rng):
    tokens, hidden, width, experts = int(rng.integers(1, 9)), int(rng.integers(2, 12)), int(rng.integers(2, 12)), 4
    activation = pick(rng, "relu", "gelu", "silu", "identity", "swiglu")
    gated = activation == "swiglu"
    bias = flag(rng)
    inputs = {
        "input": floats(rng, tokens, hidden),
        "router_probs": floats(rng, tokens, experts),
        "fc1": floats(rng, experts, width * (2 if gated else 1), hidden),
        "fc1_bias": floats(rng, experts, width * (2 if gated else 1)) if bias else None,
        "fc2": floats(rng, experts, hidden, width),
        "fc2_bias": floats(rng, experts, hidden) if bias else None,
    }
    attributes = dict(activation_type=activation, **routing(rng, experts))
    if gated:
        attributes.update(swiglu_fusion=1, activation_alpha=1.702, activation_beta=1.0, swiglu_limit=7.0)
    return Case("MoE", inputs, attributes, constant=pick(rng, (), ("fc1", "fc2")), atol=1e-3)


@generator
def QMoE(rng):
    tokens, hidden, width, experts = int(rng.integers(1, 9)), 32, 32, 4
    bits = pick(rng, 4, 8)
    block = pick(rng, 0, 16, 32)
    gated = flag(rng, 0.7)
    rows = width * (2 if gated else 1)
    bias = flag(rng)

    def codes(outputs, inputs):
        return rng.integers(0, 256, (experts, outputs, inputs * bits // 8)).astype(np.uint8)

    def scales(outputs, inputs):
        dims = (experts, outputs, inputs // block) if block else (experts, outputs)
        return np.abs(floats(rng, *dims, scale=0.02 if bits == 4 else 0.002)) + np.float32(1e-4)

    inputs = {
        "input": floats(rng, tokens, hidden),
        "router_probs": floats(rng, tokens, experts),
        "fc1": codes(rows, hidden),
        "fc1_scales": scales(rows, hidden),
        "fc1_bias": floats(rng, experts, rows, scale=0.1) if bias else None,
        "fc2": codes(hidden, width),
        "fc2_scales": scales(hidden, width),
        "fc2_bias": floats(rng, experts, hidden, scale=0.1) if bias else None,
    }
    attributes = dict(
        activation_type="swiglu" if gated else pick(rng, "relu", "silu", "gelu"),
        expert_weight_bits=bits,
        weights_prepacked=0,
        **routing(rng, experts),
    )
    if block:
        attributes["block_size"] = block
    if gated:
        attributes.update(swiglu_fusion=1, activation_alpha=1.702, activation_beta=1.0, swiglu_limit=7.0)
    constant = ("fc1", "fc1_scales", "fc2", "fc2_scales")
    return Case("QMoE", inputs, attributes, constant=constant, rtol=3e-2, atol=3e-2)


@generator
def CDist(rng):
    width = int(rng.integers(1, 9))
    dtype = pick(rng, np.float32, np.float64)
    inputs = {"A": floats(rng, 5, width, dtype=dtype), "B": floats(rng, int(rng.integers(1, 8)), width, dtype=dtype)}
    return Case("CDist", inputs, dict(metric=pick(rng, "euclidean", "sqeuclidean")), atol=1e-4)


# ---- models and files ----


def to_model(case):
    """The case as a model with its non-constant inputs, in order."""
    names, graph_inputs, initializers, feeds = [], [], [], {}
    for name, value in case.inputs.items():
        if value is None:
            names.append("")
            continue
        names.append(name)
        value = np.asarray(value)
        if name in case.constant:
            initializers.append(numpy_helper.from_array(value, name))
            continue
        feeds[name] = value
        graph_inputs.append(
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        )
    while names and not names[-1]:
        names.pop()
    wanted = case.wanted or tuple(range(case.outputs))
    outputs = [f"output{index}" for index in range(case.outputs)]
    if case.op == "GroupQueryAttention" and "past_key" in case.inputs:
        outputs = outputs[: max(3, max(wanted) + 1)]
    elif case.wanted:
        outputs = [name if index in wanted else "" for index, name in enumerate(outputs)][: max(wanted) + 1]
    node = helper.make_node(case.op, names, outputs, domain=case.domain, **case.attributes)
    graph_outputs = [onnx.ValueInfoProto(name=f"output{index}") for index in wanted]
    graph = helper.make_graph([node], case.op, graph_inputs, graph_outputs, initializers)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds


def expected(model, feeds):
    """ONNX Runtime's outputs, in the order of the graph's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def typed(model, outputs):
    """The model with the outputs' types and shapes filled in."""
    for info, value in zip(model.graph.output, outputs):
        info.CopyFrom(
            helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        )
    return model


def write(folder, case, model, feeds, outputs):
    data = folder / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(typed(model, outputs).SerializeToString())
    (folder / "meta.json").write_text(json.dumps(dict(rtol=case.rtol, atol=case.atol)))
    for index, (name, value) in enumerate(feeds.items()):
        (data / f"input_{index}.pb").write_bytes(numpy_helper.from_array(value, name).SerializeToString())
    for index, (info, value) in enumerate(zip(model.graph.output, outputs)):
        (data / f"output_{index}.pb").write_bytes(numpy_helper.from_array(value, info.name).SerializeToString())


def cases(names, count, seed):
    """Yields (name, case, model, feeds, expected outputs or the refusal)."""
    for name in names:
        for index in range(count):
            rng = np.random.default_rng([seed, index, *name.encode()])
            case = GENERATORS[name](rng)
            model, feeds = to_model(case)
            try:
                outputs = expected(model, feeds)
            except Exception as refusal:  # ONNX Runtime raises its own kinds for each stage.
                outputs = refusal
            yield f"{name.lower()}_{index}", case, model, feeds, outputs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=20, help="cases an operator")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ops", default=",".join(GENERATORS), help="operators, separated by commas")
    parser.add_argument("--limit-bytes", type=int, default=None, help="stop writing beyond this size")
    arguments = parser.parse_args()
    written = refused = total_bytes = 0
    for name, case, model, feeds, outputs in cases(arguments.ops.split(","), arguments.count, arguments.seed):
        if isinstance(outputs, Exception):
            refused += 1
            continue
        size = model.ByteSize() + sum(v.nbytes for v in feeds.values()) + sum(v.nbytes for v in outputs)
        if arguments.limit_bytes is not None and total_bytes + size > arguments.limit_bytes:
            continue
        total_bytes += size
        write(arguments.out / name, case, model, feeds, outputs)
        written += 1
    print(f"{written} cases written ({total_bytes} bytes), {refused} combinations refused by ONNX Runtime")


if __name__ == "__main__":
    main()
