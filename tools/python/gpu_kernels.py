"""Runs device kernels on an NVIDIA GPU from carried machine code: checks them against float64, then times them.

    gpu_kernels.py --pack PACK|FOLDER [--cases CASES.jsonl] [--filter TEXT] [--seconds 120] [--no-check] [--no-time]

A folder of packs gives the one for the device, else the portable sm80. The cases are what
`cargo run -p tenon-kernels --example gpu_cases` prints for the family; they lie beside the pack with the ending .jsonl. Checks poison outputs with NaN and look for writes behind their
end. Times are medians of captured graphs of launches; the share is that of a copy's bandwidth, measured in the same run.
Needs numpy and the driver, nothing else. Exits 1 when a check fails.
"""

import argparse
import ctypes
import json
import os
import statistics
import struct
import sys
import time

import numpy

# ONNX numbers of types: (name, bytes).
TYPES = {1: ("f32", 4), 2: ("u8", 1), 7: ("i64", 8), 10: ("f16", 2), 11: ("f64", 8), 16: ("bf16", 2)}
TOLERANCE = {"f32": 2e-5, "f16": 2e-3, "bf16": 1.6e-2, "f64": 1e-12}
GUARD = 256


def unpack(stored, size):
    """The `size` bytes of a zstd frame, by the system's library: the machine may have no Python package for it."""
    zstd, image = ctypes.CDLL("libzstd.so.1"), ctypes.create_string_buffer(size)
    zstd.ZSTD_decompress.restype = ctypes.c_size_t
    done = zstd.ZSTD_decompress(image, ctypes.c_size_t(size), stored, ctypes.c_size_t(len(stored)))
    if done != size:
        raise RuntimeError(f"a unit of {size} bytes does not unpack")
    return image.raw + b"\0"  # Text for the driver's own compiler ends in one; images do not mind.


