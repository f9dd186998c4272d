"""Rows as their tokens come: what `write` of the loop gives at the end, step by step.

Between two steps the caller may do anything, also with the model: weights are packed only while a step computes. To
close the generator ends the work at once.
"""

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.decoding.loop import Request, Sequences, Strategy, growing
from nanogrove.decoding.pieces import TextPieces
from nanogrove.model.mode import evaluating

NewTokens = tuple[int, list[int]]  # the number of a row, and what it got in a step


class End(NamedTuple):
    """How a row ended: at a stop token or a stop text, or with all the tokens that it may get; and how many it has."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    new_tokens: int


class Piece(NamedTuple):
    """A piece of the text of a row, and how the row ended where this is its last one."""

    row: int
    text: str
    end: End | None


class Step(NamedTuple):
    """A new token of a single text, what it makes certain, the scores `[V]` it was chosen by, and how the text ended.

    The scores are the model's, before anything that steers or cuts.
    """

    token: int
    text: str
    scores: Tensor
    end: End | None


def stream(strategy: Strategy, request: Request) -> Generator[list[NewTokens], None, None]:
    """Yields after each step the rows that got tokens, with these, an end of text included."""
    with evaluating(*strategy.modules):
        with torch.inference_mode():
            packing = request.packing(strategy)
        steps, width = growing(strategy, request), max(strategy.spare, 1)
        rows: Sequences | None = None
        while True:
            with torch.inference_mode(), packing.installed():
                growth = next(steps, None)
                if growth is None:
                    return
                if growth.rows is not rows:
                    rows, numbers, before = growth.rows, growth.numbers.tolist(), growth.rows.start
                tokens = rows.tokens.gather(1, before[:, None] + rows.positions[:width]).tolist()  # −1 past its length
                before = rows.lengths
            ids = ([token for token in row if token >= 0] for row in tokens)
            yield [new for new in zip(numbers, ids, strict=True) if new[1]]


def text_pieces(strategy: Strategy, request: Request, tokenizer: Tokenizer) -> Generator[Piece, None, None]:
    """The texts of all rows as they come; those of a row joined are its text up to a stop text."""
    lengths = request.row_lengths().tolist()
    texts = {row: TextPieces(tokenizer, request.stop_texts) for row in range(len(lengths))}  # of rows that go on
    counts = [0] * len(lengths)
    with closing(stream(strategy, request)) as steps:
        for row, ids in (new for step in steps for new in step):
            if row not in texts:
                continue  # it has written a stop text with tokens of which some are none, and goes on for a while
            counts[row] += len(ids)
            text = texts[row].take(ids)
            stopped = texts[row].stopped or ids[-1] in request.stop
            if stopped or counts[row] >= request.new_tokens:
                text += texts.pop(row).rest()
                yield Piece(row, text, End("stop" if stopped else "length", lengths[row], counts[row]))
            elif text:
                yield Piece(row, text, None)
            if not texts:
                return
    for row in texts:  # where no tokens were asked for
        yield Piece(row, "", End("length", lengths[row], 0))


def text_steps(strategy: Strategy, request: Request, tokenizer: Tokenizer) -> Generator[Step, None, None]:
    """The text of a single row token by token, by a strategy that asks its sampler once for each; see `text_pieces`."""
    scores = torch.empty(0)

    def record(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        nonlocal scores
        scores = logits[0]
        return logits

    sampler = replace(request.sampler, transforms=[record, *request.sampler.transforms])
    pieces, prompt_tokens, count = TextPieces(tokenizer, request.stop_texts), int(request.row_lengths()[0]), 0
    with closing(stream(strategy, replace(request, sampler=sampler))) as steps:
        for ((_, [token]),) in steps:
            count += 1
            text, end = pieces.take([token]), None
            stopped = pieces.stopped or token in request.stop
            if stopped or count == request.new_tokens:
                text += pieces.rest()
                end = End("stop" if stopped else "length", prompt_tokens, count)
            yield Step(token, text, scores, end)
            if end is not None:
                return


def joined(prompt: str, pieces: Generator[Piece, None, None]) -> Generator[str, None, End | None]:
    """The text of a single row as it comes, its prompt first; returns how it ended."""
    end = None
    with closing(pieces):
        if prompt:
            yield prompt
        for piece in pieces:
            if piece.text:
                yield piece.text
            end = piece.end
    return end
