"""What a study trains: its runs, each an arm with a seed in a folder of its own, and the steps of each.

    runs/ARM/seed-0           and, where equal time leaves the steps of an arm open: seed-0-short, seed-0-long
    tune/ARM/TRIAL/seed-…     trials of an arm, by their number

A `Way` is a preset that is trained on several seeds: an arm, one of its two ends, or a trial of it. `Plan` is
`plan.json`, written before the first run, so that nothing of it can follow from a result, but for the trial that each
arm takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.data.splits import Split
from nanogrove.record.measures import MEASURES
from nanogrove.settings import Count, Settings
from nanogrove.studies.settings import NAME

End = Literal["", "short", "long"]  # of an arm whose steps at equal time lie between two numbers
TUNING_SEED = 1 << 40  # the first seed of trials, far from those of comparisons


class PlannedArm(Settings):
    """An arm, or a trial of it, with its steps; `steps` 0 where its method counts them all.

    `requested` is the preset as it was asked for, and `preset` what it became, with all that was left open pinned.
    `short` and `long` are the ends of what equal time leaves open; `all_steps` and `flops` are those of a run. `data`
    is the fingerprint of what it is trained on, empty where that is not known.
    """

    arm: str = Field(pattern=NAME)
    trial: Count | None = None
    overrides: list[str] = Field([])
    requested: dict[str, Any]
    preset: dict[str, Any]
    steps: Count
    short: Count
    long: Count
    all_steps: Count
    flops: float = Field(gt=0, le=1e60)
    data: str = ""

    def way(self, end: End = "", split: Split | None = None, trial: int | None = None) -> "Way":
        """The arm as it is trained, of the steps of an end, scored at last on a split; None for its method's."""
        preset = resolve(self.preset)
        preset = preset.model_copy(update={"evaluate": preset.evaluate.model_copy(update={"final": split})})
        steps = {"": self.steps, "short": self.short, "long": self.long}[end]
        if steps:
            budget = {"steps": steps, "tokens": None, "epochs": None, "minutes": None}
            preset = preset.model_copy(update={"train": preset.train.model_copy(update=budget)})
        return Way(self.arm, preset, self, end, trial)


class Plan(Settings):
    """`plan.json`: the study as it was last asked for, and what follows from it.

    `chosen` is the trial that each arm takes, once all are trained. `looks` are the numbers of seeds and of arms with
    which it was judged: more than one, since seeds or arms were added to what had been seen, take more than the level.
    """

    study: dict[str, Any]
    measure: str
    split: Split
    machine: dict[str, Any]
    arms: list[PlannedArm]
    chosen: dict[str, int] = Field({})
    looks: list[tuple[Count, Count]] = Field([])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.measure not in {measure.name for measure in MEASURES}:
            raise ValueError("measure: not the name of one")
        trials = {(each.arm, each.trial) for each in self.arms if each.trial is not None}
        if not self.chosen.items() <= trials:
            raise ValueError("chosen: not among the trials of arms")
        return self

    @property
    def tuned(self) -> bool:
        """Whether each arm has chosen its trial, where there are any."""
        return all(each.arm in self.chosen for each in self.arms if each.trial is not None)

    def trials(self) -> list["Way"]:
        """The trials of all arms; none where nothing is tuned."""
        return [each.way(trial=each.trial) for each in self.arms if each.trial is not None]

    def ways(self) -> Iterator["Way"]:
        """The arms that are compared: of those whose steps are open both ends."""
        for each in self.arms:
            if each.trial == self.chosen.get(each.arm):
                for end in ("short", "long") if each.short != each.long else ("",):
                    yield each.way(end, self.split)


@dataclass(frozen=True)
class Way:
    """A preset without its seed, ready to be trained: pinned, with its steps.

    Args:
        arm: the name of its arm.
        preset: resolved.
        planned: what the plan says of it.
        end: which end of the steps of its arm.
        trial: the number of a trial; None of the arm itself.
    """

    arm: str
    preset: Preset
    planned: PlannedArm
    end: End = ""
    trial: int | None = None


@dataclass(frozen=True)
class Run:
    """A way with a seed, trained in `folder`, a path relative to that of the study."""

    way: Way
    seed: int
    folder: Path

    @property
    def preset(self) -> Preset:
        """The preset of the run, its seed set."""
        return self.way.preset.model_copy(update={"seed": self.seed, "name": f"{self.way.arm}-{self.seed}"})

    @property
    def label(self) -> str:
        """The run in words, for a message."""
        kind = f" ({self.way.end})" if self.way.end else "" if self.way.trial is None else f", trial {self.way.trial}"
        return f"arm {self.way.arm}{kind}, seed {self.seed}"


def run_of(way: Way, seed: int) -> Run:
    """The run of a way on a seed."""
    if way.trial is not None:
        return Run(way, seed, Path("tune") / way.arm / str(way.trial) / f"seed-{seed}")
    return Run(way, seed, Path("runs") / way.arm / "-".join(filter(None, (f"seed-{seed}", way.end))))


def runs_of(ways: Sequence[Way], seeds: Sequence[int]) -> list[Run]:
    """The runs of some ways, seed by seed, so that pairs are finished early."""
    return [run_of(way, seed) for seed in seeds for way in ways]
