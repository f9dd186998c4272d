"""Rewards: functions from texts to numbers, the higher the better.

Built in are terms, a regular expression and a length; a `RewardModel` is a learned one; others are named in a
preset as `module:function`. Naming one is asking for code to be run, so a preset that does is refused until its reader
allows it.
"""

import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Self, cast

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from nanogrove.data.patterns import refusal
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.decoding.reading import pad, read
from nanogrove.errors import CheckpointError, NanogroveError, PresetError
from nanogrove.model.gpt import GPT
from nanogrove.paths import OnDisk
from nanogrove.record.events import Values
from nanogrove.settings import Settings, shown
from nanogrove.train.checkpoint import model_of, read_checkpoint
from nanogrove.train.precision import pick_device

Reward = Callable[[Sequence[str]], list[float]]
Scale = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)]
HISTOGRAM_BINS = 20


class RewardConfig(Settings):
    """One reward: terms, a pattern, a length, a trained reward model, or a function."""

    terms: dict[str, float] | None = Field(None, min_length=1, description="weight of each whole word a text contains")
    case: bool = Field(False, description="terms: whether case matters")
    pattern: str | None = Field(None, description="1 for a text in which this regular expression is found, else 0")
    length: int | None = Field(None, ge=0, description="minus the distance of a text's characters from this number")
    model: Annotated[str | None, OnDisk()] = Field(None, description="a run or checkpoint of method reward_model")
    function: str | None = Field(None, description="module:function, from texts to numbers; needs --allow-code")

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = ("terms", "pattern", "length", "model", "function")
        given = sum(getattr(self, kind) is not None for kind in kinds)
        if given != 1:
            raise ValueError(f"a reward is one of {', '.join(kinds[:-1])} and {kinds[-1]}, and {given} are given")
        if not math.isfinite(sum(map(abs, (self.terms or {}).values()))):
            raise ValueError("terms sum to more than a number holds; give smaller weights")
        try:
            re.compile(self.pattern or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"pattern {shown(self.pattern)} is not a regular expression ({error})") from None
        if why := refusal(self.pattern or "", classes_nest=False):
            raise ValueError(f"pattern {shown(self.pattern)} {why}, so that it may take forever; write a simpler one")
        return self

    def unmeasured(self, allow_code: bool) -> list[str]:
        """Why the reward cannot be measured, where it is a function and code may not be run; else nothing."""
        if self.function is None or allow_code:
            return []
        return [f"no reward is measured: {self.function} is Python code; to run it, add --allow-code"]

    def find(self, allow_code: bool) -> Reward:
        """The function these settings describe, a model where `auto` puts one.

        Raises PresetError as `find_reward` does, and CheckpointError as `load_reward`.
        """
        if self.terms is not None:
            return terms_reward(self.terms, self.case)
        if self.pattern is not None:
            pattern = re.compile(self.pattern)
            return lambda texts: [float(pattern.search(text) is not None) for text in texts]
        if self.length is not None:
            wanted = self.length
            return lambda texts: [-float(abs(len(text) - wanted)) for text in texts]
        if self.model is not None:
            return load_reward(self.model, pick_device("auto"))
        return find_reward(self.function or "", allow_code)


def terms_reward(terms: dict[str, float], case: bool) -> Reward:
    """The weights of the terms that occur in a text as whole words; each counts once: repeating it pays nothing."""
    flags = 0 if case else re.IGNORECASE
    known = [(re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", flags), weight) for term, weight in terms.items()]
    return lambda texts: [float(sum(weight for pattern, weight in known if pattern.search(text))) for text in texts]


def find_reward(name: str, allow_code: bool) -> Reward:
    """The function `module:function`, of an installed module or one in the working directory.

    What it returns is checked: a finite number for each text. Raises PresetError where code is not allowed, there is no
    such function, or it fails.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise PresetError(f"{name!r} is not a reward; write module:function, a function from texts to numbers")
    if not allow_code:
        raise PresetError(f"{name} is Python code that this preset asks to run; if you trust it, add --allow-code")
    if "" not in sys.path:  # and there it stays, for what the function imports later
        sys.path.insert(0, "")
    try:
        value = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise PresetError(f"{name} cannot be imported ({type(error).__name__}: {error})") from None
    if not callable(value):
        raise PresetError(f"{name} is not a function")
    return checked_reward(cast(Reward, value), name)


def checked_reward(reward: Callable[[Sequence[str]], Sequence[float]], name: str) -> Reward:
    """The same function, except that it raises PresetError unless it gives each text a finite number."""

    def checked(texts: Sequence[str]) -> list[float]:
        try:
            values = [float(value) for value in reward(texts)]
        except NanogroveError:  # which says itself what is wrong
            raise
        except Exception as error:
            raise PresetError(f"{name} failed on a text of the model ({type(error).__name__}: {error})") from error
        if len(values) != len(texts) or not all(map(math.isfinite, values)):
            shown = ", ".join(f"{value:g}" for value in values[:5])
            raise PresetError(f"{name} must give each of {len(texts)} texts a finite number; it gave {shown}")
        return values

    return checked


class RewardModel:
    """A model of one number per position and its tokenizer: a `Reward` that method reward_model has learned.

    `low` and `high` are the rewards that its 0 and its 1 stand for, those of the training texts. Not clamped here.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, low: float = 0.0, high: float = 1.0) -> None:
        self.model, self.tokenizer, self.low, self.high = model.eval(), tokenizer, low, high

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The reward of each whole text, in the units of the training texts."""
        end = self.tokenizer.end
        return self.of_tokens([[end, *self.tokenizer.encode(text), end] for text in texts])

    @torch.inference_mode()
    def of_tokens(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The reward after each row of tokens, of which the last `block_size` are read; in the same units."""
        if not rows:
            return []
        tokens, lengths = pad(rows, self.model.embed.weight.device)
        hidden, _ = read(self.model, tokens, lengths, self.model.config.block_size)
        predicted = self.model.values(hidden)[:, 0].double()
        return cast(list[float], (self.low + (self.high - self.low) * predicted).tolist())


def load_reward(path: str | Path, device: str | torch.device = "cpu") -> RewardModel:
    """The best reward model of a run folder, or that of a checkpoint folder.

    Raises CheckpointError, in one line, when there is none, it is damaged, or it is not a reward model.
    """
    checkpoint = read_checkpoint(Path(path))
    try:
        low, high = TypeAdapter(Scale).validate_python(checkpoint.state["notes"].get("scale"), strict=True)
    except ValidationError:
        low = high = math.nan
    if not checkpoint.config.scalar or math.isnan(low):
        raise CheckpointError(f"{path}: is not a reward model; train one with `nanogrove train reward-model`")
    return RewardModel(model_of(checkpoint, device), checkpoint.tokenizer, low, high)


def distribution(rewards: np.ndarray) -> Values:
    """How rewards `[N]` are spread, as values of a `rewards` event."""
    counts, edges = np.histogram(rewards, HISTOGRAM_BINS)
    return {
        "mean": float(rewards.mean()),
        "deviation": float(rewards.std()),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "texts": len(rewards),
    }
