"""A study from its settings to its verdicts: planned, tuned, trained, judged, written.

`compare` is a generator of what happens, so that a command line or a notebook shows it as it likes; it returns the
`Findings`. Whatever stops it, what is trained lies in run folders, and the same call goes on from there. A study that
asks for more seeds or more arms trains what is missing.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogrove.errors import StudyError
from nanogrove.studies.arms import refuse_other_data, refuse_other_presets
from nanogrove.studies.engines import ENGINES, check_engine
from nanogrove.studies.engines.contract import Place
from nanogrove.studies.folder import StudyFolder, check_run_folders, read_plan, refuse_changed
from nanogrove.studies.judge import Findings, check_study_seeds, choose_trials, judge
from nanogrove.studies.plan import TUNING_SEED, Plan, Run, runs_of
from nanogrove.studies.prepare import make_plan
from nanogrove.studies.report import write_report
from nanogrove.studies.results import FILE as RESULTS
from nanogrove.studies.results import FINISHED, Key, Result, key_of, read_results, result_of, write_results
from nanogrove.studies.settings import StudySettings, read_settings
from nanogrove.studies.work import run_job
from nanogrove.train.autotune import cores

SEEDS_AT_A_TIME = 2  # that a study adds which runs until it is decided


@dataclass(frozen=True)
class Update:
    """Something that happened in a study: a line of text, if any, and the share of the training that is done."""

    share: float
    text: str = ""


@dataclass(frozen=True)
class Options:
    """How a study is trained, none of which changes its results.

    Args:
        engine: its name in `ENGINES`.
        workers: jobs at a time; 0 for one per core.
        address: of a Ray cluster.
        allow_code: whether functions that presets name may be imported and run.
    """

    engine: str = "auto"
    workers: int = 0
    address: str = ""
    allow_code: bool = False


DEFAULTS = Options()


def compare(
    study: StudySettings, out: Path, options: Options = DEFAULTS, train: bool = True
) -> Generator[Update, None, Findings]:
    """Compares in the folder `out`; without `train` it plans and collects alone.

    Raises StudyError for a study that cannot be, and for one that has changed since it began.
    """
    check_study_seeds(study)
    check_engine(options.engine, options.address)
    with StudyFolder(out) as folder:
        plan = _planned(study, folder, options)
        results = collected(study, plan, out)
        try:
            if not plan.tuned:
                runs = trial_runs(study, plan)
                if train:
                    yield from _train(runs, plan, results, out, options)
                if all(key_of(run) in results for run in runs):
                    plan = plan.model_copy(update={"chosen": choose_trials(study, plan, results) | plan.chosen})
                    folder.write("plan.json", plan.model_dump(mode="json"))
            seeds = study.seeds
            while plan.tuned:
                runs = compared_runs(plan, seeds)
                if train:
                    yield from _train(runs, plan, results, out, options)
                elif any(key_of(run) not in results for run in runs):
                    break
                further = further_seeds(study, plan, results, seeds)
                if further == seeds:
                    break
                seeds = further
        finally:
            write_results(out, [results[key] for key in sorted(results, key=_order)])
        if not train:
            yield _left(compared_runs(plan, seeds) if plan.tuned else trial_runs(study, plan), results)
        look = (seeds, len(study.arms))
        if look not in plan.looks and all(key_of(run) in results for run in compared_runs(plan, seeds)):
            plan = plan.model_copy(update={"looks": [*plan.looks, look]})
            folder.write("plan.json", plan.model_dump(mode="json"))
        findings = judge(study, plan, results, seeds)
        write_report(out, findings)
        return findings


def _order(key: Key) -> tuple[bool, int, str, str, int]:
    """Where a result stands in `results.jsonl`: trials first, then seed by seed."""
    arm, seed, end, trial = key
    return trial is None, seed, arm, end, trial or 0


def _planned(study: StudySettings, folder: StudyFolder, options: Options) -> Plan:
    """The plan of a study, written before its first run; of one that began, with what was added since."""
    before = read_plan(folder.path)
    if before is not None:
        refuse_changed(read_settings(before.study, str(folder.path / "plan.json")), study, folder.path)
        refuse_other_presets(study, before, folder.path)
        if before.study == study.model_dump(mode="json"):
            return before
        refuse_other_data(before.arms, folder.path, options.allow_code)
    elif (folder.path / RESULTS).exists():
        raise StudyError(f"{folder.path}: has {RESULTS} and no plan.json; put that back, or choose another --out")
    plan = make_plan(study, before, options.allow_code)
    folder.write("study.json", study.model_dump(mode="json", exclude_defaults=True))
    folder.write("plan.json", plan.model_dump(mode="json"))
    return plan


def trial_runs(study: StudySettings, plan: Plan) -> list[Run]:
    """The runs that choose the trial of each arm, on seeds of their own."""
    return runs_of(plan.trials(), range(TUNING_SEED, TUNING_SEED + study.tune_seeds))


def compared_runs(plan: Plan, seeds: int) -> list[Run]:
    """The runs that are compared, of so many seeds; none of arms that are still to be tuned."""
    return runs_of(list(plan.ways()), range(seeds))


def further_seeds(study: StudySettings, plan: Plan, results: Mapping[Key, Result], seeds: int) -> int:
    """The seeds that a study goes on to once so many are trained; as many where it ends."""
    if not study.until_decided or judge(study, plan, results, seeds).decided:
        return seeds
    return max(seeds, min(seeds + SEEDS_AT_A_TIME, study.cap))


def most_seeds(study: StudySettings) -> int:
    """The seeds that a study may come to."""
    return max(study.seeds, study.cap if study.until_decided else 0)


def collected(study: StudySettings, plan: Plan, out: Path) -> dict[Key, Result]:
    """The results of all finished runs of a study, from its `results.jsonl` and its run folders."""
    runs = trial_runs(study, plan) + compared_runs(plan, most_seeds(study))
    results = read_results(out, runs, plan.measure)
    for run in runs:
        if key_of(run) not in results and (result := result_of(run, out, plan.measure)) is not None:
            results[key_of(run)] = result
    return results


def _left(runs: Sequence[Run], results: Mapping[Key, Result]) -> Update:
    """How many runs of this stage are to be trained, and by which numbers."""
    left = [number for number, run in enumerate(runs) if key_of(run) not in results]
    numbers = f": --index {left[0]} to {left[-1]}" if left else ""
    return Update(1 - len(left) / len(runs), f"{len(left)} of {len(runs)} runs are to be trained{numbers}")


def train_index(out: Path, index: int, allow_code: bool = False) -> Generator[Update, None, None]:
    """Trains one run of a study by its number, in this process; the study was planned before.

    Until each arm has chosen its trial these are the trials, and then the comparison, seed by seed.

    Raises StudyError for a study that was not planned and for a number that it does not have.
    """
    plan = read_plan(out)
    if plan is None:
        raise StudyError(f"{out}: no study was planned here; plan it first, with --prepare in place of --index")
    study = read_settings(plan.study, str(out / "plan.json"))
    runs = compared_runs(plan, most_seeds(study)) if plan.tuned else trial_runs(study, plan)
    if not 0 <= index < len(runs):
        raise StudyError(f"--index {index}: this study has runs 0 to {len(runs) - 1} to train")
    run = runs[index]
    check_run_folders(out, [run.folder])
    refuse_other_data([run.way.planned], out, allow_code)
    steps = max(run.way.planned.all_steps, 1)
    if result_of(run, out, plan.measure) is not None:
        yield Update(1.0, f"{run.label}: trained already, in {run.folder}")
        return
    for _, event in run_job([(run.preset, out / run.folder)], allow_code):
        text = event.values["text"] if event.kind == "note" else ""
        yield Update(min(event.step / steps, 1.0), text)
        if event.kind == "stop":
            raise SystemExit(128 + int(event.values["signal"]))


def _train(
    runs: Sequence[Run], plan: Plan, results: dict[Key, Result], out: Path, options: Options
) -> Iterator[Update]:
    """Trains the runs that have no result yet, and adds theirs as they end."""
    missing = [run for run in runs if key_of(run) not in results]
    if not missing:
        return
    check_run_folders(out, [run.folder for run in missing])
    refuse_other_data([run.way.planned for run in missing], out, options.allow_code)
    work = {key_of(run): run.way.planned.flops for run in runs}
    done = {key: (work[key] if key in results else 0.0) for key in work}
    workers = options.workers or cores()
    engine = ENGINES[options.engine]
    jobs = engine.pack(missing, workers)
    yield Update(
        sum(done.values()) / sum(work.values()),
        f"{len(missing)} runs to train, as {len(jobs)} jobs, {min(workers, len(jobs))} at a time",
    )
    place = Place(out, workers, options.allow_code, options.address)
    for run, kind, step, text in engine.train(jobs, place):
        key = key_of(run)
        done[key] = work[key] * min(step / max(run.way.planned.all_steps, 1), 1.0)
        if kind in FINISHED and (result := result_of(run, out, plan.measure)) is not None:
            results[key], done[key] = result, work[key]
            text = f"{run.label}: diverged, {result.diverged}" if result.diverged else text
        yield Update(sum(done.values()) / sum(work.values()), f"{run.label}: {text}" if kind == "note" else text)
    lost = [run for run in missing if key_of(run) not in results]
    if lost:
        raise StudyError(
            f"{out / lost[0].folder}: ended without a result; delete it and compare again, and it is trained anew"
        )
