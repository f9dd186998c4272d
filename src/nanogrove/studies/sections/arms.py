"""What the arms of a study are, what each took and came to, and what was tuned."""

from collections.abc import Mapping
from pathlib import PurePath
from statistics import fmean
from typing import Any

from nanogrove.reports.tables import wide_table
from nanogrove.reports.values import UNKNOWN, decimal, duration, escaped, short
from nanogrove.studies.sections.shown import Shown, ShownArm, cost

TITLES = ("arm", "settings", "steps", "runs", "diverged", "mean {}", "range", "FLOPs", "trained for")


def arms(shown: Shown) -> str:
    """A row for each arm with a finished run."""
    study = shown.findings.study
    common = " ".join([_preset_name(study.preset), *study.overrides])
    titles = [title.format(shown.label) for title in TITLES]
    table = wide_table("arms", titles, [_row(shown, arm) for arm in shown.arms])
    note = f'<p class="note">Arms begin from <bdi>{escaped(common)}</bdi>.</p>'
    return f"<h2>Arms</h2>{note}{table}" if table else ""


def _preset_name(preset: str | Mapping[str, Any]) -> str:
    return PurePath(preset).name if isinstance(preset, str) else str(preset.get("name", "a preset"))


def _row(shown: Shown, arm: ShownArm) -> tuple[str, ...]:
    digits = shown.findings.measure.digits
    figures = list(arm.figures(shown.name).values())
    flops, seconds = cost(arm.results, shown.findings.plan)
    return (
        *(arm.name, _settings(shown, arm), f"{max(each.steps for each in arm.results):,}", str(len(arm.results))),
        str(sum(each.diverged is not None for each in arm.results)),
        decimal(fmean(figures), digits) if figures else UNKNOWN,
        f"{decimal(min(figures), digits)} to {decimal(max(figures), digits)}" if figures else UNKNOWN,
        *(short(flops), duration(seconds)),
    )


def _settings(shown: Shown, arm: ShownArm) -> str:
    """What makes an arm differ: a preset of its own, its overrides, and those of the trial that it takes."""
    asked = next((each for each in shown.findings.study.arms if each.name == arm.planned.arm), None)
    own_preset = [] if asked is None or asked.preset is None else [_preset_name(asked.preset)]
    overrides = [] if asked is None else asked.overrides
    return " ".join([*own_preset, *overrides, *arm.planned.overrides]) or "no changes"


def tuning(shown: Shown) -> str:
    """All trials of all arms, where there were any."""
    findings, trials = shown.findings, shown.findings.study.trials
    if len(trials) == 1:
        return ""
    names = [arm.name for arm in findings.study.arms]
    rows = [(" ".join(trial), *(_trial(shown, name, number) for name in names)) for number, trial in enumerate(trials)]
    note = (
        f"Mean {shown.label} of each trial on validation, of seeds that the comparison does not use "
        f"({findings.study.tune_seeds} of each)."
    )
    return f'<h2>Tuning</h2><p class="note">{escaped(note)}</p>{wide_table("trials", ("trial", *names), rows)}'


def _trial(shown: Shown, arm: str, number: int) -> str:
    """What a trial of an arm came to, and whether the arm takes it."""
    findings = shown.findings
    results = [each for each in findings.results.values() if (each.arm, each.trial) == (arm, number)]
    known = [each.figures[shown.name] for each in results if shown.name in each.figures and not each.diverged]
    text = decimal(fmean(known), findings.measure.digits) if known else "diverged" if results else UNKNOWN
    return f"{text}, taken" if findings.plan.chosen.get(arm) == number else text
