"""Compiles CUDA C++ units to machine code with NVRTC and holds the result to facts, all without a GPU.

    nvrtc.py check [--arch sm_90a] [--define NAME=VALUE]... [--require MNEMONIC]... [--out FILE.cubin] [--sass FILE] TEXT...
        concatenates the texts, compiles them as one unit, prints each kernel's registers and every broken gate
    nvrtc.py build UNITS.json --cache FOLDER [--out FILE.pack] [--filter TEXT] [--jobs N]
        compiles a family's units as `cargo xtask kernels` lists them, and writes the container that providers embed

For a target `compute_NN` the container holds PTX, which the driver compiles for the GPU at hand; the gates look at what it
becomes for `sm_NN`.

Gates: no performance note of the assembler (C75xx), no spills, no local memory (hardly any where text is shipped), registers that let one block start,
and for each kernel the mnemonics that must and must not occur.
"""

import argparse
import ctypes
import glob
import os
import re
import subprocess
import sys
import tempfile

import kernel_pack
from kernel_pack import Result, source_of, write

REGISTER_FILE = 65536
# Of the largest chip of the target; planners hold every launch to the chip at hand.
SHARED_LIMIT = {"sm_90a": 232448, "sm_80": 232448}
ALWAYS_FORBIDDEN = ["LDL", "STL"]
# Targets shipped as text are assembled by the driver of the user's machine. What is checked here is one assembler's
# result for the oldest chip, which may keep a few values of a thread in local memory.
TEXT_SPILL_BYTES = 64
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
        """(cubin, or PTX for a virtual target, or None; log)."""
        options = [f"--gpu-architecture={target}", *OPTIONS, *(f"-D{key}={value}" for key, value in defines)]
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = self.library.nvrtcCompileProgram(program, len(options), arguments)
        log = self.fetch(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").decode(errors="replace").strip("\0\n")
        form = "PTX" if target.startswith("compute_") else "CUBIN"
        image = None if status else self.fetch(program, f"nvrtcGet{form}Size", f"nvrtcGet{form}")
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return image, log

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


def gate(target, kernels, log, sass, spill_bytes=0):
    """Every fact that does not hold, in words. Up to `spill_bytes` of a thread's values may be in local memory."""
    broken = [line.strip() for line in log.splitlines() if re.search(r"\(C75\d\d\)", line)]
    used = resources(log)
    for kernel in kernels:
        symbol = kernel["symbol"]
        if symbol not in used or symbol not in sass:
            broken.append(f"{symbol}: the unit defines no such kernel (found: {', '.join(used) or 'none'})")
            continue
        facts, code = used[symbol], sass[symbol]
        if max(facts["spills"], facts["stack"]) > spill_bytes:
            broken.append(f"{symbol}: {facts['spills']} bytes of spills, {facts['stack']} bytes of stack")
        if facts["registers"] * kernel["threads"] > REGISTER_FILE:
            broken.append(f"{symbol}: {facts['registers']} registers for {kernel['threads']} threads do not fit")
        shared = facts["static_shared"] + kernel["shared_bytes"]
        if shared > SHARED_LIMIT.get(target, 49152):
            broken.append(f"{symbol}: {shared} bytes of shared memory do not fit")
        broken += mnemonics(symbol, kernel, code, [] if spill_bytes else ALWAYS_FORBIDDEN)
    return broken


def mnemonics(symbol, kernel, code, never):
    found = set(re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code))
    has = lambda start: any(name == start or name.startswith(start) for name in found)
    broken = [f"{symbol}: no {name} in the machine code" for name in kernel["required"] if not has(name)]
    exact = lambda start: any(name == start or name.startswith(start + ".") for name in found)
    broken += [f"{symbol}: {name} in the machine code" for name in never if exact(name)]
    return broken + [f"{symbol}: {name} in the machine code" for name in kernel["forbidden"] if has(name)]


class Nvrtc:
    """The tool of `kernel_pack`."""

    def scripts(self):
        return [__file__]

    def identity(self):
        return [compiler().version, OPTIONS]

    def compile(self, unit, target):
        source = source_of([(text["path"], text["text"]) for text in unit["texts"]])
        name, machine = unit["name"] + ".cu", target.replace("compute_", "sm_")
        cubin, log = compiler().compile(name, source, machine, unit["defines"])
        if cubin is None:
            return Result(broken=[f"{unit['name']}: does not compile:\n{log}"])
        spill_bytes = TEXT_SPILL_BYTES if target.startswith("compute_") else 0
        broken = gate(machine, unit["kernels"], log, disassemble(cubin), spill_bytes)
        image = cubin if machine == target else compiler().compile(name, source, target, unit["defines"])[0]
        return Result(image, broken, resources(log))


def check(arguments):
    source, defines = source_of(kernel_pack.read_texts(arguments.texts)), kernel_pack.define_pairs(arguments.define)
    cubin, log = compiler().compile("unit.cu", source, arguments.arch, defines)
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
    kernel_pack.add_build(commands, Nvrtc())
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
