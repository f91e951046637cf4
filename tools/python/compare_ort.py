#!/usr/bin/env python3
"""Measures the zoo's cases in `runner` and in ONNX Runtime, in turns on the same machine, and writes one table.

    compare_ort.py ZOO_DIR --runner FILE [--threads N] [--seconds S] [--rounds N] [--only ID ...]

ZOO_DIR is what zoo.py wrote. Both sides run in a fresh process for each round, with as many threads, on the inputs of the
case's first data set; ONNX Runtime with its default optimisation and without spinning threads. Of each figure the
smallest of all rounds counts, because what disturbs a measurement only makes it larger; both sides' spreads are written
too. Before measuring, the case is checked: a wrong result is no result. Writes ZOO_DIR/bench.json and ZOO_DIR/bench.md
and prints the table. Ratios are ONNX Runtime / runner: above 1, runner is faster or smaller.
Needs: numpy, onnx, onnxruntime.
"""
import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

FIGURES = ("load_ms", "first_run_ms", "p50_ms", "peak_rss_bytes")
WARM_UP_RUNS, MIN_RUNS = 3, 3


def read_inputs(folder):
    """The arrays of input_<i>.pb by the name inside."""
    import onnx
    from onnx import numpy_helper

    arrays = {}
    for path in sorted(folder.glob("input_*.pb"), key=lambda p: int(p.stem.rsplit("_", 1)[1])):
        message = onnx.TensorProto.FromString(path.read_bytes())
        arrays[message.name] = numpy_helper.to_array(message)
    return arrays


def peak_rss_bytes():
    """The largest resident memory this process ever had."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(next(l for l in status.splitlines() if l.startswith("VmHWM:")).split()[1]) * 1024


def measure_ort(model, archive, threads, seconds):
    """Loads and runs the model in this process; the worker of `ort`."""
    import onnxruntime

    feeds = dict(np.load(archive))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    before = peak_rss_bytes()
    clock = time.perf_counter
    start = clock()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    loaded = clock()
    session.run(None, feeds)
    first = clock()
    for _ in range(WARM_UP_RUNS):
        session.run(None, feeds)
    runs, begin = [], clock()
    while len(runs) < MIN_RUNS or clock() - begin < seconds:
        t = clock()
        session.run(None, feeds)
        runs.append(clock() - t)
    return {
        "load_ms": (loaded - start) * 1e3, "first_run_ms": (first - loaded) * 1e3,
        "p50_ms": statistics.median(runs) * 1e3, "peak_rss_bytes": peak_rss_bytes(),
        "python_rss_bytes": before, "runs": len(runs),
    }


def worker(command):
    """Runs a program that prints one JSON object; None and the last line of its messages when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        return None, lines[-1]
    return json.loads(done.stdout.splitlines()[-1]), None


def check(runner, root, case, threads):
    """The verdict of `runner --test-data` on the case."""
    command = [runner, root / case["model"], "--test-data", root / case["data"], "--json", "--threads", threads]
    command += ["--rtol", case["rtol"], "--atol", case["atol"], "--stol", case["stol"]]
    for carry in case["carry"]:
        command += ["--carry", carry]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode == 0:
        return "agrees"
    try:
        return json.loads(done.stdout)["summary"]
    except ValueError:
        return (done.stderr.strip().splitlines() or ["failed"])[0]


def best(rows):
    """The smallest of each figure over the rounds, and the spread of the median."""
    figures = {k: min(r[k] for r in rows) for k in FIGURES}
    figures["python_rss_bytes"] = rows[0].get("python_rss_bytes", 0)
    figures["p50_spread"] = max(r["p50_ms"] for r in rows) / max(figures["p50_ms"], 1e-9)
    return figures


