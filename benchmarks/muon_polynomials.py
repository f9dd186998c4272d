"""Muon's polynomials: their coefficients, and whether they train as well as the five steps of Jordan 2024.

    python benchmarks/muon_polynomials.py                                   # the coefficients
    python benchmarks/muon_polynomials.py --text tinyshakespeare.txt        # directions, and paired runs too
    python benchmarks/muon_polynomials.py --text tinyshakespeare.txt --against two-polynomials

The coefficients of `nanogrove.train.optim.muon` are computed anew by Remez's algorithm: each polynomial is the odd one
of degree nine whose greatest distance from 1 is least on the interval on which the one before leaves the singular
values, the first on [.0022, 1]. All but the last are stretched by .1 %, so that rounding leads to no value beyond that
interval, where they are steep. The last is multiplied by .9, about the mean to which the five steps lead,
so that a learning rate means what it means with them.

Directions: the cosine to the nearest orthogonal matrix, of momenta after 20 to 300 steps of 4 x 128, 24 x 64 tokens.
Paired runs: 2 x 128, by seed, one thread; the loss over the whole validation split, the other's minus that of
nanogrove. `--width` takes another size. What a step takes is measured by `muon_step.py`.
"""

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from nanogrove.studies.statistics import sign_flip, t_interval
from nanogrove.train.optim import muon
from time_to_loss import CONTEXT, our_steps, read_text, whole_loss

Coefficients = tuple[float, ...]
POWERS = np.array([1, 3, 5, 7, 9])
LOW, STRETCH, LENGTH = 0.0022, 1.001, 0.9


def best_polynomial(low: float, high: float) -> tuple[np.ndarray, float]:
    """The odd polynomial of degree 9 that is nearest to 1 on [low, high], by Remez's algorithm, and its distance."""
    x = np.geomspace(low, high, 20_001)
    signs = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    extrema = high * np.cos(np.arange(4, -1, -1) * np.pi / 9)  # those of the Chebyshev polynomial, and the lower end
    chosen = np.searchsorted(x, [low, *extrema])
    for _ in range(50):
        solution = np.linalg.solve(np.column_stack([x[chosen, None] ** POWERS, signs]), np.ones(6))
        error = x[:, None] ** POWERS @ solution[:-1] - 1
        turns = 1 + np.flatnonzero(np.diff(error)[:-1] * np.diff(error)[1:] <= 0)
        following = np.array([0, *turns, len(x) - 1])
        if len(following) != 6 or (following == chosen).all():
            break
        chosen = following
    return solution[:-1], float(np.abs(error).max())


def best_polynomials(count: int, low: float = LOW) -> list[Coefficients]:
    """Coefficients of x, x³, x⁵, x⁷ and x⁹ of so many polynomials, one after the other."""
    high, polynomials = 1.0, []
    for n in range(count):
        best, distance = best_polynomial(low, high)
        best = best / STRETCH**POWERS if n < count - 1 else best * LENGTH
        low, high = float(low**POWERS @ best), 1 + distance
        polynomials.append(tuple(best.tolist()))
    return polynomials


def jordan(matrices: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """Five equal steps on each matrix divided by its Frobenius norm, as published."""
    x = matrices.to(precision)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=-1).norm(dim=-1)[:, None, None] + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).to(matrices.dtype)


@contextmanager
def two_polynomials() -> Iterator[None]:
    """Within, Muon stops a polynomial earlier, at values of .0167 and more."""
    with patch.object(muon, "POLYNOMIALS", best_polynomials(2, 0.0167)):
        yield


OTHERS = {"jordan": lambda: patch.object(muon, "orthogonalise", jordan), "two-polynomials": two_polynomials}


def cosines(path: Path) -> None:
    """Prints the cosine between what each way makes of momenta and the nearest orthogonal matrix, in 300 steps."""
    momenta: list[Tensor] = []
    _, steps = our_steps(path, 0, 300, "float32", {})
    orthogonalise = muon.orthogonalise

    def watch(matrices: Tensor, precision: torch.dtype) -> Tensor:
        momenta.append(matrices.clone())
        return orthogonalise(matrices, precision)

    for number in range(1, 301):
        momenta.clear()
        with patch.object(muon, "orthogonalise", watch):
            next(steps)
        if number in (20, 60, 140, 300):
            for matrices in momenta:
                report = [f"step {number:3}  {matrices.shape[1]:3} x {matrices.shape[2]:<3}"]
                for name, way in (("muon", orthogonalise), ("jordan", jordan)):
                    values = torch.linalg.svdvals(way(matrices, torch.float32).double())
                    each = values.sum(-1) / (values.norm(dim=-1) * values.shape[-1] ** 0.5)
                    report.append(f"{name} {each.mean():.4f}")
                print("   ".join(report), flush=True)


def final_loss(options: argparse.Namespace, windows: Tensor, seed: int) -> float:
    """The loss over the whole validation split after the last step."""
    model, steps = our_steps(options.text, seed, options.steps, "float32", {"n_layer": 2, "n_embd": options.width})
    for _ in steps:
        pass
    model.eval()
    return whole_loss(lambda x, y: model(x, y).mean(), windows)


def paired_runs(options: argparse.Namespace) -> None:
    """Prints the mean difference of the losses, by seed, with its 95 % interval."""
    _, windows = read_text(options.text, CONTEXT)
    differences = []
    for seed in range(options.seeds):
        ours = final_loss(options, windows, seed)
        with OTHERS[options.against]():
            theirs = final_loss(options, windows, seed)
        differences.append(theirs - ours)
        print(f"seed {seed}: muon {ours:.4f}, {options.against} {theirs:.4f}", flush=True)
    low, high = t_interval(differences, 0.05)
    mean, p = statistics.mean(differences), sign_flip(differences)
    print(f"{options.against} minus muon {mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}), p {p:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--against", choices=OTHERS, default="jordan", help="what the paired runs compare with")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200, help="steps of each paired run")
    parser.add_argument("--width", type=int, default=128, help="of the model of the paired runs")
    options = parser.parse_args()
    for polynomial in best_polynomials(3):
        print("coefficients", *(f"{c:11.6f}" for c in polynomial))
    if options.text is not None:
        torch.set_num_threads(1)
        cosines(options.text)
        paired_runs(options)


if __name__ == "__main__":
    main()
