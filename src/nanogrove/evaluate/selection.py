"""Selection: who is replaced by whom, from scores alone. Members are numbers, a smaller score is better.

`samples [P, N]` are scores of P members on the same N sequences. A member without a finite score comes last.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

Replacements = dict[int, int]  # member -> the better one that takes its place


def ranked(members: Sequence[int], scores: Tensor) -> list[int]:
    """Members best first; equals in the order given."""
    known = torch.where(scores.isfinite(), scores, torch.inf)
    return sorted(members, key=lambda member: float(known[member]))


def truncation(order: Sequence[int], replaced: int, parents: int, generator: np.random.Generator) -> Replacements:
    """The last `replaced` of `order`, each by one drawn from the first `parents` (Jaderberg et al. 2017)."""
    return {member: order[int(generator.integers(parents))] for member in order[len(order) - replaced :]}


def tournament(order: Sequence[int], elites: int, size: int, generator: np.random.Generator) -> Replacements:
    """Each but the first `elites` meets `size` − 1 others, drawn; the best of them, where it is better, replaces it."""
    found = {}
    for place in range(elites, len(order)):
        met = generator.choice(len(order) - 1, size=min(size, len(order)) - 1, replace=False)
        best = min(int(other) + (int(other) >= place) for other in met)
        if best < place:
            found[order[place]] = order[best]
    return found


def exceeds_noise(samples: Tensor, better: int, worse: int, significance: float) -> bool:
    """Whether `better` is better by more than chance: a one-sided paired test of means over sequences.

    With the normal distribution, which for 100 sequences or more is that of Student's t to a few per cent.
    """
    difference = samples[worse] - samples[better]
    mean, error = float(difference.mean()), float(difference.std()) / len(difference) ** 0.5
    return mean > NormalDist().inv_cdf(1 - significance) * error and mean > 0


def significant(replacements: Replacements, test: Callable[[int, int], bool]) -> tuple[Replacements, list[int]]:
    """The replacements that pass `test(better, worse)`, and the members spared because they do not."""
    kept = {worse: better for worse, better in replacements.items() if test(better, worse)}
    return kept, [member for member in replacements if member not in kept]
