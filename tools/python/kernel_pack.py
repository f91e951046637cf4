"""What the compiling scripts of all GPU families share: a cache, a pool of compilers, reports, and the container.

A script hands in a tool: `scripts()` and `identity()` name what its results depend on beside the unit, and
`compile(unit, target)` gives a `Result`. FORMAT is raised when what the cache or the container holds changes.

The container: the line `TENONKERNELS 2`, a line with the length of the manifest in bytes, the manifest (the table format
of `kernels/src/table.rs`: one [[unit]] and after it one [[kernel]] for each entry point), then every unit's image as a
zstd frame at the offset its row gives, counted from the end of the manifest.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import sys

import zstandard

FORMAT = 2
LEVEL = 19


@dataclasses.dataclass
class Result:
    """A compiled unit: its image, what broke a gate, {symbol: {registers, static_shared}}, and a text for people."""

    image: bytes = b""
    broken: list = dataclasses.field(default_factory=list)
    resources: dict = dataclasses.field(default_factory=dict)
    report: str = ""


def source_of(texts):
    """One text with markers, so that messages name the file and line that a person edits."""
    return "".join(f'#line 1 "{path}"\n{text}\n' for path, text in texts)


def write(path, data):
    """Complete or not there at all."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def build_unit(tool, unit, target, cache):
    """(broken gates, path) of one unit: compiled and checked, or from an earlier run with the same inputs."""
    scripts = b"".join(read(path) for path in tool.scripts())
    texts = [(text["path"], text["text"]) for text in unit["texts"]]
    inputs = json.dumps([FORMAT, tool.identity(), target, texts, unit["defines"], unit["kernels"]])
    key = hashlib.sha256(scripts + inputs.encode()).hexdigest()[:32]
    path = os.path.join(cache, f"{unit['name'][:160]}-{key}")
    if os.path.exists(path + ".json"):
        return [], path
    result = tool.compile(unit, target)
    if not result.broken:
        write(path + ".zst", zstandard.ZstdCompressor(level=LEVEL).compress(result.image))
        if result.report:
            write(path + ".txt", result.report.encode())
        facts = {"resources": result.resources, "raw_bytes": len(result.image)}
        write(path + ".json", json.dumps(facts).encode())
    return result.broken, path


def manifest_of(listing, paths):
    """(manifest, compressed units)."""
    rows, blobs, offset = [f'# {listing["arch"]}, {listing["target"]}\n'], [], 0
    for unit, path in zip(listing["units"], paths):
        blob, report = read(path + ".zst"), json.loads(read(path + ".json"))
        rows.append(
            f'[[unit]]\nname = "{unit["name"]}"\noffset_bytes = {offset}\nstored_bytes = {len(blob)}\n'
            f'raw_bytes = {report["raw_bytes"]}\n'
        )
        for kernel in unit["kernels"]:
            facts = report["resources"][kernel["symbol"]]
            rows.append(
                f'[[kernel]]\nsymbol = "{kernel["symbol"]}"\nunit = "{unit["name"]}"\nthreads = {kernel["threads"]}\n'
                f'registers = {facts["registers"]}\nstatic_shared_bytes = {facts["static_shared"]}\n'
                f'shared_bytes = {kernel["shared_bytes"]}\n'
            )
        blobs.append(blob)
        offset += len(blob)
    return "".join(rows).encode(), blobs


def write_reports(folder, listing, paths):
    """A text for each unit that has one, and an index: the first line of every text."""
    os.makedirs(folder, exist_ok=True)
    index = []
    for unit, path in zip(listing["units"], paths):
        if not os.path.exists(path + ".txt"):
            continue
        report = read(path + ".txt")
        write(os.path.join(folder, unit["name"] + ".txt"), report)
        index += [line[2:] for line in report.decode().splitlines() if line.startswith("# ")]
    if index:
        write(os.path.join(folder, "index.txt"), ("\n".join(index) + "\n").encode())


def show_progress(done, units):
    """One line that is written over on a terminal; in a log, the last one alone."""
    if sys.stderr.isatty() or done == units:
        print(f"\r{done}/{units} units", end="\n" if done == units else "", file=sys.stderr, flush=True)


def build(arguments, tool):
    with open(arguments.units) as file:
        listing = json.load(file)
    words = arguments.filter or ""
    listing["units"] = [unit for unit in listing["units"] if words in unit["name"]]
    os.makedirs(arguments.cache, exist_ok=True)
    broken = []
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs or os.cpu_count()) as pool:
        work = [pool.submit(build_unit, tool, unit, listing["target"], arguments.cache) for unit in listing["units"]]
        for done, future in enumerate(concurrent.futures.as_completed(work), 1):
            broken += future.result()[0]
            show_progress(done, len(work))
    if broken:
        raise SystemExit("\n".join(broken))
    paths = [future.result()[1] for future in work]
    if arguments.report:
        write_reports(arguments.report, listing, paths)
    if not arguments.out:
        return
    manifest, blobs = manifest_of(listing, paths)
    head = f"TENONKERNELS {FORMAT}\n{len(manifest)}\n".encode()
    write(arguments.out, head + manifest + b"".join(blobs))
    print(f"{arguments.out}: {len(blobs)} units, {os.path.getsize(arguments.out)} bytes")


def add_build(commands, tool):
    """The `build` command of a script."""
    many = commands.add_parser("build")
    many.add_argument("units")
    many.add_argument("--cache", required=True)
    many.add_argument("--out")
    many.add_argument("--report", help="folder for one text a unit, and an index")
    many.add_argument("--filter")
    many.add_argument("--jobs", type=int)
    many.set_defaults(run=lambda arguments: build(arguments, tool))


def read_texts(paths):
    """Files as (path, text)."""
    return [(path, read(path).decode()) for path in paths]


def define_pairs(items):
    return [(item.partition("=")[0], item.partition("=")[2] or "1") for item in items]
