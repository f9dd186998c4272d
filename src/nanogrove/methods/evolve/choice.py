"""Which members of a population better ones replace."""

from typing import NamedTuple

import torch
from torch import Tensor

from nanogrove.data.rng import random
from nanogrove.evaluate import selection
from nanogrove.methods.evolve.config import Config


class Choice(NamedTuple):
    """Which parent replaces which member, the possible second parents of each child, and members that were not replaced
    because their difference was not significant."""

    parents: selection.Replacements
    pools: dict[int, list[int]]
    not_significant: list[int]


def choose(config: Config, samples: Tensor, documents: Tensor, seed: int, generation: int) -> Choice:
    """Selection by scores `samples [P, N]` of sequences from `documents [N]`; draws depend on (seed, generation).

    Members without a finite score are replaced without a test, by the best of their island or, where the whole island
    has diverged, by the best of all.
    """
    finite = samples.isfinite().all(1)
    ranking, tests = torch.ones_like(documents, dtype=torch.bool), None
    if config.significance is not None:
        ranking, tests = selection.halves(documents, random(seed, "halves", generation))
    scores = samples[:, ranking].mean(1).where(finite, torch.inf)
    size = config.population_size // config.islands
    orders = [selection.ranked(range(first, first + size), scores) for first in range(0, config.population_size, size)]
    best = selection.ranked([order[0] for order in orders], scores)[0]
    replaced, parents = config.counts
    tested, diverged, pools = selection.Replacements(), selection.Replacements(), dict[int, list[int]]()
    for number, order in enumerate(orders):
        alive = [member for member in order if finite[member]]
        diverged |= {member: (alive or [best])[0] for member in order[len(alive) :]}
        generator = random(seed, "select", generation, number)
        if config.selection == "truncation":
            pool = alive[:parents]
            chosen = selection.truncation(order, replaced, len(pool), generator) if alive else {}
        else:
            pool = alive
            chosen = selection.tournament(order, config.elites, config.tournament_size, generator) if alive else {}
        diverged |= {member: parent for member, parent in chosen.items() if not finite[member] and finite[parent]}
        tested |= {member: parent for member, parent in chosen.items() if finite[member] and finite[parent]}
        pools |= dict.fromkeys(order, pool)
    not_significant: list[int] = []
    if tests is not None and config.significance is not None:
        generator = random(seed, "significance", generation)
        tested, not_significant = selection.significant(
            tested, samples[:, tests], documents[tests], config.significance, generator
        )
    return Choice(diverged | tested, pools, not_significant)
