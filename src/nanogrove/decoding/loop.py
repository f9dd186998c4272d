"""Decoding: batched, cached, prompts of different lengths side by side, populations included.

A logit transform is a plain function `(logits [R, V], tokens [R, T], lengths [R]) -> logits [R, V]`; `tokens` holds
what each row has read and written so far, with −1 past its length. `generate` applies a list of them in order, so a
new way to steer decoding is one more function.

When a row's context is full, its last `block_size // 2` tokens are read again into an empty cache and decoding goes
on: one extra read every half context, where cropping at each token would cost a full read every time.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Cache, packed_weights
from nanogrove.model.mode import evaluating

PACK = 16  # new tokens from which on decoding is the faster for a packed copy of the weights

Transform = Callable[[Tensor, Tensor, Tensor], Tensor]


class Sampling(BaseModel):
    """How the next token is chosen. A temperature of 0 takes the most likely one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(
        0.8, ge=0, allow_inf_nan=False, description="divides the logits; 0 takes the most likely token"
    )
    top_k: int | None = Field(None, ge=1, description="keep the k most likely tokens")
    top_p: float | None = Field(None, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p")
    min_p: float | None = Field(None, ge=0, le=1, description="keep tokens of at least p times the largest")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens already seen less likely")
    no_repeat_ngram: int | None = Field(None, ge=1, description="never write an n-gram twice")

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


def pad(prompts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token lists as `tokens [B, T]`, padded on the right with 0, and their `lengths [B]`.

    Raises ValueError for an empty prompt: the first token must be told.
    """
    if not prompts or not all(prompts):
        raise ValueError("a prompt needs at least one token")
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    return tokens.to(device), lengths.to(device)


def read(model: GPT, history: Tensor, lengths: Tensor, batch: int, limit: int, spare: int = 0) -> tuple[Tensor, Cache]:
    """Reads each row's last `limit` tokens into an empty cache with room for `spare` more than the context holds.

    `history [R, T]` holds `lengths [R]` tokens a row, `batch` rows a member. Returns the states `[*P, B, 1, C]` behind
    them, and the cache.
    """
    keep = lengths.clamp(max=limit)
    at = (lengths - keep)[:, None] + torch.arange(int(keep.max()), device=lengths.device)
    window = history.gather(1, at.clamp(max=history.shape[1] - 1)).clamp(min=0)
    cache = model.cache(batch, min(history.shape[1], model.config.block_size) + spare)
    axes = () if model.population is None else (model.population,)
    hidden = model.hidden(window.view(*axes, batch, -1), cache, keep)
    last = (keep - 1).view(*axes, batch, 1, 1).expand(*axes, batch, 1, hidden.shape[-1])
    return hidden.gather(-2, last), cache


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One token `[R]` a row of `logits [R, V]`, by its softmax: where a uniform number falls in the running sum.

    One random number a row, where `torch.multinomial` draws one for every token of the vocabulary.
    """
    reached = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    at = torch.rand(logits.shape[0], 1, dtype=torch.float64, device=logits.device, generator=generator)
    return torch.searchsorted(reached, at * reached[:, -1:], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


@torch.inference_mode()
def generate(
    model: GPT,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    new_tokens: int,
    transforms: Sequence[Transform] = (),
    greedy: bool = False,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Continues `tokens [*P, B, T]`, padded on the right to true `lengths [*P, B]` (all T when left out).

    Returns the new tokens `[*P, B, new_tokens]`; behind a token of `stop`, which is kept, a row holds −1.
    Sampling draws from `generator`, on the device of the tokens. In `dtype` bfloat16 a single float32 model's matrix
    products are rounded to 8 bits where `packed_weights` applies, and elsewhere nothing is.
    """
    packed = packed_weights(model, tokens.shape[-2], dtype) if new_tokens >= PACK else nullcontext()
    way = _continue if model.memory is None else _continue_by_length
    with evaluating(model), packed:
        return way(model, tokens, lengths, new_tokens, transforms, greedy, stop, generator)


def _continue(
    model: GPT,
    tokens: Tensor,
    lengths: Tensor | None,
    new_tokens: int,
    transforms: Sequence[Transform],
    greedy: bool,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Tensor:
    batch, size = tokens.shape[-2], model.config.block_size
    rows = tokens.flatten(0, -2)
    if lengths is None:
        lengths = torch.full(rows.shape[:1], rows.shape[1], device=rows.device)
    lengths = lengths.flatten().clone()
    history = torch.nn.functional.pad(rows, (0, new_tokens), value=-1)
    places = torch.arange(history.shape[1], device=rows.device)
    history = history.masked_fill(places >= lengths[:, None], -1)
    start = lengths.clone()
    stops = torch.tensor(list(stop), device=rows.device, dtype=torch.int64)
    done = torch.zeros_like(lengths, dtype=torch.bool)
    hidden, cache = read(model, history, lengths, batch, size)
    for count in range(new_tokens):
        scores = model.logits(hidden).reshape(rows.shape[0], -1).float()
        for transform in transforms:
            scores = transform(scores, history, lengths)
        chosen = scores.argmax(-1) if greedy else draw(scores, generator)
        history.scatter_(1, lengths[:, None], chosen.masked_fill(done, -1)[:, None])
        lengths = lengths + 1
        done = done | torch.isin(chosen, stops)
        if count + 1 == new_tokens or (len(stop) and bool(done.all())):
            break
        if cache.longest >= size:
            hidden, cache = read(model, history, lengths, batch, max(size // 2, 1))
        else:
            step = chosen.view(*tokens.shape[:-1], 1)
            hidden = model.hidden(step, cache)
    at = start[:, None] + torch.arange(new_tokens, device=rows.device)
    return history.gather(1, at).view(*tokens.shape[:-1], new_tokens)


def _continue_by_length(
    model: GPT,
    tokens: Tensor,
    lengths: Tensor | None,
    new_tokens: int,
    transforms: Sequence[Transform],
    greedy: bool,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Tensor:
    """`_continue` of a model with a memory: rows of one length together, so that their segments end together."""
    assert model.population is None
    if lengths is None:
        lengths = torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
    found = tokens.new_full((len(tokens), new_tokens), -1)
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, 0]
        found[rows] = _roll(model, tokens[rows, :length], new_tokens, transforms, greedy, stop, generator)
    return found


def _roll(
    model: GPT,
    tokens: Tensor,
    new_tokens: int,
    transforms: Sequence[Transform],
    greedy: bool,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Tensor:
    """New tokens `[R, new_tokens]` behind `tokens [R, T]`; the cache holds one segment, behind the memory it reads."""
    assert model.memory is not None
    (rows, width), segment, size = tokens.shape, model.config.memory_segment, model.config.memory_tokens
    history = torch.nn.functional.pad(tokens, (0, new_tokens), value=-1)
    stops = torch.tensor(list(stop), device=tokens.device, dtype=torch.int64)
    done = torch.zeros(rows, dtype=torch.bool, device=tokens.device)
    full = (width - 1) // segment * segment  # a segment is closed when the token behind it is known
    memory = model.memory.first(rows)
    if full:
        memory = model.remember(tokens[:, :full], write_last=True)[1][:, -1]
    cache, given = model.cache(rows), torch.cat([memory, model.embed(tokens[:, full:])], 1)
    for length in range(width, width + new_tokens):
        scores = model.logits(model.through(given, cache)[:, -1]).float()
        for transform in transforms:
            scores = transform(scores, history, torch.full((rows,), length, device=tokens.device))
        chosen = scores.argmax(-1) if greedy else draw(scores, generator)
        history[:, length] = chosen.masked_fill(done, -1)
        done = done | torch.isin(chosen, stops)
        if len(stop) and bool(done.all()):
            break
        given = model.embed(chosen[:, None])
        if cache.longest == size + segment:
            memory = model.through(model.memory.places(memory), cache)
            cache, given = model.cache(rows), torch.cat([memory, given], 1)
    return history[:, width:]
