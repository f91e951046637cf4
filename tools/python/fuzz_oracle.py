"""Random graphs with the outputs that ONNX Runtime, or the ONNX reference evaluator, computes for each node."""

import json
import zipfile

import fuzz_arithmetic
import fuzz_layers
import fuzz_layout
import numpy as np
import onnx
import onnxruntime
from fuzz_graph import Graph, Unfit
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

GENERATORS = fuzz_arithmetic.GENERATORS | fuzz_layout.GENERATORS | fuzz_layers.GENERATORS
# Of one graph; a node that fits nowhere is tried again with another operator.
MOST_NODES, ATTEMPTS = 6, 12
onnxruntime.set_default_logger_severity(4)


def options():
    chosen = onnxruntime.SessionOptions()
    chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    chosen.log_severity_level = 4
    chosen.intra_op_num_threads = 1
    return chosen


OPTIONS = options()


def single(node, feeds, opset):
    """A model of one node."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "single", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def by_onnxruntime(node, feeds, opset):
    """The outputs of a node; `None` when ONNX Runtime refuses it."""
    try:
        model = single(node, feeds, opset).SerializeToString()
        session = onnxruntime.InferenceSession(model, OPTIONS, providers=["CPUExecutionProvider"])
        return [np.asarray(array) for array in session.run(None, feeds)]
    except Exception:  # ONNX Runtime raises its own kinds for each stage.
        return None


def by_reference(node, feeds, opset):
    """The outputs of a node; `None` when the reference evaluator fails."""
    try:
        with np.errstate(all="ignore"):
            outputs = ReferenceEvaluator(single(node, feeds, opset)).run(None, feeds)
    except Exception:  # It raises whatever numpy does.
        return None
    outputs = [np.asarray(array) for array in outputs]
    return outputs if all(isinstance(array, np.ndarray) for array in outputs) else None


class Counter:
    """Which oracle answered how often."""

    def __init__(self):
        self.answers = {"ONNX Runtime": 0, "reference": 0, "none": 0}

    def __call__(self, node, feeds, opset):
        for name, oracle in (("ONNX Runtime", by_onnxruntime), ("reference", by_reference)):
            outputs = oracle(node, feeds, opset)
            if outputs is not None:
                self.answers[name] += 1
                return outputs
        self.answers["none"] += 1
        return None


def build(seed, index, oracle):
    """Graph `index` of a run."""
    graph = Graph(f"{seed}/{index}", oracle)
    names = sorted(GENERATORS)
    for _ in range(graph.between(1, MOST_NODES)):
        for _ in range(ATTEMPTS):
            name = graph.pick(*names)
            try:
                GENERATORS[name](graph)
                break
            except (Unfit, ValueError, IndexError, OverflowError):
                continue
    graph.every_value = graph.chance(0.4)
    return graph


def tolerance(graph):
    """Relative and absolute tolerance: rounding errors grow with the largest value on the way."""
    floats = [t.array for t in graph.tensors if t.array.dtype.kind == "f" and t.array.size]
    half = any(array.dtype == np.float16 for array in floats)
    with np.errstate(all="ignore"):
        finite = [np.abs(a[np.isfinite(a)], dtype=np.float64).max(initial=0) for a in floats]
    scale = max([1.0, *finite])
    return dict(rtol=2e-2, atol=4e-3 * scale) if half else dict(rtol=1e-3, atol=1e-5 * scale)


def write(archive, name, model, feeds, outputs, meta):
    """Adds a case in the form of the ONNX backend suite."""
    archive.writestr(f"{name}/model.onnx", model.SerializeToString())
    archive.writestr(f"{name}/meta.json", json.dumps(meta))
    for index, (label, array) in enumerate(feeds):
        proto = numpy_helper.from_array(array, label)
        archive.writestr(f"{name}/test_data_set_0/input_{index}.pb", proto.SerializeToString())
    for index, (label, array) in enumerate(outputs):
        proto = numpy_helper.from_array(array, label)
        archive.writestr(f"{name}/test_data_set_0/output_{index}.pb", proto.SerializeToString())


def write_graph(archive, name, graph, nodes=None, every_value=None):
    """Adds a graph, or the part of it that `nodes` are."""
    every_value = graph.every_value if every_value is None else every_value
    model, feeds, outputs = graph.model(every_value, nodes)
    feeds = [(t.name, t.array) for t in feeds]
    write(archive, name, model, feeds, [(t.name, t.array) for t in outputs], tolerance(graph))


def open_archive(path):
    return zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)


