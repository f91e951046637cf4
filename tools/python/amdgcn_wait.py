"""Checks wait counts in listings for CDNA: what a load writes is not touched before a wait that retires the load.

Counters follow the CDNA3 and CDNA4 instruction sets: vector memory retires in order under vmcnt, LDS in order under
lgkmcnt, scalar loads only at lgkmcnt(0). Flat accesses count under both and are taken for global ones. The check follows
every path of a kernel; where paths meet, the youngest access counts. A barrier hands LDS to other waves: no write of the
wave may be under way there. What direct-to-LDS loads write has no register: the loop that issues them must wait for some of
them ahead of a barrier, or of the wave's own reads.
"""

import functools
import re

REGISTER = re.compile(r"\b([vas])(\d+)\b|\b([vas])\[(\d+):(\d+)\]|\b(vcc)(_lo|_hi)?\b")
VECTOR, LDS, SCALAR = "vector memory", "LDS", "scalar memory"
# Stands for all that the wave wrote to LDS, as a register that writes load and barriers touch.
WRITTEN = frozenset(["LDS"])


def registers(text):
    found = set()
    for one, number, many, first, last, vcc, half in REGISTER.findall(text):
        if one:
            found.add(one + number)
        elif many:
            found.update(f"{many}{number}" for number in range(int(first), int(last) + 1))
        elif vcc:
            found.update([vcc + half] if half else ["vcc_lo", "vcc_hi"])
    return frozenset(found)


@functools.lru_cache(maxsize=1 << 16)
def decode(text):
    """(kind of memory access or None, registers it writes later, registers it touches now)."""
    mnemonic, _, operands = text.partition(" ")
    if mnemonic.startswith("s_cbranch_vcc"):
        return None, frozenset(), frozenset(["vcc_lo", "vcc_hi"])
    kind = None
    if mnemonic.startswith(("global_", "buffer_", "scratch_", "flat_")) and not mnemonic.startswith(("buffer_wbl2", "buffer_inv")):
        kind = VECTOR
    elif mnemonic.startswith("ds_") and mnemonic != "ds_nop":
        kind = LDS
    elif mnemonic.startswith(("s_load", "s_buffer_load", "s_memtime", "s_memrealtime", "s_scratch_load")):
        kind = SCALAR
    if kind is None:
        return None, frozenset(), WRITTEN if mnemonic == "s_barrier" else registers(operands)
    writes_lds = kind == LDS and not re.match(r"ds_(read|permute|bpermute|swizzle|gws)", mnemonic)
    written = WRITTEN if writes_lds else frozenset()
    is_direct = "_lds_" in mnemonic or re.search(r"\blds\b", operands)
    is_load = re.search(r"_(load|read)|_rtn|permute|swizzle|^s_|append|consume", mnemonic)
    is_atomic = "_atomic_" in mnemonic and re.search(r"\bsc0\b", operands)
    if (is_load or is_atomic) and not is_direct:
        target, _, rest = operands.partition(",")
        return kind, registers(target) | written, registers(rest)
    return kind, written, registers(operands)


def is_direct_to_lds(text):
    return text.startswith(("global_load_lds", "buffer_load")) and re.search(r"_lds_|\blds\b", text) is not None


def waited(text):
    """{counter: number} of an s_waitcnt."""
    found = {name: int(number) for name, number in re.findall(r"(vmcnt|lgkmcnt)\((\d+)\)", text)}
    return found or ({"vmcnt": 0, "lgkmcnt": 0} if re.fullmatch(r"s_waitcnt 0(x0+)?", text) else {})


