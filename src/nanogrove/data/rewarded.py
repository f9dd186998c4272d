"""Texts with rewards, and pairs of texts of which one is preferred; prompts are not scored.

`rewarded` reads `text|reward` lines (the last bar that is not escaped separates, `\\|` is a bar of the text), or CSV,
JSONL or Parquet with named columns; `preferences` reads prompt, chosen and rejected. An example is `prompt text
<|endoftext|>`, filled up on the right; text and end mark are scored. Splits are by prompt, or by text where there is
none, in the order of a hash, so equal prompts fall on one side.

The path `python-defs` stands for the first lines of functions in Python's own library, each with minus its length as
the reward, or in pairs of which the shorter is preferred: data that every installation has. With `prompt` each line is
divided after `def NAME(`, which is the prompt.

Rows that cannot be used are counted in `describe`; where no other rows are left, the run stops.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.rng import permuted, random
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.rows import check_columns, csv_rows, inner_suffix, jsonl_rows, parquet_rows, text_lines
from nanogrove.data.sources.text import PythonStandardLibrary
from nanogrove.data.splits import SPLITS, WITHOUT_TEST, Split, evenly
from nanogrove.data.tokenizer import Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer, load_tokenizer
from nanogrove.errors import DataError
from nanogrove.paths import OnDisk
from nanogrove.waits import waiting

Row = Mapping[str, Any]  # the cells of a row by column
Format = Literal["auto", "lines", "csv", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".parquet": "parquet", ".txt": "lines"}


class Example(NamedTuple):
    """A text after a prompt, which may be empty, and its reward."""

    prompt: str
    text: str
    reward: float


class _Options(BaseModel):
    """Settings of both kinds of file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, OnDisk(("python-defs",))] = Field(
        description="file of the rows, or python-defs: lines of the standard library"
    )
    format: Format = Field("auto", description="format of the file; auto goes by the ending of its name")
    encoding: str = Field("utf-8", description="encoding of a text file")
    tokenizer: Annotated[str, OnDisk(("char", "byte", "bpe"))] = Field(
        "char", description="char, byte, bpe, a path to a tokenizer.json, or a hub name"
    )
    vocab_size: int = Field(4096, ge=1, description="tokens of a bpe tokenizer trained here")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the prompts")
    test: float = Field(0.1, ge=0, lt=1, description="share of the prompts")

    @property
    def known_reward(self) -> Callable[[str], float] | None:
        """The reward of any prompt with its text, where there is a rule for it."""
        return _brevity if self.path == "python-defs" else None


class RewardedConfig(_Options):
    """Texts with rewards."""

    type: Literal["rewarded"]
    prompt: str | None = Field(None, description="column of the prompt; there is none when left out")
    text: str = Field("text", description="column of the text")
    reward: str = Field("reward", description="column of the reward")

    def examples(self) -> tuple[list[list[Example]], list[str]]:
        """Groups of one example each, and what was wrong with the other rows."""
        groups: list[list[Example]] = []
        problems: list[str] = []
        for location, row in _rows(self, [c for c in (self.prompt, self.text, self.reward) if c], problems):
            try:
                reward = float(row[self.reward])
                if not math.isfinite(reward):
                    raise ValueError
                prompt = str(row[self.prompt]) if self.prompt else ""
                groups.append([Example(prompt, str(row[self.text]), reward)])
            except (KeyError, TypeError, ValueError):
                problems.append(f"{location}: no finite number in {self.reward!r}")
        return groups, problems


class PreferencesConfig(_Options):
    """Pairs of texts after one prompt, the first preferred to the second."""

    type: Literal["preferences"]
    prompt: str | None = Field("prompt", description="column of the prompt; null for none")
    chosen: str = Field("chosen", description="column of the better text")
    rejected: str = Field("rejected", description="column of the worse text")

    def examples(self) -> tuple[list[list[Example]], list[str]]:
        """Groups of two, the chosen one first, with rewards 1 and 0; and what was wrong with the other rows."""
        groups: list[list[Example]] = []
        problems: list[str] = []
        for location, row in _rows(self, [c for c in (self.prompt, self.chosen, self.rejected) if c], problems):
            texts = [row.get(self.chosen), row.get(self.rejected)]
            prompt = str(row[self.prompt]) if self.prompt else ""
            if None in texts or texts[0] == texts[1]:
                problems.append(f"{location}: needs two different texts")
            else:
                groups.append([Example(prompt, str(texts[0]), 1.0), Example(prompt, str(texts[1]), 0.0)])
        return groups, problems


