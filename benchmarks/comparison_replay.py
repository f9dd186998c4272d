"""How often a comparison of equal arms is decided wrongly, and how often a true effect is shown; and by how many pairs.

    python benchmarks/comparison_replay.py [--repeats 1000] [--level .05] [--seeds 8] [--cap 24]
    python benchmarks/comparison_replay.py --differences differences.jsonl     # measured ones, of equal arms

Paired differences are drawn, or measured ones replayed in random order: each line of the file is an object with
`differences`, a list of numbers of one setting, and maybe `setting`, its name; lines of one setting are put together.
Each repeat takes `--cap` of them, without putting back, and each setting needs as many. Effects are added in standard
deviations of the setting.

`fixed` tests the first `--seeds` pairs once, by all patterns of signs. `until decided` looks after every pair and ends
at the cap. A row says which share of the repeats was decided, with its Clopper-Pearson interval of 95 %, and after how
many pairs on average; at effect 0 that share is the error rate. `skewed` has a mean of 0 and no symmetry: it is no null
hypothesis of either test, and shows what becomes of one whose arms are not exchangeable. Repeats of measured
differences share these, so their intervals are narrower than those of as many studies.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nanogrove.studies.sequential import log_e, p_until_decided
from nanogrove.studies.statistics import Floats, crossing, sign_flip

Draw = Callable[[np.random.Generator, int], Floats]  # so many differences of deviation 1

SYNTHETIC: dict[str, Draw] = {
    "normal": lambda rng, count: rng.normal(size=count),
    "t3": lambda rng, count: rng.standard_t(3, count) / math.sqrt(3),
    "skewed": lambda rng, count: rng.exponential(size=count) - 1,
}
EFFECTS = (0.0, 0.5, 1.0, 2.0)


class Row(NamedTuple):
    """Of one setting, test and effect: how many repeats were decided, of how many, by how many pairs on average."""

    setting: str
    test: str
    effect: float
    decided: int
    repeats: int
    pairs: float


def measured(path: Path) -> dict[str, Draw]:
    """The settings of a file of measured differences."""
    pools: dict[str, list[float]] = {}
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        pools.setdefault(row.get("setting", path.stem), []).extend(row["differences"])

    def draw(pool: Floats) -> Draw:
        return lambda rng, count: rng.choice(pool, count, replace=False)

    return {setting: draw(np.array(pool) / np.std(pool)) for setting, pool in pools.items()}


def clopper_pearson(hits: int, trials: int, level: float = 0.05) -> tuple[float, float]:
    """The interval of a share (1934): where so many hits, or fewer, or more, would have a chance of level / 2."""

    def at_most(count: int, share: float) -> float:
        if not 0 < share < 1:
            return float(share <= 0 or count >= trials)
        logs = (
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(share)
            + (trials - k) * math.log1p(-share)
            for k in range(count + 1)
        )
        return math.fsum(map(math.exp, logs))

    low = crossing(lambda share: 1 - at_most(hits - 1, share) - level / 2, 0.0, 1.0) if hits else 0.0
    high = crossing(lambda share: level / 2 - at_most(hits, share), 0.0, 1.0) if hits < trials else 1.0
    return low, high


def pairs_until_decided(differences: Floats, level: float) -> int | None:
    """After how many pairs, of as many as the cap, a study is decided; None where it is not."""
    looks = np.flatnonzero(log_e(differences) >= -math.log(level))
    if len(looks):
        return int(looks[0]) + 1
    return len(differences) if p_until_decided(differences.tolist(), len(differences)) <= level else None


def replay(setting: str, draw: Draw, options: argparse.Namespace, effect: float) -> Iterator[Row]:
    """Both tests on the same differences."""
    rng = np.random.default_rng(0)
    table = np.array([draw(rng, options.cap) for _ in range(options.repeats)]) + effect
    fixed = sum(sign_flip(differences) <= options.level for differences in table[:, : options.seeds].tolist())
    yield Row(setting, f"fixed, {options.seeds} pairs", effect, fixed, options.repeats, options.seeds)
    pairs = [pairs_until_decided(differences, options.level) for differences in table]
    decided = sum(count is not None for count in pairs)
    mean = float(np.mean([options.cap if count is None else count for count in pairs]))
    yield Row(setting, f"until decided, cap {options.cap}", effect, decided, options.repeats, mean)


def line(row: Row) -> str:
    low, high = clopper_pearson(row.decided, row.repeats)
    share = f"{row.decided / row.repeats:.3f} | {low:.3f} to {high:.3f}"
    return f"| {row.setting} | {row.test} | {row.effect:g} | {share} | {row.pairs:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--differences", type=Path, help="a JSON lines file of measured differences")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--level", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--cap", type=int, default=24)
    options = parser.parse_args()
    print("| differences | test | effect, sd | decided | 95 % | pairs |\n|---|---|---|---|---|---|")
    for setting, draw in (measured(options.differences) if options.differences else SYNTHETIC).items():
        for effect in EFFECTS:
            for row in replay(setting, draw, options, effect):
                print(line(row), flush=True)


if __name__ == "__main__":
    main()
