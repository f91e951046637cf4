"""Compiles CUDA C++ units to machine code with NVRTC and holds the result to facts, all without a GPU.

    nvrtc.py check [--arch sm_90a] [--define NAME=VALUE]... [--require MNEMONIC]... [--out FILE.cubin] [--sass FILE] TEXT...
        concatenates the texts, compiles them as one unit, prints each kernel's registers and every broken gate
    nvrtc.py build UNITS.json --cache FOLDER [--out FILE.pack] [--filter TEXT] [--jobs N]
        compiles a family's units as `cargo xtask kernels` lists them, and writes the container that providers embed

Gates: no performance note of the assembler (C75xx), no spills, no local memory, registers that let one block start,
and for each kernel the mnemonics that must and must not occur.

The container: the line `TENONKERNELS 1`, a line with the length of the manifest in bytes, the manifest (the table format
of `kernels/src/table.rs`: one [[unit]] and after it one [[kernel]] for each entry point), then every unit's cubin as a
zlib stream at the offset its row gives, counted from the end of the manifest.
"""

import argparse
import concurrent.futures
import ctypes
import glob
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zlib

FORMAT = 1
REGISTER_FILE = 65536
SHARED_LIMIT = {"sm_90a": 232448}
ALWAYS_FORBIDDEN = ["LDL", "STL"]
OPTIONS = ["-std=c++17", "-default-device", "--ptxas-options=-v", "--ptxas-options=--warn-on-local-memory-usage"]


def package(name):
    """A file of the installed NVIDIA packages."""
    folders = [os.path.join(entry, "nvidia") for entry in sys.path]
    for folder in folders:
        found = glob.glob(os.path.join(folder, "*", name))
        if found:
            return found[0]
    raise SystemExit(f"{name} is not installed: pip install -r tools/python/requirements-kernels.txt")


