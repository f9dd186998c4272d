"""What sections draw: the findings of a study, and for each arm its results and evaluations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanogrove.record.events import Event
from nanogrove.reports.values import finite
from nanogrove.studies.judge import Findings
from nanogrove.studies.plan import End, Plan, PlannedArm
from nanogrove.studies.results import Result

ENDS: tuple[End, ...] = ("", "short", "long")


@dataclass(frozen=True)
class ShownArm:
    """An arm of a study: what the plan says of it, its results, and the evaluations of each of its runs, in order.

    An arm whose steps lie between two ends is two of these.
    """

    planned: PlannedArm
    end: End
    results: Sequence[Result]
    evaluations: Sequence[Sequence[Event]]

    @property
    def name(self) -> str:
        """The arm's name, with the end of its steps where there are two."""
        return f"{self.planned.arm} {self.end}".rstrip()

    def figures(self, name: str) -> dict[int, float]:
        """The finite figures of the runs that did not diverge, by seed."""
        figures = {each.seed: finite(each.figures.get(name)) for each in self.results if not each.diverged}
        return {seed: figure for seed, figure in figures.items() if figure is not None}


def cost(results: Iterable[Result], plan: Plan) -> tuple[float, float]:
    """The counted FLOPs of training, and its seconds; unknown ones count nothing."""
    planned = {(each.arm, each.trial): each for each in plan.arms}
    flops = seconds = 0.0
    for result in results:
        arm = planned.get((result.arm, plan.chosen.get(result.arm) if result.trial is None else result.trial))
        if arm is not None:
            flops += finite(arm.flops * result.steps / max(arm.all_steps, 1)) or 0.0
        seconds += finite(result.seconds) or 0.0
    return flops, seconds


@dataclass(frozen=True)
class Shown:
    """A study as its report shows it; `arms` are those with a finished run, the reference first."""

    findings: Findings
    arms: Sequence[ShownArm]

    @property
    def name(self) -> str:
        """The name of the figure that arms are judged by."""
        return self.findings.plan.measure

    @property
    def label(self) -> str:
        """What the measure is called."""
        return self.findings.measure.label or self.findings.measure.name

    @property
    def unit(self) -> str:
        """The unit of the measure; its label where it has none."""
        return self.findings.measure.unit or self.label

    @property
    def better(self) -> str:
        """Which differences from the reference are good ones, as in `below 0 is better`."""
        return f"{'below' if self.findings.measure.better == 'lower' else 'above'} 0 is better"
