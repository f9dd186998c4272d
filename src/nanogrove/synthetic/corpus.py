"""Random grammars as a corpus: `pretrain` learns them as it learns text, and the true distributions are known.

Every sequence begins with `<|endoftext|>`, so that the first token is predicted too and generation can start from
nothing: the inputs are that and the first T − 1 of its T tokens, the targets its T tokens, of which all or only the
last are scored. Tokens are written as numbers, `12 7 0 3`.

Training batches are fresh at every step, or from a fixed set of sequences read in a new order each epoch. How held-out
sequences are drawn, and which of them are trained on, is described in `synthetic/splits.py`.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.rng import permuted, random
from nanogrove.data.splits import SPLITS, Split
from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer
from nanogrove.errors import DataError
from nanogrove.settings import Settings
from nanogrove.synthetic.rhm import RandomHierarchyModel
from nanogrove.synthetic.rlm import RandomLanguageModel
from nanogrove.synthetic.splits import distinct, expected_overlap, independent, overlap
from nanogrove.synthetic.tree import TreeGrammar
from nanogrove.waits import waiting

SHOWN_TREES = 3  # in the record, for the report
FRESH = (10_000, 100_000, 1_000_000)  # sequences for which the expected overlap is recorded
MAX_TREE_LEAVES = 32  # of a tree that is worth drawing


class GrammarConfig(Settings):
    """What all grammars share; `v` symbols, trees of depth `L`."""

    seed_rules: int = Field(12345, ge=0, description="seed of the rules of the grammar")
    seed_samples: int = Field(67890, ge=0, description="seed of the sequences drawn from it")
    targets: Literal["last", "all"] = Field("last", description="tokens that are scored")
    training_set: int | None = Field(None, ge=1, description="sequences; null draws fresh ones at every step")
    held_out: int = Field(8192, ge=2, description="sequences of the validation and of the test split")

    @abstractmethod
    def grammar(self) -> TreeGrammar:
        """The grammar. Raises DataError for sizes that cannot be."""


class RLMConfig(GrammarConfig):
    """A Random Language Model (DeGiuli 2019): see `RandomLanguageModel`."""

    type: Literal["rlm"]
    v: int = Field(128, ge=2, description="symbols, which are the tokens")
    L: int = Field(1, ge=1, description="depth of the trees: sequences have 2^L tokens")
    beta: float = Field(2.0, ge=0, description="inverse temperature of the rules: 0 makes all equally likely")

    def grammar(self) -> TreeGrammar:
        """The grammar. Raises DataError for rules beyond memory."""
        return RandomLanguageModel(self.v, self.L, self.beta, self.seed_rules, self.seed_samples)


class RHMConfig(GrammarConfig):
    """A Random Hierarchy Model (Cagnetta 2024): see `RandomHierarchyModel`."""

    type: Literal["rhm"]
    v: int = Field(32, ge=2, le=4096, description="symbols of each level, which are the tokens")
    m: int = Field(8, ge=1, description="synonyms: rules of each symbol")
    s: int = Field(2, ge=2, description="symbols that a rule replaces one by")
    L: int = Field(3, ge=1, description="depth of the trees: sequences have s^L tokens")

    def grammar(self) -> TreeGrammar:
        """The grammar. Raises DataError for more synonyms than there are tuples."""
        return RandomHierarchyModel(self.v, self.m, self.s, self.L, self.seed_rules, self.seed_samples)


def is_grammar(data: object) -> bool:
    """Whether the `data` section of a preset is a grammar."""
    return isinstance(data, Mapping) and data.get("type") in ("rlm", "rhm")


def grammar_config(data: object) -> RLMConfig | RHMConfig | None:
    """The grammar of the `data` section of a preset; None where there is none, or the section is damaged."""
    if not isinstance(data, Mapping) or not is_grammar(data):
        return None
    try:
        return (RHMConfig if data["type"] == "rhm" else RLMConfig).model_validate(data)
    except ValidationError:
        return None


def number_tokenizer(size: int) -> Tokenizer:
    """Tokens 0 … size − 1 written as numbers between spaces; `<|endoftext|>` is number `size`."""
    backend = Backend(models.WordLevel({str(i): i for i in range(size)}, unk_token=""))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Tokenizer(backend)


class GrammarCorpus:
    """Sequences of a grammar as batches; see `Corpus`.

    Raises DataError where `block_size` is less than a sequence, saying what would fit.
    """

    splits = SPLITS
    default_split: Split = "test"
    has_answers = answers_end_rows = False

    def __init__(self, config: RLMConfig | RHMConfig, block_size: int, batch_size: int, seed: int) -> None:
        grammar = config.grammar()
        self.config, self.grammar, self.length = config, grammar, grammar.T
        self.batch_size, self.seed = batch_size, seed
        if block_size < self.length:
            raise DataError(
                f"model.block_size={block_size} is shorter than a sequence of {self.length} tokens "
                f"({grammar.s}^{grammar.L}); set model.block_size={self.length}"
            )
        self.tokenizer = number_tokenizer(grammar.v)
        self.windows_per_epoch = config.training_set
        if isinstance(grammar, RandomHierarchyModel) and config.training_set is not None:
            by_prefix = config.targets == "last"
            self.sequences = distinct(grammar, config.training_set, config.held_out, by_prefix)
        else:
            self.sequences = independent(grammar, config.training_set, config.held_out)
        self._truths: dict[tuple[str, int], list[Tensor]] = {}

    def reseeded(self, seed: int) -> "GrammarCorpus":
        """The same sequences, which a run with another seed reads in another order where they are a fixed set."""
        if "train" not in self.sequences:
            return self
        other = copy(self)
        other.seed = seed
        return other

    def batch(self, step: int) -> Batch:
        """Batch number `step`, a pure function of the seeds and the step."""
        training = self.sequences.get("train")
        if training is None:
            return self._batch(self.grammar.sample(self.batch_size, step))
        number = torch.arange(step * self.batch_size, (step + 1) * self.batch_size).numpy()
        count = len(training)
        rows = number.copy()
        for epoch in sorted(set((number // count).tolist())):
            in_epoch = number // count == epoch
            rows[in_epoch] = permuted(number[in_epoch] % count, count, random(self.seed, "order", epoch))
        return self._batch(training[torch.from_numpy(rows)])

    def _batch(self, sequences: Tensor) -> Batch:
        start = torch.full_like(sequences[:, :1], self.tokenizer.end)
        mask = torch.ones(sequences.shape, dtype=torch.bool)
        if self.config.targets == "last":
            mask[:, :-1] = False
        inputs = torch.cat([start, sequences[:, :-1]], 1)
        return Batch.uniform(inputs, sequences, mask)

    def _sequences(self, split: str, limit: int | None) -> Tensor:
        sequences = self.sequences.get(split)
        count = self.config.held_out if sequences is None else len(sequences)
        if limit is not None:
            count = max(min(count, limit // self.length), 2)
        return self.grammar.sample(count) if sequences is None else sequences[:count]

    def left_out(self) -> tuple[dict[str, int], dict[str, str]]:
        """Nothing: a grammar has no documents that could be left out."""
        return {}, {}

    def mixture(self) -> None:
        """None: all sequences are of one source."""

    def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """The sequences of a split, or its first ones of about `limit` tokens; an endless training split has as many as
        the held-out ones."""
        sequences = self._sequences(split, limit)
        with waiting(f"scoring {split}", len(sequences)) as wait:
            for rows in torch.split(sequences, self.batch_size):
                yield self._batch(rows)
                wait.done += len(rows)

    def documents(self, split: str, limit: int | None = None) -> Tensor:
        """A number for each sequence: all are drawn independently."""
        return torch.arange(len(self._sequences(split, limit)))

    def true_distributions(self, split: str, limit: int | None = None) -> Iterator[Tensor]:
        """The exact p(x_t | x_<t) `[B, T, V]` for each batch of `eval_batches`, float32; computed once per split."""
        sequences = self._sequences(split, limit)
        key = (split, len(sequences))
        if key not in self._truths:
            truths = []
            with waiting(f"computing the exact distributions of {split}", len(sequences)) as wait:
                for batch in torch.split(sequences, self.batch_size):
                    truths.append(self.grammar.next_token_distributions(batch).float())
                    wait.done += len(batch)
            self._truths[key] = truths
        return iter(self._truths[key])

    @cached_property
    def _fingerprint(self) -> str:
        """A digest of the settings and, where splits depend on each other, of their sequences."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        if isinstance(self.grammar, RandomHierarchyModel) and "train" in self.sequences:
            for sequences in self.sequences.values():
                digest.update(sequences.numpy().tobytes())
        return digest.hexdigest()[:32]

    @cached_property
    def overlap(self) -> dict[str, dict[str, float]]:
        """Which held-out sequences are trained on.

        `overlap` of a training set: shares of the test `sequences`, and of their `prefixes` of all but the last token,
        that stand in it. `expected_overlap` of fresh sequences at every step: the share of the test sequences that
        are among so many of them, on average.
        """
        test = self.sequences["test"]
        if "train" in self.sequences:
            return {"overlap": overlap(self.sequences["train"], test)}
        return {"expected_overlap": {f"{n}": expected_overlap(self.grammar, test, n) for n in FRESH}}

    def describe(self) -> dict[str, Any]:
        """Sequences and tokens, a digest, overlaps of splits, and the losses that curves are compared with, nats.

        The latter are means over the scored tokens, of predictors that know the position and see no token, or one.
        """
        grammar, last = self.grammar, self.config.targets == "last"
        scored = [grammar.T - 1] if last else list(range(grammar.T))
        unigram = [grammar.symbol_entropy(t) for t in scored]
        bigram = [grammar.pair_entropy(t) if t else grammar.symbol_entropy(t) for t in scored]
        shown = self.grammar.trees(SHOWN_TREES) if self.length <= MAX_TREE_LEAVES else []
        return {
            "documents": self.windows_per_epoch,
            "train_tokens": self.windows_per_epoch and self.windows_per_epoch * self.length,
            "fingerprint": self._fingerprint,
            **self.overlap,
            "uniform_loss": math.log(grammar.v),
            "unigram_loss": sum(unigram) / len(scored),
            "bigram_loss": sum(bigram) / len(scored),
            "rule_entropy": grammar.rule_entropy(),
            "trees": [[level[n].tolist() for level in shown] for n in range(SHOWN_TREES)] if shown else [],
        }

    def bytes_per_token(self, split: str) -> None:
        """None: tokens of a grammar are not text."""
