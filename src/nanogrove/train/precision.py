"""Devices and number formats, chosen by measurement where the preset says `auto`.

bfloat16 products are several times faster than float32 on some processors and a hundred times slower on others, so
nothing is assumed: one block of the model at hand is timed forward and backward in each format.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch

from nanogrove.errors import PresetError
from nanogrove.model.gpt import GPT, ModelConfig

Precision = Literal["float32", "tf32", "bfloat16"]
WORTH = 1.1  # a coarser format must be this many times faster to be chosen


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


def measure_precision(config: ModelConfig, batch_size: int, device: torch.device) -> tuple[Precision, dict[str, float]]:
    """The fastest format for one block of this model, and the milliseconds each took."""
    candidates: list[Precision] = ["float32", "bfloat16"]
    if device.type == "cuda":
        candidates.insert(1, "tf32")
    times: dict[str, float] = {}
    for precision in candidates:
        if precision == "bfloat16" and _is_hopeless(device):
            continue
        times[precision] = _block_ms(config, batch_size, device, precision)
    best: Precision = "float32"
    for precision in candidates[1:]:
        if precision in times and times[precision] * WORTH < times[best]:
            best = precision
    return best, {f"{name}_ms": round(value, 3) for name, value in times.items()}


def _is_hopeless(device: torch.device) -> bool:
    """Whether one small bfloat16 product takes over three times as long as in float32; then a block is not tried."""
    elapsed = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(256, 256, device=device).to(dtype)
        elapsed.append(min(_timed(partial(torch.mm, a, a), device) for _ in range(3)))
    return elapsed[1] > 3 * elapsed[0]


def _block_ms(config: ModelConfig, batch_size: int, device: torch.device, precision: Precision) -> float:
    small = config.model_copy(update={"n_layer": 1, "vocab_size": 8})
    model = GPT(small).initialize(0).to(device)
    rows = max(1, min(batch_size, 8192 // config.block_size))
    tokens = torch.zeros(rows, config.block_size, dtype=torch.int64, device=device)

    def step() -> None:
        with autocast(device, precision):
            loss = model(tokens).float().square().mean()
        loss.backward()

    return 1000 * min(_timed(step, device) for _ in range(4))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - began
