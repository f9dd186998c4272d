"""Tasks as a corpus: questions with true answers, fresh at every step, from a range of base difficulties.

An example is `prompt answer <|endoftext|>`, a row by itself, filled up on the right with `<|endoftext|>`. The answer
and the mark that ends it are scored; the prompt, whose digits nobody can predict, and the filling are not. Rows are as
wide as the longest of their phase, not as the model's context.

Which prompts are held out is decided by a hash of the prompt: at each difficulty those with the lowest hashes, about a
tenth, are test prompts, the next tenth validation prompts, and no other purpose draws them, neither training nor the
rounds of self-improvement. Where a difficulty has few prompts (ten of one digit), so have its splits, each of which has
one at least, and examples of a split come up again.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.rng import random
from nanogrove.data.splits import SPLITS, Split, evenly
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.errors import DataError
from nanogrove.settings import Settings
from nanogrove.synthetic.tasks import Task, draw_example, examples, find_task
from nanogrove.waits import waiting

Answer = str | None
"""What was written after a prompt, up to the end mark; None without one, or with a token that stands for nothing."""
HeldOut = Literal["validation", "test"]
Side = Literal["train"] | HeldOut
HELD_OUT: tuple[HeldOut, ...] = ("validation", "test")
SPLIT_RULE = "held out by the hash of the prompt"  # part of the fingerprint
HELD_OUT_SHARE = 0.1  # of a difficulty's prompts, in each of the two held-out splits
SAMPLED_EXAMPLES = 200  # of a difficulty; their hashes decide where its splits end
_END = "\0"  # stands for the end mark while rows are text


class TaskConfig(Settings):
    """Questions of one task with their true answers, of difficulties `base[0]` to `base[1]` in equal shares."""

    type: Literal["task"]
    task: str = Field(description="name of the task, such as copy, addition or maze")
    options: dict[str, Any] = Field({}, description="options of the task, such as the nodes of a maze")
    base: tuple[int, int] = Field((1, 5), description="the easiest and the hardest difficulty to train on")
    held_out: int = Field(200, ge=1, le=10_000, description="examples of each difficulty in each held-out split")

    @field_validator("base")
    @classmethod
    def _check_base(cls, base: tuple[int, int]) -> tuple[int, int]:
        if base[0] > base[1]:
            raise ValueError(f"the range runs down from {base[0]} to {base[1]}; write [{base[1]}, {base[0]}]")
        return base


@dataclass(frozen=True, slots=True)
class Rows:
    """N examples as rows of W tokens.

    tokens  [*P, N, W] int16, filled up with the end mark
    start   [*P, N]    int64, tokens of the prompt
    stop    [*P, N]    int64, tokens of prompt, answer and end mark
    """

    tokens: Tensor
    start: Tensor
    stop: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[-2]

    def __getitem__(self, index: Tensor | slice) -> "Rows":
        return Rows(self.tokens[index], self.start[index], self.stop[index])

    @classmethod
    def cat(cls, parts: Sequence["Rows"]) -> Self:
        """All rows of parts of one width."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__slots__))

    @classmethod
    def stack(cls, members: Sequence["Rows"]) -> Self:
        """Rows by member of a population, `[N, W]` each, as `[P, N, W]`."""
        return cls(*(torch.stack([getattr(rows, name) for rows in members]) for name in cls.__slots__))

    def widened(self, width: int, end: int) -> "Rows":
        """The same rows of `width` + 1 tokens, filled up with `end`."""
        return Rows(F.pad(self.tokens, (0, width + 1 - self.tokens.shape[-1]), value=end), self.start, self.stop)

    def batch(self, extra: Mapping[str, Tensor] | None = None) -> Batch:
        """Inputs and targets of W − 1 tokens, the answers and their end marks scored."""
        tokens = self.tokens.long()
        target = torch.arange(1, tokens.shape[-1])
        scored = (target >= self.start[..., None]) & (target < self.stop[..., None])
        return Batch.uniform(tokens[..., :-1].contiguous(), tokens[..., 1:].contiguous(), scored, extra=extra)


