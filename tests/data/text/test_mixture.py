"""Mixing: shares come true, every sequence of a source comes once and in order, any stretch by itself."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.data.text.mixture import SEQUENCES_PER_STRATUM, Phase, Weighted, round_robin, sequential


def each_in_order(sources: np.ndarray, places: np.ndarray) -> bool:
    return all(np.array_equal(places[sources == i], np.arange((sources == i).sum())) for i in np.unique(sources))


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.7, 0.0, 0.2, 0.1), (1.0,), (1e-9, 1.0), (1.0, 1.0, 1.0)])
def test_shares_come_true_and_nothing_is_skipped(weights: tuple[float, ...]) -> None:
    mixture = Weighted([Phase(0, weights)], seed=4)
    sources, places = mixture.assign(np.arange(20_000))
    assert each_in_order(sources, places)
    shares = np.array(weights) / sum(weights)
    counts = np.bincount(sources, minlength=len(weights))
    assert np.abs(counts - 20_000 * shares).max() < 10, "closer than chance would be"
    likely = shares > 1e-6
    if likely.sum() > 1:
        assert stats.chisquare(counts[likely], 20_000 * shares[likely]).pvalue > 0.01
    for first in range(0, 2000, 100):
        part = np.bincount(sources[first : first + SEQUENCES_PER_STRATUM], minlength=len(weights))
        assert np.abs(part - SEQUENCES_PER_STRATUM * shares).max() < 0.2 * SEQUENCES_PER_STRATUM


def test_draws_are_in_no_fixed_order() -> None:
    sources = Weighted([Phase(0, (1.0, 1.0))], seed=4).assign(np.arange(20_000))[0]
    again = np.mean(sources[1:] == sources[:-1])
    assert 0.47 < again < 0.52


def test_any_stretch_by_itself_and_weights_that_change() -> None:
    phases = [Phase(0, (3.0, 1.0, 0.0)), Phase(1000, (1.0, 1.0, 5.0)), Phase(1777, (0.0, 0.0, 1.0))]
    mixture = Weighted(phases, seed=5)
    sources, places = mixture.assign(np.arange(6000))
    assert each_in_order(sources, places)
    assert np.bincount(sources[:1000], minlength=3) == pytest.approx([750, 250, 0], abs=20)
    assert np.bincount(sources[1000:1777]) == pytest.approx([111, 111, 555], abs=20)
    assert (sources[1777:] == 2).all()
    assert len({tuple(sources[n : n + SEQUENCES_PER_STRATUM]) for n in (0, SEQUENCES_PER_STRATUM)}) == 2
    late = Weighted(phases, seed=5).assign(np.array([5999, 1200, 1776, 1777, 999]))
    assert late[0].tolist() == sources[[5999, 1200, 1776, 1777, 999]].tolist()
    assert late[1].tolist() == places[[5999, 1200, 1776, 1777, 999]].tolist()
    assert not np.array_equal(Weighted(phases, seed=6).assign(np.arange(500))[0], sources[:500])


def test_phases_that_are_over_may_be_forgotten() -> None:
    """Their number and their counts stand for them, as they do when weights change at each batch."""
    generator = np.random.default_rng(3)
    phases = [Phase(n * 10, tuple(generator.dirichlet(np.ones(3)).tolist())) for n in range(200)]
    mixture = Weighted(phases, seed=5)
    sources, places = mixture.assign(np.arange(2000))
    assert each_in_order(sources, places)
    late = Weighted(phases[150:], seed=5, number=150, counts=mixture.before[150].tolist()).assign(np.arange(1500, 2000))
    assert np.array_equal(late[0], sources[1500:])
    assert np.array_equal(late[1], places[1500:])
    expected = 10 * sum(np.array(phase.weights) for phase in phases)
    assert np.bincount(sources) == pytest.approx(expected, abs=60)


def test_a_rare_source_comes_as_often_as_its_weight_in_phases_of_few_sequences() -> None:
    """A phase's first stratum alone would round its weight of .3 of a sequence the same way each time."""
    phases = [Phase(n * 256, (0.3 / 256, 1 - 0.3 / 256)) for n in range(300)]
    sources, _ = Weighted(phases, seed=1).assign(np.arange(300 * 256))
    assert (sources == 0).sum() == pytest.approx(90, abs=5)


