"""The Random Hierarchy Model: unambiguous synonyms on an s-ary tree.

Cagnetta, Petrini, Tomasini, Favero & Wyart, "How Deep Neural Networks Learn Compositional Data", PRX 14, 031001, 2024
(code: pcsl-epfl/hierarchy-learning); for next tokens Cagnetta & Wyart, "Towards a theory of how the structure of
language is acquired by deep neural networks", 2024 (code: fracagnetta/theory-language-modelling).

Each level has rules of its own: every one of v symbols has m synonyms, s-tuples of symbols of the next level, and all
m·v tuples of a level differ, so a text has one derivation at most. Root and synonyms are uniform; as in the second
paper there are as many classes as symbols. Messages pass through the m·v tuples that exist, never through a table of
all v^s.
"""

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.rng import random
from nanogrove.errors import DataError
from nanogrove.synthetic.tree import DRAW_BITS, TreeGrammar, check_int, within_memory


class RandomHierarchyModel(TreeGrammar):
    """A grammar of v symbols per level and m synonyms per symbol; its texts have T = s^L tokens and the root as class.

    rules  L tensors [v, m, s] int64, the synonyms of each symbol of a level

    Raises DataError for v < 2, m < 1, s < 2, L < 1, a negative seed, m > v^(s − 1), where tuples run out, v^s ≥ 2^63,
    and for rules that would take more than half of the machine's memory.
    """

    rules: list[Tensor]

    def __init__(
        self,
        v: int = 32,
        m: int = 8,
        s: int = 2,
        L: int = 3,  # noqa: N803
        seed_rules: int = 12345,
        seed_samples: int = 67890,
    ) -> None:
        super().__init__(v, s, L, seed_rules, seed_samples)
        self.m = check_int("m", m, 1)
        if self.s * math.log2(self.v) >= 63:
            raise DataError(f"v={self.v}, s={self.s}: v^s tuples are beyond 2^63; give a smaller v or s")
        if self.m > self.v ** (self.s - 1):
            most = self.v ** (self.s - 1)
            raise DataError(f"m is {self.m}; v·m different tuples of {self.s} need m of at most v^(s−1) = {most}")
        # numpy may shuffle up to 50 candidates for each tuple it draws
        within_memory(f"v={self.v}, m={self.m}: the rules", 8 * self.v * self.m * (self.L * self.s + 50))
        self.rules = [self._draw_rules(level) for level in range(self.L)]

    def _draw_rules(self, level: int) -> Tensor:
        """The rules [v, m, s] of a level: v·m numbers below v^s, all different, written in base v."""
        key = random(self.seed_rules, "rules", level)
        numbers = torch.from_numpy(key.choice(self.v**self.s, size=(self.v, self.m), replace=False))
        powers = self.v ** torch.arange(self.s - 1, -1, -1)
        return numbers[..., None] // powers % self.v

    def _grow(self, n: int, step: int, depth: int) -> list[Tensor]:
        if depth > self.L:
            raise DataError(f"L is {depth}; this grammar has rules for {self.L} levels")
        return super()._grow(n, step, depth)

    def _expand(self, level: int, symbols: Tensor, draws: Tensor) -> Tensor:
        return self.rules[level][symbols, (draws * self.m) >> DRAW_BITS]

    @cached_property
    def _num_nodes(self) -> int:
        """Symbols above the text, each of which is a choice among m synonyms."""
        return (self.T - 1) // (self.s - 1)

    @cached_property
    def num_derivations(self) -> int:
        """v·m^((s^L − 1)/(s − 1)), as many as there are sequences, all equally likely.

        Where these are beyond 2^62, the derivations of as many nodes from the root down as stay below.
        """
        return int(self.v * self.m**self._num_numbered)

    @cached_property
    def _num_numbered(self) -> int:
        """Nodes whose synonyms a number in 62 bits determines."""
        if self.m == 1:
            return self._num_nodes
        nodes = 0
        while nodes < self._num_nodes and self.v * self.m ** (nodes + 1) <= 1 << 62:
            nodes += 1
        return nodes

    def derive(self, numbers: np.ndarray, generator: np.random.Generator) -> Tensor:
        """Sequences [N, T] of the derivations `numbers` [N] below `num_derivations`; other numbers give other texts.

        Synonyms of nodes that a number does not determine, in grammars beyond 2^62, are drawn from `generator`. Raises
        DataError for more sequences than memory holds.
        """
        within_memory(f"{len(numbers):,} derivations", 8 * len(numbers) * (1 + 4 * self._num_nodes))
        choices = np.empty((len(numbers), self._num_nodes), dtype=np.int64)
        rest, roots = np.divmod(numbers, self.v)
        for node in range(self._num_numbered):
            rest, choices[:, node] = np.divmod(rest, self.m)
        rest_of_tree = choices[:, self._num_numbered :]
        rest_of_tree[:] = generator.integers(self.m, size=rest_of_tree.shape)
        symbols, first = torch.from_numpy(roots)[:, None], 0
        for level in range(self.L):
            after = first + self.s**level
            symbols = self.rules[level][symbols, torch.from_numpy(choices[:, first:after])].flatten(1)
            first = after
        return symbols

    @property
    def _width(self) -> int:
        return self.v * self.m

    def _up(self, level: int, children: Tensor) -> Tensor:
        tuples = self.rules[level].flatten(0, 1)
        fit = children[:, 0, tuples[:, 0]]
        for j in range(1, self.s):
            fit = fit * children[:, j, tuples[:, j]]
        return fit.view(-1, self.v, self.m).sum(2)

    def _down(self, level: int, alpha: Tensor, children: Tensor) -> Tensor:
        tuples = self.rules[level].flatten(0, 1)
        weight = alpha.repeat_interleave(self.m, 1)
        messages = torch.empty_like(children)
        for j in range(self.s):
            messages[:, j] = torch.zeros_like(alpha).index_add_(1, tuples[:, j], weight)
            if j + 1 < self.s:
                weight = weight * children[:, j, tuples[:, j]]
        return messages

    def _kernels(self, level: int) -> Tensor:
        kernels = torch.zeros(self.s, self.v, self.v, dtype=torch.float64)
        share = torch.tensor(1 / self.m, dtype=torch.float64)
        parent = torch.arange(self.v)[:, None]
        for j in range(self.s):
            kernels[j].index_put_((parent, self.rules[level][..., j]), share, accumulate=True)
        return kernels

    def _siblings(self, level: int, parents: Tensor, j: int) -> Tensor:
        joint = torch.zeros(self.v, self.v, dtype=torch.float64)
        pair = (self.rules[level][..., j], self.rules[level][..., j + 1])
        return joint.index_put_(pair, (parents / self.m)[:, None].expand(-1, self.m), accumulate=True)

    def rule_entropy(self) -> float:
        """Entropy of a symbol's synonyms, ln m nats."""
        return math.log(self.m)

    def sample_complexity(self) -> list[float]:
        """P_ℓ ≈ v·m^(2ℓ−1) / (1 − m/v^(s−1)) for ℓ = 1..L: texts at which structure of ℓ levels can be learnt.

        That many show the correlations of a token with a tuple ℓ levels up above their sampling noise (Cagnetta &
        Wyart 2024). Infinite at m = v^(s−1), where every tuple occurs and nothing correlates.
        """
        filled = self.m / self.v ** (self.s - 1)
        if filled == 1:
            return [math.inf] * self.L
        return [self.v * self.m ** (2 * level - 1) / (1 - filled) for level in range(1, self.L + 1)]
