"""Proposes a preset for what `explore` describes, with a model by the number of tokens, and estimates its time here.

The rule: below 1 million tokens 4 layers of 128 and ten passes; below 20 million the quickstart's 4 layers of 192 and
four passes, 10 million tokens at most; above, 4 layers of 256, a context of 256, and 20 million tokens.
"""

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogrove.atomic import write_file
from nanogrove.errors import RunError
from nanogrove.explore.findings import VOCABULARY_SIZE, Findings
from nanogrove.paths import expanded

SMALL_TOKENS, LARGE_TOKENS = 1_000_000, 20_000_000  # where the sizes of models change
TRAIN_SHARE = 0.9  # of the text
MIN_TOKENS = 300  # of which splits can be made
FROM_NOTHING_TOKENS = 20_000  # below, pretrained weights are proposed too: see docs/findings/pretrained.md
MAX_CHAT_BLOCK = 512  # tokens of context that a longer conversation is given
TIMED_STEPS, TIMED_SECONDS = 4, 0.1  # after a first one: as many steps at most as begin within these seconds


@dataclass(frozen=True)
class Proposal:
    """A preset as JSON, why its model has this size, how often the text is seen, and whether it is too short alone."""

    values: dict[str, Any]
    why: str
    passes: float
    too_short: bool


