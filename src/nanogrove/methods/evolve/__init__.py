"""Evolution: a population trains and is scored, and better members replace worse ones, generation by generation.

1. All members take `steps_per_generation` gradient steps on the same batches, each with its own hyperparameters.
2. Each is scored on the same sequences of the validation split (`fitness`). The test split is read once, at the end.
3. Members are replaced by better ones, by truncation or tournament: they are ranked on one half of the documents that
   were scored, and replaced where the difference exceeds its noise on the other half (`evaluate/selection.py`). A child
   copies its parent's weights and moments, may be crossed with a second parent, is mutated by noise scaled to each
   tensor, and explores its parent's hyperparameters.

Each member keeps its slot on the population axis, and each birth gets a number, so the record holds a genealogy. Each
of `islands` selects among its members only; every `migrate_every` generations the best of each goes to the next one,
where it replaces the worst. Draws are functions of (seed, generation, island), and islands exchange nothing but
members: the migrants, and a copy of the best of all where a whole island has diverged. With `selection` none diverged
members stay.

With `replaced` 1 − 1/P, `parents` 1/P and noise this is clone-and-mutate, the preset `evolve`; with small fractions,
no noise and varied hyperparameters it is population based training (Jaderberg et al. 2017), `evolve-pbt`. The test of
significance is an addition: in the paper a member is replaced whatever the noise.
"""
