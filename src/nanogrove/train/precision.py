"""Devices, and the number formats a forward pass may run in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from nanogrove.errors import PresetError

Precision = Literal["float32", "tf32", "bfloat16"]


def pick_device(name: str) -> torch.device:
    """The device a preset names; `auto` takes a GPU where there is one. Raises PresetError for one not here."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        device = torch.device(name)
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