def propose(findings: Findings) -> Proposal | None:
    """A preset that trains on what `explore` describes; None where that is too little for any."""
    tokens = findings.chosen_tokens.count
    if tokens < MIN_TOKENS:
        return None
    train_tokens = tokens * TRAIN_SHARE
    if tokens < SMALL_TOKENS:
        why, width, block, batch, budget = "below 1 million tokens", 128, 128, 16, 10 * train_tokens
    elif tokens < LARGE_TOKENS:
        why, width, block, batch, budget = "1 to 20 million tokens", 192, 128, 16, min(4 * train_tokens, 1e7)
    else:
        why, width, block, batch, budget = "20 million tokens or more", 256, 256, 32, 2e7
    while block > 8 and 16 * block > train_tokens:  # some windows at least
        block //= 2
    if findings.question is not None:
        block = max(block, min(MAX_CHAT_BLOCK, _power_of_two(findings.longest * tokens / findings.characters)))
    budget = _round(max(budget, 20 * batch * block))
    steps = -(-budget // (batch * block))
    name = Path(findings.path).name or findings.path
    values: dict[str, Any] = {
        "description": f"Made by nanogrove explore, of {findings.kind} in {name}.",
        "data": _data(findings),
        "model": {"family": "nanochat", "n_layer": 4, "n_head": 4, "n_embd": width, "block_size": block},
        "train": {"tokens": budget, "batch_size": batch},
        "optimizer": {"name": "muon", "lr": 0.02, "adamw_lr": 0.005, "weight_decay": 0.0},
        "schedule": {"name": "wsd", "warmup": min(20, steps // 10), "decay": 0.5, "final": 0.0},
        "evaluate": {"every": _every(steps, 10), "tokens": 50_000},
        "sample": {"every": _every(steps, 5), "tokens": 100 if findings.tokenizer == "bpe" else 200, "top_p": 0.9},
        "save": {"every": _every(steps, 10)},
    }
    if findings.question is not None:
        values["sample"]["prompts"] = [findings.question]
    return Proposal(values, why, budget / train_tokens, tokens < FROM_NOTHING_TOKENS)


def _data(findings: Findings) -> dict[str, Any]:
    """The section `data` of a preset."""
    data: dict[str, Any] = {"sources": [findings.source]}
    if findings.question is not None:
        data = {"type": "chat", "path": findings.path}
        data |= {key: findings.source[key] for key in ("encoding",) if key in findings.source}
    data["tokenizer"] = findings.tokenizer
    return data | ({"vocab_size": VOCABULARY_SIZE} if findings.tokenizer == "bpe" else {})


def _power_of_two(value: float) -> int:
    """The least power of two that is not below a value."""
    return 1 << max(math.ceil(value) - 1, 0).bit_length()


def _round(value: float) -> int:
    """Two digits, for a person to read."""
    return int(float(f"{value:.1e}"))


def _every(steps: int, times: int) -> int:
    """How many steps lie between events that happen `times` times: a round number of at most 500."""
    return max(1, min(500, _round(steps / times)))


def seconds(proposal: Proposal, vocabulary: int) -> float:
    """Seconds that training with its evaluations would take on this machine, by timing a few steps."""
    # Only this function needs torch: what `explore` shows of a file is on the screen before torch has been imported.
    import torch

    from nanogrove.data.batch import Batch
    from nanogrove.model.config import ModelConfig
    from nanogrove.model.gpt import GPT
    from nanogrove.train.autotune import Work, resolve_auto
    from nanogrove.train.loop import TrainConfig, fit
    from nanogrove.train.objective import next_token
    from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
    from nanogrove.train.plan import Plan
    from nanogrove.train.precision import pick_device
    from nanogrove.train.state import TrainState

    # A whole preset would import every method and every reader, which takes longer than the steps.
    train = TrainConfig.model_validate(proposal.values["train"])
    config = ModelConfig.model_validate({**proposal.values["model"], "vocab_size": vocabulary})
    device = pick_device(train.device)
    shape = train.batch_size, config.block_size
    steps = -(-(train.tokens or 0) // math.prod(shape))
    runtime = resolve_auto(Work(config, 1, train.batch_size), steps, device)
    model = GPT(config).initialize(0).to(device)
    precision = torch.bfloat16 if runtime.precision == "bfloat16" else torch.float32
    state = TrainState(
        model, make_optimizer(model, OptimizerConfig.model_validate(proposal.values["optimizer"]), precision)
    )
    draw, everywhere = torch.Generator().manual_seed(0), torch.ones(shape, dtype=torch.bool)

    def batches(step: int) -> Batch:
        tokens = torch.randint(vocabulary, shape, generator=draw)
        return Batch.uniform(tokens, tokens, everywhere, torch.zeros(shape[0], dtype=torch.int64))

    plan = Plan(0, 1 + TIMED_STEPS, lambda step: 0.0, accumulation=runtime.accumulation, precision=runtime.precision)
    before = torch.get_num_threads()
    torch.set_num_threads(runtime.threads)
    times = []
    try:
        began = time.perf_counter()
        for _ in fit(state, batches, next_token, plan):
            times.append(time.perf_counter() - began)
            if sum(times[1:]) > TIMED_SECONDS:
                break
            began = time.perf_counter()
    finally:
        torch.set_num_threads(before)
    evaluated = proposal.values["evaluate"]
    scored: float = steps / evaluated["every"] * evaluated["tokens"] / 3  # a forward pass is a third of a step
    return (steps + scored / math.prod(shape)) * min(times[1:])


def preset_name(path: str) -> str:
    """A name for what is made of a path: that of its file or folder, without endings."""
    parts = [part for part in expanded(path).absolute().parts if not set("*?[") & set(part)]
    name = (parts or ["data"])[-1]
    name = re.sub(r"\.(gz|zst)$", "", name)
    name = Path(name).stem if expanded(path).is_file() else name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "data"


def write_preset(proposal: Proposal, path: str, out: Path | None) -> Path:
    """Writes a preset as `out`, or in the working folder by the name of `path`, numbered where that name is taken.

    A file that holds the same preset is left. Raises RunError where `out` holds anything else, or cannot be written.
    """
    text = _layout(proposal.values)
    name, count = preset_name(path), 1
    chosen = out or Path(f"{name}.json")
    try:
        while chosen.exists() and not (chosen.is_file() and chosen.read_bytes() == text.encode()):
            if out is not None:
                raise RunError(f"{out}: is there already; name another file")
            count += 1
            chosen = Path(f"{name}-{count}.json")
        write_file(chosen, text.encode())
    except OSError as error:
        raise RunError(f"{chosen}: the preset cannot be written ({error.strerror}); name another with --out") from None
    return chosen


def _layout(values: dict[str, Any]) -> str:
    """JSON with a line for each section."""
    lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
