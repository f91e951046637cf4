"""Checks a GPU provider on a machine that has the device, from carried binaries alone, and prints a table last.

    gpu_check.py --runner RUNNER --conformance CONFORMANCE --library libtenon_provider_X.so --cases FOLDER
                 [--lists FOLDER] [--models FOLDER] [--provider cuda] [--minutes 6]

The conformance suite runs with nodes that the device declines on the CPU. Every .onnx file under the models' folder is run
on the device and compared with the CPU provider, then timed on both. Exits 1 when a case or a model fails.
"""

import argparse
import json
import os
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
        base = [options.runner, path, "--provider-dir", folder, "--quiet"]
        data = os.path.join(os.path.dirname(path), "test_data_set_0")
        check = ["--test-data", data] if os.path.isdir(data) else ["--verify"]
        status, out, error = run([*base, "--provider", options.provider, *check, "--stol", "0.002"], min(self.left(), 90))
        parity = "equal" if status == 0 else "DIFFERS"
        if status != 0:
            print("\n".join((out + error).strip().splitlines()[-6:]))
        times = {}
        for provider in (options.provider, "cpu"):
            bench = ["--provider", provider, "--bench", "--duration", "1", "--json"]
            _, text, _ = run([*base[:4], *bench], min(self.left(), 40))
            times[provider] = median(text)
        detail = ", ".join(f"{provider} {value}" for provider, value in times.items())
        self.add(name, parity, detail, status != 0)

    def all(self):
        self.providers()
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
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=6)
    sys.exit(Check(parser.parse_args()).all())


if __name__ == "__main__":
    main()
