"""Compiles HIP C++ units to code objects for AMD GPUs with clang and lld, and holds the result to facts, without a GPU.

    amdgcn.py check [--arch gfx950] [--define NAME=VALUE]... [--require MNEMONIC]... [--out FILE.hsaco] [--asm FILE] TEXT...
        concatenates the texts, compiles them as one unit, prints each kernel's registers and every broken gate
    amdgcn.py build UNITS.json --cache FOLDER [--out FILE.pack] [--report FOLDER] [--filter TEXT] [--jobs N]
        compiles a family's units as `cargo xtask kernels` lists them, and writes the container that providers embed
    amdgcn.py waits FILE.s
        prints every use of a register whose load no wait has retired, and every barrier with writes to LDS under way
    amdgcn.py loop FILE.s
        prints the main loop of each kernel

clang is that of PyPI's ziglang, the linker the Rust toolchain's rust-lld.

Gates: no scratch, spills or dynamic stack; LDS as the planner counts it and within the chip; registers that allow the
planned waves; for each kernel and for its main loop the mnemonics that must and must not occur; every loaded register is
waited for before it is used, writes to LDS before a barrier; a loop that prefetches never waits for all of its loads.
"""

import argparse
import functools
import os
import subprocess
import tempfile

import amdgcn_listing
import amdgcn_wait
import kernel_pack
from kernel_pack import Result, source_of, write

ALWAYS_FORBIDDEN = ["scratch_"]
OPTIONS = ["-x", "hip", "--cuda-device-only", "-nogpuinc", "-nogpulib", "-nostdinc", "-O3", "-std=c++20"]
OPTIONS += ["-mcode-object-version=5", "-Wno-unused-command-line-argument"]
SCRIPTS = [__file__, amdgcn_listing.__file__, amdgcn_wait.__file__]


@functools.cache
def clang():
    """The command that starts clang, and its version."""
    try:
        import ziglang
    except ImportError:
        raise SystemExit("ziglang is not installed: pip install -r tools/python/requirements-kernels.txt") from None
    program = os.path.join(os.path.dirname(ziglang.__file__), "zig")
    version = subprocess.run([program, "version"], capture_output=True, text=True, check=True).stdout.strip()
    return [program, "clang"], version


@functools.cache
def linker():
    """The Rust toolchain's rust-lld."""
    root = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    hosts = os.path.join(root, "lib/rustlib")
    for host in sorted(os.listdir(hosts)):
        program = os.path.join(hosts, host, "bin/rust-lld")
        if os.path.exists(program):
            return program
    raise SystemExit(f"{hosts} holds no rust-lld")


