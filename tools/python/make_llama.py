#!/usr/bin/env python3
"""Writes a decoder-only language model of Llama's shape as an ONNX graph in the operators that exporters use.

    make_llama.py OUT_DIR [--layers 32 --hidden 4096 --heads 32 --kv-heads 8 --head 128 --ffn 14336 --vocab 128256]
                          [--dtype bf16] [--batch N] [--length N] [--logits]

The defaults are Llama-3.1-8B. The weights are inputs of the graph, so that no file holds them: whoever runs it makes them
where they are needed, for which fill.onnx computes pseudo-random matrices from two vectors. Writes

    model.onnx   inputs   input_ids [batch, rows] int64, seqlens_k [batch] int32 (keys of each sequence with the new ones,
                          less one), total_sequence_length int32, past_key_values.N.key/value
                          [batch, kv_heads, length, head], and every weight
                 outputs  next_ids [batch, 1] int64 (the largest score of the last row), next_seqlens_k [batch] int32
                          (one more), present.N.key/value of the shape of the past, which may be the same memory; with
                          --logits also logits [batch, 1, vocab]
    fill.onnx    rows [R, 1], columns [1, C], scale [1], all float -> weight [R, C], uniform in +-scale
    model.json   the sizes, and for each weight its shape and what it is filled with

Needs: numpy, onnx.
"""
import argparse
import json
import pathlib

from onnx import TensorProto, helper, save

MS = "com.microsoft"
TYPES = {"bf16": TensorProto.BFLOAT16, "f16": TensorProto.FLOAT16, "f32": TensorProto.FLOAT}


class Model:
    """A graph under construction: nodes, inputs that are weights, and what those are filled with."""

    def __init__(self, dtype):
        self.dtype, self.nodes, self.weights = dtype, [], {}

    def weight(self, name, shape, fill):
        self.weights[name] = {"shape": shape, **fill}
        return name

    def matrix(self, name, rows, columns):
        """Columns of unit variance for inputs of unit variance."""
        return self.weight(name, [rows, columns], {"fill": "uniform", "scale": (3.0 / rows) ** 0.5})

    def ones(self, name, size):
        return self.weight(name, [size], {"fill": "constant", "value": 1.0})

    def add(self, op_type, inputs, outputs, domain="", **attributes):
        name = f"/{outputs[0]}/{op_type}"
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]


def attention(model, sizes, layer, x):
    p = f"model.layers.{layer}.attn"
    width = (sizes.heads + 2 * sizes.kv_heads) * sizes.head
    qkv = model.add("MatMul", [x, model.matrix(f"{p}.qkv_proj.weight", sizes.hidden, width)], [f"{p}.qkv"])
    past = [f"past_key_values.{layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{layer}.{kind}" for kind in ("key", "value")]
    inputs = [qkv, "", "", *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]
    model.add(
        "GroupQueryAttention",
        inputs,
        [f"{p}.out", *present],
        MS,
        num_heads=sizes.heads,
        kv_num_heads=sizes.kv_heads,
        do_rotary=1,
        rotary_interleaved=0,
        local_window_size=-1,
    )
    o = model.matrix(f"{p}.o_proj.weight", sizes.heads * sizes.head, sizes.hidden)
    return model.add("MatMul", [f"{p}.out", o], [f"{p}.o"])


def feed_forward(model, sizes, layer, x):
    p = f"model.layers.{layer}.mlp"
    product = lambda name, a, b, of: model.add("MatMul", [of, model.matrix(f"{p}.{name}.weight", a, b)], [f"{p}.{name}"])
    gate = product("gate_proj", sizes.hidden, sizes.ffn, x)
    up = product("up_proj", sizes.hidden, sizes.ffn, x)
    sigmoid = model.add("Sigmoid", [gate], [f"{p}.sigmoid"])
    silu = model.add("Mul", [gate, sigmoid], [f"{p}.silu"])
    both = model.add("Mul", [silu, up], [f"{p}.both"])
    return product("down_proj", sizes.ffn, sizes.hidden, both)


