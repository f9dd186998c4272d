"""What a study has come to, for who looks at its folder: no lock is taken, nothing is written, no link is followed."""

from dataclasses import dataclass
from pathlib import Path

from nanogrove.studies.compare import collected, compared_runs, further_seeds, most_seeds, trial_runs
from nanogrove.studies.folder import check_plain, check_run_folders, read_plan
from nanogrove.studies.judge import Findings, check_study_seeds, judge
from nanogrove.studies.plan import Run
from nanogrove.studies.results import key_of
from nanogrove.studies.settings import read_settings


@dataclass(frozen=True)
class Standing:
    """How a study stands.

    Args:
        findings: what its finished runs say; while runs are missing that is not yet its answer.
        trials: its runs that choose the trial of each arm.
        compared: its runs that are compared, of as many seeds as it has come to, seed by seed.
    """

    findings: Findings
    trials: tuple[Run, ...]
    compared: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of its runs, in the order in which they are trained."""
        return self.trials + self.compared

    @property
    def finished(self) -> int:
        """How many of its runs are finished."""
        return sum(key_of(run) in self.findings.results for run in self.runs)

    @property
    def complete(self) -> bool:
        """Whether all of its runs are finished, so that its verdicts are its answer."""
        return self.findings.plan.tuned and self.finished == len(self.runs)


def read_standing(path: Path) -> Standing | None:
    """How the study in a folder stands; None before it is planned.

    Raises StudyError where a part of it is damaged, or leads elsewhere.
    """
    check_plain(path)
    plan = read_plan(path)
    if plan is None:
        return None
    study = read_settings(plan.study, str(path / "plan.json"))
    check_study_seeds(study)
    trials, compared = trial_runs(study, plan), compared_runs(plan, most_seeds(study))
    check_run_folders(path, (run.folder for run in trials + compared))
    results = collected(study, plan, path)
    seeds = study.seeds
    while plan.tuned and all(key_of(run) in results for run in compared if run.seed < seeds):
        further = further_seeds(study, plan, results, seeds)
        if further == seeds:
            break
        seeds = further
    reached = tuple(run for run in compared if run.seed < seeds)
    return Standing(judge(study, plan, results, seeds), tuple(trials), reached)
