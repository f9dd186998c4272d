"""Which test needs the fewest pairs to decide a comparison, of those that look at the figures on the way.

    python benchmarks/sequential_tests.py [--repeats 300] [--level .05] [--cap 24]

Two tables, of normal and of heavy-tailed differences (t with 3 degrees of freedom) of deviation 1, at true effects of
0, .5, 1 and 2: the share of repeats that are decided / by how many pairs on average, the cap where they are not. In the
first, of ten times as many repeats, the anytime-valid bound of `nanogrove.studies.sequential` has several sets of bets;
50 looks at signs alone. The second compares tests, each from the same 4,000 random patterns of signs:

    bound           the anytime-valid bound, and nothing at the cap
    bound and cap   what is left of the level is spent on the sum of differences at the cap: `--until-decided`
    Bonferroni      the sign-flip test at thirds of the cap, or from the first third on at sixths, at an equal
                    part of the level each
    spending        alpha spending (Lan and DeMets 1983): after each pair from the fifth on, paths of the largest sums
                    are rejected, so that level · (n / cap)^power is spent after n pairs
    fixed           the sign-flip test once, at the cap
"""

import argparse
from collections.abc import Iterator, Mapping

import numpy as np

from nanogrove.studies.sequential import BETS, log_e
from nanogrove.studies.statistics import Floats

PATTERNS = 4000
EFFECTS = (0.0, 0.5, 1.0, 2.0)
SIGNS = 50.0
BET_SETS = (
    *((0.5,), (1.0,), (2.0,), (SIGNS,)),
    *((0.5, 2.0), (0.7, 2.0), (1.0, 2.0), (1.0, SIGNS)),
    *((0.5, 1.0, 2.0), (0.5, 1.0, 2.0, SIGNS)),
)

Decision = int | None  # after how many pairs


def draws(repeats: int, cap: int) -> Iterator[Floats]:
    """Differences [repeats, cap] of each kind and effect."""
    for kind in ("normal", "t3"):
        for effect in EFFECTS:
            rng = np.random.default_rng(1)
            shape = (repeats, cap)
            yield effect + (rng.normal(size=shape) if kind == "normal" else rng.standard_t(3, shape) / np.sqrt(3))


def first(decided: np.ndarray) -> Decision:
    """The first look that decides, of one for each number of pairs."""
    return int(decided.argmax()) + 1 if decided.any() else None


def spent(sums: Floats, level: float, power: float) -> Decision:
    """Alpha spending over magnitudes of sums [patterns, cap], the first of which is observed."""
    count, cap = sums.shape
    alive = np.arange(count)
    for pairs in range(5, cap + 1):
        budget = int(level * (pairs / cap) ** power * count + 1e-9) - (count - len(alive))
        if budget < 1:
            continue
        heights = sums[alive, pairs - 1].round(9)
        threshold = np.sort(heights)[-budget]
        rejected = heights >= threshold if (heights >= threshold).sum() <= budget else heights > threshold
        if alive[0] == 0 and rejected[0]:
            return pairs
        alive = alive[~rejected]
    return None


def decisions(differences: Floats, level: float) -> Mapping[str, Decision]:
    """What each test says of one study, after how many pairs."""
    cap = len(differences)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (PATTERNS, cap))
    paths = np.concatenate([differences[None], signs * differences])
    sums, evidence = np.abs(np.cumsum(paths, 1)), log_e(paths)
    as_far = sums >= sums[0] * (1 - 1e-10)
    p_values = as_far.mean(0)
    reached = evidence.max(1) >= -np.log(level)
    bound = first(evidence[0] >= -np.log(level))
    at_cap = cap if (reached | as_far[:, -1]).mean() <= level else None
    bonferroni = {
        f"Bonferroni, {len(looks)} looks": next((n for n in looks if p_values[n - 1] <= level / len(looks)), None)
        for looks in ((cap // 3, 2 * cap // 3, cap), tuple(range(cap // 3, cap + 1, cap // 6)))
    }
    return {
        "bound": bound,
        "bound and cap": bound or at_cap,
        **bonferroni,
        **{f"spending, power {power:g}": spent(sums, level, power) for power in (0.5, 1, 2)},
        "fixed": cap if p_values[-1] <= level else None,
    }


def row(label: str, cells: list[list[Decision]], cap: int) -> str:
    """A line of a table: share decided / mean number of pairs."""
    texts = [
        f"{np.mean([n is not None for n in cell]):.2f} / {np.mean([cap if n is None else n for n in cell]):.1f}"
        for cell in cells
    ]
    return f"| {' | '.join([label, *texts])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--level", type=float, default=0.05)
    parser.add_argument("--cap", type=int, default=24)
    options = parser.parse_args()
    head = [f"{kind} {effect:g}" for kind in ("normal", "t3") for effect in EFFECTS]
    print(f"| bets | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}")
    for bets in BET_SETS:
        evidence = [log_e(table, bets) for table in draws(10 * options.repeats, options.cap)]
        cells = [[first(path >= -np.log(options.level)) for path in paths] for paths in evidence]
        mark = " (chosen)" if bets == BETS else ""
        print(row(", ".join(f"{bet:g}" for bet in bets) + mark, cells, options.cap), flush=True)
    print(f"\n| test | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}")
    studies = [[decisions(study, options.level) for study in table] for table in draws(options.repeats, options.cap)]
    for test in studies[0][0]:
        print(row(test, [[study[test] for study in cell] for cell in studies], options.cap))


if __name__ == "__main__":
    main()
