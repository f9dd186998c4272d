"""Texts with rewards, and pairs of texts of which one is preferred, as batches; prompts are not scored.

An example is `prompt text <|endoftext|>`, filled up on the right; text and end mark are scored. Conversations end as
their chat template ends them. Splits are by prompt, or by text where there is none, in the order of a hash, so equal
prompts fall on one side.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.chat.answers import encode_answers
from nanogrove.data.chat.encoding import end_of_answer
from nanogrove.data.chat.rendering import Rendered
from nanogrove.data.rewarded_files import Example, PreferencesConfig, RewardedConfig, RewardedOptions
from nanogrove.data.rng import shuffled_by_epoch
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.splits import SPLITS, WITHOUT_TEST, Split, evenly, split_by_hash
from nanogrove.data.text.vocabulary import learn_bpe
from nanogrove.data.tokenizer import Tokenizer, byte_tokenizer, character_tokenizer, load_tokenizer
from nanogrove.errors import DataError
from nanogrove.waits import waiting


class RewardedCorpus:
    """Examples as batches; see `Corpus`. A group is one example, or the two of a pair, which share a batch.

    tokens   [N, W + 1] int64, filled up with the end mark
    start    [N]        tokens of the prompt, with the end mark that begins a document where it is empty
    stop     [N]        tokens up to the end mark, itself included
    rewards  [N]        float64

    Raises DataError where no row can be used, or too few are left for training and validation.
    """

    default_split: Split = "test"
    has_answers = answers_end_rows = False

    def __init__(self, config: RewardedConfig | PreferencesConfig, block_size: int, batch_size: int, seed: int) -> None:
        self.config, self.block_size, self.batch_size, self.seed = config, block_size, batch_size, seed
        self.skipped = skipped = Skipped()
        groups = config.examples(skipped)
        if not groups:
            reasons = skipped.most_common(examples=True)
            raise DataError(f"{config.path}: no row can be used ({reasons or 'it has none'})")
        self.size = len(groups[0])
        flat = [example for group in groups for example in group]
        self.tokenizer, self.stops = _tokenizer(config, flat)
        end = self.tokenizer.end
        prompts, texts = _encoded(self.tokenizer, flat, self.size)
        fits = [
            all(len(prompts[n + m]) <= block_size for m in range(self.size)) for n in range(0, len(flat), self.size)
        ]
        if not all(fits):  # a row without a scored token would change the means over rows
            fitting = [group * self.size + m for group, fit in enumerate(fits) if fit for m in range(self.size)]
            for number, fit in enumerate(fits, start=1):
                if not fit:
                    skipped.bad(f"a prompt of more than {block_size} tokens", f"example {number}")
            groups = [group for group, fit in zip(groups, fits, strict=True) if fit]
            flat = [flat[n] for n in fitting]
            prompts, texts = [prompts[n] for n in fitting], [texts[n] for n in fitting]
        if not groups:
            raise DataError(f"{config.path}: no prompt leaves room for a text in {block_size} tokens of context")
        self.ended = [torch.from_numpy(text) for text in texts]  # uncut, with their end marks
        whole = [np.concatenate([p, text]) for p, text in zip(prompts, texts, strict=True)]
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
        sides = split_by_hash([_split_key(config, group[0]) for group in groups], config.validation, config.test)
        self.groups = {
            split: np.array([n for n, side in enumerate(sides) if side == split], dtype=np.int64)
            for split in ("train", "validation", "test")
        }
        for split in ("train", "validation"):
            if not len(self.groups[split]):
                self._refuse(groups, split)

    def _refuse(self, groups: Sequence[Sequence[Example]], split: str) -> None:
        """Raises DataError, which says why nothing is left for a split."""
        prompts, texts = len({group[0].prompt for group in groups}), len({group[0].text for group in groups})
        count = f"{self.config.path}: {len(groups):,} rows"
        if self.config.split_by == "prompt" and prompts < len(groups) and groups[0][0].prompt:
            differ = f"have {prompts:,} different prompt{'' if prompts == 1 else 's'}"
            raise DataError(f"{count} {differ}, so a split by prompt leaves none for {split}; set data.split_by=text")
        reasons = self.skipped.most_common(examples=True)
        left_out = f" (left out: {reasons})" if reasons else ""
        raise DataError(f"{count} with {texts:,} different texts leave none for {split}{left_out}; give more of them")

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
        index = shuffled_by_epoch(numbers, len(groups), self.seed, "rewarded")
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
        """Counts by reason of rows that were left out or changed, and the first location of each."""
        return dict(self.skipped.counts), {reason: places[0] for reason, places in self.skipped.locations.items()}

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
        # Settings that came later are left out at their defaults, so that earlier runs go on with the same fingerprint.
        usual: dict[str, object] = {"split_by": "prompt", "template": None, "special_tokens": []}
        later = {name for name, value in usual.items() if getattr(self.config, name) == value}
        digest = hashlib.sha256(self.config.model_dump_json(exclude=later).encode())
        digest.update(self.tokens.numpy().tobytes())
        digest.update(self.rewards.tobytes())
        left_out, locations = self.left_out()
        unusable = {reason: places[0] for reason, places in self.skipped.locations.items()}
        return {
            "documents": len(self.rewards),
            "train_tokens": int((self.stop - self.start)[torch.from_numpy(self.row_indices("train"))].sum()),
            "unusable_rows": sum(left_out[reason] for reason in unusable),
            "first_problem": next((f"{place}: {reason}" for reason, place in unusable.items()), None),
            "cut_rows": self.cut,
            "fingerprint": digest.hexdigest()[:32],
            **({"left_out": left_out, "for_example": locations} if left_out else {}),
        }

    def bytes_per_token(self, split: str) -> None:
        """None: prompts are read and not scored."""


def _split_key(config: RewardedOptions, example: Example) -> str:
    """What rows that fall on one side of a split have in common."""
    return example.text if config.split_by == "text" else example.prompt or example.text


def _tokenizer(config: RewardedOptions, examples: Sequence[Example]) -> tuple[Tokenizer, list[int]]:
    """The tokenizer, and the tokens that end a text."""
    texts = [part for example in examples for part in (example.prompt, example.text)]
    vocabulary = config.vocabulary()
    if vocabulary is not None:
        tokenizer, answer = vocabulary.tokenizer(config.tokenizer, config.vocab_size, texts), examples[0].text
        ended = end_of_answer(Rendered(answer, [(0, len(answer))]), tokenizer, vocabulary.name)
        return tokenizer, [tokenizer.end, ended]
    if config.tokenizer == "char":
        tokenizer = character_tokenizer(texts)
    elif config.tokenizer == "byte":
        tokenizer = byte_tokenizer()
    elif config.tokenizer == "bpe":
        tokenizer = learn_bpe(texts, config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    return tokenizer, [tokenizer.end]


def _encoded(tokenizer: Tokenizer, examples: Sequence[Example], size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The tokens of prompts, of which none is empty, and of texts with their end marks, in groups of `size`."""
    if tokenizer.chat_template is not None:
        return encode_answers(tokenizer, [(example.prompt, example.text) for example in examples], size)
    end = np.array([tokenizer.end])
    prompts = tokenizer.encode_batch([example.prompt for example in examples])
    texts = tokenizer.encode_batch([example.text for example in examples])
    return [p if len(p) else end for p in prompts], [np.concatenate([text, end]) for text in texts]
