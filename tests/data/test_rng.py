"""Random numbers are functions of (seed, purpose, index); `permuted` is a bijection, however its domain is divided."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogrove.data.rng import derived_seed, permuted, random

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=100)
seeds = st.integers(0, 2**63 - 1)


def test_every_size_is_permuted_by_several_keys() -> None:
    for size in range(1, 400):
        for seed in range(3):
            images = permuted(np.arange(size), size, random(seed, "key"))
            assert np.array_equal(np.sort(images), np.arange(size)), (size, seed)


@LAWS
@given(size=st.integers(1, 20_000), seed=seeds)
def test_a_permutation_is_a_bijection_of_its_range(size: int, seed: int) -> None:
    images = permuted(np.arange(size), size, random(seed, "key"))
    assert images.dtype == np.int64
    assert np.array_equal(np.bincount(images, minlength=size), np.ones(size))


@LAWS
@given(size=st.integers(1, 2**40), seed=seeds, data=st.data())
def test_an_image_depends_on_no_other_index(size: int, seed: int, data: st.DataObject) -> None:
    """Chunks of any lengths, in any order, also with repetitions, have the images that all have together."""
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=40)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(index)), max_size=5)))
    together = permuted(index, size, random(seed, "key"))
    chunks = [permuted(chunk, size, random(seed, "key")) for chunk in np.split(index, cuts)]
    assert np.array_equal(np.concatenate(chunks), together)
    assert ((together >= 0) & (together < size)).all()
    assert len(set(together.tolist())) == len(set(index.tolist()))


def test_keys_choose_among_all_permutations() -> None:
    """Of four elements each of the 24 orders, none of them too often."""
    orders = [tuple(permuted(np.arange(4), 4, random(seed, "key")).tolist()) for seed in range(2400)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert max(counts) < 200


@LAWS
@given(
    seed=st.integers(0, 2**32 - 1), purpose=st.sampled_from(["a", "ab", "order"]), index=st.lists(st.integers(0, 99))
)
def test_a_generator_depends_on_its_arguments_alone(seed: int, purpose: str, index: list[int]) -> None:
    numbers = random(seed, purpose, *index).integers(1 << 62, size=3)
    assert np.array_equal(random(seed, purpose, *index).integers(1 << 62, size=3), numbers)
    assert derived_seed(seed, purpose, *index) == numbers[0]
    others = [(seed + 1, purpose, index), (seed, purpose + "b", index), (seed, purpose, [*index, 1])]
    assert all(
        derived_seed(other, name, *numbers) != derived_seed(seed, purpose, *index) for other, name, numbers in others
    )
