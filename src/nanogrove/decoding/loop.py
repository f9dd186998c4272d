"""The decoding loop: rows of tokens grow until each has ended, by whichever strategy finds the next tokens.

The loop holds what every strategy would otherwise repeat: prompts of several lengths side by side, the budget of new
tokens, stop tokens, evaluation mode, packed weights, and the end. A `Strategy` says how the next tokens are found.

Letters in shapes: R rows, of a population P * B; T tokens that a row has room for; n tokens of one step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.decoding.sampling import Sampler
from nanogrove.decoding.stopping import StopTexts
from nanogrove.model.mode import evaluating
from nanogrove.model.packing import Packing
from nanogrove.waits import waiting

MIN_TOKENS_TO_PACK = 16  # new tokens from which on decoding is the faster for a packed copy of the weights


class Sequences:
    """Rows that grow: their tokens, lengths and ends.

    Args:
        prompts: `[R, T]`, padded on the right.
        lengths: `[R]`, the tokens of each prompt.
        new_tokens: How many tokens a row may get.
        stop: Tokens that end a row, and are kept.
        spare: Positions after the last token that a strategy writes drafts to.
        texts: Texts that end a row once its new tokens have written one.
    """

    def __init__(
        self,
        prompts: Tensor,
        lengths: Tensor,
        new_tokens: int,
        stop: Sequence[int],
        spare: int,
        texts: StopTexts | None = None,
    ) -> None:
        self.texts = texts
        self.start = self.lengths = lengths
        self.new_tokens = self.most_left = new_tokens  # the latter: tokens that the row with most room may still get
        self.positions = torch.arange(prompts.shape[1] + new_tokens + spare, device=prompts.device)
        self.tokens = F.pad(prompts, (0, new_tokens + spare))
        self.tokens = self.up_to(lengths)
        self.stops = torch.tensor(list(stop), dtype=torch.int64, device=prompts.device)
        self.ended = torch.full_like(lengths, new_tokens < 1, dtype=torch.bool)

    def up_to(self, lengths: Tensor) -> Tensor:
        """The tokens `[R, T]`, −1 from `lengths [R]` on."""
        return self.tokens.masked_fill(self.positions >= lengths[:, None], -1)

    def append(self, token: Tensor) -> None:
        """Appends `token [R]` to every row; a row that has ended gets −1, so that rows of one length stay so.

        Asks the device whether all rows have ended only where a stop token may have ended them.
        """
        self.tokens.scatter_(1, self.lengths[:, None], token.masked_fill(self.ended, -1)[:, None])
        self.lengths = self.lengths + 1
        self.most_left -= 1
        if len(self.stops):
            self.ended = self.ended | torch.isin(token, self.stops)
        if self.texts is not None:
            self.ended = self.ended | self._wrote_stop_text(self.texts, 1)
        if len(self.stops) or self.texts is not None:
            self.most_left = 0 if bool(self.ended.all()) else self.most_left

    def extend(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Appends the first `counts [R]` of `tokens [R, n]` to each row that has not ended, up to its first stop token.

        Returns how many those were, `[R]`. Positions after them hold −1.
        """
        step = torch.arange(tokens.shape[1], device=tokens.device)
        stops = torch.isin(tokens, self.stops) & (step < counts[:, None])
        counts = torch.where(stops.any(1), stops.int().argmax(1) + 1, counts)
        left = (self.new_tokens - (self.lengths - self.start)).masked_fill(self.ended, 0)
        counts = torch.minimum(counts, left)
        after = step >= counts[:, None]
        self.tokens.scatter_(1, self.lengths[:, None] + step, tokens.masked_fill(after, -1))
        self.lengths = self.lengths + counts
        self.ended = self.ended | stops.any(1) | (counts == left)
        if self.texts is not None:
            self.ended = self.ended | self._wrote_stop_text(self.texts, tokens.shape[1])
        self.most_left = int((left - counts).masked_fill(self.ended, 0).max())
        return counts

    def _wrote_stop_text(self, texts: StopTexts, latest: int) -> Tensor:
        """Whether each row `[R]` that goes on has written a stop text with at most `latest` tokens of this step."""
        ends = []
        for row, (start, length) in enumerate(zip(self.start.tolist(), self.lengths.tolist(), strict=True)):
            tokens = self.tokens[row, start:length]
            ids = [token for token in tokens[-texts.window - latest :].tolist() if token >= 0]
            ends.append(texts.within(ids) and texts.within([token for token in tokens.tolist() if token >= 0]))
        return torch.tensor(ends, device=self.ended.device)

    def written(self) -> Tensor:
        """The new tokens `[R, new_tokens]`, −1 after the end of a row."""
        return self.tokens.gather(1, self.start[:, None] + self.positions[: self.new_tokens])


