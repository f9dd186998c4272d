"""A trained model with its tokenizer, ready to write text: what `nanogrove.load` returns."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from pydantic import ValidationError
from torch import Tensor

from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer
from nanogrove.decoding.lookahead import look_ahead
from nanogrove.decoding.loop import PACK, Sampling, Transform, generate, pad
from nanogrove.decoding.speculative import speculate
from nanogrove.decoding.steering import TOP_K, model_score, reward_augmented, sequence_score
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.evaluate.calibration import load_calibration
from nanogrove.evaluate.reward import Reward, RewardModel, checked_reward, load_reward
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.model.layers import packed_weights
from nanogrove.train.autotune import Choice, Decoding, decoding
from nanogrove.train.checkpoint import Checkpoint, heads_of, model_of, read_checkpoint

AnyReward = RewardModel | Callable[[Sequence[str]], Sequence[float]] | str | Path  # a path is that of a run
BETA = 5.0  # what a reward counts, in nats, unless told


class Continuation(NamedTuple):
    """A text as `generate` writes it, and how sure its model was of each of the N new tokens.

    `tokens` are the new ones, one by one, an end of text included. `probabilities` are the model's own, at its
    calibrated temperature or 1, whatever was drawn from: cuts and the sampling temperature do not change them.
    """

    text: str
    tokens: list[str]
    probabilities: list[float]
    mean_log_probability: float  # nats a token


class LanguageModel:
    """A model, its tokenizer, and the auxiliary heads that trained beside it, if any.

    `temperature` is what its logits are to be divided by for calibrated probabilities, 1.0 where it has not been
    calibrated, as `calibrated` tells.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, temperature: float | None = None, heads: Heads | None = None
    ) -> None:
        self.model, self.tokenizer, self.heads = model.eval(), tokenizer, heads
        self.calibrated = temperature is not None
        self.temperature = 1.0 if temperature is None else temperature

    @overload
    def generate(
        self,
        prompt: str = "",
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        reward: AnyReward | None = None,
        beta: float = BETA,
        speculative: bool = False,
        lookahead: int | None = None,
        **sampling: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        reward: AnyReward | None = None,
        beta: float = BETA,
        speculative: bool = False,
        lookahead: int | None = None,
        **sampling: Any,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        reward: AnyReward | None = None,
        beta: float = BETA,
        speculative: bool = False,
        lookahead: int | None = None,
        **sampling: Any,
    ) -> str | list[str]:
        """Prompt plus continuation: a string for one prompt, a list for a list, decoded as one batch.

        A text ends at the end-of-text token or after `tokens` new tokens; an empty prompt starts a document.
        `sampling` takes the settings of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty,
        no_repeat_ngram. With `calibrated` the temperature is multiplied by the model's own. `precision` is that of
        matrix products; `auto` takes bfloat16 where the processor has such products and the model is large enough to
        gain, as the method `precision` says. Equal seeds give equal texts in equal precision.

        A `reward` steers: of the `top_k` likeliest tokens, 20 when left out, each gets `beta` times the reward of the
        text that ends with it, ahead of the temperature (`decoding/steering.py`). It is a `RewardModel` or the run of
        one, whose numbers are clamped to [0, 1], or a function from texts, prompts included, to numbers.

        With `speculative` the model's multi-token heads draft and the model verifies (`decoding/speculative.py`): texts
        are distributed as without, in fewer calls of the model; greedily they are the same texts. With `lookahead` each
        token is searched for with value and dynamics heads, in so many calls of the model (`decoding/lookahead.py`).

        Raises PresetError for a setting out of range or two ways to write at once, CheckpointError for a model that has
        not been calibrated and should be, one without the heads or a reward model of another vocabulary, and DataError
        for a prompt the vocabulary cannot express.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        write = self._way(reward, speculative, lookahead)
        texts, _ = self._written(prompts, tokens, seed, precision, calibrated, sampling, reward, beta, write=write)
        return texts[0] if isinstance(prompt, str) else texts

    def continuations(
        self,
        prompts: Sequence[str],
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        reward: AnyReward | None = None,
        beta: float = BETA,
        **sampling: Any,
    ) -> list[Continuation]:
        """The texts that `generate` writes for the same arguments, each with the confidence of its new tokens."""
        if self.model.memory is not None and len(prompts) > 1:
            raise PresetError("confidence: a model with a memory tells it of one prompt at a time")
        watch, log_probabilities = _watch(self.temperature if calibrated else 1.0)
        texts, new = self._written(prompts, tokens, seed, precision, calibrated, sampling, reward, beta, watch)
        found = []
        for text, row, scores in zip(texts, new.tolist(), log_probabilities(new), strict=True):
            written = [token for token in row if token >= 0]
            names = [
                END_OF_TEXT if token == self.tokenizer.end else self.tokenizer.decode([token]) for token in written
            ]
            own = scores[: len(written)]
            found.append(Continuation(text, names, own.exp().tolist(), float(own.mean())))
        return found

    def best_of(
        self,
        n: int,
        prompts: Sequence[str],
        tokens: int = 100,
        *,
        reward: AnyReward,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        **sampling: Any,
    ) -> list[str]:
        """Of `n` texts that `generate` draws behind each prompt, decoded as one batch, that of the highest reward.

        Takes and raises what `generate` does; of equal ones the first is taken. Raises PresetError for n < 1.
        """
        if n < 1:
            raise PresetError(f"best of {n}: there is no best of none; give 1 or more")
        judge, drawn = self._judge(reward), [prompt for prompt in prompts for _ in range(n)]
        texts, new = self._written(drawn, tokens, seed, precision, calibrated, sampling, None, 0.0)
        if isinstance(judge, RewardModel):
            written = [[token for token in row if token >= 0] for row in new.tolist()]
            values = judge.of_tokens([self._prompt(p) + row for p, row in zip(drawn, written, strict=True)])
        else:
            values = judge(texts)
        groups = (range(first, first + n) for first in range(0, len(drawn), n))
        return [texts[max(group, key=values.__getitem__)] for group in groups]

    def _written(
        self,
        prompts: Sequence[str],
        tokens: int,
        seed: int,
        precision: Decoding,
        calibrated: bool,
        sampling: dict[str, Any],
        reward: AnyReward | None,
        beta: float,
        *before: Transform,
        write: Callable[..., Tensor] | None = None,
    ) -> tuple[list[str], Tensor]:
        """Each prompt with its continuation, and the new tokens `[R, tokens]`, −1 behind the end of a text.

        `before` are transforms that see the logits as the model made them; `write` decodes, plainly if left out.
        """
        try:
            settings = Sampling(**sampling)
        except ValidationError as error:
            problem = error.errors()[0]
            raise PresetError(f"{problem['loc'][0]}: {problem['msg'].lower()}") from None
        if calibrated and not self.calibrated:
            raise CheckpointError(
                "this model has no temperature of its own yet; run `nanogrove evaluate RUN --calibrate` first"
            )
        if not prompts:
            return [], torch.empty(0, tokens, dtype=torch.int64)
        scale = self.temperature if calibrated else 1.0
        settings = settings.model_copy(update={"temperature": settings.temperature * scale})
        device = self.model.embed.weight.device
        rows, lengths = pad([self._prompt(text) for text in prompts], device)
        dtype = torch.bfloat16 if self.precision(precision).format == "bfloat16" else torch.float32
        steering: list[Transform] = []
        packed: AbstractContextManager[None] = nullcontext()
        if reward is not None:
            if not math.isfinite(beta):
                raise PresetError(f"beta: must be a finite number, and {beta} was given")
            judge, k = self._judge(reward), settings.top_k or TOP_K
            settings = settings.model_copy(update={"top_k": None})  # the cut is part of steering
            if isinstance(judge, RewardModel):
                score = model_score(judge.model)
                if tokens >= PACK:
                    packed = packed_weights(judge.model, k * len(rows), dtype)
            else:
                told = judge
                score = sequence_score(lambda found: told([self.tokenizer.decode(row) for row in found]))
            steering = [reward_augmented(score, beta, k)]
        with packed:
            new = (write or _plainly)(
                self.model,
                rows,
                lengths,
                new_tokens=tokens,
                transforms=[*before, *settings.transforms(steering)],
                temperature=settings.temperature,
                stop=[self.tokenizer.end],
                generator=torch.Generator(device).manual_seed(seed),
                dtype=dtype,
            )
        texts = [
            text + self.tokenizer.decode([token for token in row if token >= 0])
            for text, row in zip(prompts, new.tolist(), strict=True)
        ]
        return texts, new

    def _prompt(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text)) or [self.tokenizer.end]

    def _way(self, reward: AnyReward | None, speculative: bool, lookahead: int | None) -> Callable[..., Tensor]:
        """What writes: plain decoding, or one of those that heads make possible."""
        ways = [name for name, on in (("speculative", speculative), ("lookahead", lookahead is not None)) if on]
        if self.model.memory is not None and (ways or reward is not None):
            raise PresetError(f"{'a reward' if not ways else ways[0]}: a model with a memory is decoded plainly only")
        if not ways:
            return _plainly
        if reward is not None or len(ways) > 1:
            raise PresetError(f"{' and '.join(ways)}{' and a reward' if reward else ''} do not go together; take one")
        if speculative:
            if self.heads is None or not len(self.heads.ahead):
                raise CheckpointError(
                    "speculative: this model has no multi-token heads to draft; train one with "
                    "auxiliary.enable_multi_token=true"
                )
            return partial(_drafted, self.heads)
        if self.heads is None or self.heads.value is None or self.heads.step is None:
            raise CheckpointError(
                "lookahead: this model has no value and dynamics heads; train one with auxiliary.enable_value=true "
                "auxiliary.enable_dynamics=true"
            )
        if lookahead is None or lookahead < 1:
            raise PresetError(f"lookahead: {lookahead} model calls a token write nothing; give 1 or more")
        return partial(_searched, self.heads, lookahead)

    def _judge(self, reward: AnyReward) -> RewardModel | Reward:
        """The reward model that is given or lies in a run, or a function that is checked as it is used."""
        found = load_reward(reward, self.model.embed.weight.device) if isinstance(reward, (str, Path)) else reward
        if not isinstance(found, RewardModel):
            return checked_reward(found, getattr(found, "__name__", "the reward"))
        sizes = (found.model.embed.weight.shape[0], self.model.embed.weight.shape[-2])
        if found.tokenizer.to_json() != self.tokenizer.to_json() or sizes[0] < sizes[1]:
            where = f"{reward}: this reward model" if isinstance(reward, (str, Path)) else "the reward model"
            raise CheckpointError(
                f"{where} has another vocabulary than the model it is to steer; train one with "
                "data.tokenizer=RUN/checkpoints/best/tokenizer.json"
            )
        return found

    def precision(self, asked: Decoding = "auto") -> Choice:
        """The format that `generate` multiplies in when `asked` is given, and why. Raises PresetError as it does."""
        return decoding(self.model, asked)


def _plainly(*given: Any, temperature: float, **settled: Any) -> Tensor:
    return generate(*given, greedy=not temperature, **settled)


def _drafted(heads: Heads, model: GPT, *given: Any, temperature: float, **settled: Any) -> Tensor:
    return speculate(model, heads, *given, greedy=not temperature, **settled).tokens


def _searched(heads: Heads, budget: int, model: GPT, *given: Any, **settled: Any) -> Tensor:
    return look_ahead(model, heads, *given, budget=budget, **settled)


def _watch(temperature: float) -> tuple[Transform, Callable[[Tensor], Tensor]]:
    """A transform that changes nothing, and a function from the tokens `[R, N]` written then to log-probabilities.

    Those `[R, n]` of the n steps decoding took, at `temperature`. A step's scores are kept until its token is known.
    """
    known: list[Tensor] = []
    latest = torch.empty(0)

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        nonlocal latest
        if len(latest):
            chosen = tokens.gather(1, lengths[:, None] - 1)
            known.append(latest.gather(1, chosen.clamp(min=0)))
        latest = (logits / temperature).log_softmax(-1)
        return logits

    def log_probabilities(new: Tensor) -> Tensor:
        if not len(new):
            return torch.empty(0, 0)
        last = latest.gather(1, new[:, len(known), None].clamp(min=0))
        return torch.cat([*known, last], 1)

    return transform, log_probabilities


def from_checkpoint(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> LanguageModel:
    """The model a checkpoint holds, with its temperature where it was calibrated.

    Raises CheckpointError for one that predicts no tokens.
    """
    if checkpoint.config.scalar:
        raise CheckpointError(
            f"{checkpoint.folder}: is a reward model and writes nothing; give it as the reward of a model that does"
        )
    found = load_calibration(checkpoint)
    temperature = None if found is None else found["temperature"]
    return LanguageModel(model_of(checkpoint, device), checkpoint.tokenizer, temperature, heads_of(checkpoint, device))


def load(path: str | Path, device: str | torch.device = "cpu") -> LanguageModel:
    """The best model of a run folder, or that of a checkpoint folder, with its temperature where it was calibrated.

    No code in either is ever run. Raises CheckpointError, in one line, when there is none or it is damaged.
    """
    return from_checkpoint(read_checkpoint(Path(path)), device)
