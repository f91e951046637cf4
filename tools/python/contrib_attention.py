"""Generators of attention, rotary embedding, state-space and expert operators of com.microsoft."""

import numpy as np
from contrib_layers import byte_weights
from contrib_case import Case, flag, floats, generator, pick


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
def GroupQueryAttentionWindow(rng):
    """A cache that holds a window of positions only, and chunks of several entries."""
    kv_heads, width = pick(rng, 1, 2), 16
    heads, batch, rows = kv_heads * pick(rng, 1, 2), pick(rng, 1, 2, 3), int(rng.integers(1, 9))
    window = int(rng.integers(1, 7))
    capacity = window + int(rng.integers(0, 5))
    # What is in rows that query_seqlens calls padding is open, so no row is.
    counted = batch > 1 and rows > 1 or flag(rng)
    totals = [int(rng.integers(1, 20)) + rows for _ in range(batch)]
    rotary = flag(rng)
    cos, sin = angles(rng, max(totals) + rows, width // 2) if rotary else (None, None)
    total = max(totals)
    inputs = {
        "query": floats(rng, batch, rows, heads * width),
        "key": floats(rng, batch, rows, kv_heads * width),
        "value": floats(rng, batch, rows, kv_heads * width),
        "past_key": floats(rng, batch, kv_heads, capacity, width),
        "past_value": floats(rng, batch, kv_heads, capacity, width),
        "seqlens_k": np.array([t - 1 for t in totals], np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "cos_cache": cos,
        "sin_cache": sin,
        "position_ids": None,
        "attention_bias": floats(rng, pick(rng, 1, batch), pick(rng, 1, heads), rows, total) if flag(rng, 0.3) else None,
        "head_sink": None,
        "k_scale": None,
        "v_scale": None,
        "q_norm_weight": None,
        "k_norm_weight": None,
        "query_seqlens": np.full(batch, rows, np.int32) if counted else None,
    }
    attributes = dict(num_heads=heads, kv_num_heads=kv_heads, do_rotary=int(rotary), local_window_size=window)
    attributes["sliding_window_cache"] = 1
    return Case("GroupQueryAttention", inputs, attributes, outputs=3, wanted=(0,), rtol=5e-3, atol=1e-4)


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
    """Cross attention: the self attention of ONNX Runtime's kernel works on shared buffers only."""
    batch, heads, width, keys = 2, int(rng.integers(1, 4)), pick(rng, 4, 8), int(rng.integers(1, 6))
    inputs = {
        "query": floats(rng, batch, 1, heads * width),
        "key": floats(rng, batch, heads, keys, width),
        "value": floats(rng, batch, heads, keys, width),
        "mask_index": pick(rng, None, rng.integers(0, 2, (batch, keys)).astype(np.int32)),
    }
    return Case("DecoderMaskedMultiHeadAttention", inputs, dict(num_heads=heads), atol=3e-3)


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
    return Case("SparseAttention", inputs, attributes, outputs=3, wanted=(0, 1, 2), atol=1e-4)


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
    return Case("QMoE", inputs, attributes, constant=constant, rtol=3e-2, atol=3e-2 if bits == 4 else 0.1)


@generator
def CDist(rng):
    width = int(rng.integers(1, 9))
    dtype = pick(rng, np.float32, np.float64)
    inputs = {"A": floats(rng, 5, width, dtype=dtype), "B": floats(rng, int(rng.integers(1, 8)), width, dtype=dtype)}
    return Case("CDist", inputs, dict(metric=pick(rng, "euclidean", "sqeuclidean")), atol=1e-4)


# ---- models and files ----
