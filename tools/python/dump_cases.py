#!/usr/bin/env python3
"""Writes the backend test suite of the installed onnx package as files.

    dump_cases.py OUT_DIR

Each case becomes OUT_DIR/<kind>/<case>/ with model.onnx, test_data_set_<i>/{input,output}_<j>.pb and meta.json, which
holds the case's tolerances. Kinds: node (made by the package's own case functions), simple, pytorch-converted and
pytorch-operator (shipped as files), simple-gen (simple cases that are only made by functions), light (the small CNNs,
whose models come without data: their data set is made here by onnx's own rule, with the flat expected output).
OUT_DIR/index.json lists the number of cases of each kind and is written last.
Needs: numpy, onnx.
"""
import argparse
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import onnx
import onnx.backend.test.case.model as model_cases
import onnx.backend.test.loader as loader
from onnx import numpy_helper

SHIPPED_KINDS = ("simple", "pytorch-converted", "pytorch-operator")
MESSAGES = (onnx.TensorProto, onnx.SequenceProto, onnx.MapProto, onnx.OptionalProto)


def message(value, info):
    """The protobuf message of a case's value, by the type that the model declares for it."""
    if isinstance(value, MESSAGES):
        return value
    kind = info.type.WhichOneof("value")
    if kind == "map_type":
        return numpy_helper.from_dict(value, info.name)
    if kind == "sequence_type":
        return numpy_helper.from_list(value, info.name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, info.name)
    return numpy_helper.from_array(np.asarray(value), info.name)


def write_meta(folder, case):
    (folder / "meta.json").write_text(json.dumps({"rtol": case.rtol, "atol": case.atol}))


def write_generated(folder, case):
    """A case whose model and data are in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    for i, (inputs, outputs) in enumerate(case.data_sets):
        data_set = folder / f"test_data_set_{i}"
        data_set.mkdir(exist_ok=True)
        graph = case.model.graph
        for stem, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
            for j, (value, info) in enumerate(zip(values, infos)):
                (data_set / f"{stem}_{j}.pb").write_bytes(message(value, info).SerializeToString())
    write_meta(folder, case)


def write_shipped(folder, case):
    """A case that the package ships as files."""
    shutil.copytree(case.model_dir, folder, dirs_exist_ok=True)
    write_meta(folder, case)


def light_cases():
    """(name, model path) of the small CNNs in the package; none in packages without them."""
    folder = pathlib.Path(loader.DATA_DIR) / "light"
    return [(p.stem, p) for p in sorted(folder.glob("light_*.onnx")) if p.with_name(p.stem + "_output_0.pb").is_file()]


def write_light(folder, path):
    """A light CNN: its input is a ramp over the declared shape, its output is stored beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / "model.onnx")
    data_set = folder / "test_data_set_0"
    data_set.mkdir(exist_ok=True)
    graph = onnx.load(path).graph
    constants = {t.name for t in graph.initializer}
    for j, info in enumerate(i for i in graph.input if i.name not in constants):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        ramp = (np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)).astype(np.float32)
        (data_set / f"input_{j}.pb").write_bytes(numpy_helper.from_array(ramp, info.name).SerializeToString())
    shutil.copyfile(path.with_name(path.stem + "_output_0.pb"), data_set / "output_0.pb")
    (folder / "meta.json").write_text(json.dumps({"rtol": 1e-3, "atol": 1e-7}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    failed = []

    def attempt(write, folder, case):
        try:
            write(folder, case)
        except Exception as error:  # a case that cannot be written is listed, the others still are
            failed.append(f"{folder.name}: {type(error).__name__}: {error}")
            shutil.rmtree(folder, ignore_errors=True)

    for case in loader.load_model_tests(kind="node"):
        attempt(write_generated, out / "node" / case.name, case)
    for kind in SHIPPED_KINDS:
        for case in loader.load_model_tests(kind=kind):
            attempt(write_shipped, out / kind / case.name, case)
    for case in model_cases.collect_testcases():
        if case.kind == "simple" and not (out / "simple" / case.name).exists():
            attempt(write_generated, out / "simple-gen" / case.name, case)
    for name, path in light_cases():
        attempt(write_light, out / "light" / name, path)
    index = {kind.name: sum(1 for _ in kind.iterdir()) for kind in sorted(out.iterdir()) if kind.is_dir()}
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    print(f"{sum(index.values())} cases: " + ", ".join(f"{k} {n}" for k, n in index.items()), file=sys.stderr)
    for line in failed:
        print(f"not written: {line}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
