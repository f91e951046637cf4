"""Writes test vectors for com.microsoft operators: random options and shapes, expected outputs from ONNX Runtime's CPU kernels.

OUT gets an archive `<operator>.zip` for each operator. A case is a folder in it like those of the ONNX backend suite:
`model.onnx`, `meta.json` (tolerances) and `test_data_set_0/{input,output}_<i>.pb`. Combinations that ONNX Runtime refuses
are skipped and counted.

    python contrib_vectors.py OUT [--count 20] [--seed 1] [--ops GroupQueryAttention,MoE] [--limit-bytes 40000]
"""

import argparse
import io
import json
import pathlib
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import contrib_attention  # noqa: F401  (registers its generators)
import contrib_layers  # noqa: F401  (registers its generators)
import contrib_small  # noqa: F401  (registers its generators)
from contrib_case import DOMAIN, GENERATORS


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
    if case.op in ("GroupQueryAttention", "SparseAttention"):
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
    if model.graph.node[0].op_type != "SparseAttention":
        return session.run(None, feeds)
    # Its kernel wants the new cache in the memory of the old one.
    binding = session.io_binding()
    for name, value in feeds.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(value))
        binding.bind_ortvalue_input(name, value)
        if name in ("past_key", "past_value"):
            binding.bind_ortvalue_output("output1" if name == "past_key" else "output2", value)
    binding.bind_output("output0")
    session.run_with_iobinding(binding)
    key, value, output = binding.copy_outputs_to_cpu()  # In the order they were bound in.
    return [output, key, value]


def typed(model, outputs):
    """The model with the outputs' types and shapes filled in."""
    for info, value in zip(model.graph.output, outputs):
        info.CopyFrom(
            helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        )
    return model


def files(case, model, feeds, outputs):
    """Path and contents of a case's files."""
    yield "model.onnx", typed(model, outputs).SerializeToString()
    yield "meta.json", json.dumps(dict(rtol=case.rtol, atol=case.atol)).encode()
    for index, (name, value) in enumerate(feeds.items()):
        yield f"test_data_set_0/input_{index}.pb", numpy_helper.from_array(value, name).SerializeToString()
    for index, (info, value) in enumerate(zip(model.graph.output, outputs)):
        yield f"test_data_set_0/output_{index}.pb", numpy_helper.from_array(value, info.name).SerializeToString()


def packed(archive, name, contents):
    """Writes files to an archive, without the time of day; returns the bytes they take."""
    before = archive.fp.tell()
    for path, data in contents:
        entry = zipfile.ZipInfo(f"{name}/{path}")
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, data, compresslevel=9)
    return archive.fp.tell() - before


def cases(name, count, seed):
    """Yields (name, case, model, feeds, expected outputs or the refusal)."""
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
    parser.add_argument("--limit-bytes", type=int, help="leave out cases with which an archive would be larger")
    parser.add_argument("--refusals", action="store_true", help="print why ONNX Runtime refuses a combination")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = refused = total = 0
    for operator in arguments.ops.split(","):
        size = 0
        with zipfile.ZipFile(arguments.out / f"{operator}.zip", "w") as archive:
            for name, case, model, feeds, outputs in cases(operator, arguments.count, arguments.seed):
                if isinstance(outputs, Exception):
                    refused += 1
                    if arguments.refusals:
                        print(f"{name}: {outputs}")
                    continue
                contents = list(files(case, model, feeds, outputs))
                with zipfile.ZipFile(io.BytesIO(), "w") as trial:
                    larger = size + packed(trial, name, contents)
                if arguments.limit_bytes is not None and larger > arguments.limit_bytes:
                    continue
                size = larger
                packed(archive, name, contents)
                written += 1
        total += (arguments.out / f"{operator}.zip").stat().st_size
    print(f"{written} cases written ({total} bytes), {refused} combinations refused by ONNX Runtime")


if __name__ == "__main__":
    main()
