#!/usr/bin/env python3
"""Trains and writes the small real model of tests/data/digits: a network that reads handwritten digits.

    make_tiny.py [OUT_DIR]          default: tests/data/digits of this repository

The data are the 1,797 digits of 8 x 8 pixels that scikit-learn ships (UCI Optical Recognition of Handwritten Digits,
CC BY 4.0). A convolutional network of two layers is trained here with numpy alone, seeded, on three quarters of them;
the accuracy on the rest is printed and stored in the model. Writes

    model.onnx                                 image [N, 1, 8, 8] in 0..1 -> probabilities [N, 10]; class names inside
    three.png, eight.png                       two digits that the network was not trained on, enlarged
    test_data_set_0/{input,output}_0.pb        sixteen more, with the output of ONNX Runtime

Needs: numpy, onnx, onnxruntime, pillow, scikit-learn.
"""
import argparse
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data" / "digits"
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CHANNELS = (12, 24)
EPOCHS, BATCH, RATE = 40, 32, 2e-3
SAMPLES = ("three", "eight")
ENLARGED = 16
"""Side of a stored pixel, so that people see something."""


def patches(x):
    """The 3 x 3 neighbourhoods of x [N, C, H, W], padded with zeros, as [N, H, W, 9 C]."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.stack(shifted, 2).reshape(n, c * 9, h, w).transpose(0, 2, 3, 1)


def unpatch(g, c):
    """The gradient of `patches`: sums [N, H, W, 9 C] back to [N, C, H, W]."""
    n, h, w, _ = g.shape
    g = g.transpose(0, 3, 1, 2).reshape(n, c, 9, h, w)
    padded = np.zeros((n, c, h + 2, w + 2), g.dtype)
    for k in range(9):
        padded[:, :, k // 3 : k // 3 + h, k % 3 : k % 3 + w] += g[:, :, k]
    return padded[:, :, 1:-1, 1:-1]


class Network:
    """Conv 3x3, ReLU, Conv 3x3, ReLU, MaxPool 2, Gemm, Softmax; trained with Adam."""

    def __init__(self, random):
        normal = lambda *shape: (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        a, b = CHANNELS
        zeros = lambda n: np.zeros(n, np.float32)
        self.w = [normal(a, 9), zeros(a), normal(b, 9 * a), zeros(b), normal(10, b * 16), zeros(10)]
        self.m = [np.zeros_like(w) for w in self.w]
        self.v = [np.zeros_like(w) for w in self.w]
        self.steps = 0

    def forward(self, x):
        """Probabilities, and what the backward pass needs."""
        w1, b1, w2, b2, w3, b3 = self.w
        p1 = patches(x)
        y1 = np.maximum(p1 @ w1.T + b1, 0)
        p2 = patches(y1.transpose(0, 3, 1, 2))
        y2 = np.maximum(p2 @ w2.T + b2, 0).transpose(0, 3, 1, 2)
        n, c = y2.shape[:2]
        windows = y2.reshape(n, c, 4, 2, 4, 2)
        pooled = windows.max((3, 5))
        logits = pooled.reshape(n, -1) @ w3.T + b3
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        return exponents / exponents.sum(1, keepdims=True), (p1, y1, p2, y2, windows, pooled)

    def step(self, x, labels):
        """One step of Adam on the cross-entropy of a batch."""
        w1, _, w2, _, w3, _ = self.w
        probabilities, (p1, y1, p2, y2, windows, pooled) = self.forward(x)
        n, c = y2.shape[:2]
        g = probabilities
        g[np.arange(n), labels] -= 1
        g /= n
        g_pooled = (g @ w3).reshape(pooled.shape)[:, :, :, None, :, None]
        g2 = (g_pooled * (windows == pooled[:, :, :, None, :, None])).reshape(y2.shape) * (y2 > 0)
        g2 = g2.transpose(0, 2, 3, 1).reshape(-1, c)
        g1 = unpatch((g2 @ w2).reshape(p2.shape), CHANNELS[0]).transpose(0, 2, 3, 1) * (y1 > 0)
        g1 = g1.reshape(-1, CHANNELS[0])
        gradients = [
            g1.T @ p1.reshape(len(g1), -1), g1.sum(0), g2.T @ p2.reshape(len(g2), -1), g2.sum(0),
            g.T @ pooled.reshape(n, -1), g.sum(0),
        ]
        self.steps += 1
        for w, m, v, grad in zip(self.w, self.m, self.v, gradients):
            m += 0.1 * (grad - m)
            v += 0.001 * (grad * grad - v)
            w -= RATE * (m / (1 - 0.9**self.steps)) / (np.sqrt(v / (1 - 0.999**self.steps)) + 1e-8)


def shifted(x, random):
    """Each image moved by up to one pixel, so that the network does not lean on the exact place."""
    out = np.zeros_like(x)
    for i, (dy, dx) in enumerate(random.integers(-1, 2, (len(x), 2))):
        moved = np.roll(x[i, 0], (dy, dx), (0, 1))
        if dy:
            moved[0 if dy > 0 else -1] = 0
        if dx:
            moved[:, 0 if dx > 0 else -1] = 0
        out[i, 0] = moved
    return out


def train(x, labels, random):
    network = Network(random)
    for _ in range(EPOCHS):
        order = random.permutation(len(x))
        for start in range(0, len(x), BATCH):
            batch = order[start : start + BATCH]
            network.step(shifted(x[batch], random), labels[batch])
    return network


def write_model(network, path, accuracy):
    w1, b1, w2, b2, w3, b3 = network.w
    a, b = CHANNELS
    tensors = {
        "conv1.weight": w1.reshape(a, 1, 3, 3), "conv1.bias": b1, "conv2.weight": w2.reshape(b, a, 3, 3),
        "conv2.bias": b2, "classifier.weight": w3, "classifier.bias": b3,
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], name="conv1", pads=[1] * 4, kernel_shape=[3, 3]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], name="conv2", pads=[1] * 4, kernel_shape=[3, 3]),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("MaxPool", ["r2"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["pooled"], ["features"], name="flatten"),
        node("Gemm", ["features", "classifier.weight", "classifier.bias"], ["logits"], name="classifier", transB=1),
        node("Softmax", ["logits"], ["digit"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "tools/python/make_tiny.py"
    data = "UCI Optical Recognition of Handwritten Digits (CC BY 4.0), as scikit-learn ships it"
    helper.set_model_props(model, {"labels": json.dumps(NAMES), "accuracy": f"{accuracy:.4f}", "data": data})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, nargs="?", default=HERE)
    out = parser.parse_args().out
    digits, random = load_digits(), np.random.default_rng(17)
    x, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    order = random.permutation(len(x))
    test, rest = order[: len(x) // 4], order[len(x) // 4 :]
    network = train(x[rest], labels[rest], random)
    probabilities, _ = network.forward(x[test])
    accuracy = float((probabilities.argmax(1) == labels[test]).mean())
    print(f"accuracy on {len(test)} digits that were not trained on: {accuracy:.2%}")
    data_set = out / "test_data_set_0"
    data_set.mkdir(parents=True, exist_ok=True)
    write_model(network, out / "model.onnx", accuracy)
    runtime = ort.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    for name in SAMPLES:
        which = next(i for i in test if labels[i] == NAMES.index(name))
        pixels = np.repeat(np.repeat(np.rint(x[which, 0] * 255).astype(np.uint8), ENLARGED, 0), ENLARGED, 1)
        Image.fromarray(pixels).save(out / f"{name}.png", optimize=True)
    batch = x[test[-16:]]
    for stem, name, array in (("input", "image", batch), ("output", "digit", runtime.run(None, {"image": batch})[0])):
        (data_set / f"{stem}_0.pb").write_bytes(numpy_helper.from_array(array, name).SerializeToString())
    print(*(f"{p.relative_to(out)}: {p.stat().st_size} bytes" for p in sorted(out.rglob("*")) if p.is_file()), sep="\n")


if __name__ == "__main__":
    main()