class Driver:
    """The few calls of the CUDA driver that are needed."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")
        self.call("cuInit", 0)
        self.device, context, self.stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        name = ctypes.create_string_buffer(100)
        self.call("cuDeviceGetName", name, 100, self.device)
        self.name = name.value.decode()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(self.stream), 1)

    def pack(self, path):
        """The pack itself, or of a folder the one for this device."""
        if not os.path.isdir(path):
            return path
        numbers = (ctypes.c_int(), ctypes.c_int())
        for number, attribute in zip(numbers, (75, 76)):  # The compute capability: major, minor.
            self.call("cuDeviceGetAttribute", ctypes.byref(number), attribute, self.device)
        own = os.path.join(path, f"sm{numbers[0].value}{numbers[1].value}.pack")
        return own if os.path.exists(own) else os.path.join(path, "sm80.pack")

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(status, ctypes.byref(text))
            raise RuntimeError(f"{name}: {text.value.decode() if text.value else status}")

    def allocate(self, size):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 16)))
        return address.value

    def free(self, address):
        self.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address, data):
        data = numpy.ascontiguousarray(data)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(data.nbytes))
        # The call may return before a small copy has arrived, and the stream of the kernels does not wait for it.
        self.call("cuStreamSynchronize", None)

    def download(self, address, size):
        data = numpy.empty(size, numpy.uint8)
        self.call("cuMemcpyDtoH_v2", data.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address), ctypes.c_size_t(size))
        return data

    def copy(self, to, source, size):
        self.call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size), self.stream)

    def fill(self, address, byte, size):
        self.call("cuMemsetD8Async", ctypes.c_uint64(address), ctypes.c_ubyte(byte), ctypes.c_size_t(size), self.stream)

    def synchronize(self):
        self.call("cuStreamSynchronize", self.stream)

    def functions(self, pack):
        """{symbol: function} of a kernel pack, whose units are loaded at once."""
        with open(pack, "rb") as file:
            file.readline()
            length = int(file.readline())
            manifest, blobs = file.read(length).decode(), file.read()
        found, module, offset = {}, None, 0
        for line in manifest.splitlines():
            key, _, value = line.partition(" = ")
            if key == "offset_bytes":
                offset = int(value)
            elif key == "stored_bytes":
                stored = blobs[offset : offset + int(value)]
            elif key == "raw_bytes":
                image = unpack(stored, int(value))
                module = ctypes.c_void_p()
                self.call("cuModuleLoadData", ctypes.byref(module), image)
            elif key == "symbol":
                function = ctypes.c_void_p()
                symbol = value.strip('"')
                self.call("cuModuleGetFunction", ctypes.byref(function), module, symbol.encode())
                found[symbol] = function
        return found

    def measure(self, work, repeats, rounds=7):
        """Median microseconds of one call of `work`, captured `repeats` times in a graph."""
        graph, runnable, marks = ctypes.c_void_p(), ctypes.c_void_p(), (ctypes.c_void_p * 2)()
        self.call("cuStreamBeginCapture_v2", self.stream, 0)
        for _ in range(repeats):
            work()
        self.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        self.call("cuGraphInstantiateWithFlags", ctypes.byref(runnable), graph, ctypes.c_uint64(0))
        for i in range(2):
            self.call("cuEventCreate", ctypes.byref(marks, i * 8), 0)
        times = []
        for _ in range(rounds + 1):
            self.call("cuEventRecord", ctypes.c_void_p(marks[0]), self.stream)
            self.call("cuGraphLaunch", runnable, self.stream)
            self.call("cuEventRecord", ctypes.c_void_p(marks[1]), self.stream)
            self.synchronize()
            elapsed = ctypes.c_float()
            self.call("cuEventElapsedTime", ctypes.byref(elapsed), ctypes.c_void_p(marks[0]), ctypes.c_void_p(marks[1]))
            times.append(elapsed.value * 1e3 / repeats)
        self.call("cuGraphExecDestroy", runnable)
        self.call("cuGraphDestroy", graph)
        for mark in marks:
            self.call("cuEventDestroy_v2", ctypes.c_void_p(mark))
        return statistics.median(times[1:])


class Config(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    ]


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_uint * 16)]


CLUSTER_DIMENSION = 4
PROGRAMMATIC_SERIALIZATION = 6


class Launch:
    """A kernel start with its arguments bound to addresses."""

    def __init__(self, driver, functions, row, addresses, workspace):
        self.driver, self.function = driver, functions[row["symbol"]]
        self.values = [ctypes.create_string_buffer(self.bytes_of(arg, addresses, workspace)) for arg in row["args"]]
        self.arguments = (ctypes.c_void_p * len(self.values))(*[ctypes.addressof(value) for value in self.values])
        attributes = []
        if row["cluster"] != [1, 1, 1]:
            attributes.append(Attribute(CLUSTER_DIMENSION, 0, (ctypes.c_uint * 16)(*row["cluster"])))
        if row["dependent"]:
            attributes.append(Attribute(PROGRAMMATIC_SERIALIZATION, 0, (ctypes.c_uint * 16)(1)))
        self.attributes = (Attribute * len(attributes))(*attributes)
        self.config = Config(
            (ctypes.c_uint * 3)(*row["grid"]),
            (ctypes.c_uint * 3)(*row["block"]),
            row["shared"],
            driver.stream.value,
            ctypes.addressof(self.attributes),
            len(attributes),
        )

    @staticmethod
    def bytes_of(arg, addresses, workspace):
        if arg[0] == "p":
            address = addresses[arg[1]]
            return struct.pack("<Q", address + arg[2] if address else 0)
        if arg[0] == "w":
            return struct.pack("<Q", workspace + arg[1])
        return bytes.fromhex(arg[1])

    def __call__(self):
        self.driver.call("cuLaunchKernelEx", ctypes.byref(self.config), self.function, self.arguments, None)


# ---- Numbers -----------------------------------------------------------------------------------------------------


def encode(values, dtype):
    if dtype == "bf16":
        bits = values.astype(numpy.float32).view(numpy.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16)
    return values.astype({"f32": numpy.float32, "f16": numpy.float16, "f64": numpy.float64}[dtype])


def decode(data, dtype):
    if dtype == "bf16":
        return (data.view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32).astype(numpy.float64)
    kinds = {"f32": numpy.float32, "f16": numpy.float16, "f64": numpy.float64, "u8": numpy.uint8, "i64": numpy.int64}
    return data.view(kinds[dtype]).astype(numpy.float64)


def sample(generator, dtype, count, what):
    """Stored elements: normally distributed numbers, any bytes, or indices of rows."""
    if dtype == "i64":
        return generator.permutation(what["dims"][0])[:count].astype(numpy.int64)
    if dtype == "u8":
        return generator.integers(0, 256, count, numpy.uint8)
    return encode(generator.standard_normal(count), dtype)


# ---- References --------------------------------------------------------------------------------------------------


def erf(x):
    from math import erf as one

    return numpy.vectorize(one)(x) if x.size else x


def map_reference(what, operands):
    dims, shape = what["dims"], what["shape"]
    rest = {"row": (1, dims[1]), "column": (dims[0], 1)}.get(shape, tuple(dims))
    a, *others = [x.reshape(dims if k == 0 else rest) for k, x in enumerate(operands)]
    name = what["op"]
    if name == "copy":
        return a
    if name == "relu":
        return numpy.maximum(a, 0)
    if name == "gelu":
        return 0.5 * a * (1 + erf(a / numpy.sqrt(2)))
    if name == "exp":
        return numpy.exp(a)
    if name == "add":
        return a + others[0]
    if name == "divide":
        return a / others[0]
    if name == "swiglu":
        return a / (1 + numpy.exp(-a)) * others[0]
    if name == "scale_shift":
        return a * others[0] + others[1]
    return numpy.maximum((a - others[0]) * 2 + others[1], 0)


def softmax_reference(what, operands):
    x = operands[0].reshape(what["dims"])
    x = x - x.max(1, keepdims=True)
    total = numpy.exp(x).sum(1, keepdims=True)
    return x - numpy.log(total) if what["log"] else numpy.exp(x) / total


def norm_reference(what, operands):
    """The result and, where operand 1 is given, the sum."""
    rows, columns = what["dims"]
    period, group, span = what["channels"]
    x, skip, bias, gamma, beta = operands
    x = x.reshape(rows, columns)
    x = x + skip.reshape(rows, columns) if skip.size else x
    x = x + bias if bias.size else x
    total = x
    x = x - x.mean(1, keepdims=True) if what["centred"] else x
    x = x / numpy.sqrt((x * x).mean(1, keepdims=True) + 1e-5)
    channel = (numpy.arange(rows)[:, None] % period) * group + numpy.arange(columns)[None] // span
    x = x * gamma[channel]
    return (x + beta[channel] if beta.size else x), total


def reduce_reference(what, operands):
    x = operands[0].reshape(what["dims"])
    kind = what["kind"]
    if kind == "max":
        return x.max(1)
    if kind == "l2":
        return numpy.sqrt((x * x).sum(1))
    if kind == "log_sum_exp":
        top = x.max(1, keepdims=True)
        return numpy.log(numpy.exp(x - top).sum(1)) + top[:, 0]
    return x.mean(1) if kind == "mean" else x.sum(1)


def conv_reference(what, operands):
    batch, groups, inner, outer, height, width, kernel, stride, pad = what["dims"]
    x, w, bias, residual = operands
    x = numpy.pad(x.reshape(batch, groups, inner, height, width), [(0, 0)] * 3 + [(pad, pad)] * 2)
    w = w.reshape(groups, outer, inner, kernel, kernel)
    out = lambda size: (size + 2 * pad - kernel) // stride + 1
    y = numpy.zeros((batch, groups, outer, out(height), out(width)))
    for i in range(kernel):
        for j in range(kernel):
            part = x[..., i : i + stride * (y.shape[3] - 1) + 1 : stride, j : j + stride * (y.shape[4] - 1) + 1 : stride]
            y += numpy.einsum("bgchw,goc->bgohw", part, w[..., i, j], optimize=True)
    y = y + bias.reshape(1, groups, outer, 1, 1)
    y = y + residual.reshape(y.shape) if residual.size else y
    return numpy.maximum(y, 0)


def patches_reference(what, operands):
    batch, _, inner, _, height, width, kernel, stride, pad = what["dims"]
    x = numpy.pad(operands[0].reshape(batch, inner, height, width), [(0, 0)] * 2 + [(pad, pad)] * 2)
    windows = numpy.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    return windows.transpose(0, 2, 3, 1, 4, 5)


def spectra_reference(what, operands):
    frames, size, step = what["dims"]
    windows = numpy.lib.stride_tricks.sliding_window_view(operands[0], size)[::step][:frames]
    bins = numpy.fft.rfft(windows * operands[1], axis=1)
    return numpy.stack([bins.real, bins.imag], 2)


def codes_reference(what, operands):
    """Quotients as floats round them; a quotient that is no number becomes 0."""
    x, scale = operands[0].astype(numpy.float32).reshape(what["dims"]), operands[1].astype(numpy.float32)
    with numpy.errstate(all="ignore"):
        codes = numpy.rint(x / scale[:, None]).astype(numpy.float64) + operands[2][:, None]
    return numpy.nan_to_num(numpy.clip(codes, 0, 255), nan=0.0)


def reference(what, operands):
    """What each output should be, in float64; `operands` are the inputs in order."""
    name, dims = what["op"], what["dims"]
    if name == "softmax":
        return [softmax_reference(what, operands)]
    if name == "norm":
        return list(norm_reference(what, operands))
    if name == "reduce":
        return [reduce_reference(what, operands)]
    if name == "conv":
        return [conv_reference(what, operands)]
    if name == "patches":
        return [patches_reference(what, operands)]
    if name == "argmax":
        return [operands[0].reshape(dims).argmax(1)]
    if name == "transpose":
        return [operands[0].reshape(dims).transpose(what["order"])]
    if name == "slice":
        return [operands[0].reshape(dims)[:, dims[1] // 4 : dims[1] // 4 + dims[1] // 2]]
    if name == "spectra":
        return [spectra_reference(what, operands)]
    if name == "scan":
        return [operands[0].reshape(dims).cumsum(1)]
    if name == "codes":
        return [codes_reference(what, operands)]
    if name == "gather":
        return [operands[0].reshape(dims)[operands[1].astype(numpy.int64)]]
    return [map_reference(what, operands)]


EXACT = {"transpose", "slice", "gather", "argmax", "patches", "codes"}


def outputs_of(case):
    """How many of the operands, counted from the front, are written."""
    return 4 if case["what"]["op"] == "norm" else 1


# ---- Running -----------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, options):
        self.driver = Driver()
        self.pack = self.driver.pack(options.pack)
        self.functions = self.driver.functions(self.pack)
        self.generator = numpy.random.default_rng()
        self.failed = 0

    def bind(self, case, addresses, workspace):
        return [Launch(self.driver, self.functions, row, addresses, workspace) for row in case["launches"]]

    def check(self, case):
        driver, written = self.driver, outputs_of(case)
        addresses, stored = [], []
        for index, (number, count) in enumerate(case["operands"]):
            dtype, size = TYPES[number]
            if count == 0:
                addresses.append(0)
                stored.append(numpy.empty(0))
                continue
            addresses.append(driver.allocate(count * size + GUARD))
            if index < written:
                driver.fill(addresses[-1], 0xFF, count * size + GUARD)
                stored.append(None)
            else:
                data = sample(self.generator, dtype, count, case["what"])
                driver.upload(addresses[-1], data)
                stored.append(decode(data.view(numpy.uint8), dtype))
        workspace = driver.allocate(case["workspace"]) if case["workspace"] else 0
        if case["zeroed"]:
            driver.fill(workspace, 0, case["zeroed"])
        for launch in self.bind(case, addresses, workspace):
            launch()
        driver.synchronize()
        expected = reference(case["what"], stored[written:])
        worst = 0.0
        for index, wanted in enumerate(expected):
            number, count = case["operands"][index]
            if count == 0:
                continue
            dtype, size = TYPES[number]
            data = driver.download(addresses[index], count * size + GUARD)
            if (data[count * size :] != 0xFF).any():
                worst = float("inf")
            got, wanted = decode(data[: count * size].copy(), dtype), numpy.asarray(wanted, numpy.float64).ravel()
            least = 2.0**-14 if dtype == "f16" else 1e-30  # below it bits are lost
            scale = numpy.maximum(numpy.abs(wanted), numpy.sqrt((wanted**2).mean()) + least)
            error = numpy.abs(got - wanted) / scale
            limit = 0.0 if case["what"]["op"] in EXACT else TOLERANCE[dtype]
            has_overflown = (numpy.abs(wanted) > 65504) & (dtype == "f16") & (got == numpy.copysign(numpy.inf, wanted))
            error = numpy.where(numpy.isfinite(got), error, numpy.where(has_overflown, 0, numpy.inf)).max()
            worst = max(worst, float(error) / limit if limit else (0.0 if error == 0 else float("inf")))
        for address in [*addresses, workspace]:
            if address:
                driver.free(address)
        if not worst <= 1.0:
            self.failed += 1
            symbols = [row["symbol"] for row in case["launches"]]
            print(f"WRONG {case['name']}: {worst:.3g} of the tolerance ({', '.join(symbols)})", flush=True)
        return worst

    def pool(self):
        """Random elements of each type on the device, from which large operands are filled."""
        blocks = {}
        for dtype, _ in TYPES.values():
            if dtype != "i64":
                data = sample(self.generator, dtype, 1 << 22, {})
                blocks[dtype] = (self.driver.allocate(data.nbytes), data.nbytes)
                self.driver.upload(blocks[dtype][0], data)
        return blocks

    def time(self, case, blocks, arena):
        driver, addresses, at = self.driver, [], arena
        for number, count in case["operands"]:
            dtype, size = TYPES[number]
            addresses.append(at if count else 0)
            if dtype == "i64" and count and case["what"]["op"] == "gather":
                driver.upload(at, sample(self.generator, dtype, count, case["what"]))
            elif count and dtype in blocks:
                source, length = blocks[dtype]
                for offset in range(0, count * size, length):
                    driver.copy(at + offset, source, min(length, count * size - offset))
            at += (count * size + 511) // 256 * 256
        launches = self.bind(case, addresses, at)
        if case["zeroed"]:
            driver.fill(at, 0, case["zeroed"])

        def work():
            for launch in launches:
                launch()

        guess = case["bytes"] / 2.5e6 + case["flops"] / 2e7 + 3
        return driver.measure(work, max(2, min(20, int(1500 / guess))), rounds=5)

    def copy_rate(self, arena, size):
        microseconds = self.driver.measure(lambda: self.driver.copy(arena + size, arena, size), 4)
        return 2 * size / microseconds / 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", required=True)
    parser.add_argument("--cases")
    parser.add_argument("--filter", default="")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--no-time", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    bench = Bench(options)
    with open(options.cases or bench.pack.removesuffix(".pack") + ".jsonl") as file:
        cases = [case for case in map(json.loads, file) if options.filter in case["name"]]
    print(bench.driver.name)
    if not options.no_check:
        checked = [case for case in cases if not case["timed"]]
        worst = max((bench.check(case) for case in checked), default=0)
        print(f"checked {len(checked)} cases against float64: {bench.failed} wrong, worst {worst:.2f} of the tolerance")
    if not options.no_time:
        timed = [case for case in cases if case["timed"]]
        arena, blocks = bench.driver.allocate(3 << 30), bench.pool()
        for _ in range(3):
            rate = bench.copy_rate(arena, 256 << 20)
        print(f"copy of 256 MiB: {rate:.0f} GB/s")
        print(f"{'case':<52} {'us':>9} {'GB/s':>7} {'of copy':>8} {'TFLOP/s':>8}  kernels")
        for case in timed:
            if time.monotonic() > end:
                print("time ran out")
                break
            microseconds = bench.time(case, blocks, arena)
            moved = case["bytes"] / microseconds / 1e3
            flops = case["flops"] / microseconds / 1e6
            symbols = "+".join(dict.fromkeys(row["symbol"] for row in case["launches"]))
            print(
                f"{case['name']:<52} {microseconds:>9.1f} {moved:>7.0f} {moved / rate:>8.2f} {flops:>8.2f}  {symbols}",
                flush=True,
            )
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
