"""Conversations as batches in which the assistant's tokens alone are scored.

A row is what the chat template writes of a conversation. Rows stand alone, filled up with the end mark, or are packed:
several whole ones in a window, each followed by the end mark, so that `model.within_documents` keeps them apart. Only
a row longer than a window is cut. Splits are by what the user says, in the order of a hash, so that equal questions
fall on one side.
"""

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.chat.config import ChatOptions
from nanogrove.data.chat.conversations import BadConversationError, Conversation
from nanogrove.data.chat.encoding import Encoded, encode, end_of_answer, spelled_by
from nanogrove.data.chat.packing import best_fit
from nanogrove.data.chat.rendering import Rendered
from nanogrove.data.chat.template import Renderer
from nanogrove.data.chat.vocabulary import ChatVocabulary
from nanogrove.data.rng import shuffled_by_epoch
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.splits import SPLITS, WITHOUT_TEST, Split, evenly, split_by_hash
from nanogrove.errors import DataError
from nanogrove.waits import waiting

ASKED = ("system", "user")  # whose messages are the question of a conversation


class ChatCorpus:
    """Conversations as batches `[B, W]`; see `Corpus`. Raises DataError where no row can be used, or too few are left.

    rows      what each conversation is as tokens
    windows   by split, the numbers of the rows of each window
    """

    default_split: Split = "test"
    answers_end_rows = False  # the user's messages stand between them

    def __init__(self, config: ChatOptions, block_size: int, batch_size: int, seed: int) -> None:
        self.config, self.batch_size, self.seed = config, batch_size, seed
        self.skipped = Skipped()
        vocabulary = ChatVocabulary.of(config.template, config.special_tokens, config.tokenizer)
        with vocabulary.renderer() as renderer:
            conversations, rendered = self._rendered(renderer, vocabulary.forbidden)
        texts = (each.text for each in rendered)
        self.tokenizer = vocabulary.tokenizer(config.tokenizer, config.vocab_size, texts)
        end_of_answer(rendered[0], self.tokenizer, config.template)
        rows = self._fitting(conversations, encode(self.tokenizer, rendered), block_size)
        self.rows = [row for _, row in rows]
        self.questions = [question for question, _ in rows]
        longest = max(len(row.ids) for row in self.rows)
        self.cut = sum(len(row.ids) > block_size + 1 for row in self.rows)
        self.length = block_size if config.packed else max(min(longest - 1, block_size), 1)
        sides = split_by_hash(self.questions, config.validation, config.test)
        self.windows: dict[str, list[list[int]]] = {
            split: self._windows([n for n, side in enumerate(sides) if side == split]) for split in SPLITS
        }
        for split in ("train", "validation"):
            if not self.windows[split]:
                reasons = self.skipped.most_common(examples=True)
                raise DataError(
                    f"{config.title()}: {len(self.rows):,} conversations with {len(set(self.questions)):,} different "
                    f"questions leave none for {split}{f' (left out: {reasons})' if reasons else ''}; give more of them"
                )

    def _rendered(self, renderer: Renderer, forbidden: Sequence[str]) -> tuple[list[Conversation], list[Rendered]]:
        """The conversations that can be used, none of which spells a `forbidden` token, and the text of each."""
        conversations, rendered = [], []
        with waiting("reading conversations") as wait:
            for location, messages in self.config.conversations(self.skipped):
                wait.done += 1
                if spelled := spelled_by(messages, forbidden):
                    self.skipped.bad(f"a message spells the special token {spelled}", location)
                    continue
                try:
                    rendered.append(renderer.render(messages))
                except BadConversationError as error:
                    self.skipped.bad(str(error), location)
                else:
                    conversations.append(messages)
        if not rendered:
            reasons = self.skipped.most_common(examples=True)
            raise DataError(f"{self.config.title()}: no conversation can be used ({reasons or 'it has none'})")
        return conversations, rendered

    def _fitting(
        self, conversations: Sequence[Conversation], rows: Sequence[Encoded], block_size: int
    ) -> list[tuple[str, Encoded]]:
        """What the user says in each conversation of which a window holds something to score, and the row."""
        fitting = []
        for messages, row in zip(conversations, rows, strict=True):
            if row.scored[1 : block_size + 1].any():
                question = "\n\n".join(message["content"] for message in messages if message["role"] in ASKED)
                fitting.append((question, row))
            else:
                self.skipped.unwanted(f"no token of the assistant among the first {block_size + 1}")
        if not fitting:
            raise DataError(
                f"{self.config.title()}: no conversation has an answer within {block_size} tokens of context; "
                "raise model.block_size"
            )
        return fitting

    def _windows(self, rows: Sequence[int]) -> list[list[int]]:
        if not self.config.packed:
            return [[row] for row in rows]
        packed = best_fit([len(self.rows[row].ids) + 1 for row in rows], self.length + 1)
        return [[rows[number] for number in window] for window in packed]

    def reseeded(self, seed: int) -> "ChatCorpus":
        """The same conversations, of which a run with another seed draws other batches; held-out ones are equal."""
        other = copy(self)
        other.seed = seed
        return other

    @property
    def has_answers(self) -> bool:
        """Whether the assistant's messages are right or wrong, and a window holds one conversation."""
        return self.config.has_answers and not self.config.packed

    @property
    def splits(self) -> tuple[Split, ...]:
        """All but a test split that is asked to be empty."""
        return SPLITS if self.config.test else WITHOUT_TEST

    @property
    def windows_per_epoch(self) -> int:
        """Windows of the training split, each seen once in an epoch."""
        return len(self.windows["train"])

    def batch_of(self, windows: Sequence[Sequence[int]]) -> Batch:
        """The batch `[B, W]` of these windows, each the numbers of its rows."""
        shape = len(windows), self.length + 1
        tokens, scored = np.full(shape, self.tokenizer.end, dtype=np.int64), np.zeros(shape, dtype=bool)
        for line, window in enumerate(windows):
            at = 0
            for number in window:
                row = self.rows[number]
                end = min(at + len(row.ids), self.length + 1)
                tokens[line, at:end], scored[line, at:end] = row.ids[: end - at], row.scored[: end - at]
                at = end + 1  # after an end mark
        inputs, targets, mask = (torch.from_numpy(part) for part in (tokens[:, :-1], tokens[:, 1:], scored[:, 1:]))
        return Batch.uniform(inputs.contiguous(), targets.contiguous(), mask.contiguous())

    def batch(self, step: int) -> Batch:
        """Batch number `step`, a pure function of (seed, step): each window once an epoch."""
        windows = self.windows["train"]
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        chosen = shuffled_by_epoch(numbers, len(windows), self.seed, "chat")
        return self.batch_of([windows[number] for number in chosen.tolist()])

    def _chosen(self, split: str, limit: int | None) -> list[list[int]]:
        windows = self.windows[split]
        return [windows[number] for number in evenly(len(windows), self.length, limit).tolist()]

    def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """The windows of a split, or evenly spread ones of about `limit` tokens. Raises DataError for an empty one."""
        windows = self._chosen(split, limit)
        if not windows:
            raise DataError(f"the {split} split is empty; this run was made with data.{split}=0")
        with waiting(f"scoring {split}", len(windows)) as wait:
            for first in range(0, len(windows), self.batch_size):
                yield self.batch_of(windows[first : first + self.batch_size])
                wait.done = first + self.batch_size

    def documents(self, split: str, limit: int | None = None) -> Tensor:
        """The number of what the user says first in each window: the same question twice is one."""
        numbers: dict[str, int] = {}
        questions = [self.questions[window[0]] for window in self._chosen(split, limit)]
        return torch.tensor([numbers.setdefault(question, len(numbers)) for question in questions])

    def left_out(self) -> tuple[dict[str, int], dict[str, str]]:
        """Counts by reason of conversations that were left out, and the first location of each."""
        return dict(self.skipped.counts), {reason: places[0] for reason, places in self.skipped.locations.items()}

    def mixture(self) -> None:
        """None: all conversations are of one source."""

    def true_distributions(self, split: str, limit: int | None = None) -> None:
        """None: the distribution of answers is unknown."""

    def bytes_per_token(self, split: str) -> None:
        """None: what the user says is read and not scored."""

    def describe(self) -> dict[str, Any]:
        """Counts of conversations and of scored tokens, what was left out, and a digest of settings and data."""
        digest = hashlib.sha256(self.config.model_dump_json(exclude={"path", "template", "tokenizer"}).encode())
        digest.update(str(self.tokenizer.chat_template).encode())
        for row in self.rows:
            digest.update(row.ids.tobytes())
        left_out, locations = self.left_out()
        trained = [number for window in self.windows["train"] for number in window]
        return {
            "documents": len(self.rows),
            "train_tokens": int(sum(self.rows[number].scored[: self.length + 1].sum() for number in trained)),
            "cut_rows": self.cut,
            "fingerprint": digest.hexdigest()[:32],
            **({"left_out": left_out, "for_example": locations} if left_out else {}),
        }
