"""What a preset leaves to `auto`: threads, number format, micro-batches, compilation, chosen by short measurements.

bfloat16 products are several times faster than float32 on some processors and a hundred times slower on others, and
two threads can lose to one where matrices are small, so nothing is assumed: one block of the model at hand is timed,
forward and backward. The choice is kept for this machine, torch and model, unless the machine was busy with other
work, so that only the first run pays for it. On a GPU micro-batches are as few as its free memory allows; on a CPU
they are what is fastest. A resumed run takes what its `preset.json` says, because other threads or formats would round
differently.
"""

import ctypes
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from nanogrove.data.prepare import cache_folder
from nanogrove.model.decode import PACK, generate
from nanogrove.model.gpt import GPT, LOGITS, ModelConfig
from nanogrove.model.layers import PACKS
from nanogrove.train.precision import Precision, autocast

T = TypeVar("T")
Decoding = Literal["auto", "float32", "bfloat16"]
AUTO = ("threads", "precision", "accumulation", "compile")  # the settings of `train` that may be left to it
WORTH = 1.1  # how many times faster a choice must be than the plainer one before it
MEMORY_SHARE = 0.8  # of a GPU's free memory that what a micro-batch keeps may take
COMPILE_SECONDS = 40.0  # what compiling takes, about
COMPILE_GAIN = {"cpu": 0.1, "cuda": 0.3}  # share of a step it saves, about: docs/speed.md


@dataclass(frozen=True)
class Settings:
    """The choice, and the milliseconds a block took under each alternative."""

    threads: int
    precision: Precision
    accumulation: int
    compile: bool
    times: dict[str, float]


def settle(config: ModelConfig, batch_size: int, steps: int, device: torch.device) -> Settings:
    """The fastest settings for `steps` steps of this model on this machine, measured unless they are known."""
    asked = [machine(device), torch.__version__, config.model_dump(), batch_size, str(device)]
    known = _remembered(asked, lambda: asdict(_measure(config, batch_size, device)), lambda found: Settings(**found))
    if device.type == "cuda":
        room = int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0])
        known = replace(known, accumulation=fewest_micro_batches(config, batch_size, room))
    saved = steps * config.n_layer * min(known.times.values()) / 1000 * COMPILE_GAIN.get(device.type, 0.0)
    can = device.type != "cpu" or shutil.which("c++") is not None
    return replace(known, compile=can and saved > 2 * COMPILE_SECONDS)


