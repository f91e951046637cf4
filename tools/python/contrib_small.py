"""Generators of elementwise, quantised, indexing and stream operators of com.microsoft."""

import numpy as np
from contrib_case import Case, flag, floats, generator, pick


def shape(rng, low=1, high=4, top=7):
    return [int(rng.integers(1, top)) for _ in range(int(rng.integers(low, high + 1)))]


def half_or_single(rng):
    return pick(rng, np.float32, np.float32, np.float16)


@generator
def BiasGelu(rng):
    dims = shape(rng)
    return Case("BiasGelu", {"A": floats(rng, *dims), "B": floats(rng, dims[-1])}, atol=1e-5)


@generator
def FastGelu(rng):
    dims = shape(rng)
    inputs = {"X": floats(rng, *dims), "bias": pick(rng, None, floats(rng, dims[-1]))}
    return Case("FastGelu", inputs, atol=1e-4)


@generator
def Gelu(rng):
    return Case("Gelu", {"X": floats(rng, *shape(rng))})


@generator
def QuickGelu(rng):
    dtype = half_or_single(rng)
    attributes = dict(alpha=float(pick(rng, 1.702, 1.0, 0.5)))
    return Case("QuickGelu", {"X": floats(rng, *shape(rng), dtype=dtype)}, attributes, atol=1e-5 if dtype == np.float32 else 2e-3)


@generator
def GatedAdd(rng):
    dims = shape(rng)
    inputs = {"X": floats(rng, *dims), "Y": floats(rng, *dims), "gate": floats(rng, *dims[:-1], 1)}
    return Case("GatedAdd", inputs)


@generator
def ScaledSiLU(rng):
    inputs = {"X": floats(rng, *shape(rng)), "scale": pick(rng, None, np.float32(0.7))}
    return Case("ScaledSiLU", inputs, dict(alpha=float(pick(rng, 1.0, 1.5))))


def gates(rng, lead, branches, width, flat):
    forms = [(*lead, branches), (*lead, branches, 1), (*lead, branches * width) if flat else (*lead, branches, width)]
    return floats(rng, *pick(rng, *forms))


def streams(rng):
    lead, branches, width = shape(rng, 1, 2), int(rng.integers(1, 5)), int(rng.integers(1, 9))
    flat = flag(rng)
    x = floats(rng, *lead, branches * width) if flat else floats(rng, *lead, branches, width)
    return lead, branches, width, flat, x, (dict(num_branches=branches) if flat else {})


@generator
def HyperConnectionPreMix(rng):
    lead, branches, width, flat, x, attributes = streams(rng)
    inputs = {"streams": x, "pre_mix": gates(rng, lead, branches, width, flat)}
    return Case("HyperConnectionPreMix", inputs, dict(reduction_scale=float(pick(rng, 1.0, 0.5)), **attributes))


@generator
def HyperConnectionPostMix(rng):
    lead, branches, width, flat, x, attributes = streams(rng)
    inputs = {
        "streams": x,
        "block_output": floats(rng, *lead, width),
        "post_mix": gates(rng, lead, branches, width, False),
        "stream_mix": pick(rng, None, floats(rng, *lead, branches, branches)),
    }
    return Case("HyperConnectionPostMix", inputs, attributes)


@generator
def EngramGate(rng):
    batch, length, branches, width = (int(rng.integers(1, 5)) for _ in range(4))
    normed = flag(rng)
    scale = lambda: floats(rng, branches, width)  # noqa: E731
    inputs = {
        "key": floats(rng, batch, length, branches, width),
        "query": floats(rng, batch, length, branches, width),
        "value": floats(rng, batch, length, width),
        "key_norm_scale": scale(),
        "query_norm_scale": scale(),
        "conv_norm_scale": scale() if normed else None,
    }
    return Case("EngramGate", inputs, dict(epsilon=1e-5), outputs=2 if normed else 1, atol=1e-4)


