"""The Random Language Model: random context-free rules on a binary tree (DeGiuli, PRL 122, 128301, 2019).

A symbol a becomes the pair (b, c) with probability M[a, b, c] = softmax over the v² pairs of β·sqrt(ln v)·g, g standard
normal, the same rules at every level. Here the tree has a fixed depth and its leaves share the alphabet of the symbols
above; in the paper its shape is random and separate rules emit observable symbols. Each symbol's rules are a random
energy model of v² states at inverse temperature β: for large v their entropy is (2 − β²/2)·ln v, and they freeze at
β = 2, which is the condensation at x = 1/(2β²) = 1/8 of De Giuli 2026 (arXiv 2606.28105).
"""

import math
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nanogrove.data.rng import random
from nanogrove.errors import DataError
from nanogrove.synthetic import tree
from nanogrove.synthetic.tree import DRAW_BITS, TreeGrammar, within_memory


class RandomLanguageModel(TreeGrammar):
    """A grammar of v symbols whose texts have T = 2^L tokens.

    rules  [v, v, v] float64, p(b, c | a) at [a, b, c]

    Samples are whole-number functions of the rules; these depend on the seed and, in their last bit, on the machine's
    exp, so another kind of CPU may choose differently in one of 10^11 draws.

    `probs`, an array or tensor [v, v, v], replaces random rules, each symbol's scaled to sum to one to the last bit;
    `beta` and `seed_rules` then have no effect. Raises DataError for v < 2, L < 1, a negative or
    non-finite beta, a negative seed, probs of another shape, negative, not numbers or not summing to one within 1e-6,
    and for a v whose v³ rules would take more than half of the machine's memory.
    """

    rules: Tensor

    def __init__(
        self,
        v: int = 128,
        L: int = 1,  # noqa: N803
        beta: float = 2.0,
        seed_rules: int = 12345,
        seed_samples: int = 67890,
        probs: ArrayLike | Tensor | None = None,
    ) -> None:
        super().__init__(v, 2, L, seed_rules, seed_samples)
        if not isinstance(beta, int | float | np.floating) or not (math.isfinite(beta) and beta >= 0):
            raise DataError(f"beta is {beta!r}; give a finite number of at least 0")
        self.beta = float(beta)
        within_memory(f"v={self.v}: a table of v³ rules and its thresholds", 24 * self.v**3)
        if probs is None:
            weights = random(self.seed_rules, "rules").standard_normal((self.v, self.v**2))
            weights *= self.beta * math.sqrt(math.log(self.v))
            weights -= weights.max(1, keepdims=True)
            np.exp(weights, out=weights)
        else:
            weights = self._given(probs)
        weights /= weights.sum(1, keepdims=True)
        self.rules = torch.from_numpy(weights).view(self.v, self.v, self.v)
        self._marginals = torch.stack([self.rules.sum(2), self.rules.sum(1)])

    def _given(self, probs: ArrayLike | Tensor) -> np.ndarray:
        """A copy of `probs` as [v, v²], checked."""
        try:
            table = probs.detach().double().cpu().numpy() if isinstance(probs, Tensor) else probs
            given = np.array(table, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError("probs are not a table of numbers; give an array or tensor [v, v, v]") from None
        if given.shape != (self.v,) * 3:
            raise DataError(f"probs have shape {list(given.shape)}; give {[self.v] * 3}, p(b, c | a) at [a, b, c]")
        if not (given >= 0).all():
            raise DataError("probs hold negative values or NaN; give probabilities")
        off = float(np.abs(given.sum((1, 2)) - 1).max())
        if not off <= 1e-6:
            raise DataError(f"probs sum to one only within {off:.2g} for some symbol; let each [a] sum to one")
        return given.reshape(self.v, self.v**2)

    @cached_property
    def _thresholds(self) -> Tensor:
        """[v³] rising int64: rule i of symbol a holds draws from entry i − 1 to entry i, both less a·2^DRAW_BITS."""
        edges = self.rules.view(self.v, -1).numpy().cumsum(1)
        edges /= edges[:, -1:].copy()
        edges *= 1 << DRAW_BITS
        thresholds = np.rint(edges, out=edges).astype(np.int64)
        thresholds += (np.arange(self.v) << DRAW_BITS)[:, None]
        return torch.from_numpy(thresholds).flatten()

    def _expand(self, level: int, symbols: Tensor, draws: Tensor) -> Tensor:
        rule = torch.searchsorted(self._thresholds, (symbols << DRAW_BITS) + draws, right=True)
        return torch.stack([rule // self.v % self.v, rule % self.v], -1)

    @property
    def _width(self) -> int:
        return self.v

    def _product(self, first: Tensor, second: Tensor, rules: Tensor) -> Tensor:
        """Outer products of `first` and `second`, [K, v] each, times `rules` [v², v]: [K, v], some rows at a time."""
        rows = max(1, tree.FLOATS_AT_ONCE // self.v**2)
        parts = zip(torch.split(first, rows), torch.split(second, rows), strict=True)
        return torch.cat([(one[:, :, None] * other[:, None, :]).flatten(1) @ rules for one, other in parts])

    def _up(self, level: int, children: Tensor) -> Tensor:
        return self._product(children[:, 0], children[:, 1], self.rules.view(self.v, -1).T)

    def _down(self, level: int, alpha: Tensor, children: Tensor) -> Tensor:
        right = self._product(alpha, children[:, 0], self.rules.view(-1, self.v))
        return torch.stack([alpha @ self._marginals[0], right], 1)

    def _up_tokens(self, tokens: Tensor) -> Tensor:
        return self.rules.view(self.v, -1).T[tokens[:, 0] * self.v + tokens[:, 1]]

    def _down_tokens(self, alpha: Tensor, tokens: Tensor) -> Tensor:
        """Nodes sorted by the left token, so that all that share one take a single product: v² per node, not v³."""
        left, order = tokens[:, 0].sort()
        counts = left.bincount(minlength=self.v).tolist()
        parts = torch.split(alpha[order], counts)
        right = torch.empty_like(alpha)
        right[order] = torch.cat([part @ self.rules[:, b] for b, part in enumerate(parts)])
        return torch.stack([alpha @ self._marginals[0], right], 1)

    def _kernels(self, level: int) -> Tensor:
        return self._marginals

    def _siblings(self, level: int, parents: Tensor, j: int) -> Tensor:
        return (parents @ self.rules.view(self.v, -1)).view(self.v, self.v)

    def rule_entropy(self) -> float:
        """Entropy of a symbol's v² rules, averaged over symbols, nats; 2·ln v at β = 0."""
        return float(torch.special.entr(self.rules).sum() / self.v)

    def order_parameter(self) -> float:
        """Q₂ = Σ_abc Q_abc² with Q_abc = ⟨δ(σ₁, a)·(v²·δ(σ₂, b)·δ(σ₃, c) − 1)⟩ (DeGiuli 2019).

        The mean is over derivations and over a tree's 2^L − 1 inner nodes, σ₁ the symbol there, σ₂ and σ₃ its
        children. It is taken exactly: Q_abc = π(a)·(v²·M[a, b, c] − 1), π the symbols' mean distribution at inner
        nodes. 0 where all rules are equally likely; v·(v² − 1) where each of v equally frequent symbols has one rule.
        The paper averages Q₂ over grammars: average over `seed_rules`.
        """
        inner = torch.stack(self._symbols[:-1])
        weight = 2.0 ** torch.arange(self.L, dtype=torch.float64)
        frequency = (weight / weight.sum()) @ inner
        return float(((self.v**2 * self.rules - 1) * frequency[:, None, None]).square().sum())
