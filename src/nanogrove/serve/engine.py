"""The engine: requests wait, are admitted into free rows of one cache, and each grows by a token per step.

It knows no network, thread or clock. A text depends on its request alone: its seed has a stream of its own, and it is
the text that `LanguageModel.generate` gives for that seed, in batches of any kind.

One thread may call `submit` and set `Ticket.cancelled` while another calls `step`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.decoding.open_rows import Draw, OpenRows, choose
from nanogrove.decoding.pieces import TextPieces
from nanogrove.decoding.sampling import Sampling
from nanogrove.decoding.stopping import StopTexts
from nanogrove.errors import DataError, NanogroveError, PresetError, RunError
from nanogrove.language_model import LanguageModel
from nanogrove.memory import free_bytes, shown_bytes
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.model.packing import packed_weights
from nanogrove.train.precision import WEIGHTS, Decoding

PROMPT_TOKENS_PER_STEP = 512  # that are read before other rows go on, unless one prompt is longer
NOT_FINITE = "the model's scores of the next token are NaN or infinite, so it writes nothing"
End = Literal["stop", "length", "cancelled", "failed"]


class BusyError(NanogroveError):
    """As many requests wait as may."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be continued, and how.

    Args:
        prompt: Its tokens, one or more.
        tokens: New tokens at most, one or more.
        sampling: How a token is chosen.
        seed: Of the stream of random numbers.
        ends: Tokens that end the text.
        stops: Texts before which it ends.
        alternatives: How many of the likeliest tokens are named at each step; None where no log-probability is wanted.
    """

    prompt: Sequence[int]
    tokens: int
    sampling: Sampling
    seed: int
    ends: frozenset[int]
    stops: StopTexts | None = None
    alternatives: int | None = None


@dataclass(eq=False)
class Ticket:
    """A request that was taken."""

    request: Request
    cancelled: bool = False


class Scored(NamedTuple):
    """A new token, its log-probability at temperature 1 in nats, and the likeliest tokens with theirs."""

    token: int
    log_probability: float
    likeliest: list[tuple[int, float]]


class Update(NamedTuple):
    """What a step did for a request: more text, often none yet, and the end.

    `tokens` counts the new tokens so far, with those that wrote an end. `problem` says why it has `failed`.
    """

    ticket: Ticket
    text: str
    tokens: int
    scored: Scored | None = None
    end: End | None = None
    problem: str = ""


@dataclass
class _Row:
    """A request that grows."""

    ticket: Ticket
    draw: Draw
    pieces: TextPieces
    tokens: list[int] = field(default_factory=list)  # the new ones


class Engine:
    """Continues requests by one model, `room` at a time; `waiting_limit` more may wait.

    Use `opened`, which packs the model's weights.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, room: int, waiting_limit: int) -> None:
        self.model, self.tokenizer, self.room, self.waiting_limit = model, tokenizer, room, waiting_limit
        self._waiting: deque[Ticket] = deque()
        self._tickets: dict[Ticket, None] = {}  # whose end no update has said, in order
        self._lock = Lock()  # of what waits, and of tickets
        self._rows: list[_Row] = []
        with torch.inference_mode():
            self._open = OpenRows(model, room)

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Requests that grow."""
        return len(self._rows)

    def submit(self, request: Request) -> Ticket:
        """Takes a request. Raises BusyError where too many wait."""
        with self._lock:
            if len(self._waiting) >= self.waiting_limit + self.room - len(self._rows):
                raise BusyError(f"{len(self._waiting)} requests wait already; send this one again later")
            ticket = Ticket(request)
            self._waiting.append(ticket)
            self._tickets[ticket] = None
        return ticket

    @torch.inference_mode()
    def step(self) -> list[Update]:
        """Gives every row a token and admits requests to free rows, which get their first; what that did.

        After an error the caller has to `abandon` all of them.
        """
        updates = self._without_cancelled()
        if self._rows:
            logits = self._open.extend([row.tokens[-1] for row in self._rows])
            updates += self._grow(logits, 0)
            self._leave(updates)
        read = 0
        while self._waiting and len(self._rows) < self.room and read < PROMPT_TOKENS_PER_STEP:
            ticket = self._waiting[0]
            read += len(ticket.request.prompt)
            updates += self._admit(ticket)
        with self._lock:
            for update in updates:
                if update.end is not None:
                    del self._tickets[update.ticket]
        return updates

    def abandon(self, problem: str) -> list[Update]:
        """Ends as failed every request whose end no update has said, and forgets all rows; for an error in `step`."""
        with self._lock:
            tickets = list(self._tickets)
            self._waiting.clear()
            self._tickets.clear()
        self._rows.clear()
        with torch.inference_mode():
            self._open.clear()
        return [Update(ticket, "", 0, end="failed", problem=problem) for ticket in tickets]

    def _admit(self, ticket: Ticket) -> list[Update]:
        """Gives the first that waits a row. Until its prompt is read, which may take long, it waits."""
        request = ticket.request
        logits = self._open.admit(request.prompt)
        generator = torch.Generator(logits.device).manual_seed(request.seed)
        draw, pieces = Draw(request.sampling, generator), TextPieces(self.tokenizer, request.stops)
        with self._lock:
            self._waiting.popleft()
            self._rows.append(_Row(ticket, draw, pieces))
        updates = self._grow(logits, len(self._rows) - 1)
        self._leave(updates)
        return updates

    def _grow(self, logits: Tensor, first: int) -> list[Update]:
        """Gives each row from number `first` on its next token, by its scores of `logits [R, V]`."""
        rows, finite = self._rows[first:], logits.amax(-1).isfinite().tolist()
        tokens = choose(logits, [row.draw for row in rows], self._open.texts[first:])
        updates = []
        for number, (row, token, usable) in enumerate(zip(rows, tokens, finite, strict=True)):
            if usable:
                row.tokens.append(token)
                alternatives = row.ticket.request.alternatives
                scored = None if alternatives is None else _scored(logits[number], token, alternatives)
                updates.append(self._update(row, scored))
            else:
                updates.append(Update(row.ticket, "", len(row.tokens), end="failed", problem=NOT_FINITE))
        return updates

    def _update(self, row: _Row, scored: Scored | None) -> Update:
        """What the latest token of a row writes, and whether the text ends."""
        request, count, token = row.ticket.request, len(row.tokens), row.tokens[-1]
        try:
            text = row.pieces.take([token])
            end: End | None = "length" if count == request.tokens else None
            if row.pieces.stopped or token in request.ends:
                end = "stop"
            if end is not None:
                text += row.pieces.rest()
        except DataError as error:  # of the tokenizer
            return Update(row.ticket, "", count, scored, "failed", str(error))
        return Update(row.ticket, text, count, scored, end)

    def _leave(self, updates: Sequence[Update]) -> None:
        """Frees the rows of requests that have ended."""
        ended = {id(update.ticket) for update in updates if update.end is not None}
        for number in reversed(range(len(self._rows))):
            if id(self._rows[number].ticket) in ended:
                self._open.leave(number)
                last = self._rows.pop()
                if number < len(self._rows):
                    self._rows[number] = last

    def _without_cancelled(self) -> list[Update]:
        """Frees the places of cancelled requests."""
        with self._lock:
            waiting = [ticket for ticket in self._waiting if ticket.cancelled]
            for ticket in waiting:
                self._waiting.remove(ticket)
        updates = [Update(ticket, "", 0, end="cancelled") for ticket in waiting]
        gone = [row for row in self._rows if row.ticket.cancelled]
        updates += [Update(row.ticket, "", len(row.tokens), end="cancelled") for row in gone]
        self._leave(updates)
        return updates


def _scored(logits: Tensor, token: int, alternatives: int) -> Scored:
    log_probabilities = logits.float().log_softmax(-1)
    values, likeliest = log_probabilities.topk(min(alternatives, len(logits)))
    pairs = list(zip(likeliest.tolist(), values.tolist(), strict=True))
    return Scored(token, float(log_probabilities[token]), pairs)


@contextmanager
def opened(
    lm: LanguageModel, room: int, waiting_limit: int, precision: Decoding = "auto", name: str = "this model"
) -> Iterator[Engine]:
    """An engine for a model, whose weights are packed within the block and must not change there.

    Args:
        lm: The model.
        room: Requests that grow at a time.
        waiting_limit: Requests that may wait for a row.
        precision: The format of matrix products, as `generate` takes it.
        name: What a message calls the model.

    Raises PresetError for a model with a rolling memory and for an ensemble, and RunError where the cache takes more
    than is free.
    """
    config, weight = lm.model.config, lm.model.embed.weight
    if lm.model.memory is not None:
        raise PresetError(
            f"{name}: a model with a rolling memory is decoded segment by segment and is not served; use generate"
        )
    if lm.model.population is not None:
        raise PresetError(
            f"{name}: an ensemble of {lm.model.population} models is not served; serve its student, which "
            "method.distill_steps trains and checkpoints/student of its run holds, or use generate"
        )
    numbers = 2 * room * config.n_layer * config.kv_heads * config.head_width * config.block_size
    needed = numbers * weight.element_size()
    if weight.device.type == "cpu" and needed > (free := free_bytes()):
        raise RunError(
            f"{name}: keys and values of {room} rows of {config.block_size:,} tokens take {shown_bytes(needed)}, and "
            f"{shown_bytes(free)} are free; lower --rows"
        )
    with evaluating(lm.model), packed_weights(lm.model, room, WEIGHTS[lm.precision(precision).format]):
        yield Engine(lm.model, lm.tokenizer, room, waiting_limit)