@generator
def MoEGroupRouter(rng):
    groups = pick(rng, 1, 2, 4)
    size = int(rng.integers(2, 6))
    chosen = int(rng.integers(1, groups + 1))
    tokens = shape(rng, 1, 2)
    full = groups == 1 and flag(rng)
    inputs = {"logits": floats(rng, *tokens, groups * size), "expert_bias": floats(rng, groups * size, scale=0.2)}
    attributes = dict(
        n_group=groups, topk_group=chosen, top_k=int(rng.integers(1, chosen * size + 1)), group_topk=int(rng.integers(1, 4))
    )
    if full:
        return Case("MoEGroupRouter", inputs, attributes, outputs=3, wanted=(1, 2))
    return Case("MoEGroupRouter", inputs, attributes)


@generator
def MatMulFpQ4(rng):
    form, k, n, m = pick(rng, 0, 1), int(rng.integers(1, 100)), int(rng.integers(1, 20)), pick(rng, 1, 3, 9)
    blob = []
    for _ in range(n * -(-k // 32)):
        blob.append(np.frombuffer(np.float32(rng.uniform(0.01, 0.1)).tobytes(), np.uint8))
        blob.append(rng.integers(0, 16, form).astype(np.uint8))
        blob.append(rng.integers(0, 256, 16).astype(np.uint8))
    inputs = {"A": floats(rng, m, k), "B": np.concatenate(blob), "B_shape": np.array([k, n], np.int64)}
    return Case("MatMulFpQ4", inputs, dict(blk_quant_type=form), constant=("B", "B_shape"), atol=1e-4)


# ---- quantised arithmetic ----


def codes(rng, dims, dtype):
    low, high = (-128, 128) if dtype == np.int8 else (0, 256)
    return rng.integers(low, high, dims).astype(dtype)


def quantised(rng, name, dims, dtype, scale):
    return {
        name: codes(rng, dims, dtype),
        f"{name}_scale": np.float32(scale),
        f"{name}_zero_point": np.array(int(rng.integers(0, 20))).astype(dtype),
    }


def result(rng, dtype, scale):
    return {"C_scale": np.float32(scale), "C_zero_point": np.array(int(rng.integers(0, 20))).astype(dtype)}


def quantised_pair(op):
    def make(rng):
        dtype, dims = pick(rng, np.uint8, np.int8), shape(rng)
        other = pick(rng, dims, [1] * len(dims), dims[-1:])
        inputs = quantised(rng, "A", dims, dtype, 0.03) | quantised(rng, "B", other, dtype, 0.05)
        inputs |= result(rng, dtype, 0.08 if op == "QLinearAdd" else 0.2)
        # A quotient in the middle of two codes may round either way.
        return Case(op, inputs, rtol=0, atol=1)

    make.__name__ = op
    return generator(make)


for name in ("QLinearAdd", "QLinearMul"):
    quantised_pair(name)


def quantised_function(op, **attributes):
    def make(rng):
        dtype, dims = pick(rng, np.uint8, np.int8), shape(rng)
        drawn = {key: pick(rng, *values) for key, values in attributes.items()}
        inputs = quantised(rng, "X", dims, dtype, 0.05)
        inputs |= {"Y_scale": np.float32(1 / 128), "Y_zero_point": np.array(3).astype(dtype)}
        return Case(op, inputs, drawn, rtol=0, atol=1, constant=("X_scale", "X_zero_point", "Y_scale", "Y_zero_point"))

    make.__name__ = op
    return generator(make)


quantised_function("QLinearLeakyRelu", alpha=(0.01, 0.2, 0.5))
quantised_function("QLinearSigmoid")


@generator
def QLinearSoftmax(rng):
    dtype, dims = pick(rng, np.uint8, np.int8), shape(rng, 2, 4)
    inputs = quantised(rng, "X", dims, dtype, 0.05)
    inputs |= {"y_scale": np.float32(1 / 256), "y_zero_point": np.array(0 if dtype == np.uint8 else -128).astype(dtype)}
    constant = ("X_scale", "X_zero_point", "y_scale", "y_zero_point")
    return Case("QLinearSoftmax", inputs, dict(axis=-1, opset=13), rtol=0, atol=1, constant=constant)


@generator
def QLinearConcat(rng):
    dtype, dims, axis = pick(rng, np.uint8, np.int8), shape(rng, 2, 4), 1
    inputs = {"Y_scale": np.float32(0.07), "Y_zero_point": np.array(5).astype(dtype)}
    for part in range(int(rng.integers(1, 4))):
        dims[axis] = int(rng.integers(1, 4))
        inputs |= quantised(rng, f"x{part}", dims, dtype, 0.03 + 0.02 * part)
    return Case("QLinearConcat", inputs, dict(axis=axis), rtol=0, atol=1)


@generator
def QLinearAveragePool(rng):
    dtype = pick(rng, np.uint8, np.int8)
    last = flag(rng)
    spatial, channels = [int(v) for v in rng.integers(4, 9, 2)], int(rng.integers(1, 6))
    dims = [2, *spatial, channels] if last else [2, channels, *spatial]
    inputs = quantised(rng, "X", dims, dtype, 0.05) | {"y_scale": np.float32(0.06), "y_zero_point": np.array(4).astype(dtype)}
    attributes = dict(
        kernel_shape=[2, 3], strides=[1, 2], pads=[0, 1, 1, 1], channels_last=int(last), count_include_pad=int(flag(rng))
    )
    return Case("QLinearAveragePool", inputs, attributes, rtol=0, atol=1)


@generator
def QLinearGlobalAveragePool(rng):
    dtype = pick(rng, np.uint8, np.int8)
    last = flag(rng)
    dims = [2, 5, 6, 4] if last else [2, 4, 5, 6]
    inputs = quantised(rng, "X", dims, dtype, 0.05) | {"y_scale": np.float32(0.02), "y_zero_point": np.array(4).astype(dtype)}
    return Case("QLinearGlobalAveragePool", inputs, dict(channels_last=int(last)), rtol=0, atol=1)


@generator
def QLinearWhere(rng):
    dtype, dims = pick(rng, np.uint8, np.int8), shape(rng)
    inputs = {"condition": rng.integers(0, 2, dims).astype(bool)}
    inputs |= quantised(rng, "X", dims, dtype, 0.03) | quantised(rng, "Y", dims[-1:], dtype, 0.05)
    inputs |= {"Z_scale": np.float32(0.06), "Z_zero_point": np.array(9).astype(dtype)}
    return Case("QLinearWhere", inputs, rtol=0, atol=1)


@generator
def QuantizeLinear(rng):
    dtype, dims = pick(rng, np.uint8, np.int8, np.uint16, np.int16), shape(rng, 2, 3)
    per_axis = flag(rng)
    size = [dims[1]] if per_axis else []
    inputs = {"x": floats(rng, *dims, scale=3), "y_scale": (np.abs(floats(rng, *size)) * 0.05 + 0.01).astype(np.float32)}
    inputs["y_zero_point"] = rng.integers(0, 20, size).astype(dtype)
    return Case("QuantizeLinear", inputs, dict(axis=1), rtol=0, atol=1)


@generator
def DequantizeLinear(rng):
    dtype, dims = pick(rng, np.uint8, np.int8, np.uint16, np.int16, np.int32), shape(rng, 2, 3)
    per_axis = flag(rng)
    size = [dims[1]] if per_axis else []
    inputs = {"x": rng.integers(0, 100, dims).astype(dtype), "x_scale": (np.abs(floats(rng, *size)) + 0.01).astype(np.float32)}
    inputs["x_zero_point"] = rng.integers(0, 20, size).astype(dtype) if dtype != np.int32 else None
    return Case("DequantizeLinear", inputs, dict(axis=1))


# ---- indexing ----


@generator
def GatherBlockQuantized(rng):
    bits, block, rank = pick(rng, 4, 8), pick(rng, 16, 32), int(rng.integers(2, 4))
    dims = [int(rng.integers(2, 6)) for _ in range(rank - 1)] + [pick(rng, 16, 32, 48, 64)]
    packed = dims[:-1] + [dims[-1] * bits // 8]
    blocks = dims[:-1] + [-(-dims[-1] // block)]
    inputs = {
        "data": rng.integers(0, 256, packed).astype(np.uint8),
        "indices": rng.integers(0, dims[0], shape(rng, 0, 2)).astype(pick(rng, np.int32, np.int64)),
        "scales": floats(rng, *blocks, dtype=half_or_single(rng)),
    }
    if flag(rng):
        inputs["zero_points"] = rng.integers(0, 256, blocks[:-1] + [-(-blocks[-1] * bits // 8)]).astype(np.uint8)
    attributes = dict(bits=bits, block_size=block, quantize_axis=rank - 1, gather_axis=0)
    return Case("GatherBlockQuantized", inputs, attributes, constant=("data", "scales", "zero_points"), atol=1e-3)


@generator
def CropAndResize(rng):
    batch, channels, height, width = (int(rng.integers(1, 7)) for _ in range(4))
    boxes = int(rng.integers(1, 4))
    inputs = {
        "X": floats(rng, batch, channels, height, width),
        "rois": (rng.random((boxes, 4)) * 1.4 - 0.2).astype(np.float32),
        "batch_indices": rng.integers(0, batch, boxes).astype(np.int32),
        "crop_size": rng.integers(1, 6, 2).astype(np.int32),
    }
    attributes = dict(mode=pick(rng, "bilinear", "nearest"), extrapolation_value=3.0)
    return Case("CropAndResize", inputs, attributes, atol=1e-4)


@generator
def DynamicTimeWarping(rng):
    rows, columns = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    return Case("DynamicTimeWarping", {"input": floats(rng, *pick(rng, (rows, columns), (1, rows, columns)))})


@generator
def UnfoldTensor(rng):
    dims = shape(rng, 1, 4, 9)
    axis = int(rng.integers(-len(dims), len(dims)))
    attributes = dict(dim=axis, size=int(rng.integers(1, dims[axis] + 1)), step=int(rng.integers(1, 4)))
    x = rng.integers(0, 99, dims).astype(pick(rng, np.int64, np.float32, np.int8))
    return Case("UnfoldTensor", {"input": x}, attributes)


@generator
def BifurcationDetector(rng):
    source = rng.integers(0, 4, int(rng.integers(3, 12))).astype(np.int64)
    start = int(rng.integers(0, len(source)))
    rest = source[start:]
    predicted = np.concatenate([rest, rng.integers(0, 4, 1)]).astype(np.int64)
    where = int(rng.integers(0, len(predicted)))
    predicted[where:] = rng.integers(0, 4, len(predicted) - where)
    inputs = {
        "src_tokens": source,
        "cur_tokens": rng.integers(0, 4, int(rng.integers(1, 6))).astype(np.int64),
        "prev_suffix_match_idx": np.array(start, np.int64),
        "pred_tokens": pick(rng, None, predicted),
    }
    shortest = int(rng.integers(1, 3))
    attributes = dict(min_ngram_size=shortest, max_ngram_size=shortest + int(rng.integers(0, 3)))
    return Case("BifurcationDetector", inputs, attributes, outputs=2)


@generator
def NGramRepeatBlock(rng):
    inputs = {"input_ids": rng.integers(0, 4, (2, int(rng.integers(1, 12)))).astype(np.int64), "scores": floats(rng, 2, 4)}
    return Case("NGramRepeatBlock", inputs, dict(ngram_size=int(rng.integers(1, 4))))


@generator
def Inverse(rng):
    size = int(rng.integers(1, 5))
    x = floats(rng, *shape(rng, 0, 2), size, size) + 4 * np.eye(size, dtype=np.float32)
    return Case("Inverse", {"X": x}, atol=1e-4)


@generator
def Trilu(rng):
    x = floats(rng, *shape(rng, 2, 4), dtype=pick(rng, np.float32, np.float64))
    k = pick(rng, None, np.array(int(rng.integers(-5, 6)), np.int64))
    return Case("Trilu", {"X": x, "k": k}, dict(upper=int(flag(rng))))


@generator
def ExpandDims(rng):
    dims = shape(rng, 0, 3)
    axis = np.array([int(rng.integers(-len(dims) - 1, len(dims) + 1))], np.int32)
    return Case("ExpandDims", {"X": floats(rng, *dims), "axis": axis})
