"""Differential fuzzing: random small graphs through a provider beside ONNX Runtime and the ONNX reference evaluator.

    python fuzz.py OUT --program CONFORMANCE --explained FILE [--graphs 1000] [--seed 1] [--first 0] [--provider cpu]

Graphs are made and run in batches, each in processes of its own, so that a crash or a hang costs one graph. A difference
is reduced to its smallest failing part, which is written to OUT/differences/<graph>/. A difference that an entry of FILE
explains is counted, any other is printed and makes the exit status 1.
"""

import argparse
import collections
import csv
import multiprocessing
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import fuzz_oracle
import numpy as np
import onnx

BATCH = 500
# Seconds for one graph; the oracles need milliseconds.
PATIENCE = 60


def make(path, seed, indices, current, answers):
    """Writes the graphs `indices` to an archive; runs in a process of its own."""
    oracle = fuzz_oracle.Counter()
    nodes = 0
    with fuzz_oracle.open_archive(path) as archive:
        for index in indices:
            current.value = index
            graph = fuzz_oracle.build(seed, index, oracle)
            if graph.nodes:
                fuzz_oracle.write_graph(archive, f"g{index}", graph)
            nodes += len(graph.nodes)
    answers.put((nodes, oracle.answers))


class Batch:
    """Graphs being made in the background; one that stops its process is left out."""

    def __init__(self, path, seed, indices):
        self.path, self.seed, self.indices, self.lost = path, seed, list(indices), []
        self.start()

    def start(self):
        self.current = multiprocessing.Value("q", -1)
        self.answers = multiprocessing.Queue()
        arguments = (self.path, self.seed, self.indices, self.current, self.answers)
        self.process = multiprocessing.Process(target=make, args=arguments, daemon=True)
        self.process.start()

    def finish(self):
        """Waits; returns the number of nodes and how often each oracle answered."""
        while True:
            seen = None
            while seen != (seen := self.current.value):
                self.process.join(PATIENCE)
                if not self.process.is_alive():
                    break
            if self.process.exitcode == 0:
                return self.answers.get(timeout=PATIENCE)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
            # An oracle died or hung on this graph: it proves nothing.
            self.lost.append(self.current.value)
            self.indices.remove(self.current.value)
            self.start()


def run(program, folder, provider):
    """Runs the cases of a folder; returns what failed, by name, and how many there were."""
    results = folder / "results.csv"
    results.unlink(missing_ok=True)
    command = [program, folder, "--csv", results, "--provider", provider]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{program} ended with {done.returncode}")
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["case"]: row["reason"] for row in rows if row["result"] != "pass"}, len(rows)


def parts(graph):
    """The parts to try, smallest first: each node alone, then the beginnings of the graph."""
    for k in range(len(graph.nodes)):
        yield f"node{k}", graph.nodes[k : k + 1], True
    for k in range(2, len(graph.nodes) + 1):
        yield f"first{k}", graph.nodes[:k], False


def reduce(program, folder, provider, graph):
    """The smallest failing part: (name, nodes, reason, whether the reference evaluator agrees with the provider)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    candidates = list(parts(graph))
    with fuzz_oracle.open_archive(folder / "parts.zip") as archive:
        for name, nodes, every in candidates:
            fuzz_oracle.write_graph(archive, name, graph, nodes, every)
            if len(nodes) > 1:
                continue
            node, inputs, results = nodes[0]
            feeds = {t.name: t.array for t in inputs if t is not None}
            other = fuzz_oracle.by_reference(node, feeds, graph.opset)
            if other is not None:
                model, _, _ = graph.model(True, nodes)
                given = [(i.name, feeds[i.name]) for i in model.graph.input]
                expected = [(t.name, array) for t, array in zip(results, other)]
                meta = fuzz_oracle.tolerance(graph)
                fuzz_oracle.write(archive, f"{name}_reference", model, given, expected, meta)
    failures, _ = run(program, folder, provider)
    names = zipfile.ZipFile(folder / "parts.zip").namelist()
    for name, nodes, _ in candidates:
        if name in failures:
            judged = f"{name}_reference/model.onnx" in names
            verdict = None if not judged else f"{name}_reference" not in failures
            return name, nodes, failures[name], verdict
    return None


class Explained:
    """The reasoned list of differences."""

    def __init__(self, path):
        self.entries = tomllib.loads(path.read_text()).get("explained", []) if path else []

    def reason(self, node, inputs, opset, message):
        """The reason of the first entry that fits."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        types = [None if t is None else str(t.dtype) for t in inputs]
        for entry in self.entries:
            fits = (
                node.op_type in entry["operators"]
                and all(attributes.get(k) == v for k, v in entry.get("attributes", {}).items())
                and ("types" not in entry or types[0] in entry["types"])
                and entry.get("since", 1) <= opset <= entry.get("until", 1000)
                and re.search(entry.get("message", ""), message)
                and ("when" not in entry or entry["when"] in traits(node, attributes, inputs))
            )
            if fits:
                return entry["reason"]
        return None