def fastest_decoding(model: GPT) -> Decoding:
    """The format in which a single model on a CPU decodes the faster, measured unless it is known."""
    weight = model.embed.weight
    if model.population is not None or (weight.device.type, weight.dtype) != ("cpu", torch.float32) or not PACKS:
        return "float32"
    asked = ["decoding", machine(weight.device), torch.__version__, torch.get_num_threads(), model.config.model_dump()]

    def measure() -> dict[str, float]:
        if _bfloat16_is_hopeless(weight.device):
            return {"float32": 1.0, "bfloat16": math.inf}
        prompt = torch.zeros(1, 1, dtype=torch.int64)
        times = {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            work = partial(generate, model, prompt, new_tokens=PACK, greedy=True, dtype=dtype)
            times[name] = min(_timed(work, weight.device) for _ in range(3))
        return times

    times = _remembered(asked, measure, lambda found: {name: float(found[name]) for name in ("float32", "bfloat16")})
    return "bfloat16" if times["bfloat16"] * WORTH < times["float32"] else "float32"


def _remembered(asked: list[Any], measure: Callable[[], dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> T:
    """What was measured for `asked` on this machine; now, if it is not known, and kept unless the machine is busy."""
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]
    path = cache_folder() / "auto" / f"{key}.json"
    try:
        return read(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError):
        busy = os.getloadavg()[0] > cores() / 2  # other work would be measured too
        found = measure()
    if not busy:
        with suppress(OSError):  # a cache that cannot be written costs the next run its second, and no more
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(f".{os.getpid()}.part")
            aside.write_text(json.dumps(found))
            aside.replace(path)
    return read(found)


def activation_bytes(config: ModelConfig, rows: int) -> int:
    """Bytes that `rows` sequences of the whole context keep for the backward pass, roughly, in float32."""
    per_token = config.n_layer * (14 * config.n_embd + 3 * config.inner_size)
    logits = min(3 * (config.vocab_size or 0) * config.block_size * rows, 3 * LOGITS)  # made a piece at a time
    beside = config.context / config.memory_segment if config.memory_tokens else 1  # what is read and written
    return int(4 * (beside * per_token * config.block_size * rows + logits))


def fewest_micro_batches(config: ModelConfig, batch_size: int, room: int) -> int:
    """The smallest power of two, at most `batch_size`, that cuts a batch into pieces that fit in `room` bytes."""
    count = 1
    while 2 * count <= batch_size and activation_bytes(config, -(-batch_size // count)) > room:
        count *= 2
    return count


def machine(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and how many of its cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cores()} cores"


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Has the C library keep what a step frees for the next step, process-wide; on Linux with glibc, else nothing.

    Left to itself it gives blocks of some megabytes back to the system, which must clear their pages anew when they
    are next asked for: 2,000 page faults a step of a small population, and steps between 1 and 2 times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: blocks below 32 MB come from the heap …
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: … whose end is not given back


def _measure(config: ModelConfig, batch_size: int, device: torch.device) -> Settings:
    before = torch.get_num_threads()
    times: dict[str, float] = {}
    best: tuple[int, Precision, int] = (before, "float32", 1)

    def attempt(threads: int, precision: Precision, accumulation: int) -> None:
        nonlocal best
        torch.set_num_threads(threads)
        name = f"{precision}_{threads}_threads_{accumulation}_micro_ms"
        times[name] = round(_block_ms(config, batch_size, accumulation, device, precision), 3)
        chosen = f"{best[1]}_{best[0]}_threads_{best[2]}_micro_ms"
        if chosen not in times or times[name] * WORTH < times[chosen]:
            best = (threads, precision, accumulation)

    try:
        for threads in (cores(), 1) if device.type == "cpu" and cores() > 1 else (before,):
            attempt(threads, "float32", 1)
        if device.type == "cuda":
            attempt(best[0], "tf32", 1)
        if not _bfloat16_is_hopeless(device):
            attempt(best[0], "bfloat16", 1)
        for accumulation in (2, 4):
            if accumulation <= batch_size and device.type == "cpu":
                attempt(best[0], best[1], accumulation)
    finally:
        torch.set_num_threads(before)
    threads, precision, accumulation = best
    return Settings(threads, precision, accumulation, False, times)


def _bfloat16_is_hopeless(device: torch.device) -> bool:
    """Whether one small bfloat16 product takes over three times as long as in float32; then a block is not tried."""
    elapsed = []
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(256, 256, device=device).to(dtype)
        elapsed.append(min(_timed(partial(torch.mm, a, a), device) for _ in range(3)))
    return elapsed[1] > 3 * elapsed[0]


def _block_ms(
    config: ModelConfig, batch_size: int, accumulation: int, device: torch.device, precision: Precision
) -> float:
    """Milliseconds of one block, forward and backward, on a batch cut into micro-batches; at most 8,192 tokens."""
    model = GPT(config.model_copy(update={"n_layer": 1, "vocab_size": 8})).initialize(0).to(device)
    rows = max(accumulation, min(batch_size, 8192 // config.block_size))
    tokens = torch.zeros(rows, config.block_size, dtype=torch.int64, device=device)

    def step() -> None:
        for micro in tokens.chunk(accumulation):
            with autocast(device, precision):
                loss = model(micro).float().square().mean()
            loss.backward()

    step()
    return 1000 * min(_timed(step, device) for _ in range(4))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - began
