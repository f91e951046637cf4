"""Checks a GPU provider on a machine that has the device, from carried binaries alone, and prints a table last.

    gpu_check.py --runner RUNNER --conformance CONFORMANCE --library libtenon_provider_X.so --cases FOLDER
                 [--lists FOLDER] [--models FOLDER] [--pack PACK --kernels CASES.jsonl] [--provider cuda] [--minutes 6]

First the kernels of a pack on their own (`gpu_kernels.py`, CUDA only): against float64, under compute-sanitizer where it
is installed, and their share of a copy's bandwidth. Then the conformance suite, whose folders may be archives, with nodes
that the device declines on the CPU; a run with --strict names the operators that are left there. Every .onnx file under
the models' folder is run on the device and compared with the CPU provider, then timed on both, and by ONNX Runtime where
it is installed, on the inputs of the .npz file beside it (arrays by the names of inputs) or else on invented ones. Exits 1 when a kernel, a case or a model fails.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time


def run(command, limit, **more):
    """The exit status and the text of a program; 124 when it ran past its limit."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit, 1), **more)
        return done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
        return 124, text.decode(errors="replace") if isinstance(text, bytes) else text, "time ran out"


class Check:
    def __init__(self, options):
        self.options = options
        self.end = time.monotonic() + 60 * options.minutes
        self.rows = []
        self.failed = False

    def left(self):
        return self.end - time.monotonic()

    def add(self, what, outcome, detail, failed=False):
        self.rows.append((what, outcome, detail))
        self.failed |= failed
        print(f"{what}: {outcome} {detail}", flush=True)

    def providers(self):
        folder = os.path.dirname(os.path.abspath(self.options.library))
        status, out, error = run([self.options.runner, "providers", "--provider-dir", folder], 60)
        print(out + error)
        self.add("providers", "ok" if status == 0 else "failed", "", status != 0)

    def kernels(self):
        """The kernels alone: against float64, their bandwidth, and a few of them under the sanitizer."""
        options, own = self.options, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu_kernels.py")
        command = [sys.executable, own, "--pack", options.pack, "--cases", options.kernels]
        status, out, error = run([*command, "--seconds", "60"], min(self.left(), 150))
        print(out + error)
        lines = [line for line in out.splitlines() if line.startswith(("checked", "copy of"))]
        self.add("kernels", "ok" if status == 0 else "failed", "; ".join(lines), status != 0)
        sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not os.path.exists(sanitizer):
            self.add("sanitizer", "skipped", "compute-sanitizer is not installed")
            return
        for tool, words in (("memcheck", " f16"), ("racecheck", "conv"), ("racecheck", "1025 bf16")):
            checked = [sanitizer, "--tool", tool, "--error-exitcode", "1", *command, "--no-time", "--filter", words]
            status, out, error = run(checked, min(self.left(), 90))
            lines = [line for line in (out + error).splitlines() if "SUMMARY" in line or line.startswith("checked")]
            self.add(f"{tool} '{words.strip()}'", "ok" if status == 0 else "failed", " ".join(lines), status != 0)

    def conformance(self):
        options = self.options
        command = [options.conformance, options.cases, "--provider", options.provider]
        command += ["--provider-library", options.library, "--threads", str(options.workers)]
        command += ["--csv", options.csv] if options.csv else []
        command += ["--lists", options.lists] if options.lists else []
        start = time.monotonic()
        status, out, error = run(command, min(self.left(), 60 * options.minutes * 0.6))
        lines = [line for line in (out + error).splitlines() if line.strip()]
        print("\n".join(lines[-60:]))
        summary = next((line for line in reversed(lines) if line.startswith("conformance:")), "no summary")
        detail = f"{summary} ({time.monotonic() - start:.0f} s)"
        self.add("conformance", "ok" if status == 0 else "failed", detail, status != 0)

    def model(self, path):
        options, folder = self.options, os.path.dirname(os.path.abspath(self.options.library))
        name = os.path.relpath(path, options.models)
        inputs = path.removesuffix(".onnx") + ".npz"
        given = ["--input", inputs] if os.path.exists(inputs) else []
        base = [options.runner, path, "--provider-dir", folder, *given]
        data = os.path.join(os.path.dirname(path), "test_data_set_0")
        check = ["--test-data", data] if os.path.isdir(data) else ["--verify"]
        compared = [*base, "--quiet", "--provider", options.provider, *check, "--stol", "0.002"]
        status, out, error = run(compared, min(self.left(), 90))
        parity = "equal" if status == 0 else "DIFFERS"
        if status != 0:
            print("\n".join((out + error).strip().splitlines()[-6:]))
        times = {}
        for provider in (options.provider, "cpu"):
            bench = ["--provider", provider, "--bench", "--duration", "1", "--json"]
            _, text, _ = run([*base, *bench], min(self.left(), 40))
            times[provider] = median(text)
        times["onnxruntime"] = onnxruntime_median(path, inputs)
        detail = ", ".join(f"{provider} {value}" for provider, value in times.items() if value)
        left = self.left_to_the_cpu(base)
        self.add(name, parity, detail + left, status != 0)

    def left_to_the_cpu(self, base):
        """What --strict refuses: the operators that the device declines."""
        status, out, error = run([*base, "--provider", self.options.provider, "--strict", "--quiet"], min(self.left(), 40))
        if status == 0:
            return ", all of it on the device"
        names = sorted(set(re.findall(r"\b([A-Z]\w+) has no GPU kernel", out + error)))
        return f", left to the CPU: {' '.join(names) or 'see --strict'}"

    def all(self):
        self.providers()
        if self.options.pack and self.options.kernels:
            self.kernels()
        if self.options.models:
            found = [
                os.path.join(folder, file)
                for folder, _, files in os.walk(self.options.models)
                for file in files
                if file.endswith(".onnx")
            ]
            for path in sorted(found, key=os.path.getsize):
                if self.left() > 20:
                    self.model(path)
        if self.options.cases:
            self.conformance()
        print("\n=== table")
        width = max(len(row[0]) for row in self.rows)
        for what, outcome, detail in self.rows:
            print(f"{what:<{width}}  {outcome:<8} {detail}")
        return 1 if self.failed else 0


