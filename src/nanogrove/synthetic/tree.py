"""What the grammars share: a tree of fixed depth, grown downwards to sample and read both ways for exact predictions.

The root, level 0, is a uniform symbol; every symbol of level l becomes s symbols of level l + 1; level L is the text.
The exact p(x_t | x_<t) takes two sweeps, once for all positions. Upwards, the inside message of a node is
m(a) = p(leaves below it | a). Downwards, its outside message is α(a) = p(a | leaves to the left of it); all that
follows sums to one and is left out, so child j takes only α of its parent and m of its left siblings. A leaf's α is
the prediction. These are the inside-outside recursions (Lari & Young 1990) on a tree whose shape is known.

Messages are normalised at each level, so depth costs no precision, and a sequence that cannot occur yields zeros
rather than NaN. A product of three factors below 1e-308 counts as 0.

In shapes, N is sequences, T = s^L leaves, v symbols, and K nodes of one level, of all sequences at once. Everything
is float64 or int64 on the CPU, natural logarithms, entropies in nats.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from nanogrove.data.rng import random
from nanogrove.errors import DataError

DRAW_BITS = (
    48  # of each random draw; thresholds are integers in units of 2^−48, so equal draws choose equally everywhere
)
FLOATS_AT_ONCE = 1 << 20  # float64 values to work on at a time; 8 MB stay in the cache
MAX_ENUMERATED = 1 << 20  # sequences that `bayes_loss_exact` goes through at most


def check_int(name: str, value: int, least: int) -> int:
    """`value` as an int. Raises DataError where it is not a whole number, or below `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise DataError(f"{name} is {value!r}; give a whole number of at least {least}")
    return int(value)


def within_memory(what: str, size: int) -> None:
    """Raises DataError, before anything is allocated, where `size` bytes are over half of this machine's memory."""
    memory = psutil.virtual_memory().total
    if size > memory // 2:
        raise DataError(f"{what} take {size:,} bytes, more than half of this machine's {memory:,}")


def normalised(messages: Tensor) -> Tensor:
    """Messages [..., v] scaled to sum to one; those that are all zero stay so."""
    total = messages.sum(-1, keepdim=True)
    return messages / total.where(total > 0, 1.0)


class TreeGrammar(ABC):
    """Sampling, exact prediction and entropies of a grammar on a tree of depth L with s children per node.

    A grammar says what a level's rules do: `_expand`, `_up` and `_down` for symbols, `_kernels` and `_siblings` for
    averages. Sampling is a function of (`seed_samples`, step) alone, so any batch can be made by any process.
    """

    rules: Tensor | list[Tensor]

    def __init__(self, v: int, s: int, L: int, seed_rules: int, seed_samples: int) -> None:  # noqa: N803
        self.v = check_int("v", v, 2)
        self.s = check_int("s", s, 2)
        self.L = self._depth(L)
        self.T: int = self.s**self.L
        self.seed_rules = check_int("seed_rules", seed_rules, 0)
        self.seed_samples = check_int("seed_samples", seed_samples, 0)

    @abstractmethod
    def _expand(self, level: int, symbols: Tensor, draws: Tensor) -> Tensor:
        """Children [N, K, s] of `symbols` [N, K] of `level`, chosen by `draws` [N, K], uniform below 2^DRAW_BITS."""

    @abstractmethod
    def _up(self, level: int, children: Tensor) -> Tensor:
        """Inside messages [K, v] of nodes of `level`, up to a scale, from those of their children [K, s, v]."""

    @abstractmethod
    def _down(self, level: int, alpha: Tensor, children: Tensor) -> Tensor:
        """Outside messages [K, s, v] of the children of nodes of `level` with outside messages `alpha` [K, v].

        Child j takes the inside messages of children before it from `children` [K, s, v]; the last is never read.
        """

    @abstractmethod
    def _kernels(self, level: int) -> Tensor:
        """[s, v, v]: p(child j is b | a) at [j, a, b]."""

    @abstractmethod
    def _siblings(self, level: int, parents: Tensor, j: int) -> Tensor:
        """[v, v]: joint probability of children j and j + 1 of a node distributed as `parents` [v]."""

    @abstractmethod
    def rule_entropy(self) -> float:
        """Entropy of a symbol's rules, averaged over symbols, nats."""

    @property
    @abstractmethod
    def _width(self) -> int:
        """Values that a leaf's share of a sweep takes."""

    def _up_tokens(self, tokens: Tensor) -> Tensor:
        """`_up` of the last level, whose children [K, s] are tokens."""
        return self._up(self.L - 1, F.one_hot(tokens, self.v).double())

    def _down_tokens(self, alpha: Tensor, tokens: Tensor) -> Tensor:
        """`_down` of the last level, whose children [K, s] are tokens."""
        return self._down(self.L - 1, alpha, F.one_hot(tokens, self.v).double())

    def _depth(self, L: int) -> int:  # noqa: N803
        """`L`, checked to be a depth whose leaves can be counted."""
        if check_int("L", L, 1) * math.log2(self.s) > 40:
            raise DataError(f"L is {L}; {self.s}^{L} leaves are more than any machine holds")
        return int(L)

    def _grow(self, n: int, step: int, depth: int) -> list[Tensor]:
        """`trees` of another depth."""
        nodes = (self.s**depth - 1) // (self.s - 1)
        check_int("n", n, 0)
        within_memory(f"{n:,} trees of depth {depth}", 8 * n * (1 + 4 * nodes))
        key = random(self.seed_samples, "samples", check_int("step", step, 0))
        draws = torch.from_numpy(key.integers(1 << DRAW_BITS, size=(n, 1 + nodes)))
        levels = [(draws[:, :1] * self.v) >> DRAW_BITS]
        first = 1
        for level in range(depth):
            after = first + self.s**level
            levels.append(self._expand(level, levels[-1], draws[:, first:after]).flatten(1))
            first = after
        return levels

    def trees(self, n: int, step: int = 0) -> list[Tensor]:
        """The L + 1 levels of `n` trees, int64, level l of shape [n, s^l]: level 0 the roots, the last the leaves.

        The last is `sample(n, step)`. Raises DataError for a negative `n` or `step`, or more than memory holds.
        """
        return self._grow(n, step, self.L)

    def sample(self, n: int, step: int = 0) -> Tensor:
        """`n` sequences, int64 [n, T], a function of (`seed_samples`, `step`); the first k are `sample(k, step)`.

        Raises DataError as `trees` does.
        """
        return self.trees(n, step)[-1]

    def sample_batch(self, batch_size: int, L: int | None = None, step: int = 0) -> tuple[Tensor, Tensor]:  # noqa: N803
        """The last-token task: inputs [B, T − 1] and targets [B], int64, where T = s^L.

        `L` is this grammar's depth unless given; the rules are then those of a grammar of that depth. Nothing is
        remembered between calls: the same `step` gives the same batch, so training passes its step.
        Raises DataError as `trees` does, and for an `L` the rules cannot reach.
        """
        leaves = self._grow(batch_size, step, self.L if L is None else self._depth(L))[-1]
        return leaves[:, :-1], leaves[:, -1]

    def _checked(self, tokens: Tensor) -> Tensor:
        """`tokens` on the CPU, int64. Raises DataError for another shape, type or range."""
        if tokens.dim() != 2 or tokens.shape[1] != self.T:
            raise DataError(f"tokens have shape {list(tokens.shape)}; give [N, {self.T}], whole sequences")
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise DataError(f"tokens are {tokens.dtype}; give whole numbers")
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.v:
            raise DataError(f"tokens lie in {int(tokens.min())}..{int(tokens.max())}; give 0..{self.v - 1}")
        return tokens.to("cpu", torch.int64)

    def _sweep(self, tokens: Tensor) -> Tensor:
        """Outside messages of the leaves, [N, T, v]. Exact p(x_t | x_<t), or zeros where x_<t cannot occur."""
        n, s, v = len(tokens), self.s, self.v
        inside: list[Tensor] = []  # of levels L − 1 to 1; nothing follows a level's last node, so its own is never read
        for level in range(self.L - 1, 0, -1):
            complete = s**level - 1
            if level == self.L - 1:
                messages = self._up_tokens(tokens[:, :-s].reshape(-1, s))
            else:
                messages = self._up(level, inside[-1][:, :-s].reshape(-1, s, v))
            inside.append(F.pad(normalised(messages).view(n, complete, v), (0, 0, 0, 1)))
        alpha = torch.full((n, v), 1 / v, dtype=torch.float64)
        for level in range(self.L - 1):
            alpha = normalised(self._down(level, alpha, inside.pop().view(-1, s, v))).view(-1, v)
        return normalised(self._down_tokens(alpha, tokens.reshape(-1, s))).view(n, self.T, v)

    def _sweeps(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of `tokens` and their `_sweep`, so small that the memory needed does not grow with N."""
        for chunk in torch.split(tokens, max(1, FLOATS_AT_ONCE // (self._width * self.T))):
            yield chunk, self._sweep(chunk)

    def next_token_distributions(self, tokens: Tensor) -> Tensor:
        """Exact p(x_t = · | x_<t) at every position of `tokens` [N, T], float64 [N, T, v].

        Row t tells what could stand at t; it is all zeros where the tokens before t cannot occur.
        Raises DataError for tokens of another shape, outside 0..v − 1, or more than memory holds.
        """
        tokens = self._checked(tokens)
        within_memory(f"distributions of {len(tokens):,} sequences", 16 * len(tokens) * self.T * self.v)
        return torch.cat([alpha for _, alpha in self._sweeps(tokens)])

    def next_token_log_probs(self, tokens: Tensor) -> Tensor:
        """Exact ln p(x_t | x_<t) at every position of `tokens` [N, T], float64 [N, T].

        A sequence's sum is its log-probability. All is −inf from the first token that cannot occur there.
        Raises DataError for tokens of another shape or outside 0..v − 1.
        """
        sweeps = self._sweeps(self._checked(tokens))
        return torch.cat([alpha.gather(2, chunk[..., None])[..., 0].log() for chunk, alpha in sweeps])

    @cached_property
    def _symbols(self) -> list[Tensor]:
        """Distribution of the symbols of each level, averaged over its nodes: L + 1 of [v]."""
        levels = [torch.full((self.v,), 1 / self.v, dtype=torch.float64)]
        for level in range(self.L):
            levels.append(levels[-1] @ self._kernels(level).mean(0))
        return levels

    def _branches(self, position: int) -> list[int]:
        """Which child the path from the root to the leaf at `position` takes at each level."""
        return [position // (self.T // self.s ** (level + 1)) % self.s for level in range(self.L)]

    def _position(self, position: int, least: int) -> int:
        if not -self.T + least <= position < self.T or 0 <= position < least:
            raise DataError(f"position is {position}; give {least}..{self.T - 1}, or count from the end")
        return position % self.T

    def unigram(self, position: int | None = None) -> Tensor:
        """Exact distribution [v] of the leaf at `position`, or averaged over all positions.

        Raises DataError for a position outside the sequence; −1 is the last.
        """
        if position is None:
            return self._symbols[-1].clone()
        symbol = self._symbols[0]
        for level, branch in enumerate(self._branches(self._position(position, 0))):
            symbol = symbol @ self._kernels(level)[branch]
        return symbol

    def bigram(self, position: int | None = None) -> Tensor:
        """Exact joint distribution [v, v] of the leaves at `position` − 1 and `position`, or averaged over positions.

        Raises DataError for a position outside 1..T − 1; −1 is the last.
        """
        if position is not None:
            return self._bigram_at(self._position(position, 1))
        pairs = torch.zeros(self.v, self.v, dtype=torch.float64)  # summed over the neighbours of a level
        for level in range(self.L):
            kernels, nodes = self._kernels(level), self.s**level
            across = kernels[-1].T @ pairs @ kernels[0]
            within = [self._siblings(level, nodes * self._symbols[level], j) for j in range(self.s - 1)]
            pairs = across + torch.stack(within).sum(0)
        return pairs / (self.T - 1)

    def _bigram_at(self, position: int) -> Tensor:
        symbol, pair = self._symbols[0], None
        for level, (left, right) in enumerate(zip(self._branches(position - 1), self._branches(position), strict=True)):
            kernels = self._kernels(level)
            if pair is not None:
                pair = kernels[left].T @ pair @ kernels[right]
            elif left == right:
                symbol = symbol @ kernels[left]
            else:
                pair = self._siblings(level, symbol, left)
        assert pair is not None
        return pair

    def symbol_entropy(self, position: int | None = None) -> float:
        """Entropy of `unigram(position)`, nats: the loss of a predictor that sees nothing."""
        return float(torch.special.entr(self.unigram(position)).sum())

    def pair_entropy(self, position: int | None = None) -> float:
        """Conditional entropy of the second leaf of `bigram(position)` given the first, nats.

        The loss of a predictor that sees one token; −1 gives it for the last-token task, None for the average pair.
        Below it lies `bayes_loss` as far as earlier tokens tell more.
        """
        joint = self.bigram(position)
        return float(torch.special.entr(joint).sum() - torch.special.entr(joint.sum(1)).sum())

    def bayes_loss(self, samples: int, step: int = 0) -> tuple[Tensor, Tensor]:
        """The least next-token loss any predictor can reach at each position, nats: mean and standard error, [T] each.

        The mean is over entropies of the exact distributions after each prefix of `sample(samples, step)`, which vary
        less than the losses of the sampled tokens. Raises DataError for fewer than two samples.
        """
        sequences = self.sample(check_int("samples", samples, 2), step)
        entropies = torch.cat([torch.special.entr(alpha).sum(-1) for _, alpha in self._sweeps(sequences)])
        return entropies.mean(0), entropies.std(0) / math.sqrt(samples)

    def bayes_loss_exact(self) -> Tensor:
        """`bayes_loss` without sampling, [T], by going through all v^T sequences.

        Raises DataError where there are more than 2^20.
        """
        if self.T * math.log2(self.v) > math.log2(MAX_ENUMERATED):
            count = f"{self.v}^{self.T} sequences"
            raise DataError(f"{count} are too many to go through, {MAX_ENUMERATED:,} at most; estimate with bayes_loss")
        tokens = torch.cartesian_prod(*[torch.arange(self.v)] * self.T)
        loss = -self.next_token_log_probs(tokens)
        probability = loss.sum(1).neg().exp()
        possible = probability > 0
        return probability[possible] @ loss[possible]


class Prefix:
    """The exact distribution of the next token of a sequence that grows token by token.

    The recursions are those of the module's header. The inside message of a node is computed once, when its last leaf
    comes, so that a whole sequence takes about as much as one sweep.
    """

    def __init__(self, grammar: TreeGrammar) -> None:
        self._grammar, self._alphas = grammar, [torch.full((grammar.v,), 1 / grammar.v, dtype=torch.float64)]
        self._inside: list[list[Tensor]] = [[] for _ in range(grammar.L)]  # of complete children of each open node
        self._whole = False
        self._descend(0)

    def append(self, token: int) -> None:
        """Takes the next token; what is not a symbol cannot occur. After a whole sequence it changes nothing."""
        if self._whole:
            return
        grammar, level = self._grammar, self._grammar.L - 1
        message = torch.zeros(grammar.v, dtype=torch.float64)
        if 0 <= token < grammar.v:
            message[token] = 1.0
        while level >= 0:
            self._inside[level].append(message)
            if len(self._inside[level]) < grammar.s:
                self._descend(level)
                return
            message = normalised(grammar._up(level, torch.stack(self._inside[level])[None])[0])
            self._inside[level] = []
            level -= 1
        self._whole = True

    def next_distribution(self) -> Tensor | None:
        """p(next token | tokens so far), float64 [v]; None after a whole sequence, and after what cannot occur."""
        distribution = self._alphas[-1]
        return None if self._whole or not bool(distribution.any()) else distribution

    def _descend(self, level: int) -> None:
        """Computes α along the path to the next leaf, from the children of the open node of `level` on."""
        grammar = self._grammar
        del self._alphas[level + 1 :]
        for each in range(level, grammar.L):
            known = self._inside[each]
            children = torch.zeros(1, grammar.s, grammar.v, dtype=torch.float64)
            if known:
                children[0, : len(known)] = torch.stack(known)
            alpha = grammar._down(each, self._alphas[each][None], children)[0, len(known)]
            self._alphas.append(normalised(alpha))
