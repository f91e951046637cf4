"""Reads clang's assembly for AMD GPUs: kernels with their metadata, loops, instruction mixes, and a report of it all."""

import collections
import dataclasses
import re

# Of a compute unit: SIMDs, 32-bit registers a lane, waves a SIMD, and LDS by target.
SIMDS, LANE_REGISTERS, REGISTER_GRANULE, MOST_WAVES = 4, 512, 8, 8
LDS_BYTES = {"gfx942": 65536, "gfx950": 163840}

CLASSES = [
    ("matrix", r"v_(s?mfma|smfmac)"),
    ("lds", r"ds_"),
    ("global", r"(global|flat)_"),
    ("buffer", r"buffer_"),
    ("scratch", r"scratch_"),
    ("transcendental", r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_"),
    ("accumulator move", r"v_accvgpr"),
    ("conversion", r"v_cvt"),
    ("vector", r"v_"),
    ("scalar memory", r"s_(load|buffer_load|store|dcache)"),
    ("wait", r"s_(waitcnt|barrier|sleep)"),
    ("branch", r"s_(branch|cbranch|setpc|swappc|call|endpgm)"),
    ("idle", r"s_nop"),
    ("scalar", r"s_"),
]
CLASS_OF = re.compile("|".join(f"(?P<c{number}>{pattern})" for number, (_, pattern) in enumerate(CLASSES)))


@dataclasses.dataclass
class Line:
    """A label or an instruction."""

    text: str
    label: str = ""

    @property
    def mnemonic(self):
        return self.text.split(None, 1)[0] if self.text else ""


@dataclasses.dataclass
class Kernel:
    symbol: str
    lines: list
    facts: dict


def class_of(mnemonic):
    found = CLASS_OF.match(mnemonic)
    return CLASSES[int(found.lastgroup[1:])][0] if found else "other"


def parse_code(text):
    """Labels and instructions of a piece of assembly."""
    lines = []
    for line in text.splitlines():
        line = line.split(";")[0].split("//")[0].strip()
        label = re.match(r"([.\w$]+):", line)
        if label:
            lines.append(Line("", label[1]))
        elif re.match(r"[a-z]+_", line):
            lines.append(Line(re.sub(r"\s+", " ", line)))
    return lines


def parse(assembly):
    """The kernels of an assembly file, with the facts of its metadata."""
    metadata = re.search(r"\.amdgpu_metadata\n(.*?)\.end_amdgpu_metadata", assembly, re.S)
    kernels = []
    for block in re.split(r"^  - (?=\.agpr_count)", metadata[1] if metadata else "", flags=re.M)[1:]:
        number = lambda key: int((re.search(rf"\.{key}:\s+(\d+)", block) or [0, 0])[1])
        symbol = re.search(r"^\s+\.name:\s+(\S+)", block, re.M)[1]
        code = re.search(rf"^{re.escape(symbol)}:(.*?)^\s*s_code_end|^{re.escape(symbol)}:(.*?)^\.Lfunc_end", assembly, re.S | re.M)
        facts = {
            # What the hardware allots: in the unified file of CDNA the count includes accumulators.
            "vgpr": number("vgpr_count"),
            "agpr": number("agpr_count"),
            "sgpr": number("sgpr_count"),
            "spills": number("vgpr_spill_count") + number("sgpr_spill_count"),
            "scratch": number("private_segment_fixed_size"),
            "lds": number("group_segment_fixed_size"),
            "dynamic_stack": ".uses_dynamic_stack: true" in block,
        }
        kernels.append(Kernel(symbol, parse_code(code[1] or code[2]) if code else [], facts))
    return kernels


def occupancy(target, registers, lds_bytes, threads):
    """(waves of a SIMD, what limits them) when workgroups of `threads` fill a compute unit."""
    granted = max(-(-registers // REGISTER_GRANULE) * REGISTER_GRANULE, REGISTER_GRANULE)
    by_registers = min(LANE_REGISTERS // granted, MOST_WAVES)
    waves = -(-threads // 64)
    groups_by_registers = by_registers * SIMDS // waves
    groups_by_lds = LDS_BYTES[target] // lds_bytes if lds_bytes else groups_by_registers
    groups = min(groups_by_registers, groups_by_lds)
    limit = "LDS" if groups_by_lds < groups_by_registers else "registers" if by_registers < MOST_WAVES else "waves"
    return groups * waves / SIMDS, limit


def blocks(lines):
    """(ranges [first, behind] of basic blocks, the blocks that may follow each)."""
    starts = {0} | {at for at, line in enumerate(lines) if line.label}
    branches = {at: re.match(r"s_c?branch\w*\s+(\S+)", line.text) for at, line in enumerate(lines)}
    ends = ("s_branch", "s_endpgm", "s_setpc")
    starts |= {at + 1 for at, line in enumerate(lines) if branches[at] or line.mnemonic.startswith(ends)}
    starts = sorted(at for at in starts if at < len(lines))
    ranges = list(zip(starts, starts[1:] + [len(lines)]))
    number = {first: block for block, (first, _) in enumerate(ranges)}
    labels = {line.label: number[at] for at, line in enumerate(lines) if line.label}
    following = []
    for block, (_, behind) in enumerate(ranges):
        last = lines[behind - 1]
        branch = branches[behind - 1]
        next_blocks = {labels[branch[1]]} if branch and branch[1] in labels else set()
        if not last.mnemonic.startswith(ends) and block + 1 < len(ranges):
            next_blocks.add(block + 1)
        following.append(next_blocks)
    return ranges, following


def dominators(following):
    """For each block the blocks that every path to it passes, as bits; all bits for one that no path reaches."""
    preceding = [[] for _ in following]
    for block, next_blocks in enumerate(following):
        for other in next_blocks:
            preceding[other].append(block)
    everything = (1 << len(following)) - 1
    found = [1] + [everything] * (len(following) - 1)
    changed = True
    while changed:
        changed = False
        for block in range(1, len(following)):
            common = everything
            for other in preceding[block]:
                common &= found[other]
            common |= 1 << block
            changed |= common != found[block]
            found[block] = common
    return found, preceding


def loops(lines):
    """The natural loops: for each block that a branch from a block behind it on every path goes back to, all blocks from
    which that branch is reached without passing it. As sets of line numbers."""
    if not lines:
        return []
    ranges, following = blocks(lines)
    dominating, preceding = dominators(following)
    bodies = {}
    for tail, next_blocks in enumerate(following):
        for head in next_blocks:
            if not dominating[tail] >> head & 1:
                continue
            body = bodies.setdefault(head, {head})
            open_blocks = [tail]
            while open_blocks:
                block = open_blocks.pop()
                if block not in body:
                    body.add(block)
                    open_blocks.extend(preceding[block])
    return [frozenset(at for block in body for at in range(*ranges[block])) for body in bodies.values()]


def main_loop(lines):
    """The lines of the innermost loop with most matrix instructions, of two such the more deeply nested one, then the one
    with less beside them; without matrix instructions the longest innermost loop; or nothing."""
    found = loops(lines)
    matrix = lambda body: sum(lines[at].mnemonic.startswith(("v_mfma", "v_smfmac")) for at in body)
    counts = {body: matrix(body) for body in found}
    has_matrix = any(counts.values())
    if has_matrix:
        found = [body for body in found if counts[body]]
    innermost = [body for body in found if not any(other < body for other in found)]
    if not innermost:
        return []
    depth = lambda body: sum(body < other for other in found)
    best = max(innermost, key=lambda body: (counts[body], depth(body), -len(body)) if has_matrix else (0, 0, len(body)))
    return [lines[at] for at in sorted(best)]


def mix(lines):
    counts = collections.Counter(class_of(line.mnemonic) for line in lines if line.text)
    order = [name for name, _ in CLASSES] + ["other"]
    return ", ".join(f"{name} {counts[name]}" for name in order if counts[name])


def matches(line, pattern):
    """Whether an instruction is what a gate names: the start of a mnemonic, or with a bracket or blank a piece of it."""
    if "(" in pattern or " " in pattern:
        return pattern in line.text
    return line.mnemonic.startswith(pattern)


def report(unit, target, kernels, image_bytes):
    """What a person wants to see of a unit; lines that start with `#` make the index."""
    parts = []
    wanted = {kernel["symbol"]: kernel for kernel in unit["kernels"]}
    for kernel in kernels:
        row, facts = wanted.get(kernel.symbol, {"threads": 256, "shared_bytes": 0}), kernel.facts
        lds = facts["lds"] + row["shared_bytes"]
        waves, limit = occupancy(target, facts["vgpr"], lds, row["threads"])
        loop = main_loop(kernel.lines)
        count = sum(bool(line.text) for line in kernel.lines)
        parts.append(
            f"# {kernel.symbol}: {facts['vgpr']} registers ({facts['agpr']} accumulators), {facts['sgpr']} scalar, "
            f"LDS {lds}, {waves:g} waves a SIMD ({limit}), {count} instructions, {sum(bool(l.text) for l in loop)} in its loop"
        )
        parts.append(f"threads {row['threads']}, LDS {facts['lds']} static + {row['shared_bytes']} dynamic")
        parts.append(f"all:  {mix(kernel.lines)}")
        if loop:
            parts.append(f"loop: {mix(loop)}")
            parts += [f"  {line.label}:" if line.label else f"      {line.text}" for line in loop]
        parts.append("")
    defines = " ".join(f"{name}={value}" for name, value in unit["defines"])
    texts = " ".join(text["path"] for text in unit["texts"])
    head = [f"{unit['name']} for {target}, {image_bytes} bytes", f"row:   {defines}", f"texts: {texts}", ""]
    return "\n".join(head + parts) + "\n"