def onnxruntime_median(path, given):
    """The median time of ONNX Runtime on this host's CPU; None where it is not installed."""
    try:
        import numpy
        import onnxruntime
    except ImportError:
        return None
    try:
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, quiet, providers=["CPUExecutionProvider"])
        kinds = {"tensor(float)": "f4", "tensor(int64)": "i8", "tensor(uint8)": "u1", "tensor(float16)": "f2"}
        size = lambda dim: dim if isinstance(dim, int) and dim > 0 else 1
        inputs = dict(numpy.load(given)) if os.path.exists(given) else {}
        for i in session.get_inputs():
            inputs.setdefault(i.name, numpy.ones([size(dim) for dim in i.shape], kinds.get(i.type, "f4")))
        times = []
        for _ in range(20):
            start = time.perf_counter()
            session.run(None, inputs)
            times.append(time.perf_counter() - start)
        return f"{sorted(times)[10] * 1e3:.3f} ms"
    except Exception as error:  # A model that it cannot run is no failure of ours.
        return f"failed ({type(error).__name__})"


def median(text):
    """The median time of a run in a bench's JSON."""
    try:
        return f"{json.loads(text)['p50_ms']:.3f} ms"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "failed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runner", required=True)
    parser.add_argument("--conformance")
    parser.add_argument("--library", required=True)
    parser.add_argument("--cases")
    parser.add_argument("--lists")
    parser.add_argument("--csv")
    parser.add_argument("--models")
    parser.add_argument("--pack", help="kernels of the device, as `cargo xtask kernels` writes them")
    parser.add_argument("--kernels", help="what `cargo run -p tenon-kernels --example gpu_cases` prints")
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=6)
    sys.exit(Check(parser.parse_args()).all())


if __name__ == "__main__":
    main()
