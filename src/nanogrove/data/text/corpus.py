"""A text corpus: windows of one or more sources, mixed, as batches that are functions of (seed, step)."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch

from nanogrove.data.batch import Batch
from nanogrove.data.splits import SPLITS, WITHOUT_TEST, Split
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.mixture import Assigned, Phase, Weighted, round_robin, sequential
from nanogrove.data.text.prepare import pin_versions, prepare
from nanogrove.data.text.reader import ShardReader
from nanogrove.data.text.verified import large, verify_in_background
from nanogrove.errors import DataError
from nanogrove.paths import short_names
from nanogrove.waits import waiting

HELD_OUT_STRETCHES = 64  # of a held-out text, taken for independent


class TextCorpus:
    """Prepared text as batches of `batch_size` windows of `block_size` tokens; see `Corpus`.

    A batch waits until a streaming source has as many tokens as it needs, and no longer. Raises DataError when
    a source or a split is too short for one window.
    """

    default_split: Split = "validation"
    has_answers = answers_end_rows = False

    def __init__(self, config: DataConfig, block_size: int, batch_size: int, seed: int) -> None:
        config = pin_versions(config)
        self.config, self.length, self.batch_size, self.seed = config, block_size, batch_size, seed
        titles = [source.title() for source in config.all_sources]
        self.names = short_names(titles)
        self.tokenizer, folders, self.process = prepare(config)
        self.sources = [ShardReader(folder, self.tokenizer.vocab_size, self._check) for folder in folders]
        complete = [source for source in self.sources if source.index["complete"] and large(source.index)]
        verify_in_background([(source.tokens, source.index) for source in complete])
        for title, source in zip(titles, self.sources, strict=True):
            if source.count("train", block_size + 1) <= block_size:
                self._refuse(title, "train", [source], block_size + 1)
        for split, need in (("validation", 2), ("test", 2 * (config.test > 0))):
            counts = [source.count(split) for source in self.sources]  # all of it now, so that no evaluation waits
            if max(counts) < need:
                self._refuse(", ".join(titles), split, self.sources, need)
        self.weighted = self._weighted()

    def _weighted(self) -> Weighted:
        """The mixture that the settings ask for."""
        weights = self.config.source_weights or [1.0] * len(self.sources)
        return Weighted([Phase(0, tuple(weights))], self.seed)

    def reseeded(self, seed: int) -> "TextCorpus":
        """The same text, of which a run with another seed draws other batches; held-out ones are equal."""
        other = copy(self)
        other.seed = seed
        other.weighted = other._weighted()
        return other

    def _check(self) -> bool:
        return self.process is None or self.process.check()

    def _refuse(self, name: str, split: str, sources: list[ShardReader], need: int) -> None:
        """Raises DataError for a split of which no source has the tokens that are needed."""
        config = self.config
        share = {"validation": config.validation, "test": config.test}.get(split, 1 - config.validation - config.test)
        advice = "use more text, a smaller model.block_size, or another data.split"
        for source in sources:
            total = sum(source.count(other) for other in SPLITS)
            if source.by_document(config.split) and share * total > need + 1:
                advice = "documents go to splits by their texts, and too few of them differ; set data.split=tail"
        tokens = max(source.count(split) for source in sources)
        raise DataError(f"{name}: the {split} split has {tokens} tokens and needs at least {need}; {advice}")

    @property
    def splits(self) -> tuple[Split, ...]:
        """All splits, without test where `data.test` is 0."""
        return SPLITS if self.config.test else WITHOUT_TEST

    @property
    def windows_per_epoch(self) -> int | None:
        """Windows of `block_size` tokens in one pass over all sources; None while some are still being read."""
        if not all(source.index["complete"] for source in self.sources):
            return None
        return sum(source.epoch(self.length) for source in self.sources)

    def assign(self, number: np.ndarray) -> Assigned:
        """The source of each sequence `[N]`, and its number within that source."""
        if len(self.sources) == 1:
            return np.zeros_like(number), number
        if self.config.mix_strategy == "weighted":
            return self.weighted.assign(number)
        if self.config.mix_strategy == "sequential":
            has_window = [partial(source.has_window, size=self.length) for source in self.sources]
            return sequential(number, has_window, [partial(source.epoch, self.length) for source in self.sources])
        return round_robin(number, len(self.sources))

    def batch(self, step: int) -> Batch:
        """Batch number `step`, a pure function of (seed, step)."""
        return self._batch(*self.assign(np.arange(step * self.batch_size, (step + 1) * self.batch_size)))

    def mixture(self) -> "TextCorpus | None":
        """The corpus itself where it has two sources or more; else None."""
        return self if len(self.names) > 1 else None

    @property
    def shows_all_sources(self) -> bool:
        """Whether every batch has rows of each source."""
        return self.config.mix_strategy != "sequential"

    def source_tokens(self) -> list[int | None]:
        """Training tokens of each source; None for one that streams."""
        indices = [source.index for source in self.sources]
        return [None if index["streamed"] else index["splits"]["train"]["tokens"] for index in indices]

    def mixed(self, step: int, mixture: Weighted) -> Batch:
        """Batch number `step` under another mixture."""
        return self._batch(*mixture.assign(np.arange(step * self.batch_size, (step + 1) * self.batch_size)))

    def _batch(self, sources: np.ndarray, positions: np.ndarray) -> Batch:
        windows = np.empty((len(sources), self.length + 1), dtype=np.int64)
        for source in np.unique(sources).tolist():
            rows = sources == source
            windows[rows] = self.sources[source].train_windows(positions[rows], self.length, self.seed)
        return batch_of(windows, sources)

    def eval_batches(self, split: str, limit: int | None = None) -> Iterator[Batch]:
        """Batches that cover `split` without overlap, one source after the other, the last window of each shorter.

        With `limit`, evenly spread windows of about that many tokens in all. A training split that is still being read
        is covered as far as it has been read. Raises DataError for an empty split.
        """
        size, windows = self.length, self._chosen(split, limit)
        with waiting(f"scoring {split}", sum(len(chosen) for _, chosen in windows)) as wait:
            for number, (count, chosen) in enumerate(windows):
                source = self.sources[number]
                for rows in np.split(chosen, range(self.batch_size, len(chosen), self.batch_size)):
                    full = rows[(rows + 1) * size + 1 <= count]
                    if len(full):
                        yield batch_of(source.read(split, full * size, size + 1), np.full(len(full), number))
                    for row in rows[len(full) :].tolist():
                        last = source.read(split, np.array([row * size]), count - row * size)
                        yield batch_of(last, np.array([number]))
                    wait.done += len(rows)

    def _chosen(self, split: str, limit: int | None) -> list[tuple[int, np.ndarray]]:
        """For each source the tokens of a split, and the numbers of the windows that `eval_batches` reads."""
        size = self.length
        tokens = [source.count(split, 0 if split == "train" else None) for source in self.sources]
        if max(tokens) < 2:
            raise DataError(f"the {split} split is empty; this run was made with data.{split}=0")
        windows = []
        for count in tokens:
            chosen = np.arange(-(-max(count - 1, 0) // size))
            share = None if limit is None else limit * count // sum(tokens)
            if share is not None and share < len(chosen) * size:
                full = max((count - 1) // size, 1)
                chosen = np.arange(full)[:: max(1, full * size // max(share, 1))]
            windows.append((count, chosen))
        return windows

    def documents(self, split: str, limit: int | None = None) -> torch.Tensor:
        """The document in which each sequence of `eval_batches` begins, numbered through all sources.

        A source that was split by position holds out one stretch of text with few documents. There, each of
        `HELD_OUT_STRETCHES` equal parts counts as a document; they are longer than the dependence between neighbours.
        """
        numbers, before = [], 0
        for source, (count, chosen) in zip(self.sources, self._chosen(split, limit), strict=True):
            if source.by_document(self.config.split):
                number = source.documents(split, chosen * self.length, self.tokenizer.end)
            else:
                number = chosen * self.length * HELD_OUT_STRETCHES // max(count, 1)
            numbers.append(number + before)
            before = int(numbers[-1].max(initial=before)) + 1
        return torch.from_numpy(np.concatenate(numbers))

    def true_distributions(self, split: str, limit: int | None = None) -> None:
        """None: the distribution of a text is unknown."""

    def bytes_per_token(self, split: str) -> float:
        """Mean UTF-8 bytes per token of `split`."""
        counts = [source.index["splits"][split] for source in self.sources]
        return float(sum(count["bytes"] for count in counts) / sum(count["tokens"] for count in counts))

    def describe(self) -> dict[str, Any]:
        """Documents, tokens of each split, what was left out, and a fingerprint of the corpus.

        A corpus that streams has the fingerprint alone, since the amount that has been read depends on the clock.
        """
        names = {"sources": self.names} if len(self.names) > 1 else {}
        if any(source.index["streamed"] for source in self.sources):
            return {
                "documents": None,
                "train_tokens": None,
                "streams": True,
                **names,
                "fingerprint": self._fingerprint(),
            }
        counts = [source.index["splits"] for source in self.sources]
        left_out, locations = self.left_out()
        return {
            "documents": sum(count[split]["documents"] for count in counts for split in SPLITS),
            **{f"{split}_tokens": sum(count[split]["tokens"] for count in counts) for split in SPLITS},
            "bytes_per_token": self.bytes_per_token("train"),
            "fingerprint": self._fingerprint(),
            **names,
            **({"left_out": left_out, "for_example": locations} if left_out else {}),
        }

    def left_out(self) -> tuple[dict[str, int], dict[str, str]]:
        """Counts by reason of what was left out of the sources, as far as they have been read, and first locations."""
        counts: Counter[str] = Counter()
        locations: dict[str, str] = {}
        for source in self.sources:
            source.refresh()
            counts.update(source.index["problems"]["counts"])
            for reason, examples in source.index["problems"]["places"].items():
                locations.setdefault(reason, examples[0])
        return dict(counts), locations

    def _fingerprint(self) -> str:
        """A hash of the key of each source that streams, and of the digest of all tokens of the others."""
        parts = [source.folder.name if source.index["streamed"] else source.index["digest"] for source in self.sources]
        mixture = [self.config.mix_strategy, self.config.source_weights] if len(parts) > 1 else []
        return hashlib.sha256(json.dumps([parts, mixture]).encode()).hexdigest()[:32]


def batch_of(windows: np.ndarray, sources: np.ndarray) -> Batch:
    """Windows `[B, T + 1]` of `sources [B]` as a batch `[B, T]` whose every token is scored."""
    tokens = torch.from_numpy(windows)
    mask = torch.ones(windows.shape[0], windows.shape[1] - 1, dtype=torch.bool)
    return Batch.uniform(tokens[:, :-1], tokens[:, 1:], mask, torch.from_numpy(sources))
