"""What the benchmarks share: timing several things in turn, the peers, the machine's own ceiling.

Figures are ratios of medians, taken in one process with the contenders in turn, so that a slow minute of the machine
falls on all of them. The spread is the range of the middle half.
"""

import contextlib
import importlib.util
import io
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from nanogrove.data.batch import Batch
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.autotune import keep_freed_memory
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Work = Callable[[], object]


class Timing(NamedTuple):
    """Seconds: the median of the rounds and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{1000 * self.median:9.2f} ms ({1000 * self.low:.2f} to {1000 * self.high:.2f})"


def in_turn(contenders: dict[str, Work], rounds: int = 15, warmup: int = 2) -> dict[str, Timing]:
    """Times each contender once a round, all of them in every round, in an order drawn anew for each round.

    Memory and caches are as the contender before leaves them, so no contender may always follow the same one.
    """
    for work in contenders.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    generator = random.Random(0)
    for _ in range(rounds):
        for name, work in generator.sample(list(contenders.items()), len(contenders)):
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: timing_of(spent) for name, spent in seconds.items()}


def clock() -> Callable[[], float]:
    """Of seconds: CPU time on one thread, which other programs hardly change, and else wall time."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def timing_of(seconds: Sequence[float]) -> Timing:
    """The median and the quartiles of two rounds or more."""
    return Timing(statistics.median(seconds), *statistics.quantiles(seconds, n=4)[::2])


def matmul_rate(size: int = 1024, dtype: torch.dtype = torch.float32, device: str = "cpu") -> float:
    """Floating-point operations a second of one square product, the best of ten: the machine's own ceiling."""
    a = torch.randn(size, size, device=device).to(dtype)
    timing = in_turn({"product": lambda: a @ a}, rounds=10)["product"]
    return 2 * size**3 / timing.low


def nanogpt(checkout: Path) -> ModuleType:
    """The `model.py` of a checkout of nanoGPT."""
    path = checkout / "model.py"
    if not path.is_file():
        sys.exit(f"{path}: no such file; give a checkout of nanoGPT with --nanogpt")
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    return module


def quietly(work: Callable[[], Any]) -> Any:
    """Runs `work` without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


def tokens(rows: int, length: int, vocabulary: int, population: int | None = None) -> Batch:
    """A batch of random tokens, all of them scored."""
    axes = () if population is None else (population,)
    drawn = torch.randint(0, vocabulary, (*axes, rows, length + 1))
    return Batch.uniform(
        drawn[..., :-1].contiguous(),
        drawn[..., 1:].contiguous(),
        torch.ones(*axes, rows, length, dtype=torch.bool),
        torch.zeros(*axes, rows, dtype=torch.int64),
    )


def stepper(
    config: ModelConfig,
    batch: Batch,
    population: int | None = None,
    precision: Any = "float32",
    by_member: bool = False,
    **optimizer: Any,
) -> Work:
    """A call that trains `config` one step on `batch`, by the loop that trains everything.

    With `by_member`, each member has a learning rate and a weight decay of its own.

    Memory is kept for the whole process as `nanogrove.runs.train.train` keeps it, so the peers have it too.
    """
    keep_freed_memory()
    model = GPT(config, population).initialize(*range(population or 1)).to(batch.tokens.device)
    muon = torch.bfloat16 if precision == "bfloat16" else torch.float32
    state = TrainState(model, make_optimizer(model, OptimizerConfig(**optimizer), muon))
    factor: Any = torch.linspace(0.5, 1.5, population or 1) if by_member else 1.0
    if by_member:
        state.optimizer.set_decay(0.1 * factor)
    plan = Plan(seed=0, steps=1 << 60, lr_factor=lambda step: factor, precision=precision)
    steps: Iterator[object] = fit(state, lambda step: batch, next_token, plan)
    return lambda: next(steps)


def write_page(figure: "Figure", path: Path, picture: str = ".webp") -> None:
    """Writes a figure as a page, and prints the command that takes a picture of it; see docs/pictures.py."""
    figure.write_html(path, include_plotlyjs=True, config={"displayModeBar": False})
    size = {name: figure.layout[name] + 16 for name in ("width", "height")}  # with the page's margins
    job = {"page": str(path.resolve()), "out": str(path.resolve().with_suffix(picture)), "scheme": "light"} | size
    print(f"echo '{json.dumps([job])}' | node docs/pictures.mjs build/pictures $(which chromium)")