def run(command):
    """Nothing, or what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr or f"{command[0]} failed with {done.returncode}"


def compile_unit(source, target, defines):
    """(code object or None, assembly, log)."""
    with tempfile.TemporaryDirectory() as folder:
        place = lambda name: os.path.join(folder, name)
        write(place("unit.hip"), source.encode())
        macros = [f"-D{name}={value}" for name, value in defines]
        log = run([*clang()[0], *OPTIONS, f"--offload-arch={target}", *macros, "-S", place("unit.hip"), "-o", place("unit.s")])
        if log:
            return None, "", log
        assemble = ["--target=amdgcn-amd-amdhsa", f"-mcpu={target}", "-c", place("unit.s"), "-o", place("unit.o")]
        link = ["-flavor", "gnu", "-shared", "--no-undefined", place("unit.o"), "-o", place("unit.hsaco")]
        log = run([*clang()[0], *assemble]) or run([linker(), *link])
        assembly = kernel_pack.read(place("unit.s")).decode()
        return None if log else kernel_pack.read(place("unit.hsaco")), assembly, log


def gate(target, wanted, kernels):
    """Every fact that does not hold, in words."""
    found = {kernel.symbol: kernel for kernel in kernels}
    broken = []
    for row in wanted:
        kernel = found.get(row["symbol"])
        if kernel is None:
            broken.append(f"{row['symbol']}: the unit defines no such kernel (found: {', '.join(found) or 'none'})")
            continue
        loop = amdgcn_listing.main_loop(kernel.lines)
        facts = resources_of(target, row, kernel) + mnemonics(row, kernel.lines, loop)
        facts += amdgcn_wait.check(kernel.lines) + amdgcn_wait.direct_loads(loop)
        if row.get("prefetches"):
            facts += amdgcn_wait.full_waits(loop)
        broken += [f"{row['symbol']}: {fact}" for fact in facts]
    return broken


def resources_of(target, row, kernel):
    facts, broken = kernel.facts, []
    if facts["scratch"] or facts["spills"] or facts["dynamic_stack"]:
        broken.append(f"{facts['scratch']} bytes of scratch, {facts['spills']} spills")
    lds, planned = facts["lds"] + row["shared_bytes"], row.get("static_shared_bytes")
    if planned is not None and facts["lds"] != planned:
        broken.append(f"{facts['lds']} bytes of LDS, the planner counts {planned}")
    if lds > amdgcn_listing.LDS_BYTES[target]:
        return broken + [f"{lds} bytes of LDS do not fit"]
    waves, limit = amdgcn_listing.occupancy(target, facts["vgpr"], lds, row["threads"])
    least = max(row.get("waves_per_simd") or 0, -(-row["threads"] // 256))
    if waves < row["threads"] / 256 or waves < (row.get("waves_per_simd") or 0):
        broken.append(f"{waves:g} waves a SIMD fit by {limit} ({facts['vgpr']} registers), {least} do not fit")
    return broken


def mnemonics(row, code, loop):
    has = lambda lines, name: any(amdgcn_listing.matches(line, name) for line in lines if line.text)
    broken = [f"no {name} in the machine code" for name in row["required"] if not has(code, name)]
    forbidden = [*ALWAYS_FORBIDDEN, *row["forbidden"]]
    broken += [f"{name} in the machine code" for name in forbidden if has(code, name)]
    broken += [f"no {name} in the main loop" for name in row.get("loop_required", []) if not has(loop, name)]
    return broken + [f"{name} in the main loop" for name in row.get("loop_forbidden", []) if has(loop, name)]


def resources(kernels):
    return {kernel.symbol: {"registers": kernel.facts["vgpr"], "static_shared": kernel.facts["lds"]} for kernel in kernels}


class Amdgcn:
    """The tool of `kernel_pack`."""

    def scripts(self):
        return SCRIPTS

    def identity(self):
        return [clang()[1], OPTIONS]

    def compile(self, unit, target):
        source = source_of([(text["path"], text["text"]) for text in unit["texts"]])
        image, assembly, log = compile_unit(source, target, unit["defines"])
        if image is None:
            return Result(broken=[f"{unit['name']}: does not compile:\n{log}"])
        kernels = amdgcn_listing.parse(assembly)
        text = amdgcn_listing.report(unit, target, kernels, len(image))
        return Result(image, gate(target, unit["kernels"], kernels), resources(kernels), text)


def check(arguments):
    source, defines = source_of(kernel_pack.read_texts(arguments.texts)), kernel_pack.define_pairs(arguments.define)
    image, assembly, log = compile_unit(source, arguments.arch, defines)
    if arguments.asm and assembly:
        write(arguments.asm, assembly.encode())
    if image is None:
        raise SystemExit(log)
    kernels = amdgcn_listing.parse(assembly)
    need = {"threads": arguments.threads, "shared_bytes": 0, "required": arguments.require, "forbidden": []}
    wanted = [{"symbol": kernel.symbol, **need} for kernel in kernels]
    unit = {"name": "unit", "texts": [{"path": path} for path in arguments.texts], "defines": defines, "kernels": wanted}
    text = amdgcn_listing.report(unit, arguments.arch, kernels, len(image))
    print(text if arguments.verbose else "\n".join(line for line in text.splitlines() if line.startswith("#")))
    if arguments.out:
        write(arguments.out, image)
    broken = gate(arguments.arch, wanted, kernels)
    if broken:
        raise SystemExit("\n".join(broken))


def listed(path):
    """The kernels of a listing."""
    kernels = amdgcn_listing.parse(kernel_pack.read(path).decode())
    if not kernels:
        raise SystemExit("the listing holds no kernel")
    return kernels


def waits(arguments):
    kernels = listed(arguments.listing)
    broken = [f"{kernel.symbol}: {fact}" for kernel in kernels for fact in amdgcn_wait.check(kernel.lines)]
    if broken:
        raise SystemExit("\n".join(broken))


def loop(arguments):
    for kernel in listed(arguments.listing):
        code = [line.text for line in amdgcn_listing.main_loop(kernel.lines) if line.text]
        print("\n".join([f"{kernel.symbol}:", *(f"    {text}" for text in code)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("check")
    one.add_argument("--arch", default="gfx950", choices=sorted(amdgcn_listing.LDS_BYTES))
    one.add_argument("--define", "-D", action="append", default=[])
    one.add_argument("--require", action="append", default=[])
    one.add_argument("--threads", type=int, default=256)
    one.add_argument("--out")
    one.add_argument("--asm")
    one.add_argument("--verbose", "-v", action="store_true", help="with mixes and main loops")
    one.add_argument("texts", nargs="+")
    one.set_defaults(run=check)
    kernel_pack.add_build(commands, Amdgcn())
    for name, run_on in [("waits", waits), ("loop", loop)]:
        command = commands.add_parser(name)
        command.add_argument("listing")
        command.set_defaults(run=run_on)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
