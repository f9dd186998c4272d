"""Laws of mixtures, for any sources: each window once a pass, counts as weights say, any sequence by itself."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.data.text.mixture import SEQUENCES_PER_STRATUM, Assigned, Phase, Weighted, round_robin, sequential

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=60)
numbers = st.lists(st.integers(0, 2000), min_size=1, max_size=20).map(np.array)
sizes = st.lists(st.integers(1, 30), min_size=1, max_size=5)
weights = st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(any).map(tuple)


def in_sequence(number: np.ndarray, counts: list[int]) -> Assigned:
    """`sequential` of sources with so many windows."""
    reaches = [partial(lambda number, count: number < count, count=count) for count in counts]
    return sequential(number, reaches, [partial(int, count) for count in counts])


def each_in_order(assigned: Assigned) -> bool:
    """Whether the windows of each source come one after the other, none left out."""
    sources, windows = assigned
    return all(np.array_equal(windows[sources == n], np.arange((sources == n).sum())) for n in np.unique(sources))


def parts(assigned: Assigned, number: np.ndarray) -> list[list[int]]:
    """What was assigned to some of the sequences from 0 on."""
    return [part[number].tolist() for part in assigned]


@LAWS
@given(sources=st.integers(1, 6), length=st.integers(1, 500), number=numbers)
def test_in_turn_counts_differ_by_one_at_most(sources: int, length: int, number: np.ndarray) -> None:
    assert each_in_order(round_robin(np.arange(length), sources))
    counts = np.bincount(round_robin(np.arange(length), sources)[0], minlength=sources)
    assert counts.max() - counts.min() <= 1
    assert parts(round_robin(np.arange(2001), sources), number) == [
        part.tolist() for part in round_robin(number, sources)
    ]


@LAWS
@given(counts=sizes, number=numbers)
def test_in_sequence_a_pass_is_every_window_of_every_source_once(counts: list[int], number: np.ndarray) -> None:
    total = sum(counts)
    everything = in_sequence(np.arange(2001), counts)
    assert each_in_order(everything)
    for begin in range(0, 2001 - total, total):
        sources, windows = (part[begin : begin + total] for part in everything)
        assert np.array_equal(sources, np.repeat(np.arange(len(counts)), counts))
        assert all((windows[sources == n] // count == begin // total).all() for n, count in enumerate(counts))
    assert parts(everything, number) == [part.tolist() for part in in_sequence(number, counts)]


@LAWS
@given(shares=weights, seed=st.integers(0, 2**63 - 1), before=st.integers(0, 10**6))
def test_of_each_stratum_a_source_takes_its_share_within_one(shares: tuple[float, ...], seed: int, before: int) -> None:
    sources, _ = Weighted([Phase(0, shares)], seed, before, [0] * len(shares)).assign(
        np.arange(6 * SEQUENCES_PER_STRATUM)
    )
    exact = np.array(shares) / sum(shares) * SEQUENCES_PER_STRATUM
    for stratum in sources.reshape(6, SEQUENCES_PER_STRATUM):
        counts = np.bincount(stratum, minlength=len(shares))
        assert (np.abs(counts - exact) < 1 + 1e-9).all()
        assert (counts[np.array(shares) == 0] == 0).all()


@LAWS
@given(data=st.data(), seed=st.integers(0, 2**63 - 1), number=numbers)
def test_weighted_sequences_are_computed_without_those_before(
    data: st.DataObject, seed: int, number: np.ndarray
) -> None:
    """Under phases of any weights and lengths, also where the first ones are known by their counts alone."""
    sources = data.draw(st.integers(1, 4))
    some = st.lists(st.floats(0, 10), min_size=sources, max_size=sources).filter(any).map(tuple)
    starts = [0, *np.cumsum(data.draw(st.lists(st.integers(0, 700), max_size=4))).tolist()]
    phases = [Phase(start, data.draw(some)) for start in starts]
    whole = Weighted(phases, seed)
    everything = whole.assign(np.arange(2001))
    assert each_in_order(everything)
    assert [part.tolist() for part in whole.assign(number)] == parts(everything, number)
    over = data.draw(st.integers(0, len(phases) - 1))
    late = Weighted(phases[over:], seed, over, whole.before[over].tolist())
    after = number[number >= starts[over]]
    if len(after):
        assert [part.tolist() for part in late.assign(after)] == parts(everything, after)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three files in which no character comes twice, so that a token says where its window lies."""
    folder, first = tmp_path_factory.mktemp("sources"), 0x4E00
    for name, length in (("a", 300), ("b", 911), ("c", 120)):
        (folder / f"{name}.txt").write_text("".join(map(chr, range(first, first + length))), "utf-8")
        first += length
    return [str(folder / f"{name}.txt") for name in "abc"]


@settings(LAWS, max_examples=8)
@given(
    mixing=st.sampled_from(["round_robin", "sequential", "weighted"]),
    block=st.integers(6, 40),
    batch=st.integers(2, 9),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_window_of_every_source_comes_once_a_pass(
    sources: list[str], mixing: str, block: int, batch: int, seed: int
) -> None:
    shares = {"source_weights": [1.0, 2.0, 0.5]} if mixing == "weighted" else {}
    config = DataConfig.model_validate(
        {"sources": sources, "tokenizer": "char", "split": "tail", "mix_strategy": mixing, **shares}
    )
    corpus = TextCorpus(config, block, batch, seed)
    passes = [source.epoch(block) for source in corpus.sources]
    shown: list[list[list[int]]] = [[], [], []]
    step = 0
    while any(len(rows) < 2 * count for rows, count in zip(shown, passes, strict=True)):
        read = corpus.batch(step)
        assert np.array_equal(read.tokens[:, 1:], read.targets[:, :-1])
        for row, source in zip(read.tokens.tolist(), read.source.tolist(), strict=True):
            shown[source].append(row)
        step += 1
    again = TextCorpus(config, block, batch, seed).batch(step - 1)
    assert np.array_equal(again.tokens, read.tokens), "a step is computed without the ones before"
    for rows, count in zip(shown, passes, strict=True):
        for number in range(2):
            tokens = Counter(token for row in rows[number * count : (number + 1) * count] for token in row)
            assert len(tokens) == count * block, "a token of a pass comes in one window only"
