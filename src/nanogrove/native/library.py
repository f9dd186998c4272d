"""The C library, where `pip install` found a compiler to build it with and this CPU has the instructions it takes.

It is plain C called through `ctypes`, without Python's or torch's headers, so that one build serves every version of
both. Its threads are those of the OpenMP library that torch has loaded: a second one's would take the cores from them.
"""

import ctypes
import platform
from ctypes import POINTER, c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import Literal

import torch

Activation = Literal["linear", "gelu", "relu2"]
ACTIVATIONS: dict[Activation, int] = {"linear": 0, "gelu": 1, "relu2": 2}  # in lanes.h
FILE = Path(__file__).with_name("kernels.abi3.so")


class Heads(ctypes.Structure):
    """`Heads` of attention.c."""

    _fields_ = [
        ("rows", c_long),
        ("tokens", c_long),
        ("queries", c_long),
        ("keys", c_long),
        ("size", c_long),
        ("rotation", c_void_p),
        ("kept", c_void_p),
        ("threads", c_int),
    ]


class Matrices(ctypes.Structure):
    """`Matrices` of muon.c."""

    _fields_ = [
        *((name, c_long) for name in ("count", "n", "k", "polynomials")),
        ("coefficients", c_void_p),
        ("margin", c_float),
        ("threads", c_int),
    ]


class Mlp(ctypes.Structure):
    """`Mlp` of mlp.h."""

    _fields_ = [
        *((name, c_long) for name in ("members", "rows", "in_", "inner")),
        *((name, c_void_p) for name in ("up", "down", "bias")),
        *((name, c_int) for name in ("activation", "threads")),
    ]


class Kept(ctypes.Structure):
    """`Kept` of mlp.h."""

    _fields_ = [(name, c_void_p) for name in ("x", "inside", "slope")]


class Gradients(ctypes.Structure):
    """`Gradients` of mlp.h."""

    _fields_ = [(name, c_void_p) for name in ("y", "x", "up", "down", "bias")]


class Step(ctypes.Structure):
    """`Step` of step.h."""

    _fields_ = [
        *((name, c_int) for name in ("kind", "format", "activation", "add")),
        ("from_", c_void_p),
        ("to", c_void_p),
        ("in_", c_long),
        ("out", c_long),
        ("weight", c_void_p),
        ("stride", c_long),
        ("scale", c_void_p),
        ("bias", c_void_p),
        *((name, c_long) for name in ("inner", "first", "count", "size")),
        ("centred", c_int),
        ("eps", c_float),
        *((name, c_long) for name in ("queries", "keys", "layer", "positions")),
        ("rotation", c_void_p),
    ]


class Rows(ctypes.Structure):
    """`Rows` of step.h."""

    _fields_ = [
        *((name, c_long) for name in ("members", "rows", "held", "room")),
        *((name, c_void_p) for name in ("token", "previous", "lengths", "k", "v")),
        ("threads", c_int),
    ]


SIGNATURES = {  # of functions, which return nothing unless said
    "gelu": [c_void_p, c_void_p, c_void_p, c_long, c_int],
    "attention_room": [POINTER(Heads)],
    "attend": [POINTER(Heads), *[c_void_p] * 4],
    "attend_backward": [POINTER(Heads), *[c_void_p] * 6],
    "muon_room": [POINTER(Matrices)],
    "orthogonalise": [POINTER(Matrices), c_void_p, c_void_p],
    "mlp_room": [POINTER(Mlp)],
    "mlp": [POINTER(Mlp), *[c_void_p] * 5],
    "mlp_backward": [POINTER(Mlp), POINTER(Kept), POINTER(Gradients), c_void_p],
    "decode": [POINTER(Step), c_long, POINTER(Rows)],
}
RESULTS = dict.fromkeys(("attention_room", "mlp_room", "muon_room"), c_long)


@cache
def missing() -> str | None:
    """Why the library is not used, None where it is."""
    if not FILE.exists():
        return "the C kernels were not built when nanogrove was installed"
    if platform.machine() in ("x86_64", "AMD64") and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return "this CPU has no AVX2, which the C kernels take"
    try:
        layout = ctypes.CDLL(str(FILE)).layout
    except (OSError, AttributeError) as error:
        return f"the C kernels cannot be loaded ({error})"
    layout.restype = c_long
    sizes = [ctypes.sizeof(each) for each in (Heads, Matrices, Mlp, Kept, Gradients, Step, Rows)]
    same = layout() == sum(size * 331**n for n, size in enumerate(reversed(sizes)))
    return None if same else "the C kernels are of another version; install nanogrove again"


@cache
def kernels() -> ctypes.CDLL:
    """The library, where it is not `missing`."""
    loaded = ctypes.CDLL(str(FILE))
    for name, arguments in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, RESULTS.get(name)
    return loaded