def traits(node, attributes, inputs):
    """What an entry's `when` can ask for."""
    found = set()
    for array in [t.array for t in inputs if t is not None]:
        if array.size == 0:
            found.add("empty")
        if array.dtype.kind == "f" and (not np.isfinite(array).all() or (np.abs(array) >= 1e29).any()):
            found.add("not finite")
    if attributes.get("auto_pad", "").startswith("SAME") and crops(attributes, inputs[0].shape[2:]):
        found.add("SAME without need of pads")
    if inputs and inputs[0] is not None and inputs[0].array.ndim > 5:
        found.add("more than three spatial axes")
    dilated = any(d > 1 for d in attributes.get("dilations", []))
    if dilated and attributes.get("auto_pad", "").startswith("SAME"):
        found.add("SAME with dilations")
    if dilated and any(attributes.get("pads", [])):
        found.add("pads with dilations")
    return found


def crops(attributes, sizes):
    """True when a window of SAME leaves a part of some axis out."""
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides", [1] * len(kernel))
    return any((-(-n // s) - 1) * s + k < n for n, k, s in zip(sizes, kernel, strides))


def describe(graph, name, nodes, reason, verdict):
    lines = [f"g{graph.index} {name} (opset {graph.opset}): {reason}"]
    for node, inputs, _ in nodes:
        shapes = ", ".join("-" if t is None else f"{t.dtype}{list(t.shape)}" for t in inputs)
        attributes = " ".join(str(a).replace("\n", " ") for a in node.attribute)
        lines.append(f"    {node.op_type}({shapes}) {attributes}"[:400])
    if verdict is not None:
        lines.append("    the reference evaluator " + ("agrees with the provider" if verdict else "does not agree either"))
    return "\n".join(lines)


def examine(arguments, failures, explained, counts):
    """Reduces and explains the failures of one batch; returns how many stay unexplained."""
    open_ones = 0
    for case, first_reason in failures.items():
        graph = fuzz_oracle.build(arguments.seed, int(case[1:]), fuzz_oracle.Counter())
        graph.index = int(case[1:])
        found = reduce(arguments.program, arguments.out / "reduced", arguments.provider, graph)
        if found is None:
            found = "whole", graph.nodes, first_reason, None
        name, nodes, reason, verdict = found
        why = None
        if len(nodes) == 1:
            why = explained.reason(nodes[0][0], nodes[0][1], graph.opset, reason)
        elif graph.special:
            why = "elements that are not finite, or nearly, pass through several nodes, each of which agrees alone"
        if why is None and verdict:
            why = "the ONNX reference evaluator agrees with the provider, ONNX Runtime differs"
            counts[f"  of which {nodes[0][0].op_type}"] += 1
        if why is not None:
            counts[why] += 1
            continue
        open_ones += 1
        folder = arguments.out / "differences"
        folder.mkdir(parents=True, exist_ok=True)
        with fuzz_oracle.open_archive(folder / f"{case}.zip") as archive:
            fuzz_oracle.write_graph(archive, case, graph, nodes, len(nodes) == 1)
        print(describe(graph, name, nodes, reason, verdict), flush=True)
    return open_ones


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--program", required=True, help="the conformance program")
    parser.add_argument("--explained", type=pathlib.Path, help="the reasoned list of differences")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--graphs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="index of the first graph")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    explained = Explained(arguments.explained)
    shutil.rmtree(arguments.out, ignore_errors=True)
    end = arguments.first + arguments.graphs
    ranges = [range(start, min(start + BATCH, end)) for start in range(arguments.first, end, BATCH)]

    def begin(number):
        folder = arguments.out / f"batch{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        return Batch(folder / "fuzz.zip", arguments.seed, ranges[number])

    counts, oracles, lost = collections.Counter(), collections.Counter(), []
    graphs = nodes = differences = unexplained = 0
    batch = begin(0) if ranges else None
    for number in range(len(ranges)):
        made, answers = batch.finish()
        ready = batch
        batch = begin(number + 1) if number + 1 < len(ranges) else None
        failures, ran = run(arguments.program, ready.path.parent, arguments.provider)
        graphs, nodes, differences = graphs + ran, nodes + made, differences + len(failures)
        oracles.update(answers)
        lost += ready.lost
        unexplained += examine(arguments, failures, explained, counts)
        if sys.stderr.isatty() or number % 20 == 19:
            print(f"{graphs} graphs, {differences} differences, {unexplained} unexplained", file=sys.stderr, flush=True)
    print(f"{graphs} graphs of {nodes} nodes; nodes by oracle: {dict(oracles)}")
    if lost:
        print(f"{len(lost)} graphs stopped an oracle and were left out: {lost[:20]}")
    for why, count in counts.most_common():
        print(f"{count:>6} explained: {why}")
    print(f"fuzz: {graphs} graphs, {differences} differences, {unexplained} unexplained")
    sys.exit(1 if unexplained else 0)


if __name__ == "__main__":
    main()