Steps = Callable[[Sequences, Sampler], Iterator[None]]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """A way to find the next tokens.

    Args:
        steps: Given rows and a sampler, yields for as long as it is asked, each time with one token or more appended
            to every row that goes on. What it needs from step to step it keeps in itself, so a strategy serves again.
        modules: What computes; it does so in evaluation mode and, where that pays, with packed weights.
        tokens_per_call: Tokens that one call of the model reads for each row.
        pack_from: New tokens from which on weights are packed.
        spare: Positions after the last token that it writes drafts to, of which a step appends no more; it appends one
            token where there are none.
        one_length: Whether prompts must have one length; the loop then takes rows length by length, the shortest first.
    """

    steps: Steps
    modules: Sequence[nn.Module]
    tokens_per_call: int = 1
    pack_from: int = 0
    spare: int = 0
    one_length: bool = False


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be written.

    Args:
        prompts: Token ids `[*P, B, T]`, padded on the right.
        lengths: The true lengths `[*P, B]` of the prompts; all T where None.
        new_tokens: How many tokens each row gets at most.
        sampler: How a token is chosen from scores.
        stop: Tokens that end their row, and are kept.
        stop_texts: Texts that end their row; what is written after one within a step is the caller's to cut.
        dtype: With bfloat16 a single float32 model's matrix products are rounded to 8 bits where weights are packed;
            elsewhere nothing is.
        judges: Further modules that the sampler asks, each with the rows that it reads in one call.
    """

    prompts: Tensor
    lengths: Tensor | None = None
    new_tokens: int
    sampler: Sampler = field(default_factory=Sampler)
    stop: Sequence[int] = ()
    stop_texts: StopTexts | None = None
    dtype: torch.dtype = torch.float32
    judges: Sequence[tuple[nn.Module, int]] = ()

    def packing(self, strategy: Strategy) -> Packing:
        """Packed weights of all that computes; none where so few tokens are written that packing would take longer."""
        rows = self.prompts.shape[-2]
        modules = [*((module, rows * strategy.tokens_per_call) for module in strategy.modules), *self.judges]
        return Packing(modules if self.new_tokens >= strategy.pack_from else (), self.dtype)

    def groups(self, strategy: Strategy) -> list[Tensor]:
        """The numbers of rows that grow together: all, or where they must those of one length, the shortest first."""
        count = math.prod(self.prompts.shape[:-1])
        if not strategy.one_length:
            return [torch.arange(count, device=self.prompts.device)] if count else []
        lengths = self.row_lengths()
        return [(lengths == length).nonzero()[:, 0] for length in sorted(set(lengths.tolist()))]

    def row_lengths(self) -> Tensor:
        """The lengths `[P * B]` of the prompts."""
        *shape, width = self.prompts.shape
        all_of_it = torch.full((math.prod(shape),), width, device=self.prompts.device)
        return all_of_it if self.lengths is None else self.lengths.flatten()


class Growth(NamedTuple):
    """Rows after a step: their numbers among all rows, and themselves."""

    numbers: Tensor
    rows: Sequences


def growing(strategy: Strategy, request: Request) -> Iterator[Growth]:
    """Writes a step each time it is asked, within inference mode, until all rows have ended."""
    prompts, lengths = request.prompts.flatten(0, -2), request.row_lengths()
    for numbers in request.groups(strategy):
        width = int(lengths[numbers].max()) if strategy.one_length else prompts.shape[1]
        rows = Sequences(
            prompts[numbers, :width],
            lengths[numbers],
            request.new_tokens,
            request.stop,
            strategy.spare,
            request.stop_texts,
        )
        steps, growth = strategy.steps(rows, request.sampler), Growth(numbers, rows)
        while rows.most_left:
            next(steps)
            yield growth


@torch.inference_mode()
def write(strategy: Strategy, request: Request) -> Tensor:
    """The new tokens `[*P, B, new_tokens]`, −1 after a stop token or a stop text."""
    *shape, _ = request.prompts.shape
    new, ended = request.new_tokens, 0
    written = request.prompts.new_full((math.prod(shape), new), -1)
    with (
        evaluating(*strategy.modules),
        request.packing(strategy).installed(),
        waiting("writing", len(request.groups(strategy)) * new) as wait,
    ):
        for numbers, rows in growing(strategy, request):
            wait.done = ended + new - rows.most_left
            if not rows.most_left:
                written[numbers] = rows.written()
                ended += new
    return written.view(*shape, new)


def decode(
    strategy: Strategy,
    prompts: Tensor,
    lengths: Tensor | None = None,
    *,
    new_tokens: int,
    sampler: Sampler | None = None,
    stop: Sequence[int] = (),
    stop_texts: StopTexts | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Continues `prompts [*P, B, T]`: the new tokens `[*P, B, new_tokens]`, −1 after a token of `stop`, which is kept.

    The arguments are those of `Request`; without a sampler tokens are drawn from the softmax of the logits.
    """
    request = Request(
        prompts=prompts,
        lengths=lengths,
        new_tokens=new_tokens,
        sampler=sampler or Sampler(),
        stop=stop,
        stop_texts=stop_texts,
        dtype=dtype,
    )
    return write(strategy, request)