class Compiler:
    """NVRTC, loaded once in a process."""

    def __init__(self):
        path = package("lib/libnvrtc.so.*")
        # The library opens its builtins by bare name; once they are loaded the loader finds them.
        for builtins in glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins.so.*")):
            ctypes.CDLL(builtins)
        self.library = ctypes.CDLL(path)
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def compile(self, name, source, target, defines):
        """(cubin or None, log)."""
        options = [f"--gpu-architecture={target}", *OPTIONS, *(f"-D{key}={value}" for key, value in defines)]
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = self.library.nvrtcCompileProgram(program, len(options), arguments)
        log = self.fetch(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode(errors="replace").strip("\0\n")
        cubin = None if status else self.fetch(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return cubin, log

    def fetch(self, program, size_function, data_function):
        size = ctypes.c_size_t()
        getattr(self.library, size_function)(program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        getattr(self.library, data_function)(program, data)
        return data.raw


COMPILER = None


def compiler():
    global COMPILER
    COMPILER = COMPILER or Compiler()
    return COMPILER


def source_of(texts):
    """One text with markers, so that messages name the file and line that a person edits."""
    return "".join(f'#line 1 "{path}"\n{text}\n' for path, text in texts)


def disassemble(cubin):
    """Machine code by kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [package("bin/nvdisasm"), "-c", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*\.section\s+\.text\.([\w$.]+).*$", listing, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def resources(log):
    """{kernel: {registers, shared, stack, spills}} from the assembler's report."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.split("'")[0]
        number = lambda pattern: int((re.search(pattern, part) or [0, 0])[1])
        found[name] = {
            "registers": number(r"Used (\d+) registers"),
            "static_shared": number(r"(\d+) bytes smem"),
            "stack": number(r"(\d+) bytes stack frame"),
            "spills": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        }
    return found


def gate(target, kernels, log, sass):
    """Every fact that does not hold, in words."""
    broken = [line.strip() for line in log.splitlines() if re.search(r"\(C75\d\d\)", line)]
    used = resources(log)
    for kernel in kernels:
        symbol = kernel["symbol"]
        if symbol not in used or symbol not in sass:
            broken.append(f"{symbol}: the unit defines no such kernel (found: {', '.join(used) or 'none'})")
            continue
        facts, code = used[symbol], sass[symbol]
        if facts["spills"] or facts["stack"]:
            broken.append(f"{symbol}: {facts['spills']} bytes of spills, {facts['stack']} bytes of stack")
        if facts["registers"] * kernel["threads"] > REGISTER_FILE:
            broken.append(f"{symbol}: {facts['registers']} registers for {kernel['threads']} threads do not fit")
        shared = facts["static_shared"] + kernel["shared_bytes"]
        if shared > SHARED_LIMIT.get(target, 49152):
            broken.append(f"{symbol}: {shared} bytes of shared memory do not fit")
        broken += mnemonics(symbol, kernel, code)
    return broken


def mnemonics(symbol, kernel, code):
    found = set(re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code))
    has = lambda start: any(name == start or name.startswith(start) for name in found)
    broken = [f"{symbol}: no {name} in the machine code" for name in kernel["required"] if not has(name)]
    exact = lambda start: any(name == start or name.startswith(start + ".") for name in found)
    broken += [f"{symbol}: {name} in the machine code" for name in ALWAYS_FORBIDDEN if exact(name)]
    return broken + [f"{symbol}: {name} in the machine code" for name in kernel["forbidden"] if has(name)]


def build_unit(unit, target, cache):
    """Compiles and checks one unit, or takes the result of an earlier run with the same inputs."""
    source = source_of([(text["path"], text["text"]) for text in unit["texts"]])
    key_text = json.dumps([FORMAT, compiler().version, OPTIONS, target, source, unit["defines"], unit["kernels"]])
    with open(__file__, "rb") as script:
        key = hashlib.sha256(script.read() + key_text.encode()).hexdigest()[:32]
    path = os.path.join(cache, f"{unit['name']}-{key}")
    if os.path.exists(path + ".json"):
        with open(path + ".json") as file:
            return json.load(file), path
    cubin, log = compiler().compile(unit["name"] + ".cu", source, target, unit["defines"])
    if cubin is None:
        return {"broken": [f"{unit['name']}: does not compile:\n{log}"], "resources": {}}, path
    broken = gate(target, unit["kernels"], log, disassemble(cubin))
    report = {"broken": broken, "resources": resources(log), "raw_bytes": len(cubin)}
    if not broken:
        write(path + ".cubin.z", zlib.compress(cubin, 9))
        write(path + ".json", json.dumps(report).encode())
    return report, path


def write(path, data):
    """Complete or not there at all."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def manifest_of(listing, results):
    """(manifest, compressed units)."""
    rows, blobs, offset = [f'# {listing["arch"]}, {listing["target"]}\n'], [], 0
    for unit, (report, path) in zip(listing["units"], results):
        with open(path + ".cubin.z", "rb") as file:
            blob = file.read()
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


def build(arguments):
    with open(arguments.units) as file:
        listing = json.load(file)
    words = arguments.filter or ""
    listing["units"] = [unit for unit in listing["units"] if words in unit["name"]]
    os.makedirs(arguments.cache, exist_ok=True)
    broken = []
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs or os.cpu_count()) as pool:
        work = [pool.submit(build_unit, unit, listing["target"], arguments.cache) for unit in listing["units"]]
        for done, future in enumerate(concurrent.futures.as_completed(work), 1):
            broken += future.result()[0]["broken"]
            print(f"\r{done}/{len(work)} units", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if broken:
        raise SystemExit("\n".join(broken))
    if not arguments.out:
        return
    manifest, blobs = manifest_of(listing, [future.result() for future in work])
    head = f"TENONKERNELS {FORMAT}\n{len(manifest)}\n".encode()
    write(arguments.out, head + manifest + b"".join(blobs))
    print(f"{arguments.out}: {len(blobs)} units, {os.path.getsize(arguments.out)} bytes")


def check(arguments):
    texts = []
    for path in arguments.texts:
        with open(path) as file:
            texts.append((path, file.read()))
    defines = [(item.partition("=")[0], item.partition("=")[2] or "1") for item in arguments.define]
    cubin, log = compiler().compile("unit.cu", source_of(texts), arguments.arch, defines)
    if cubin is None:
        raise SystemExit(log)
    sass = disassemble(cubin)
    used = resources(log)
    need = {"threads": arguments.threads, "shared_bytes": 0, "required": arguments.require, "forbidden": []}
    broken = gate(arguments.arch, [{"symbol": name, **need} for name in used], log, sass)
    for name, facts in used.items():
        print(name, facts, f"{len(cubin)} bytes")
    if arguments.out:
        write(arguments.out, cubin)
    if arguments.sass:
        write(arguments.sass, "".join(f"{name}:\n{code}" for name, code in sass.items()).encode())
    if broken:
        raise SystemExit("\n".join(broken))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("check")
    one.add_argument("--arch", default="sm_90a")
    one.add_argument("--define", "-D", action="append", default=[])
    one.add_argument("--require", action="append", default=[])
    one.add_argument("--threads", type=int, default=384)
    one.add_argument("--out")
    one.add_argument("--sass")
    one.add_argument("texts", nargs="+")
    one.set_defaults(run=check)
    many = commands.add_parser("build")
    many.add_argument("units")
    many.add_argument("--cache", required=True)
    many.add_argument("--out")
    many.add_argument("--filter")
    many.add_argument("--jobs", type=int)
    many.set_defaults(run=build)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
