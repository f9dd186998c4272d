"""Devices, and the number formats a forward pass may run in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from nanogrove.errors import PresetError

Precision = Literal["float32", "tf32", "bfloat16"]


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