class TaskCorpus:
    """Examples of a task as batches; see `Corpus`.

    Raises DataError for a task or an option that does not exist, for difficulties out of the task's range, and where
    `block_size` is less than the longest base example, saying what would fit.
    """

    splits = SPLITS
    default_split: Split = "test"
    has_answers = answers_end_rows = True
    windows_per_epoch = None

    def __init__(self, config: TaskConfig, block_size: int, batch_size: int, seed: int) -> None:
        self.config, self.block_size = config, block_size
        self.task: Task = find_task(config.task, **config.options)
        self.base, self.batch_size, self.seed = config.base, batch_size, seed
        self.task.longest(self.base[0])  # raises below the task's range
        self.check_fits(self.base[1])
        self.length = self.task.longest(self.base[1])
        self.tokenizer = character_tokenizer([self.task.symbols])
        ids = {symbol: self.tokenizer.encode(symbol)[0] for symbol in self.task.symbols}
        self._ids = np.full(max(map(ord, ids)) + 1, -1, dtype=np.int16)
        self._ids[[ord(symbol) for symbol in ids]] = list(ids.values())
        self._ids[ord(_END)] = self.tokenizer.end
        self._symbols = np.full(self.tokenizer.vocab_size, _END, dtype="<U1")
        self._symbols[list(ids.values())] = list(ids)
        self._ends: dict[int, tuple[int, int]] = {}  # by difficulty, the highest hashes of test and of validation
        self._held_out: dict[tuple[int, str], list[tuple[str, str]]] = {}

    def check_fits(self, difficulty: int) -> None:
        """Raises DataError when the longest example of this difficulty is longer than the context."""
        longest = self.task.longest(difficulty)
        if longest > self.block_size:
            raise DataError(
                f"model.block_size={self.block_size} is shorter than {self.task.name} of difficulty {difficulty}, "
                f"{longest} characters; set model.block_size={longest}"
            )

    def fits(self, difficulty: int) -> bool:
        """Whether the task has this difficulty and the context holds it."""
        try:
            self.check_fits(difficulty)
        except DataError:
            return False
        return True

    def belongs(self, side: Side, difficulty: int, prompt: str) -> bool:
        """Whether the hash of a prompt of this difficulty puts it on this side."""
        if difficulty not in self._ends:
            self._ends[difficulty] = self._sampled(difficulty)
        test, validation = self._ends[difficulty]
        hashed = self._hash(prompt)
        return side == ("test" if hashed <= test else "validation" if hashed <= validation else "train")

    def _sampled(self, difficulty: int) -> tuple[int, int]:
        """Where the splits of a difficulty end: tenths of the different prompts among `SAMPLED_EXAMPLES`."""
        sampled = examples(self.task, difficulty, self.seed, "split", range(SAMPLED_EXAMPLES))
        hashes = sorted({self._hash(prompt) for prompt, _ in sampled})
        count = max(round(HELD_OUT_SHARE * len(hashes)), 1)
        if len(hashes) <= 2 * count:
            raise DataError(
                f"{self.task.name}: difficulty {difficulty} has {len(hashes)} prompts, too few for three splits"
            )
        return hashes[count - 1], hashes[2 * count - 1]

    def _hash(self, prompt: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {prompt}".encode(), digest_size=8).digest(), "big")

    def examples(self, difficulty: int, side: Side, purpose: str, numbers: range) -> list[tuple[str, str]]:
        """Examples of one side by their numbers, each a function of (seed, purpose, difficulty, number) alone."""
        return examples(self.task, difficulty, self.seed, purpose, numbers, partial(self.belongs, side, difficulty))

    def held_out(self, difficulty: int, split: HeldOut) -> list[tuple[str, str]]:
        """The `held_out` examples of a difficulty in a held-out split."""
        key = difficulty, split
        if key not in self._held_out:
            self._held_out[key] = self.examples(difficulty, split, split, range(self.config.held_out))
        return self._held_out[key]

    def draw(self, step: int, count: int, *member: int) -> list[tuple[str, str]]:
        """`count` base examples for a step, or for a step and a member of a population: a pure function of these."""
        generator = random(self.seed, "base", step, *member)
        difficulties = generator.integers(self.base[0], self.base[1] + 1, size=count).tolist()
        return [draw_example(self.task, d, generator, partial(self.belongs, "train", d)) for d in difficulties]

    def rows(self, pairs: Sequence[tuple[str, str]], width: int) -> Rows:
        """Prompts with their answers as rows of `width` + 1 tokens, `width` at least their longest."""
        text = "".join([(prompt + answer).ljust(width + 1, _END) for prompt, answer in pairs])
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        tokens = torch.from_numpy(self._ids[points].reshape(len(pairs), width + 1))
        start = torch.tensor([len(prompt) for prompt, _ in pairs], dtype=torch.int64)
        answers = torch.tensor([len(answer) for _, answer in pairs], dtype=torch.int64)
        return Rows(tokens, start, start + answers + 1)

    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """Prompts of one length as tokens `[N, T]`."""
        return self.rows([(prompt, "") for prompt in prompts], len(prompts[0])).tokens[:, :-1].long()

    def answers(self, tokens: Tensor) -> list[Answer]:
        """The answers that `tokens [N, T]`, written after prompts, spell."""
        ids = tokens.cpu().numpy()
        ended = ids == self.tokenizer.end
        stop = np.where(ended.any(1), ended.argmax(1), ids.shape[1])
        inside = np.arange(ids.shape[1]) < stop[:, None]
        good = ended.any(1) & ~((ids >= len(self._symbols)) & inside).any(1)
        symbols = np.where(inside, self._symbols[np.where(inside, ids, 0) % len(self._symbols)], _END)
        texts = np.ascontiguousarray(symbols).view(f"<U{ids.shape[1]}")[:, 0].tolist()  # drops trailing _END
        return [text if whole else None for text, whole in zip(texts, good.tolist(), strict=True)]

    def batch(self, step: int) -> Batch:
        """Batch number `step`, a pure function of the seed and the step."""
        return self.rows(self.draw(step, self.batch_size), self.length).batch()

    def left_out(self) -> tuple[dict[str, int], dict[str, str]]:
        """Nothing: a task has no documents that could be left out."""
        return {}, {}

    def mixture(self) -> None:
        """None: all examples are of one source."""

    def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """The examples of a split, `held_out` of each base difficulty, or evenly spread ones of about `limit` tokens.

        Training examples are fresh at every step; the split `train` is as many of the same kind.
        """
        pairs = self._pairs(split, limit)
        with waiting(f"scoring {split}", len(pairs)) as wait:
            for first in range(0, len(pairs), self.batch_size):
                yield self.rows(pairs[first : first + self.batch_size], self.length).batch()
                wait.done = first + self.batch_size

    def _pairs(self, split: str, limit: int | None) -> list[tuple[str, str]]:
        pairs = []
        for difficulty in range(self.base[0], self.base[1] + 1):
            if split == "train":
                pairs += self.examples(difficulty, "train", split, range(self.config.held_out))
            else:
                pairs += self.held_out(difficulty, cast(HeldOut, split))
        return [pairs[n] for n in evenly(len(pairs), self.length, limit).tolist()]

    def documents(self, split: str, limit: int | None = None) -> Tensor:
        """The prompt of each example, numbered: the same question twice is one."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(p, len(numbers)) for p, _ in self._pairs(split, limit)])

    def true_distributions(self, split: str, limit: int | None = None) -> None:
        """None: the distribution of a task's answers is not written down."""

    def describe(self) -> dict[str, Any]:
        """The task, its base difficulties, how many different prompts each holds out, and a digest."""
        prompts = {
            split: [
                len({prompt for prompt, _ in self.held_out(difficulty, split)})
                for difficulty in range(self.base[0], self.base[1] + 1)
            ]
            for split in HELD_OUT
        }
        settings = f"{SPLIT_RULE} {self.config.model_dump_json()}"
        return {
            "documents": None,
            "train_tokens": None,
            "task": self.task.name,
            "base": list(self.base),
            "held_out_examples": self.config.held_out,
            "held_out_prompts": prompts,
            "fingerprint": hashlib.sha256(settings.encode()).hexdigest()[:32],
        }

    def bytes_per_token(self, split: str) -> None:
        """None: tokens of a task are symbols, not text to compress."""


class Mixture:
    """Batches of base examples and of labels, `[P, B, width]`, drawn independently for each member.

    A `share` of a batch comes from the newest labels, if there are any, and the rest from all that is older: there
    the base counts by its number of difficulties and each earlier set of labels as one. `extra["labels"] [P, B]` is 0
    for the base and n for set n, the newest being the last.

    Args:
        corpus: the task, which draws base examples.
        members: how many members get rows of their own.
        width: tokens of a row; as many as the longest row needs, at least.
        older: the sets of labels of earlier rounds.
        newest: the labels of the newest round, None without one.
        share: the share of a batch that comes from `newest`.
    """

    def __init__(
        self, corpus: TaskCorpus, members: int, width: int, older: Sequence[Rows], newest: Rows | None, share: float
    ) -> None:
        self.corpus, self.members, self.width = corpus, members, width
        labels = [rows.widened(width, corpus.tokenizer.end) for rows in (*older, *([newest] if newest else []))]
        self.table = Rows.cat([corpus.rows([], width), *labels])
        self.sizes = np.array([len(rows) for rows in labels], dtype=np.int64)
        self.begins = np.cumsum(self.sizes) - self.sizes
        self.fresh = round(share * corpus.batch_size) if newest else 0
        parts = np.array([corpus.base[1] - corpus.base[0] + 1, *[1] * len(older)])
        self.parts = parts / parts.sum()

    def batch(self, step: int) -> Batch:
        """Batch number `step`, a pure function of the seed, the step and the labels."""
        rows, sets = [], []
        for member in range(self.members):
            generator = random(self.corpus.seed, "mixture", step, member)
            older = generator.choice(len(self.parts), size=self.corpus.batch_size - self.fresh, p=self.parts)
            labels = np.concatenate([np.sort(older), np.full(self.fresh, len(self.sizes), dtype=np.int64)])
            labelled = labels[labels > 0] - 1
            index = self.begins[labelled] + generator.integers(self.sizes[labelled])
            base = self.corpus.draw(step, len(labels) - len(labelled), member)
            rows.append(Rows.cat([self.corpus.rows(base, self.width), self.table[torch.from_numpy(index)]]))
            sets.append(torch.from_numpy(labels))
        return Rows.stack(rows).batch({"labels": torch.stack(sets)})