class Pending:
    """Registers whose load may be under way, and writes to LDS, by kind, with the number of later accesses that retire behind it."""

    def __init__(self, ages=None):
        self.counts = {VECTOR: 0, LDS: 0}
        # Place of the load among the accesses of its kind: negative for what was issued before this block.
        self.places = {kind: {} for kind in (VECTOR, LDS, SCALAR)}
        for (kind, register), age in (ages or {}).items():
            self.places[kind][register] = -1 - age

    def ages(self):
        """What another block starts from."""
        found = {}
        for kind, places in self.places.items():
            for register, place in places.items():
                found[kind, register] = min(self.counts.get(kind, 0) - 1 - place, 64) if kind in self.counts else 0
        return found

    def wait(self, counts):
        for kind, counter in ((VECTOR, "vmcnt"), (LDS, "lgkmcnt")):
            if counter in counts:
                last = self.counts[kind] - 1 - counts[counter]
                self.places[kind] = {r: place for r, place in self.places[kind].items() if place > last}
        if counts.get("lgkmcnt") == 0:
            self.places[SCALAR] = {}

    def clashes(self, kind, targets, touched):
        """Registers that must not be touched yet."""
        for other, places in self.places.items():
            if places:
                # Loads of one kind that retire in order may write the same register.
                early = touched if other == kind and kind in self.counts else touched | targets
                yield from (register for register in early if register in places)

    def issue(self, kind, targets):
        for register in targets:
            self.places[kind][register] = self.counts.get(kind, 0)
        if kind in self.counts:
            self.counts[kind] += 1


def step(pending, text):
    """Executes one instruction; the registers it touches too early."""
    if text.startswith("s_waitcnt"):
        pending.wait(waited(text))
        return []
    if text.startswith(("s_swappc", "s_setpc")):
        # A function waits for everything first, and has waited when it returns.
        pending.wait({"vmcnt": 0, "lgkmcnt": 0})
        return []
    kind, targets, touched = decode(text)
    early = list(pending.clashes(kind, targets, touched))
    if kind:
        pending.issue(kind, targets)
    return early


def blocks_of(lines):
    """[(instructions, numbers of the blocks that may follow)]."""
    starts, places = [0], {}
    for at, line in enumerate(lines):
        if line.label or (at and lines[at - 1].text.startswith(("s_branch", "s_cbranch", "s_endpgm", "s_setpc"))):
            starts.append(at)
    starts = sorted(set(starts))
    for number, start in enumerate(starts):
        at = start
        while at < len(lines) and lines[at].label:
            places[lines[at].label] = number
            at += 1
    # Several labels in a row stand at the last one's block.
    blocks = []
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(lines)
        code = [line.text for line in lines[start:end] if line.text]
        last = code[-1] if code else ""
        follow = [places[name] for name in re.findall(r"^s_c?branch\w* (\S+)", last) if name in places]
        if not last.startswith(("s_branch", "s_endpgm", "s_setpc")) and number + 1 < len(starts):
            follow.append(number + 1)
        blocks.append((code, follow))
    return blocks


def told(text, early):
    if "LDS" in early:
        return f"`{text}` before the wait for writes to LDS"
    return f"`{text}` touches {', '.join(sorted(early))} before the wait for its load"


def check(lines):
    """Every use of a register whose load no wait has retired, and every barrier ahead of the wait for a write to LDS, on any
    path."""
    blocks = blocks_of(lines)
    inputs, work, found = {0: {}}, [0], {}
    while work:
        number = work.pop()
        pending = Pending(inputs[number])
        code, follow = blocks[number]
        for at, text in enumerate(code):
            early = step(pending, text)
            if early:
                found[number, at] = told(text, early)
        ages = pending.ages()
        for target in follow:
            known = inputs.get(target)
            merged = dict(known or {})
            for key, age in ages.items():
                merged[key] = min(age, merged.get(key, age))
            if known is None or merged != known:
                inputs[target] = merged
                work.append(target)
    return [found[key] for key in sorted(found)]


def direct_loads(loop):
    """A loop that loads straight to LDS without waiting for any of these loads before a barrier."""
    code = [line.text for line in loop if line.text]
    if not any(is_direct_to_lds(text) for text in code):
        return []
    waits = [at for at, text in enumerate(code) if "vmcnt" in waited(text)]
    # Waves that share nothing read without a barrier what they loaded.
    reader = "s_barrier" if any("s_barrier" in text for text in code) else "ds_read"
    if any(reader in code[at % len(code)] for wait in waits[:1] for at in range(wait, wait + len(code))):
        return []
    return ["direct-to-LDS loads in the main loop, and no wait for them ahead of a barrier or a read"]


def full_waits(loop):
    """Waits for every load in a loop that loads ahead."""
    return [f"`{line.text}` in a main loop that prefetches" for line in loop if waited(line.text).get("vmcnt") == 0]
