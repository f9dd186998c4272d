"""How often evolution replaces a member that is no worse, and how often one that is.

    python benchmarks/selection.py [--generations 5000] [--level .05]

Simulated scores of P members, with the code that selects in `evolve`. A text is hard or easy for all (deviation 1);
each member finds each window a little harder or easier (.1). `windows`: 312 texts of one window each, as many as the
preset `evolve` scores. `documents`: 40 of 1 to 12 windows, of which each member finds some harder altogether (.05).

`equal` is the share of generations in which any of P equal members is replaced, by truncation of a quarter and by
tournament. `same data` is what it would be where members are tested on the windows that ranked them, each replacement
by itself in a paired test. `power`: half of the members are worse by .05 or .02, and so many of the replacements of
worse members that truncation proposes are kept.
"""

import argparse
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nanogrove.evaluate.selection import ranked
from nanogrove.methods.evolve.choice import choose
from nanogrove.methods.evolve.config import Config

Kind = Literal["windows", "documents"]


class Scores(NamedTuple):
    """Of one generation: samples [P, N], the document of each, and how much worse each member is."""

    samples: Tensor
    documents: Tensor
    worse: Tensor


def generations(kind: Kind, members: int, count: int, gap: float) -> Iterator[Scores]:
    generator = np.random.default_rng(members)
    sizes, spread = (np.ones(312, dtype=int), 0.0) if kind == "windows" else (np.arange(40) % 12 + 1, 0.05)
    documents = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(count):
        hard = generator.normal(0, 1, len(sizes))[documents]
        liked = generator.normal(0, spread, (members, len(sizes)))[:, documents]
        worse = generator.permutation(np.arange(members) % 2) * gap
        samples = hard + liked + generator.normal(0, 0.1, (members, len(documents))) + worse[:, None]
        yield Scores(torch.from_numpy(samples), torch.from_numpy(documents), torch.from_numpy(worse))


def config(members: int, selection: str, level: float | None) -> Config:
    settings: dict[str, Any] = {"population_size": members, "selection": selection}
    return Config.model_validate({**settings, "significance": level})


def false_positives(kind: Kind, members: int, count: int, selection: str, level: float) -> float:
    """The share of generations of equal members in which any is replaced."""
    settings = config(members, selection, level)
    each = enumerate(generations(kind, members, count, 0.0))
    return sum(bool(choose(settings, s.samples, s.documents, 0, n).parents) for n, s in each) / count


def same_data(kind: Kind, members: int, count: int) -> float:
    """The same where members are tested on what ranked them, window by window, each replacement by itself."""
    settings, num_found = config(members, "truncation", None), 0
    for n, scores in enumerate(generations(kind, members, count, 0.0)):
        for worse, better in choose(settings, scores.samples, scores.documents, 0, n).parents.items():
            difference = scores.samples[worse] - scores.samples[better]
            if float(difference.mean()) > 1.645 * float(difference.std()) / math.sqrt(len(difference)):
                num_found += 1
                break
    return num_found / count


def power(kind: Kind, members: int, count: int, level: float, gap: float) -> float:
    """The share of replacements of a worse member by a better one that are kept, of those that are proposed."""
    kept = proposed = 0
    for n, scores in enumerate(generations(kind, members, count, gap)):
        chosen = choose(config(members, "truncation", level), scores.samples, scores.documents, 0, n)
        worse = {member for member in [*chosen.parents, *chosen.not_significant] if scores.worse[member]}
        better = ranked(range(members), scores.worse)[: members // 2]
        kept += sum(chosen.parents[member] in better for member in worse & set(chosen.parents))
        proposed += len(worse)
    return kept / proposed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=5000)
    parser.add_argument("--level", type=float, default=0.05)
    options = parser.parse_args()
    print("           members  equal: truncation  tournament  same data  power: .05    .02")
    kinds: tuple[Kind, ...] = ("windows", "documents")
    for kind in kinds:
        for members in (4, 8, 16):
            few = options.generations // 5
            rates = [
                false_positives(kind, members, options.generations, "truncation", options.level),
                false_positives(kind, members, options.generations, "tournament", options.level),
                same_data(kind, members, few),
                power(kind, members, few, options.level, 0.05),
                power(kind, members, few, options.level, 0.02),
            ]
            figures = " ".join(f"{rate:>{width}.3f}" for rate, width in zip(rates, (18, 11, 10, 11, 6), strict=True))
            print(f"{kind:<9} {members:>8} {figures}", flush=True)


if __name__ == "__main__":
    main()