def _rows(config: _Options, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[str, Row]]:
    """Rows by column, each with its line or row number; what is wrong with the others is added to `problems`.

    Raises DataError for a file that cannot be read, or without the columns.
    """
    if config.path == "python-defs":
        yield from ((f"function {n}", row) for n, row in enumerate(_functions(columns), start=1))
        return
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise DataError(f"{config.path}: no such file; check data.path")
    kind = config.format if config.format != "auto" else SUFFIXES.get(inner_suffix(path), "lines")
    unit = "row" if kind == "parquet" else "line"

    def bad(fault: str, number: int) -> None:
        problems.append(f"not {kind}: {unit} {number} is {fault}")

    if kind == "parquet":
        rows = parquet_rows(path, partial(check_columns, columns), bad)
    elif kind == "csv":
        rows = csv_rows(path, config.encoding, None, partial(check_columns, columns), bad)
    elif kind == "jsonl":
        rows = jsonl_rows(path, config.encoding, bad)
    elif len(columns) != 2:
        raise DataError(f"{path}: a file of lines has text|reward only; for prompts or pairs take CSV or JSONL")
    else:
        lines = text_lines(path, config.encoding, bad)
        rows = ((number, _bar(line, columns)) for number, line in lines if line.strip())
    for number, row in rows:
        missing = next((column for column in columns if column not in row), None)
        if missing and kind == "jsonl":
            columns_text = ", ".join(map(repr, row))
            problems.append(f"no column {missing!r} of line {number}; there are {columns_text}")
        else:
            yield f"{unit} {number}", row


def _brevity(line: str) -> float:
    """The reward of `python-defs`."""
    return -float(len(line))


