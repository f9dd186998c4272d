"""Chooses what a preset leaves to `auto`: threads, number format, micro-batches, compilation.

Each choice changes how sums are rounded. So each follows, by a rule and never by a clock, from what does not vary on
one machine: what the CPU can do, its cores, the memory it has, and the floating-point operations of a step. The same
preset thus gives the same bits, whatever else the machine does meanwhile. A rule is right about as often as a
stopwatch: docs/guide/systems.md has the measurements that its limits come from. A resumed run takes what its
`preset.json` says.
"""

import ctypes
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT, MAX_LOGITS_PER_CHUNK
from nanogrove.model.processor import bfloat16_missing
from nanogrove.native import library
from nanogrove.train.precision import Choice, Precision

AUTO = ("threads", "precision", "accumulation", "compile")  # the settings of `train` that may be `auto`
THREADS_FLOPS = 1e8  # of a step; below, several threads cost a CPU more than they save
BFLOAT16_FLOPS = 2e8  # of a step; below, so do casts to bfloat16
MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.8}  # of the device's memory that a step may take
COMPILE_FLOPS = {"cpu": 4e13, "cuda": 8e15}  # of a run, on a CPU for each thread; below, compiling costs half its gain


@dataclass(frozen=True)
class Settings:
    """The settings of `train` that the rules choose."""

    threads: int
    precision: Precision
    accumulation: int
    compile: bool


@dataclass(frozen=True)
class Work:
    """A step of training: members of one configuration, each on as many rows of the whole context."""

    config: ModelConfig
    members: int
    rows: int

    @property
    def flops(self) -> float:
        """Floating-point operations of the step, forward and backward."""
        tokens = self.members * self.rows * self.config.block_size
        return float(tokens * self._model().flops_per_token(self.config.context))

    def bytes(self, rows: int) -> int:
        """Memory that weights, gradients, two moments and what `rows` rows keep for the backward pass take, roughly."""
        return self.members * (16 * self._model().parameter_count() + activation_bytes(self.config, rows))

    def _model(self) -> GPT:
        with torch.device("meta"):
            return GPT(self.config)


def resolve_auto(work: Work, steps: int, device: torch.device) -> Settings:
    """The settings for `steps` steps of such work on this machine."""
    flops = work.flops
    threads = physical_cores() if device.type != "cpu" or flops >= THREADS_FLOPS else 1
    enough = steps * flops >= COMPILE_FLOPS.get(device.type, float("inf")) * (threads if device.type == "cpu" else 1)
    return Settings(
        threads=threads,
        precision=auto_precision(flops, device).format,
        accumulation=fewest_micro_batches(work, memory_bytes(device)),
        compile=enough and (device.type != "cpu" or shutil.which("c++") is not None),
    )


def auto_precision(flops: float, device: torch.device) -> Choice[Precision]:
    """The number format of training, where a step takes `flops` floating-point operations."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("bfloat16", "this GPU has bfloat16 products")
        return Choice("float32", "this GPU has no bfloat16 products")
    missing = bfloat16_missing()
    if missing is not None:
        return Choice("float32", missing)
    if flops < BFLOAT16_FLOPS:
        return Choice("float32", "so small a step gains nothing from bfloat16")
    return Choice("bfloat16", "this CPU has bfloat16 products")


def reason_for(precision: Precision, auto: Choice[Precision]) -> str:
    """Why a run trains in `precision`, a function of its arguments alone, so that a resumed run says the same."""
    if precision == auto.format:
        return auto.reason
    return f"the preset asks for it; auto takes {auto.format}, since {auto.reason}"


def activation_bytes(config: ModelConfig, rows: int) -> int:
    """Bytes that `rows` sequences of the whole context keep for the backward pass, roughly, in float32."""
    per_token = config.n_layer * (8 * config.n_embd + 6 * config.attention_width + 3 * config.inner_size)
    logits = min(
        3 * (config.vocab_size or 0) * config.block_size * rows, 3 * MAX_LOGITS_PER_CHUNK
    )  # computed in chunks
    # Memory tokens, which are read and written, lengthen each segment.
    lengthening = config.context / config.memory_segment if config.memory_tokens else 1
    return int(4 * (lengthening * per_token * config.block_size * rows + logits))


def fewest_micro_batches(work: Work, room: int) -> int:
    """The smallest power of two, at most the rows, that splits a batch into micro-batches that fit in `room` bytes."""
    count = 1
    while 2 * count <= work.rows and work.bytes(-(-work.rows // count)) > room:
        count *= 2
    return count


def memory_bytes(device: torch.device) -> int:
    """Bytes that a step may take: a share of the device's memory, whether free or not, since what is free varies."""
    if device.type == "cuda":
        return int(MEMORY_SHARE["cuda"] * torch.cuda.get_device_properties(device).total_memory)
    total = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # a container's limit, where there is one
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(MEMORY_SHARE["cpu"] * total)


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def instructions() -> str:
    """The widest instructions that torch uses of this CPU, whether bfloat16 products are among them, and C kernels."""
    others = {"bfloat16": bfloat16_missing(), "C kernels": library.missing()}
    present = [name for name, missing in others.items() if missing is None]
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *present])


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def physical_cores() -> int:
    """Cores this process may run on, of which two that share one set of arithmetic units count once."""
    return min(cores(), psutil.cpu_count(logical=False) or cores())


def keep_freed_memory() -> None:
    """Makes the C library keep the memory that a step frees, for the next step; on Linux with glibc, else nothing.

    By default it gives blocks of some megabytes back to the system, which must clear their pages when they are next
    asked for: 2,000 page faults per step of a small population, and steps that take 1 to 2 times as long.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: blocks below 32 MB come from the heap …
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: … whose end is not given back
