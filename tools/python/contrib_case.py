"""What the vectors of com.microsoft operators share: a case, the table of generators, random draws."""

from dataclasses import dataclass, field

import numpy as np

DOMAIN = "com.microsoft"


@dataclass
class Case:
    """One node with its inputs; a value of None is an omitted input."""

    op: str
    inputs: dict
    attributes: dict = field(default_factory=dict)
    outputs: int = 1
    domain: str = DOMAIN
    constant: tuple = ()
    rtol: float = 1e-3
    atol: float = 1e-5
    wanted: tuple = ()


GENERATORS = {}


def generator(function):
    GENERATORS[function.__name__] = function
    return function


def floats(rng, *shape, scale=1.0, dtype=np.float32):
    return (rng.standard_normal(shape) * scale).astype(dtype)


def pick(rng, *values):
    return values[int(rng.integers(len(values)))]


def flag(rng, likelihood=0.5):
    return bool(rng.random() < likelihood)


# ---- products ----