def measure(arguments, case):
    """One row of the result."""
    root = arguments.folder
    row = {"id": case["id"], "verdict": check(arguments.runner, root, case, arguments.threads)}
    if row["verdict"] != "agrees":
        return row
    data_set = root / case["data"] / "test_data_set_0"
    archive = root / "inputs.npz"
    np.savez(archive, **read_inputs(data_set))
    model, options = root / case["model"], [str(arguments.threads), str(arguments.seconds)]
    ours = [arguments.runner, model, "--input", data_set, "--bench", "--json", "--threads", options[0]]
    ours = [str(c) for c in ours + ["--duration", options[1], "--warmup", WARM_UP_RUNS]]
    theirs = [sys.executable, __file__, "--worker", str(model), str(archive), *options]
    sides = {"runner": (ours, []), "ort": (theirs, [])}
    for turn in range(arguments.rounds):
        order = list(sides) if turn % 2 == 0 else list(reversed(sides))
        for side in order:
            result, problem = worker(sides[side][0])
            if result is None:
                return {**row, "verdict": f"{side}: {problem}"}
            sides[side][1].append(result)
    row.update({side: best(results) for side, (_, results) in sides.items()})
    row["providers"] = sides["runner"][1][0]["providers"]
    row["ratio"] = {k: row["ort"][k] / max(row["runner"][k], 1e-9) for k in FIGURES}
    return row


def machine():
    """What the figures were taken on."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    name = next((l.split(":", 1)[1].strip() for l in lines if l.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


def figure(key, value):
    return f"{value / 2**20:.0f} MiB" if key.endswith("bytes") else f"{value:.3g} ms"


def markdown(result):
    """The table for people."""
    lines = [
        f"{result['machine']}; {result['threads']} thread(s); onnxruntime {result['onnxruntime']}; "
        f"best of {result['rounds']} rounds of {result['seconds']} s; each cell is runner / ONNX Runtime, ratio above 1 is in "
        "runner's favour. ONNX Runtime's peak memory includes Python with numpy and onnxruntime imported "
        f"({result['python_rss_bytes'] / 2**20:.0f} MiB).",
        "",
        "| case | load | first run | median | ratio | peak memory | nodes |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    ratios = []
    for row in result["rows"]:
        if "ratio" not in row:
            lines.append(f"| {row['id']} | {row['verdict']} | | | | | |")
            continue
        pair = lambda k: f"{figure(k, row['runner'][k])} / {figure(k, row['ort'][k])}"
        ratios.append(row["ratio"]["p50_ms"])
        nodes = ", ".join(f"{name} {count}" for name, count in row["providers"].items())
        lines.append(
            f"| {row['id']} | {pair('load_ms')} | {pair('first_run_ms')} | {pair('p50_ms')} "
            f"| {row['ratio']['p50_ms']:.2f} | {pair('peak_rss_bytes')} | {nodes} |"
        )
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        faster = sum(r > 1 for r in ratios)
        lines += ["", f"Geometric mean of the median's ratio: {mean:.2f}; runner is faster in {faster} of {len(ratios)}."]
    agreeing = sum(row["verdict"] == "agrees" for row in result["rows"])
    lines += ["", f"{agreeing} of {len(result['rows'])} cases agree with their stored outputs."]
    return "\n".join(lines) + "\n"


def main():
    if sys.argv[1:2] == ["--worker"]:
        model, archive, threads, seconds = sys.argv[2:]
        print(json.dumps(measure_ort(model, archive, int(threads), float(seconds))))
        return
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder that zoo.py wrote")
    parser.add_argument("--runner", required=True, help="the runner program, built with optimisation")
    parser.add_argument("--threads", type=int, default=1, help="threads of both [1]")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds a side is measured in a round [2]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which both take turns [3]")
    parser.add_argument("--only", nargs="*", metavar="ID", help="only these cases")
    arguments = parser.parse_args()
    cases = json.loads((arguments.folder / "cases.json").read_text())["cases"]
    cases = [c for c in cases if not arguments.only or c["id"] in arguments.only]
    rows = []
    for case in cases:
        rows.append(measure(arguments, case))
        verdict = rows[-1]["verdict"] if "ratio" not in rows[-1] else f"{rows[-1]['ratio']['p50_ms']:.2f}"
        print(f"{case['id']}: {verdict}", file=sys.stderr)
    archive = arguments.folder / "inputs.npz"
    archive.unlink(missing_ok=True)
    result = {
        "machine": machine(), "onnxruntime": onnxruntime.__version__, "threads": arguments.threads,
        "seconds": arguments.seconds, "rounds": arguments.rounds, "rows": rows,
        "python_rss_bytes": max((r["ort"]["python_rss_bytes"] for r in rows if "ort" in r), default=0),
    }
    (arguments.folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.folder / "bench.md").write_text(markdown(result))
    print(markdown(result))
    sys.exit(any(row["verdict"] != "agrees" for row in rows))


if __name__ == "__main__":
    main()
