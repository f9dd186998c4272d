"""How the next token is chosen from logits: settings, transforms, and the draw.

A logit transform is a plain function `(logits [R, V], tokens [R, T], lengths [R]) -> logits [R, V]`; `tokens` holds
what each row has read and written so far, with −1 past its length. A `Sampler` applies a list of them in order, so a
new way to steer decoding is one more function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from pydantic import Field
from torch import Tensor

from nanogrove.errors import DivergedError
from nanogrove.settings import Settings

Transform = Callable[[Tensor, Tensor, Tensor], Tensor]


class Sampling(Settings):
    """How the next token is chosen. A temperature of 0 takes the most likely one."""

    temperature: float = Field(0.8, ge=0, description="divides the logits; 0 takes the most likely token")
    top_k: int | None = Field(None, ge=1, description="keep the k most likely tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p")
    min_p: float | None = Field(None, ge=0, le=1, description="keep tokens of at least p times the largest")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens already seen less likely")
    no_repeat_ngram: int | None = Field(None, ge=1, description="never write an n-gram twice")

    @property
    def looks_back(self) -> bool:
        """Whether the next token depends on those before it by more than the model's scores."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram is not None

    def transforms(self, steering: Sequence[Transform] = ()) -> list[Transform]:
        """The transforms these settings ask for: penalties, then what steers, then the temperature, then the cuts."""
        chosen: list[Transform] = []
        if self.repetition_penalty != 1.0:
            chosen.append(repetition_penalty(self.repetition_penalty))
        if self.no_repeat_ngram:
            chosen.append(no_repeat_ngram(self.no_repeat_ngram))
        chosen += steering
        if self.temperature not in (0.0, 1.0):
            chosen.append(temperature(self.temperature))
        if self.top_k:
            chosen.append(top_k(self.top_k))
        if self.top_p is not None and self.top_p < 1:
            chosen.append(top_p(self.top_p))
        if self.min_p:
            chosen.append(min_p(self.min_p))
        return chosen


class SamplingOptions(TypedDict, total=False):
    """The settings of `Sampling` as keyword arguments."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    no_repeat_ngram: int | None


def refuse_not_finite(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Changes nothing. Raises DivergedError for a row whose largest logit is NaN or infinite."""
    if not logits.amax(-1).isfinite().all():
        raise DivergedError(
            "the model's scores of the next token are NaN or infinite, so it writes nothing; take another checkpoint "
            "of its run, or train it anew with lower learning rates"
        )
    return logits


def temperature(value: float) -> Transform:
    """Divides logits by `value` > 0."""
    return lambda logits, tokens, lengths: logits / value


def top_k(k: int) -> Transform:
    """Keeps the k largest logits of a row; ties with the k-th stay."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        kth = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < kth, -torch.inf)

    return transform


def top_p(p: float) -> Transform:
    """Nucleus sampling (Holtzman 2020): the fewest most likely tokens whose probabilities sum to at least p."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        ordered, order = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        cut = probability.cumsum(-1) - probability >= p  # the mass before a token already suffices
        return logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)

    return transform


def min_p(p: float) -> Transform:
    """Keeps tokens at least p times as likely as the most likely one (Nguyen 2024)."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        probability = logits.softmax(-1)
        return logits.masked_fill(probability < p * probability.amax(-1, keepdim=True), -torch.inf)

    return transform


def repetition_penalty(penalty: float) -> Transform:
    """Divides positive and multiplies negative logits of tokens already seen (Keskar 2019)."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        vocabulary = logits.shape[-1]
        seen = torch.zeros(logits.shape[0], vocabulary + 1, dtype=torch.bool, device=logits.device)
        seen.scatter_(1, tokens.where(tokens >= 0, vocabulary), True)
        return torch.where(seen[:, :-1], torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    return transform


def no_repeat_ngram(n: int) -> Transform:
    """Forbids tokens that would complete an n-gram already in the row; a row with no token left is not touched."""

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        if tokens.shape[1] < n:
            return logits
        windows = tokens.unfold(1, n, 1)  # [R, T − n + 1, n]
        at = lengths[:, None] + torch.arange(1 - n, 0, device=tokens.device)
        tail = tokens.gather(1, at.clamp(min=0)).masked_fill(at < 0, -2)
        repeated = (windows[..., :-1] == tail[:, None]).all(-1) & (windows[..., -1] >= 0)
        vocabulary = logits.shape[-1]
        banned = torch.zeros(logits.shape[0], vocabulary + 1, dtype=torch.bool, device=logits.device)
        banned.scatter_(1, windows[..., -1].where(repeated, vocabulary), True)
        allowed = logits.masked_fill(banned[:, :-1], -torch.inf)
        return torch.where((allowed > -torch.inf).any(-1, keepdim=True), allowed, logits)

    return transform


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One token `[R]` per row of `logits [R, V]`, by its softmax: where a uniform number falls in the running sum.

    One random number per row, where `torch.multinomial` draws one for every token of the vocabulary.
    """
    return token_at(
        logits, torch.rand(logits.shape[0], 1, dtype=torch.float64, device=logits.device, generator=generator)
    )


def token_at(logits: Tensor, at: Tensor) -> Tensor:
    """The token `[R]` of each row of `logits [R, V]` at which the running sum of its softmax passes `at [R, 1]`."""
    reached = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    return torch.searchsorted(reached, at * reached[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def draws_by_member(generators: Sequence[torch.Generator]) -> Transform:
    """Draws each member's tokens from its own stream, whatever other members do; a greedy sampler then takes them.

    Rows are those of the members in turn. The numbers that a member draws are those of `draw` for it alone.
    """

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        rows = len(logits) // len(generators)
        numbers = [
            torch.rand(rows, 1, dtype=torch.float64, device=logits.device, generator=each) for each in generators
        ]
        chosen = token_at(logits, torch.cat(numbers))
        return torch.full_like(logits, -torch.inf).scatter(1, chosen[:, None], 0.0)

    return transform


@dataclass(frozen=True)
class Sampler:
    """Chooses one token per row.

    Args:
        transforms: Applied to the logits in this order.
        temperature: What the transforms divide by; 0 takes the token of the largest score, and draws nothing.
        generator: The stream of random numbers, on the device of the logits; torch's own if left out.
    """

    transforms: Sequence[Transform] = ()
    temperature: float = 1.0
    generator: torch.Generator | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return not self.temperature

    def scores(self, logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """`logits [R, V]` after all transforms, in float32, for rows that hold `lengths [R]` of `tokens [R, T]`."""
        scores = logits.float()
        for transform in self.transforms:
            scores = transform(scores, tokens, lengths)
        return scores

    def choose(self, scores: Tensor) -> Tensor:
        """One token `[R]` per row of `scores [R, V]`."""
        return scores.argmax(-1) if self.greedy else draw(scores, self.generator)


def record_log_probs(temperature: float) -> tuple[Transform, Callable[[Tensor], Tensor]]:
    """A transform that changes nothing, and a function from the new tokens `[R, N]` to their log-probabilities.

    Those are `[R, n]`, of the n steps that plain decoding took, at `temperature`. The transform keeps the scores of a
    step until its token is known.
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