def _functions(columns: Sequence[str]) -> Iterator[Row]:
    """Different first lines of functions, 20 to 100 characters long, by column of `rewarded` or `preferences`.

    With rewards and prompts, the prompt is the line up to its first parenthesis, and the text the rest.
    """
    scored = "reward" in columns
    check_columns(columns, ("prompt", "text", "reward") if scored else ("prompt", "chosen", "rejected"))
    pattern = re.compile(r"^ *(def \w+\(.*\).*:)$", re.MULTILINE)
    pieces = PythonStandardLibrary().pieces(Skipped())
    lines = list(
        dict.fromkeys(m[1] for piece in pieces for m in pattern.finditer(piece.text) if 20 <= len(m[1]) <= 100)
    )
    if scored:
        for line in lines:
            begin = line.index("(") + 1 if "prompt" in columns else 0
            yield {"prompt": line[:begin], "text": line[begin:], "reward": _brevity(line)}
        return
    order = random(0, "python-defs").permutation(len(lines))
    for first, second in order[: len(order) // 2 * 2].reshape(-1, 2):
        chosen, rejected = sorted((lines[first], lines[second]), key=len)
        if len(chosen) < len(rejected):
            yield {"chosen": chosen, "rejected": rejected, "prompt": ""}


def _bar(line: str, columns: Sequence[str]) -> Row:
    """`text|reward` at the last bar without a backslash."""
    line = line.rstrip("\r\n")
    at = line.rfind("|")
    while at > 0 and line[at - 1] == "\\":
        at = line.rfind("|", 0, at)
    if at < 0:
        return {}
    return {columns[0]: line[:at].replace("\\|", "|"), columns[1]: line[at + 1 :]}


class RewardedCorpus:
    """Examples as batches; see `Corpus`. A group is one example, or the two of a pair, which share a batch.

    tokens   [N, W + 1] int64, filled up with the end mark
    start    [N]        tokens of the prompt, with the end mark that begins a document where it is empty
    stop     [N]        tokens up to the end mark, itself included
    rewards  [N]        float64

    Raises DataError where no row can be used, or too few are left for training and validation.
    """

    default_split: Split = "test"
    has_answers = False

    def __init__(self, config: RewardedConfig | PreferencesConfig, block_size: int, batch_size: int, seed: int) -> None:
        self.config, self.block_size, self.batch_size, self.seed = config, block_size, batch_size, seed
        groups, problems = config.examples()
        if not groups:
            reason = f" ({problems[0]})" if problems else ""
            raise DataError(f"{config.path}: no row can be used{reason}")
        self.problems, self.size = problems, len(groups[0])
        flat = [example for group in groups for example in group]
        self.tokenizer = _tokenizer(config, flat)
        prompts = self.tokenizer.encode_batch([example.prompt for example in flat])
        texts = self.tokenizer.encode_batch([example.text for example in flat])
        end = self.tokenizer.end
        prompts = [p if len(p) else np.array([end]) for p in prompts]
        fits = [
            all(len(prompts[n + m]) <= block_size for m in range(self.size)) for n in range(0, len(flat), self.size)
        ]
        if not all(fits):  # a row without a scored token would change the means over rows
            fitting = [group * self.size + m for group, fit in enumerate(fits) if fit for m in range(self.size)]
            problems += [f"a prompt of more than {block_size} tokens"] * (len(fits) - sum(fits))
            groups = [group for group, fit in zip(groups, fits, strict=True) if fit]
            flat = [flat[n] for n in fitting]
            prompts, texts = [prompts[n] for n in fitting], [texts[n] for n in fitting]
        if not groups:
            raise DataError(f"{config.path}: no prompt leaves room for a text in {block_size} tokens of context")
        self.ended = [torch.tensor([*text, end]) for text in texts]  # uncut texts with their end marks
        whole = [np.concatenate([p, text]).astype(np.int64) for p, text in zip(prompts, self.ended, strict=True)]
        self.cut = sum(len(row) > block_size + 1 for row in whole)
        self.length = min(max(map(len, whole)) - 1, block_size)
        table = np.full((len(whole), self.length + 1), end, dtype=np.int64)
        for number, row in enumerate(whole):
            table[number, : len(row)] = row[: self.length + 1]
        self.tokens = torch.from_numpy(table)
        self.start = torch.tensor([len(p) for p in prompts])
        self.stop = torch.tensor([min(len(row), self.length + 1) for row in whole])
        self.rewards = np.array([example.reward for example in flat])
        self.texts = [example.text for example in flat]
        self.prompts = [example.prompt for example in flat]
        sides = self._sides([group[0].prompt or group[0].text for group in groups])
        self.groups = {
            split: np.array([n for n, side in enumerate(sides) if side == split], dtype=np.int64)
            for split in ("train", "validation", "test")
        }
        for split in ("train", "validation"):
            if not len(self.groups[split]):
                raise DataError(
                    f"{config.path}: {len(groups)} rows leave none for {split}; give more, or larger shares"
                )

    def _sides(self, keys: Sequence[str]) -> list[str]:
        """The split of each key: the first shares of the different keys, in the order of their hashes, are held out."""
        digests = {key: hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys}
        order = {key: rank for rank, key in enumerate(sorted(digests, key=digests.__getitem__))}
        test = -(-self.config.test * len(order) // 1)  # rounded up, so that a share above 0 is one key at least
        held_out = test + -(-self.config.validation * len(order) // 1)
        return ["test" if order[k] < test else "validation" if order[k] < held_out else "train" for k in keys]

    @property
    def splits(self) -> tuple[Split, ...]:
        """All but a test split that is asked to be empty."""
        return SPLITS if self.config.test else WITHOUT_TEST

    @property
    def windows_per_epoch(self) -> int:
        """Rows of the training split, each seen once in an epoch."""
        return len(self.groups["train"]) * self.size

    def row_indices(self, split: str) -> np.ndarray:
        """Rows of a split, group by group, `[N]`."""
        rows: np.ndarray = (self.groups[split][:, None] * self.size + np.arange(self.size)).ravel()
        return rows

    def batch_rows(self, step: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The rows of batch number `step`, `batch_size` of them, group by group: each group once an epoch.

        `rows` are the ones to draw from, whole groups as `row_indices` gives them; the training split when left out.
        """
        groups = self.groups["train"] if rows is None else rows[:: self.size] // self.size
        count = max(self.batch_size // self.size, 1)
        numbers = np.arange(step * count, (step + 1) * count)
        epochs, within = np.divmod(numbers, len(groups))
        index = np.concatenate(
            [
                permuted(within[epochs == epoch], len(groups), random(self.seed, "rewarded", int(epoch)))
                for epoch in np.unique(epochs)
            ]
        )
        chosen: np.ndarray = (groups[index][:, None] * self.size + np.arange(self.size)).ravel()
        return chosen

    def batch_of(self, rows: np.ndarray, weight: Tensor | None = None) -> Batch:
        """The batch `[B, W]` of these rows; texts are scored, each with its `weight [B]`, 1 when left out."""
        chosen = torch.from_numpy(rows)
        tokens = self.tokens[chosen]
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        target = torch.arange(1, tokens.shape[1])
        mask = (target >= self.start[chosen, None]) & (target < self.stop[chosen, None])
        if weight is None:
            return Batch.uniform(inputs, targets, mask)
        return Batch(inputs, targets, mask, weight.float()[:, None].expand(mask.shape), torch.zeros_like(chosen))

    def mismatched(self, rows: np.ndarray) -> Batch:
        """Each row's prompt with the text of the next one, the last row's with the first's.

        Such a row may be longer than any row of the data, so the batch is as wide as needed, up to the context.
        """
        starts, joined = self.start[rows], []
        for row, other in zip(rows, np.roll(rows, -1), strict=True):
            whole = torch.cat([self.tokens[row, : self.start[row]], self.ended[other]])
            joined.append(whole[: self.block_size + 1])
        stops = torch.tensor([len(whole) for whole in joined])
        width = max(int(stops.max()), self.tokens.shape[1])
        filled = [torch.nn.functional.pad(w, (0, width - len(w)), value=self.tokenizer.end) for w in joined]
        tokens, target = torch.stack(filled), torch.arange(1, width)
        mask = (target >= starts[:, None]) & (target < stops[:, None])
        return Batch.uniform(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), mask)

    def batch(self, step: int) -> Batch:
        """Batch number `step`, in which all texts weigh 1."""
        return self.batch_of(self.batch_rows(step))

    def left_out(self) -> tuple[dict[str, int], dict[str, str]]:
        """Nothing: rows that cannot be used are in `describe`."""
        return {}, {}

    def mixture(self) -> None:
        """None: all sequences are of one source."""

    def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """The rows of a split, or evenly spread ones of about `limit` tokens."""
        rows = self.spread_rows(split, limit)
        with waiting(f"scoring {split}", len(rows)) as wait:
            for first in range(0, len(rows), self.batch_size):
                yield self.batch_of(rows[first : first + self.batch_size])
                wait.done = first + self.batch_size

    def spread_rows(self, split: str, limit: int | None) -> np.ndarray:
        """The rows of a split, or evenly spread ones of about `limit` tokens, `[N]`."""
        rows = self.row_indices(split)
        spread: np.ndarray = rows[evenly(len(rows), self.length, limit)]
        return spread

    def documents(self, split: str, limit: int | None = None) -> Tensor:
        """The number of each row's prompt; rows without one are numbered by group."""
        numbers: dict[bytes, int] = {}
        alone = np.array([self.tokenizer.end]).tobytes()
        documents = []
        for row in self.spread_rows(split, limit).tolist():
            prompt = self.tokens[row, : self.start[row]].numpy().tobytes()
            key = b"row %d" % (row // self.size) if prompt == alone else prompt
            documents.append(numbers.setdefault(key, len(numbers)))
        return torch.tensor(documents)

    def true_distributions(self, split: str, limit: int | None = None) -> None:
        """None: the distribution of texts is unknown."""

    def describe(self) -> dict[str, Any]:
        """Counts, the rewards' spread, and a digest of settings and data."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        digest.update(self.tokens.numpy().tobytes())
        digest.update(self.rewards.tobytes())
        return {
            "documents": len(self.rewards),
            "train_tokens": int((self.stop - self.start)[torch.from_numpy(self.row_indices("train"))].sum()),
            "unusable_rows": len(self.problems),
            "first_problem": self.problems[0] if self.problems else None,
            "cut_rows": self.cut,
            "fingerprint": digest.hexdigest()[:32],
        }

    def bytes_per_token(self, split: str) -> None:
        """None: prompts are read and not scored."""


def _tokenizer(config: _Options, examples: Sequence[Example]) -> Tokenizer:
    texts = [part for example in examples for part in (example.prompt, example.text)]
    if config.tokenizer == "char":
        return character_tokenizer(texts)
    if config.tokenizer == "byte":
        return byte_tokenizer()
    if config.tokenizer == "bpe":
        return bpe_tokenizer(iter(texts), config.vocab_size)
    return load_tokenizer(config.tokenizer)
