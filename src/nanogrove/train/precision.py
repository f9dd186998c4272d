"""Devices, and the number formats that training and decoding may run in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Generic, Literal, NamedTuple, TypeVar

import torch

from nanogrove.errors import PresetError
from nanogrove.model.gpt import GPT
from nanogrove.model.processor import bfloat16_missing, packing_missing
from nanogrove.native import library

Precision = Literal["float32", "tf32", "bfloat16"]
Weights = Literal["float32", "bfloat16", "int8"]
Decoding = Literal["auto"] | Weights
Format = TypeVar("Format", Precision, Weights)
WEIGHTS: dict[Weights, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
BFLOAT16_PARAMETERS = 500_000  # of a model that decodes on a CPU; below, its weights are read fast enough in float32


class Choice(NamedTuple, Generic[Format]):
    """A number format, and why it is this one."""

    format: Format
    reason: str


def pick_device(name: str) -> torch.device:
    """The device a preset names; `auto` takes a GPU of CUDA or ROCm, where there is one, and else the CPU.

    Raises PresetError for one that this machine lacks, and for kinds of devices that were never tested.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise PresetError(f"train.device={name} has not been tried; take train.device=cpu, cuda or auto")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise PresetError(f"train.device={name} is not usable here ({reason}); try train.device=auto") from None
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which a forward pass runs. Weights and moments stay in float32 in every format."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def decoding(model: GPT, requested: Decoding = "auto") -> Choice[Weights]:
    """The number format in which `model` decodes where `requested` is asked for.

    Raises PresetError where bfloat16 or int8 is requested of a model whose weights are never rounded.
    """
    weight = model.embed.weight
    if model.population is not None:
        if requested in ("bfloat16", "int8"):
            raise PresetError(f"precision {requested}: an ensemble decodes in float32 alone; leave it out")
        return Choice("float32", "an ensemble is decoded in no other format")
    rounded = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not rounded and requested in ("bfloat16", "int8"):
        raise PresetError(
            f"precision {requested}: only a single model in float32 on a CPU decodes in it; leave it out, or take cpu"
        )
    if not rounded:
        return Choice("float32", "only a single model in float32 on a CPU decodes in bfloat16")
    if requested != "auto":
        return Choice(requested, "asked for" + unpacked(requested))
    missing = bfloat16_missing()
    if missing is not None:
        return Choice("float32", missing + unpacked("float32"))
    if model.parameter_count() < BFLOAT16_PARAMETERS:
        return Choice("float32", "so small a model gains nothing from bfloat16" + unpacked("float32"))
    return Choice("bfloat16", "this CPU has bfloat16 products")


def unpacked(precision: Weights) -> str:
    """A clause on how decoding multiplies where no weights are packed on this CPU; empty where they are."""
    if library.missing() is None:
        return ""
    missing = library.missing() if precision == "int8" else packing_missing(WEIGHTS[precision])
    if missing is None:
        return ""
    instead = "are read in their plain order" if precision == "float32" else "are rounded and multiplied in float32"
    return f"; {missing}, so weights {instead}"
