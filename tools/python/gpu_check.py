"""Checks a GPU provider on a machine that has the device, from carried binaries alone, and prints a table last.

    gpu_check.py [--provider cuda] [--minutes 8] [--runner RUNNER] [--conformance CONFORMANCE] [--library LIBRARY]
                 [--cases FOLDER] [--lists FOLDER] [--pack PACK|FOLDER] [--llama LLAMA]
                 [--decoders FOLDER] [--models FOLDER]

`cargo xtask kit` gathers all of them beside this script, and what lies there needs no option. What is absent is left out.
First the kernels on their own (`gpu_kernels.py`, CUDA only): against float64, under compute-sanitizer where it is
installed, and their share of a copy's bandwidth. Then the decoders that make_llama.py wrote: small ones against the CPU
provider, large ones timed. Every .onnx file under the models' folder is run on the device and compared with its stored
outputs or the CPU provider, then timed on both, and by ONNX Runtime where it is installed, on the inputs of the .npz file
beside it (arrays by the names of inputs) or else on invented ones. Last the conformance suite, whose folders may be
archives, with nodes that the device declines on the CPU; a run with --strict names the operators that are left there.
Exits 1 when a kernel, a decoder, a model or a case fails.
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
        quiet = {**os.environ, "RUST_BACKTRACE": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(limit, 1), env=quiet, **more)
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
        command = [sys.executable, own, "--pack", options.pack]
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
        # Large models may wait for the driver's compiler.
        command += ["--limit", "60"]
        command += ["--csv", options.csv] if options.csv else []
        command += ["--lists", options.lists] if options.lists else []
        start = time.monotonic()
        status, out, error = run(command, min(self.left(), 60 * options.minutes * 0.6))
        lines = [line for line in (out + error).splitlines() if line.strip()]
        print("\n".join(lines[-60:]))
        summary = next((line for line in reversed(lines) if line.startswith("conformance:")), "no summary")
        detail = f"{summary} ({time.monotonic() - start:.0f} s)"
        self.add("conformance", "ok" if status == 0 else "failed", detail, status != 0)

    def decoders(self):
        """Decoder graphs: the small ones equal the CPU provider's, the large ones tell tokens a second."""
        options = self.options
        for name in sorted(os.listdir(options.decoders), reverse=True):
            folder = os.path.join(options.decoders, name)
            with open(os.path.join(folder, "model.json")) as file:
                is_small = json.load(file)["hidden"] < 1024
            folder_of_libraries = os.path.dirname(os.path.abspath(options.library))
            reference = os.path.join(folder_of_libraries, "libtenon_provider_cpu.so")
            base = [options.llama, folder, "--library", options.library, "--provider", options.provider]
            if is_small:
                base += ["--library", reference, "--compare", "cpu", "--batch", "3", "--prompt", "130", "--steps", "12"]
                status, out, error = run([*base, "--length", "256"], min(self.left(), 60))
                self.add(name, "equal" if status == 0 else "DIFFERS", last(out + error), status != 0)
                continue
            for batch in (1, 16, 64):
                shape = ["--batch", str(batch), "--prompt", "512", "--steps", "128", "--length", "1024", "--repeat", "3"]
                status, out, error = run([*base, *shape], min(self.left(), 60))
                self.add(name, "ok" if status == 0 else "failed", last(out if status == 0 else error), status != 0)

    def model(self, path):
        options, folder = self.options, os.path.dirname(os.path.abspath(self.options.library))
        name = os.path.relpath(path, options.models).removesuffix("/model.onnx")
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
        if self.options.pack:
            self.kernels()
        if self.options.llama and self.options.decoders:
            self.decoders()
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
        if self.options.cases and self.options.conformance:
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


def last(text):
    """The last line of a program's output, its columns narrowed."""
    return " ".join(next((line for line in reversed(text.splitlines()) if line.strip()), "").split())


def median(text):
    """The median time of a run in a bench's JSON."""
    try:
        return f"{json.loads(text)['p50_ms']:.3f} ms"
    except (json.JSONDecodeError, KeyError, TypeError):
        return "failed"


def beside(*names):
    """The first of these files and folders that lies beside the script, else None."""
    here = os.path.dirname(os.path.abspath(__file__))
    paths = [os.path.join(here, name) for name in names]
    return next((path for path in paths if os.path.exists(path)), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", default="cuda" if beside("libtenon_provider_cuda.so") else "rocm")
    parser.add_argument("--minutes", type=float, default=8, help="time for all of it")
    parser.add_argument("--runner", default=beside("runner"))
    parser.add_argument("--conformance", default=beside("conformance"))
    parser.add_argument("--library", default=beside("libtenon_provider_cuda.so", "libtenon_provider_rocm.so"))
    parser.add_argument("--cases", default=beside("cases"), help="the suite's cases")
    parser.add_argument("--lists", default=beside("lists"), help="the provider's lists of cases that need not pass")
    parser.add_argument("--csv", help="write the outcome of each case here")
    parser.add_argument("--pack", default=beside("kernels"), help="packs of kernels with their cases beside them")
    parser.add_argument("--llama", default=beside("llama"))
    parser.add_argument("--decoders", default=beside("decoders"), help="folders that make_llama.py wrote")
    parser.add_argument("--models", default=beside("models"))
    parser.add_argument("--workers", type=int, default=min(12, os.cpu_count() or 1))
    options = parser.parse_args()
    missing = [name for name in ("runner", "library") if not getattr(options, name)]
    if missing:
        parser.error(f"not found beside {os.path.basename(__file__)}: {', '.join(missing)}; `cargo xtask kit` makes them")
    sys.exit(Check(options).all())


if __name__ == "__main__":
    main()
