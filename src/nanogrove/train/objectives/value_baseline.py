"""V, the reward to expect after a prompt: a ridge regression on the prompt's state, cross-fitted by prompt.

An advantage r − V keeps its noise only where V has not seen r: a fit with as many coefficients as texts explains any
rewards. So prompts are dealt into folds, and V of a text comes from the prompts of the other folds (Chernozhukov et al.
2018, arXiv 1608.00060); a text that is held out takes V from all training prompts. The strength of each ridge has the
lowest error over the prompts it is fitted to, each left out once, in closed form (Allen 1974).

Texts of one prompt share a state, so a fit to the mean rewards of prompts, weighted by their numbers of texts, is a fit
to the texts. A text without a prompt stands for itself: where no text has one, V is the mean reward of other folds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nanogrove.data.rng import random

FOLDS = 10
STRENGTHS = np.logspace(-4, 4, 17)  # of the ridge, over the mean variance of a feature


class Ridge(NamedTuple):
    """V(x) = x @ slope + intercept; `errors [S]` are mean square errors by strength, each row left out once."""

    slope: np.ndarray
    intercept: float
    errors: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """V `[N]` at `features [N, C]`."""
        value: np.ndarray = features @ self.slope + self.intercept
        return value


def ridge(features: np.ndarray, rewards: np.ndarray, counts: np.ndarray) -> Ridge:
    """The fit to `rewards [M]` at `features [M, C]` with row m taken `counts[m]` times; the intercept is not shrunk."""
    share = counts / counts.sum()
    centre, mean = share @ features, float(share @ rewards)
    x, y = features - centre, rewards - mean
    variances, directions = np.linalg.eigh((x.T * share) @ x)
    variances = variances.clip(min=0)
    shrunk = 1 / (variances + STRENGTHS[:, None] * (variances.mean() or 1.0))  # [S, C]
    x = x @ directions
    moments = x.T @ (share * y)
    residuals = y - (shrunk * moments) @ x.T  # [S, M]
    leverage = share * (1 + shrunk @ np.square(x).T)
    errors = np.square(residuals / (1 - leverage).clip(min=1e-9)) @ share
    slope = directions @ (shrunk[errors.argmin()] * moments)
    return Ridge(slope, mean - float(centre @ slope), errors)


class Baseline(NamedTuple):
    """V of each text `[N]`, and the share of the training rewards' variance that it explains, held out."""

    values: np.ndarray
    r2: float | None


def cross_fitted(
    features: np.ndarray, rewards: np.ndarray, prompts: Sequence[str], train: np.ndarray, seed: int
) -> Baseline:
    """V of texts with prompts' states `features [N, C]`, fitted to `rewards [N]` of the rows `train` alone."""
    alone = len({prompts[row] for row in train}) == 1  # other prompts say nothing, other texts may
    keys = [f"text {row}" if alone or not prompts[row] else f"prompt {prompts[row]}" for row in train]
    _, first, number, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    known, mean = rewards[train], float(rewards[train].mean())
    if len(first) == 1:
        return Baseline(np.full(len(rewards), mean), None)
    states, means = features[train[first]], np.bincount(number, known) / counts
    folds = random(seed, "folds").permutation(len(first)) % FOLDS
    left_out = np.empty(len(first))
    for fold in range(min(FOLDS, len(first))):
        others = folds != fold
        left_out[~others] = ridge(states[others], means[others], counts[others])(states[~others])
    values = ridge(states, means, counts)(features)
    values[train] = left_out[number]
    spread = float(np.square(known - mean).sum())
    return Baseline(values, 1 - float(np.square(known - values[train]).sum()) / spread if spread > 0 else None)
