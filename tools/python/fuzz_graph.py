"""What the generators of random graphs share: a graph that grows node by node, with the value of every tensor at hand."""

import math
import random

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOATS = (np.float32, np.float64, np.float16)
SIGNED = (np.int64, np.int32, np.int8, np.int16)
INTEGERS = (*SIGNED, np.uint8, np.uint16, np.uint32, np.uint64)
NUMBERS = (np.float32, np.float32, np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8)
ANY = (*NUMBERS, np.bool_, np.int16, np.uint16, np.uint32, np.uint64)
SIZES = (0, 1, 1, 2, 3, 4, 5, 7, 11, 13)


class Unfit(Exception):
    """The drawn combination makes no valid node."""


class Tensor:
    """A value of the graph. `exact` is false when other implementations may round it differently."""

    def __init__(self, name, array, exact):
        self.name, self.array, self.exact = name, array, exact

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype


class Graph:
    """A graph under construction. `evaluate(node, arrays, opset)` computes the outputs of a node."""

    def __init__(self, seed, evaluate):
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(self.random.getrandbits(64))
        self.evaluate = evaluate
        self.opset = self.pick(11, 13, 13, 16, 17, 18, 19, 20, 21, 22, 23, 24)
        self.special = self.chance(0.04)
        self.tensors, self.inputs, self.constants, self.nodes, self.results = [], [], [], [], []
        self.refused = 0

    # ---- draws ----
    def pick(self, *values):
        return self.random.choice(values)

    def chance(self, likelihood):
        return self.random.random() < likelihood

    def between(self, low, high):
        return self.random.randint(low, high)

    def shape(self, low=0, high=5, sizes=SIZES, limit=600):
        """Sizes of `low` to `high` axes and at most `limit` elements; rank 6 is rare."""
        rank = self.between(low, high)
        if high >= 5 and self.chance(0.03):
            rank = 6
        shape = []
        for _ in range(rank):
            room = limit // max(1, math.prod(shape) or 1)
            shape.append(self.random.choice([s for s in sizes if s <= room] or [1]))
        return shape

    def positive(self, low=0, high=4, limit=600):
        """As `shape`, without sizes of 0."""
        return self.shape(low, high, SIZES[1:], limit)

    def axis(self, rank):
        """An axis, counted from the end half of the time."""
        axis = self.between(0, rank - 1)
        return axis - rank if self.chance(0.5) else axis

    def axes(self, rank, low=1):
        count = self.between(min(low, rank), rank)
        chosen = self.random.sample(range(rank), count)
        return [a - rank if self.chance(0.3) else a for a in chosen]

    def array(self, shape, dtype=np.float32):
        """Random contents: multiples of 1/8 for floats, so that sums and products of few are exact."""
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return self.numpy.integers(0, 2, shape).astype(bool)
        if dtype.kind in "iu":
            low = 0 if dtype.kind == "u" else -9
            return self.numpy.integers(low, 12, shape).astype(dtype)
        array = (self.numpy.integers(-32, 33, shape) / 8).astype(dtype)
        if self.special and array.size:
            where = self.numpy.random(shape) < 0.2
            odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40, 1e30])
            array = np.where(where, self.numpy.choice(odd, shape), array)
            with np.errstate(over="ignore"):
                array = array.astype(dtype)
        return array

    # ---- values ----
    def add(self, array, constant=None):
        """A new input or, as often, constant."""
        array = np.asarray(array)
        tensor = Tensor(f"v{len(self.tensors)}", array, True)
        self.tensors.append(tensor)
        constant = self.chance(0.5) if constant is None else constant
        (self.constants if constant else self.inputs).append(tensor)
        return tensor

    def constant(self, array):
        return self.add(np.asarray(array), constant=True)

    def ints(self, values, dtype=np.int64, constant=None):
        """A list that the operator reads, such as a shape or axes; mostly constant."""
        constant = self.chance(0.8) if constant is None else constant
        return self.add(np.array(values, dtype), constant)

    def take(self, dtypes=NUMBERS, low=0, high=5, fits=lambda shape: True, exact=False, make=None):
        """A value of one of the types and a fitting shape: one of the graph where there is one, else new."""

        def usable(tensor):
            return (
                tensor.dtype in [np.dtype(d) for d in dtypes]
                and low <= tensor.array.ndim <= max(high, 6 if high >= 5 else high)
                and (tensor.exact or not exact)
                and fits(tensor.shape)
            )

        results = [t for t in self.results if usable(t)]
        if results and self.chance(0.9):
            return results[-1] if self.chance(0.7) else self.random.choice(results)
        dtype = self.random.choice(dtypes)
        for _ in range(20):
            shape = make() if make else self.shape(low, high)
            if fits(tuple(shape)):
                return self.add(self.array(shape, dtype), constant=self.chance(0.1))
        raise Unfit

    def like(self, shape, dtype, exact=False):
        """A value of this shape and type."""
        shape = tuple(shape)
        same = [t for t in self.tensors if t.shape == shape and t.dtype == dtype and (t.exact or not exact)]
        if same and self.chance(0.3):
            return self.random.choice(same)
        return self.add(self.array(shape, dtype), constant=self.chance(0.4))

    def broadcast(self, shape):
        """A shape that broadcasts with `shape`."""
        other = [1 if self.chance(0.25) else s for s in shape]
        other = other[self.between(0, len(other)) :] if self.chance(0.4) else other
        if self.chance(0.15) and len(shape) < 5:
            other = [self.pick(1, 2, 3)] + [1] * (len(shape) - len(other)) + other
        widen = [i for i, s in enumerate(shape[len(shape) - len(other) :] if len(other) <= len(shape) else []) if s == 1]
        for i in widen:
            if self.chance(0.3):
                other[i] = self.pick(2, 3)
        if math.prod(np.broadcast_shapes(tuple(shape), tuple(other))) > 4000:
            raise Unfit
        return other

    # ---- nodes ----
    def node(self, op_type, inputs, outputs=1, domain="", exact=False, **attributes):
        """Adds a node and computes its outputs; `exact` when equal inputs give equal outputs everywhere."""
        names = ["" if t is None else t.name for t in inputs]
        while names and not names[-1]:
            names.pop()
        results = [f"r{len(self.results) + i}" for i in range(outputs)]
        node = helper.make_node(op_type, names, results, f"n{len(self.nodes)}", domain=domain, **attributes)
        feeds = {t.name: t.array for t in inputs if t is not None}
        arrays = self.evaluate(node, feeds, self.opset)
        if arrays is None:
            raise Unfit
        if sum(array.size for array in arrays) > 20000:
            raise Unfit
        keeps = exact and all(t is None or t.exact for t in inputs)
        new = []
        for name, array in zip(results, arrays):
            sure = keeps or (array.dtype.kind in "iub" and all(t is None or t.exact for t in inputs))
            new.append(Tensor(name, array, sure))
        if any(not t.exact and t.array.dtype.kind in "iub" for t in new):
            raise Unfit  # A whole number that depends on rounding.
        self.nodes.append((node, list(inputs), new))
        self.results += new
        self.tensors += new
        return new[0]

    # ---- the model ----
    def model(self, every_value, nodes=None):
        """The model and its expected outputs; with `every_value` each node's results are outputs of the graph."""
        nodes = self.nodes if nodes is None else nodes
        used = {name for node, _, _ in nodes for name in node.input}
        made = [t for _, _, results in nodes for t in results]
        outputs = [t for t in made if every_value or t.name not in used]
        inside = {t.name for t in made}
        ahead = {t.name: t for _, inputs, _ in nodes for t in inputs if t is not None and t.name not in inside}
        constant = {t.name for t in self.constants}
        feeds = [t for t in ahead.values() if t.name not in constant]
        graph = helper.make_graph(
            [node for node, _, _ in nodes],
            "fuzz",
            [info(t) for t in feeds],
            [onnx.ValueInfoProto(name=t.name) if self.chance(0.5) else info(t) for t in outputs],
            [numpy_helper.from_array(t.array, t.name) for t in ahead.values() if t.name in constant],
        )
        domains = {node.domain for node, _, _ in nodes} - {""}
        imports = [helper.make_opsetid("", self.opset)] + [helper.make_opsetid(d, 1) for d in sorted(domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds, outputs


def info(tensor):
    return helper.make_tensor_value_info(
        tensor.name, helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape
    )
