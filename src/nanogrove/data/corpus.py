"""The contract of a corpus: what training, evaluation and the record ask of it."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.splits import Split
from nanogrove.data.text.mixture import Weighted
from nanogrove.data.tokenizer import Tokenizer


class CorpusConfig(Protocol):
    """Settings of a corpus, the section `data` of a preset."""

    @property
    def type(self) -> str:
        """The kind of data."""


class Corpus(Protocol):
    """Data ready for training: a tokenizer and batches that are functions of the step."""

    tokenizer: Tokenizer
    length: int  # tokens of a training window
    batch_size: int  # sequences of a training batch

    @property
    def config(self) -> CorpusConfig:
        """The settings, with what was looked up filled in, such as the commit of a data set on the hub."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that are not empty."""

    @property
    def default_split(self) -> Split:
        """The split that `evaluate` scores unless it is given another one: test where samples cost nothing."""

    @property
    def has_answers(self) -> bool:
        """Whether the scored tokens of a sequence are right or wrong as a whole: an answer, or those of a dialogue."""

    @property
    def answers_end_rows(self) -> bool:
        """Whether what is scored is all that follows a prompt, up to the end mark, so that a model can write it."""

    def left_out(self) -> tuple[dict[str, int], dict[str, str]]:
        """What sources left out, as far as they have been read: counts by reason, and the first location of each."""

    def mixture(self) -> "MixedCorpus | None":
        """The corpus itself where it mixes two text sources or more; else None."""

    @property
    def windows_per_epoch(self) -> int | None:
        """Windows in one pass over the training split; None where every batch is fresh."""

    def batch(self, step: int) -> Batch:
        """Batch number `step`; pure, so that any process can compute any batch."""

    def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Fixed batches that cover a split without overlap, or about `limit` evenly spread tokens of it."""

    def documents(self, split: str, limit: int | None = None) -> Tensor:
        """The document of each sequence of `eval_batches`, `[N]` int64: scores on two documents are independent."""

    def true_distributions(self, split: str, limit: int | None = None) -> Iterator[Tensor] | None:
        """The exact distribution of each target `[B, T, V]`, by batch of `eval_batches`; None where nobody knows it."""

    def describe(self) -> dict[str, Any]:
        """Figures for the record: documents, tokens per split, fingerprint, and what else is known of the data."""

    def bytes_per_token(self, split: str) -> float | None:
        """Mean UTF-8 bytes of text per token of the split; None where tokens are not text."""


class MixedCorpus(Corpus, Protocol):
    """Text sources whose weights may change as training goes on."""

    names: list[str]  # of the sources
    seed: int
    weighted: Weighted  # the mixture that the settings ask for

    @property
    def shows_all_sources(self) -> bool:
        """Whether each stretch of training is drawn from all sources, not from one after the other."""

    def mixed(self, step: int, mixture: Weighted) -> Batch:
        """Batch number `step` under another mixture."""

    def source_tokens(self) -> list[int | None]:
        """Training tokens of each source; None for one that streams, whose size nobody knows."""