def decoder(sizes):
    model = Model(TYPES[sizes.dtype])
    embedding = model.weight("model.embed_tokens.weight", [sizes.vocab, sizes.hidden], {"fill": "uniform", "scale": 1.0})
    x = model.add("Gather", [embedding, "input_ids"], ["embedded"])
    norm = lambda name: model.ones(name, sizes.hidden)
    first = norm("model.layers.0.input_layernorm.weight")
    normed = model.add(
        "SimplifiedLayerNormalization", [x, first], ["normed.0"], axis=-1, epsilon=1e-5, stash_type=1
    )
    for layer in range(sizes.layers):
        p = f"model.layers.{layer}"
        after = norm(f"{p}.post_attention_layernorm.weight")
        added = attention(model, sizes, layer, normed)
        names = [f"{p}.post", "", "", f"{p}.residual"]
        model.add("SkipSimplifiedLayerNormalization", [x, added, after], names, MS, epsilon=1e-5)
        x, normed = names[3], names[0]
        added = feed_forward(model, sizes, layer, normed)
        last = layer + 1 == sizes.layers
        after = norm("model.norm.weight" if last else f"model.layers.{layer + 1}.input_layernorm.weight")
        names = [f"normed.{layer + 1}"] if last else [f"normed.{layer + 1}", "", "", f"{p}.sum"]
        model.add("SkipSimplifiedLayerNormalization", [x, added, after], names, MS, epsilon=1e-5)
        x, normed = names[-1], names[0]
    row = model.add("Gather", [normed, "last"], ["last_row"], axis=1)
    head = model.matrix("lm_head.weight", sizes.hidden, sizes.vocab)
    model.add("MatMul", [row, head], ["logits"])
    model.add("ArgMax", ["logits"], ["next_ids"], axis=-1, keepdims=0)
    model.add("Add", ["seqlens_k", "one"], ["next_seqlens_k"])
    return model


def graph(sizes):
    model = decoder(sizes)
    batch, length = sizes.batch or "batch", sizes.length or "length"
    value = helper.make_tensor_value_info
    cache = [batch, sizes.kv_heads, length, sizes.head]
    model.weight("cos_cache", [sizes.positions, sizes.head // 2], {"fill": "cosines"})
    model.weight("sin_cache", [sizes.positions, sizes.head // 2], {"fill": "sines"})
    inputs = [
        value("input_ids", TensorProto.INT64, [batch, "rows"]),
        value("seqlens_k", TensorProto.INT32, [batch]),
        value("total_sequence_length", TensorProto.INT32, []),
    ]
    outputs = [
        value("next_ids", TensorProto.INT64, [batch, 1]),
        value("next_seqlens_k", TensorProto.INT32, [batch]),
    ]
    if sizes.logits:
        outputs.append(value("logits", model.dtype, [batch, 1, sizes.vocab]))
    for layer in range(sizes.layers):
        for kind in ("key", "value"):
            inputs.append(value(f"past_key_values.{layer}.{kind}", model.dtype, cache))
            outputs.append(value(f"present.{layer}.{kind}", model.dtype, cache))
    inputs += [value(name, model.dtype, weight["shape"]) for name, weight in model.weights.items()]
    constants = [
        helper.make_tensor("last", TensorProto.INT64, [1], [-1]),
        helper.make_tensor("one", TensorProto.INT32, [], [1]),
    ]
    return helper.make_graph(model.nodes, "llama", inputs, outputs, constants), model.weights


def fill(dtype):
    """weight[r, c] = scale * (2 * fraction(43758.5453 * sin(rows[r] * columns[c] + rows[r])) - 1)"""
    node, value = helper.make_node, helper.make_tensor_value_info
    constant = lambda name, number: helper.make_tensor(name, TensorProto.FLOAT, [], [number])
    nodes = [
        node("Mul", ["rows", "columns"], ["product"]),
        node("Add", ["product", "rows"], ["angle"]),
        node("Sin", ["angle"], ["wave"]),
        node("Mul", ["wave", "stretch"], ["stretched"]),
        node("Floor", ["stretched"], ["whole"]),
        node("Sub", ["stretched", "whole"], ["fraction"]),
        node("Mul", ["fraction", "two"], ["doubled"]),
        node("Sub", ["doubled", "unit"], ["centred"]),
        node("Mul", ["centred", "scale"], ["scaled"]),
        node("Cast", ["scaled"], ["weight"], to=dtype),
    ]
    inputs = [
        value("rows", TensorProto.FLOAT, ["R", 1]),
        value("columns", TensorProto.FLOAT, [1, "C"]),
        value("scale", TensorProto.FLOAT, [1]),
    ]
    constants = [constant("stretch", 43758.5453), constant("two", 2.0), constant("unit", 1.0)]
    return helper.make_graph(nodes, "fill", inputs, [value("weight", dtype, ["R", "C"])], constants)


def write(path, graph):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="make_llama"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    sizes = {"layers": 32, "hidden": 4096, "heads": 32, "kv-heads": 8, "head": 128, "ffn": 14336, "vocab": 128256}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--positions", type=int, default=8192, help="lines of the tables of cosines and sines")
    parser.add_argument("--theta", type=float, default=500000.0)
    parser.add_argument("--dtype", choices=TYPES, default="bf16")
    parser.add_argument("--batch", type=int, help="a fixed batch; symbolic by default")
    parser.add_argument("--length", type=int, help="a fixed length of the caches; symbolic by default")
    parser.add_argument("--logits", action="store_true", help="an output for the scores")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, weights = graph(args)
    write(args.out / "model.onnx", model)
    write(args.out / "fill.onnx", fill(TYPES[args.dtype]))
    described = {key: value for key, value in vars(args).items() if key != "out"}
    (args.out / "model.json").write_text(json.dumps({**described, "weights": weights}, indent=1) + "\n")


if __name__ == "__main__":
    main()
