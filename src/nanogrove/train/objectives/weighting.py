"""The weight of each text by its reward: weights whose mean over the training texts is 1, or a choice of texts.

    rwr     exp(r/β)                     Peters & Schaal 2007; Dayan & Hinton 1997
    awr     min(exp((r − V)/β), clip)    Peng et al. 2019, arXiv 1910.00177; V in `value_baseline.py`
    filter  the best fraction is learned from, each text alike; the rest is not
    kto     a text is wanted or not, as `wanted_above` says; `balance` gives the weights of the two sides

Trained to its optimum on texts of a policy μ, `rwr` gives π ∝ μ·exp(r/β). All work is in float64, and the largest
exponent is taken out first, so weights are finite whatever the rewards, and the same when a constant is added to all.
"""

from typing import Literal

import numpy as np

BALANCE = (1.0, 4 / 3)  # Σ of wanted weights over Σ of unwanted ones; Ethayarajh et al. 2024, arXiv 2402.01306, § 4.2
Scaling = Literal["none", "whiten", "rank"]


def scaled(rewards: np.ndarray, how: Scaling, like: np.ndarray | None = None) -> np.ndarray:
    """Rewards `[N]` on a common scale: as they are, of mean 0 and deviation 1, or as ranks from −1/2 to 1/2.

    Mean, deviation and ranks are those among `like`, the training rewards, `rewards` themselves when left out.
    """
    known = rewards if like is None else like
    if how == "whiten":
        deviation = known.std()
        whitened: np.ndarray = (rewards - known.mean()) / (deviation if deviation > 0 else 1.0)
        return whitened
    if how == "rank":
        ordered = np.sort(known)
        ranks = (np.searchsorted(ordered, rewards, "left") + np.searchsorted(ordered, rewards, "right")) / 2
        return ranks / len(ordered) - 0.5
    return rewards.astype(np.float64)


def exponential(advantages: np.ndarray, beta: float, clip: float | None, like: np.ndarray | None = None) -> np.ndarray:
    """exp(A/β), at most `clip`, over its mean among `like`, the training advantages."""
    most = np.inf if clip is None else np.log(clip)
    exponents = np.minimum(advantages / beta, most)
    known = exponents if like is None else np.minimum(like / beta, most)
    top = known.max()
    weights: np.ndarray = np.exp(exponents - top) / np.exp(known - top).mean()
    return weights


def best_fraction(rewards: np.ndarray, fraction: float) -> np.ndarray:
    """Which rewards `[N]`, N ≥ 1, are the best fraction of them: at least one, and ties with the least of these."""
    least = np.sort(rewards)[::-1][max(round(fraction * len(rewards)), 1) - 1]
    best: np.ndarray = rewards >= least
    return best


def wanted_above(rewards: np.ndarray) -> float:
    """The median, or, where no reward is greater, the next lower one: where rewards differ, no side is empty.

    Of two different rewards the higher is wanted, whatever their shares.
    """
    middle = np.median(rewards)
    return float(middle if rewards.max() > middle else rewards[rewards < middle].max())


def balance(wanted: int, unwanted: int, weights: tuple[float | None, float | None]) -> tuple[float, float]:
    """Weights of `wanted` and of `unwanted` texts; where one is None it is what keeps their totals in `BALANCE`.

    With both None the side that is short of it counts more, and the other 1.
    """
    first, second = (1.0 if weight is None else weight for weight in weights)
    ratio = wanted * first / (unwanted * second)
    nearest = min(max(ratio, BALANCE[0]), BALANCE[1])
    if weights[0] is None and (weights[1] is not None or ratio < nearest):
        return first * nearest / ratio, second
    if weights[1] is None:
        return first, second * ratio / nearest
    return first, second


def effective_sample_size(weights: np.ndarray) -> float:
    """(Σw)² / Σw²: how many equally weighted texts carry as much information (Kish 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum())
