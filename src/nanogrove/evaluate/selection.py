"""Selection: who is replaced by whom, from scores alone. Members are numbers, a smaller score is better.

`samples [P, N]` are scores of P members on the same N sequences. A member without a finite score comes last.

A member is replaced only where the difference is more than chance. Members that were ranked by their scores differ by
more than chance on those very scores: the last and the first of P equal ones by 2.1, 2.8 and 3.5 standard deviations
at P = 4, 8 and 16. So one half of the data ranks them and the other half tests (`halves`; Cox 1975 for one split). The
unit of both is the document, since neighbouring windows of a text are hard or easy together.

The test flips signs (`sign_flips`): where two members are equally good, the difference of their summed scores on a
document could as well have had the other sign, so the observed total is compared with totals under random signs. That
is exact for any distribution that is symmetric around 0, and for documents of any sizes. Several replacements are
tested at once, so Holm's procedure (1979) keeps the chance of any wrong one in a generation, not in each test, below
the level.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Replacements = dict[int, int]  # member -> the better one that takes its place

FLIPS_PER_LEVEL = 40  # random signs, over the smallest level that a p-value is compared with
FLIPS_AT_ONCE = 4096


def ranked(members: Sequence[int], scores: Tensor) -> list[int]:
    """Members best first; equals in the order given."""
    known = torch.where(scores.isfinite(), scores, torch.inf)
    return sorted(members, key=lambda member: float(known[member]))


def truncation(order: Sequence[int], replaced: int, parents: int, generator: np.random.Generator) -> Replacements:
    """The last `replaced` of `order`, each by one drawn from the first `parents` (Jaderberg et al. 2017)."""
    return {member: order[int(generator.integers(parents))] for member in order[len(order) - replaced :]}


def tournament(order: Sequence[int], elites: int, size: int, generator: np.random.Generator) -> Replacements:
    """Each but the first `elites` meets `size` − 1 random others; the best of them, where it is better, replaces it."""
    replacements = {}
    for rank in range(elites, len(order)):
        opponents = generator.choice(len(order) - 1, size=min(size, len(order)) - 1, replace=False)
        best = min(int(other) + (int(other) >= rank) for other in opponents)
        if best < rank:
            replacements[order[rank]] = order[best]
    return replacements


def halves(documents: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Sequences [N] to rank on and to test on, as masks; all sequences of a document are on one side."""
    numbers, count = _numbered(documents)
    tests = torch.zeros(count, dtype=torch.bool)
    tests[torch.from_numpy(generator.permutation(count)[: (count + 1) // 2])] = True
    return ~tests[numbers], tests[numbers]


def _numbered(documents: Tensor) -> tuple[Tensor, int]:
    """Documents [N] numbered 0 … D − 1, and D."""
    names, numbers = np.unique(documents.numpy(), return_inverse=True)
    return torch.from_numpy(numbers), len(names)


def document_sums(samples: Tensor, documents: Tensor) -> Tensor:
    """Sums `[P, D]` of scores `[P, N]` over each of D documents."""
    numbers, count = _numbered(documents)
    sums = torch.zeros(len(samples), count, dtype=samples.dtype)
    return sums.index_add_(1, numbers, samples)


def standard_error(samples: Tensor, documents: Tensor) -> Tensor:
    """The standard error `[P]` of members' mean scores, where documents are independent and their sequences are not."""
    sums, sizes = document_sums(samples, documents), document_sums(torch.ones_like(samples[:1]), documents)
    count = sums.shape[1]
    spread = (sums - samples.mean(1, keepdim=True) * sizes).square().sum(1)
    return (spread * count / max(count - 1, 1)).sqrt() / samples.shape[1]


def sign_flips(differences: Tensor, flips: int, generator: np.random.Generator) -> list[float]:
    """One-sided p-values [K] of K rows of differences [K, D]: how often random signs bring a sum as large as theirs.

    The observed signs count as one of the draws, so that a p-value is never below its level by too few draws.
    """
    table = differences.double().numpy()
    observed = table.sum(1) - 1e-12 * np.abs(table).sum(1)  # equal sums may round differently
    as_large = np.ones(len(table))
    for begin in range(0, flips, FLIPS_AT_ONCE):
        shape = min(FLIPS_AT_ONCE, flips - begin), table.shape[1]
        signs = 2.0 * generator.integers(2, size=shape, dtype=np.int8) - 1.0
        as_large += (signs @ table.T >= observed).sum(0)
    p_values: list[float] = (as_large / (flips + 1)).tolist()
    return p_values


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses are rejected, so that a true one is among them with a chance of at most `level`."""
    rejected = [False] * len(p_values)
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[number] > level / (len(p_values) - rank):
            break
        rejected[number] = True
    return rejected


def documents_needed(replacements: int, level: float) -> int:
    """Documents to score, both halves together, below which no difference could pass the test of so many replacements.

    The smallest p-value of D documents is 2^−D.
    """
    return 2 * math.ceil(math.log2(replacements / level))


def significant(
    replacements: Replacements, samples: Tensor, documents: Tensor, level: float, generator: np.random.Generator
) -> tuple[Replacements, list[int]]:
    """The replacements whose difference is more than chance, and the members that are spared because it is not.

    `samples [P, N]` must not be those which the members were ranked by.
    """
    if not replacements:
        return {}, []
    sums = document_sums(samples, documents)
    differences = sums[list(replacements)] - sums[list(replacements.values())]
    flips = math.ceil(FLIPS_PER_LEVEL * len(replacements) / level)
    passed = holm(sign_flips(differences, flips, generator), level)
    kept = {worse: better for (worse, better), passes in zip(replacements.items(), passed, strict=True) if passes}
    return kept, [member for member in replacements if member not in kept]