def test_counts_of_strata_are_those_of_their_draws() -> None:
    generator = np.random.default_rng(0)
    for number in range(50):
        mixture = Weighted([Phase(0, tuple(generator.dirichlet(np.ones(5)).tolist()))], seed=1, number=number**3)
        drawn = np.concatenate([mixture._stratum(0, n) for n in range(40)])
        assert mixture._counts_of_strata(0, 40).tolist() == np.bincount(drawn, minlength=5).tolist()


def test_in_turn_and_in_sequence() -> None:
    sources, places = round_robin(np.arange(7), 3)
    assert sources.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert places.tolist() == [0, 0, 0, 1, 1, 1, 2]
    sizes = [3, 1, 2]
    reaches = [lambda n, size=size: n < size for size in sizes]
    epoch = [lambda size=size: size for size in sizes]
    sources, places = sequential(np.arange(14), reaches, epoch)
    assert sources.tolist() == [0, 0, 0, 1, 2, 2] * 2 + [0, 0]
    assert places.tolist() == [0, 1, 2, 0, 0, 1, 3, 4, 5, 1, 2, 3, 6, 7]


@pytest.fixture
def corpus(tmp_path: Path) -> partial[TextCorpus]:
    for name in "abc":
        (tmp_path / name).mkdir()
        for n in range(120):
            (tmp_path / name / f"{n}.txt").write_text(name * (20 + n))
    sources = [str(tmp_path / name) for name in "abc"]

    def build(block: int = 8, batch: int = 6, **settings: object) -> TextCorpus:
        config = DataConfig.model_validate({"sources": sources, "tokenizer": "char", **settings})
        return TextCorpus(config, block, batch, seed=2)

    return partial(build)


def letters(corpus: TextCorpus, step: int) -> list[str]:
    batch = corpus.batch(step)
    rows = [corpus.tokenizer.decode(row) for row in batch.targets.tolist()]
    assert all(set(row) <= {"abc"[source]} for row, source in zip(rows, batch.source.tolist(), strict=True))
    return ["abc"[source] for source in batch.source.tolist()]


def test_every_sequence_says_its_source(corpus: partial[TextCorpus]) -> None:
    assert letters(corpus(), 3) == ["a", "b", "c"] * 2
    assert letters(corpus(mix_strategy="sequential"), 0) == ["a"] * 6
    weighted = corpus(mix_strategy="weighted", source_weights=[0, 1, 3])
    drawn = [letter for step in range(200) for letter in letters(weighted, step)]
    assert drawn.count("a") == 0
    assert drawn.count("c") == pytest.approx(900, abs=15)


def test_in_sequence_each_source_is_read_to_its_end(corpus: partial[TextCorpus]) -> None:
    mixed = corpus(mix_strategy="sequential", batch=1)
    ends = np.cumsum([source.epoch(8) for source in mixed.sources])
    assert [letters(mixed, int(n))[0] for end in ends for n in (end - 1, end)] == ["a", "b", "b", "c", "c", "a"]
    assert mixed.windows_per_epoch == ends[-1]


def test_ranks_read_parts_of_the_same_global_batch(corpus: partial[TextCorpus]) -> None:
    """Batches of one process, and the parts that 2 and 4 processes take of them."""
    mixed = corpus(batch=8, mix_strategy="weighted", source_weights=[1, 2, 3])
    whole = mixed.batch(11)
    for world in (2, 4):
        ranks = [corpus(batch=8, mix_strategy="weighted", source_weights=[1, 2, 3]) for _ in range(world)]
        parts = [rank.batch(11).split(world)[number] for number, rank in enumerate(ranks)]
        assert np.array_equal(np.concatenate([part.tokens.numpy() for part in parts]), whole.tokens.numpy())


def test_validation_covers_every_source_and_says_which(corpus: partial[TextCorpus]) -> None:
    mixed = corpus()
    sources = {source for batch in mixed.eval_batches("validation", 100) for source in batch.source.tolist()}
    assert sources == {0, 1, 2}
    whole = list(mixed.eval_batches("validation"))
    tokens = [source.count("validation") for source in mixed.sources]
    assert sum(int(batch.mask.sum()) for batch in whole) == sum(tokens) - 3
    for batch in whole:
        assert len(set(batch.source.tolist())) == 1
