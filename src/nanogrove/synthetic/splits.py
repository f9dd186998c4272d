"""The training set and the held-out sequences of a grammar, and how much they overlap.

All sequences of a Random Hierarchy Model are equally likely, so all splits are drawn together and without replacement,
as its authors do (pcsl-epfl/hierarchy-learning): derivations are numbered and a random permutation of the numbers is
read from its start. The test sequences come first, the validation sequences next; the training sequences follow, and
where only the last token is scored, those whose prefix a held-out sequence has are skipped. The held-out ones are not:
a model that has memorised such a prefix with another last token would be wrong more often than the grammar says, since
the token that it has seen is the one that cannot be held out. So the held-out sequences are a uniform sample of the
grammar, the same for each size of the training set, and nothing in the training set reveals their targets: the best
loss is exact. Where too few prefixes are left, the training set is filled up with sequences that share a held-out
prefix.

Sequences of a Random Language Model are not equally likely. Without the likely ones that were trained on, the held-out
sequences would no longer be a sample of the grammar, nor its exact probabilities the best predictor. They are drawn
independently, and `overlap` says how many were trained on. The same holds for fresh sequences at every step, which may
meet a held-out one by chance: `expected_overlap`.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from nanogrove.data.rng import permuted, random
from nanogrove.errors import DataError
from nanogrove.synthetic.rhm import RandomHierarchyModel
from nanogrove.synthetic.tree import TreeGrammar

HELD_OUT = ("test", "validation")
SEQUENCES_AT_ONCE = 1 << 18
OVERLAP_SEQUENCES = 512  # held-out ones, from whose probabilities the expected overlap is estimated


def independent(grammar: TreeGrammar, training_set: int | None, held_out: int) -> dict[str, Tensor]:
    """Sequences by split, each split drawn from its own seed; no training split where `training_set` is None."""
    splits = {} if training_set is None else {"train": grammar.sample(training_set)}
    for split in HELD_OUT:
        seeded = copy.copy(grammar)
        seeded.seed_samples = int(random(grammar.seed_samples, split).integers(1 << 62))
        splits[split] = seeded.sample(held_out)
    return splits


def distinct(grammar: RandomHierarchyModel, training_set: int, held_out: int, by_prefix: bool) -> dict[str, Tensor]:
    """Sequences by split, no two of them equal; with `by_prefix` no training sequence has a held-out prefix.

    The latter as far as the grammar allows. Raises DataError for more sequences than it has, saying what would fit.
    """
    size = grammar.num_derivations
    if training_set + 2 * held_out > size:
        fits = f"data.training_set={size - 2 * held_out}"
        if size <= 2 * held_out:
            fits = f"data.held_out={max(size // 4, 2)} and data.training_set={size - 2 * max(size // 4, 2)}"
        if size < 5:
            fits = "more synonyms data.m, symbols data.v or levels data.L"
        raise DataError(
            f"data.training_set={training_set} and twice data.held_out={held_out} are more than the {size:,} sequences "
            f"of this grammar; {fits} would fit"
        )
    held = _sequences(grammar, 0, 2 * held_out)
    splits = {"test": held[:held_out], "validation": held[held_out:]}
    seen = set(_keys(held, by_prefix))
    own_prefix: list[Tensor] = []
    shared_prefix: list[Tensor] = []
    for chunk in _chunks(grammar, 2 * held_out, training_set):
        fresh = torch.tensor([key not in seen for key in _keys(chunk, by_prefix)])
        own_prefix.append(chunk[fresh])
        shared_prefix.append(chunk[~fresh])
        if sum(map(len, own_prefix)) >= training_set:
            break
    splits["train"] = torch.cat(own_prefix + shared_prefix)[:training_set]
    return splits


def _chunks(grammar: RandomHierarchyModel, first: int, least: int) -> Iterator[Tensor]:
    """The sequences of the permuted derivations from number `first` on, at least `least` at a time at first."""
    rows = max(least, 1024)
    while first < grammar.num_derivations:
        after = min(first + rows, grammar.num_derivations)
        yield _sequences(grammar, first, after)
        first = after


def _sequences(grammar: RandomHierarchyModel, first: int, after: int) -> Tensor:
    """Sequences number `first` to `after` of the permuted derivations."""
    parts = []
    for begin in range(first, after, SEQUENCES_AT_ONCE):
        index = torch.arange(begin, min(begin + SEQUENCES_AT_ONCE, after)).numpy()
        numbers = permuted(index, grammar.num_derivations, random(grammar.seed_samples, "splits"))
        parts.append(grammar.derive(numbers, random(grammar.seed_samples, "derivations", begin)))
    return torch.cat(parts)


def _keys(sequences: Tensor, by_prefix: bool) -> Iterator[bytes]:
    """Each sequence, or all of it but the last token, as bytes."""
    shown = sequences[:, :-1] if by_prefix else sequences
    return (row.tobytes() for row in shown.contiguous().numpy())


def overlap(train: Tensor, held_out: Tensor) -> dict[str, float]:
    """Shares of held-out sequences, and of their prefixes of all but the last token, that stand in the training set."""
    shares = {}
    for name, by_prefix in (("sequences", False), ("prefixes", True)):
        seen = set(_keys(train, by_prefix))
        shares[name] = round(sum(key in seen for key in _keys(held_out, by_prefix)) / len(held_out), 6)
    return shares


def expected_overlap(grammar: TreeGrammar, held_out: Tensor, fresh: int) -> float:
    """The share of held-out sequences that are expected among `fresh` independent sequences of the grammar."""
    log_probs = grammar.next_token_log_probs(held_out[:OVERLAP_SEQUENCES]).sum(1)
    missed = torch.log1p(-log_probs.exp().clamp(max=1 - 1e-12)) * fresh
    return round(float(-torch.expm1(missed).mean()), 6)
