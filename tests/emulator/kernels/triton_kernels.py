"""Compiles kernels with Triton, a compiler meant for the hardware, for tests that compare it with the emulator.

Usage: triton_kernels.py FOLDER. Writes NAME-TARGET.hsaco and NAME-TARGET.txt (symbol, bytes of LDS, waves of 64).
Needs triton==3.9.0; neither a GPU nor torch.
"""

import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def matmul(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C [m, n] = A [m, k] B [k, n], all bf16."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        x = tl.load(a + rows[:, None] * k + (start + inner)[None, :])
        y = tl.load(b + (start + inner)[:, None] * n + columns[None, :])
        total = tl.dot(x, y, total)
    tl.store(c + rows[:, None] * n + columns[None, :], total.to(tl.bfloat16))


@triton.jit
def softmax(x, y, n, B: tl.constexpr):
    """Softmax over rows of n <= B bf16 values."""
    row, at = tl.program_id(0), tl.arange(0, B)
    value = tl.load(x + row * n + at, mask=at < n, other=-float("inf")).to(tl.float32)
    power = tl.exp(value - tl.max(value, 0))
    tl.store(y + row * n + at, (power / tl.sum(power, 0)).to(tl.bfloat16), mask=at < n)


@triton.jit
def attention(q, k, v, o, n, scale, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    """Attention over n keys with a head of D; the first product's result is an operand of the second."""
    rows, depth = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D)
    query = tl.load(q + rows[:, None] * D + depth[None, :])
    largest = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    out = tl.zeros((BM, D), tl.float32)
    for start in range(0, n, BN):
        keys = start + tl.arange(0, BN)
        score = tl.dot(query, tl.load(k + keys[None, :] * D + depth[:, None])) * scale
        top = tl.maximum(largest, tl.max(score, 1))
        weight = tl.exp2(score - top[:, None])
        keep = tl.exp2(largest - top)
        total = total * keep + tl.sum(weight, 1)
        value = tl.load(v + keys[:, None] * D + depth[None, :])
        out = tl.dot(weight.to(tl.bfloat16), value, out * keep[:, None])
        largest = top
    tl.store(o + rows[:, None] * D + depth[None, :], (out / total[:, None]).to(tl.bfloat16))


@triton.jit
def scaled(a, b, sa, sb, c, n, k, AF: tl.constexpr, BF: tl.constexpr, AP: tl.constexpr, BP: tl.constexpr):
    """C [64, 64] = A B^T with block scales along k; AF and BF are formats of which AP and BP values share a byte."""
    rows, inner_a, inner_b, blocks = tl.arange(0, 64), tl.arange(0, 128 // AP), tl.arange(0, 128 // BP), tl.arange(0, 4)
    total = tl.zeros((64, 64), tl.float32)
    for start in range(0, k, 128):
        x = tl.load(a + rows[:, None] * (k // AP) + (start // AP + inner_a)[None, :])
        y = tl.load(b + rows[None, :] * (k // BP) + (start // BP + inner_b)[:, None])
        left = tl.load(sa + rows[:, None] * (k // 32) + (start // 32 + blocks)[None, :])
        right = tl.load(sb + rows[:, None] * (k // 32) + (start // 32 + blocks)[None, :])
        total = tl.dot_scaled(x, left, AF, y, right, BF, total)
    tl.store(c + rows[:, None] * n + rows[None, :], total)


def compile_kernel(folder, target, name, function, types, constants, **options):
    """Compiles one kernel; pointers and sizes are multiples of 16."""
    signature = {**types, **{constant: "constexpr" for constant in constants}}
    aligned = [index for index, kind in enumerate(types.values()) if kind != "fp32"]
    attributes = {(index,): [["tt.divisibility", 16]] for index in aligned}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    kernel = triton.compile(source, target=GPUTarget("hip", target, 64), options=options)
    (folder / f"{name}-{target}.hsaco").write_bytes(kernel.asm["hsaco"])
    about = kernel.metadata
    (folder / f"{name}-{target}.txt").write_text(f"{about.name} {about.shared} {about.num_warps}\n")


def main():
    folder = Path(sys.argv[1])
    for target in ("gfx942", "gfx950"):
        sizes = {"m": "i32", "n": "i32", "k": "i32"}
        compile_kernel(folder, target, "matmul", matmul, {"a": "*bf16", "b": "*bf16", "c": "*bf16", **sizes},
                       {"BM": 128, "BN": 128, "BK": 64}, num_warps=8, num_stages=2)
        compile_kernel(folder, target, "softmax", softmax, {"x": "*bf16", "y": "*bf16", "n": "i32"}, {"B": 4096}, num_warps=4)
        tensors = {"q": "*bf16", "k": "*bf16", "v": "*bf16", "o": "*bf16", "n": "i32", "scale": "fp32"}
        compile_kernel(folder, target, "attention", attention, tensors, {"BM": 128, "BN": 64, "D": 64}, num_warps=4)
    formats = {"e2m1": 2, "e4m3": 1, "e5m2": 1}
    for left, right in (("e2m1", "e2m1"), ("e4m3", "e5m2"), ("e4m3", "e2m1"), ("e2m1", "e4m3")):
        types = {"a": "*u8", "b": "*u8", "sa": "*u8", "sb": "*u8", "c": "*fp32", "n": "i32", "k": "i32"}
        constants = {"AF": left, "BF": right, "AP": formats[left], "BP": formats[right]}
        compile_kernel(folder, "gfx950", f"{left}-{right}", scaled, types, constants, num_warps=4)


if __name__ == "__main__":
    main()
