"""A regret study from its settings to its page: bases, trials of learning rates, runs, decoding, all measured exactly.

`draw` is a generator of what happens, as `studies.compare.compare` is. All that is trained lies in run folders, so that
the same call goes on after whatever stopped it; what is measured is measured again from their snapshots. More seeds and
more methods may be added.

    FOLDER/
      regret.json       the settings
      data/             the tokenizer, texts of the grammar, and for each seed texts and pairs of its base
      runs/METHOD/seed-N   tune/METHOD/TRIAL/seed-N     run folders; METHOD is `base` for the bases
      results.json      all that the page shows
      report.html
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from nanogrove.atomic import not_plain
from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import NanogroveError, StudyError
from nanogrove.evaluate.regret import divergence
from nanogrove.evaluate.reward import Reward
from nanogrove.json_difference import differences, shown
from nanogrove.record.reading import last_event
from nanogrove.runs.circumstances import circumstances
from nanogrove.runs.setup import build
from nanogrove.studies.compare import Update
from nanogrove.studies.engines.contract import Job, Place
from nanogrove.studies.engines.local import train_here
from nanogrove.studies.folder import StudyFolder, check_run_folders, read_part
from nanogrove.studies.plan import TUNING_SEED, PlannedArm, Run, Way, run_of
from nanogrove.studies.regret.entrants import ENTRANTS
from nanogrove.studies.regret.findings import Findings, MethodFindings, SeedFindings, mean_regret
from nanogrove.studies.regret.measured import Point, best_of_points, frontier, point, points_of, steered_points
from nanogrove.studies.regret.page import write_page
from nanogrove.studies.regret.settings import RegretSettings, checked
from nanogrove.studies.regret.worlds import (
    DATA,
    World,
    base_preset,
    excess_of_base,
    open_world,
    short_mass,
    write_data,
    write_grammar,
)
from nanogrove.studies.results import FINISHED
from nanogrove.train.autotune import cores
from nanogrove.waits import waiting

SETTINGS, RESULTS, PAGE = "regret.json", "results.json", "report.html"
GROWS = ("seeds", "methods")  # what may change once a study has begun


@dataclass(frozen=True)
class _Study:
    """What all stages need."""

    settings: RegretSettings
    out: Path
    workers: int
    reward: Reward


def draw(settings: RegretSettings, out: Path, workers: int = 0) -> Generator[Update, None, Findings]:
    """Trains and measures all that a study asks for in the folder `out`; `workers` runs at a time, 0 for one per core.

    Raises StudyError for a folder that holds something else, or a study of other settings, and what a run raises.
    """
    with StudyFolder(out) as folder:
        _check_folder(settings, out)
        study = _Study(settings, out, workers or cores(), settings.reward.find(allow_code=False))
        tuning = range(TUNING_SEED, TUNING_SEED + settings.tune_seeds)
        seeds = range(settings.seeds)
        folder.write(SETTINGS, settings.model_dump(mode="json"))
        write_grammar(settings, out)
        base = resolve(base_preset(settings, out))
        yield from _train(study, [_run("base", base, seed) for seed in (*tuning, *seeds)], "bases")
        worlds = {seed: open_world(settings, out, seed, study.reward) for seed in (*tuning, *seeds)}
        with waiting("writing what methods learn from", len(worlds)) as wait:
            for world in worlds.values():
                write_data(world)
                wait.done += 1
        trials = yield from _trials(study, [worlds[seed] for seed in tuning])
        chosen = {name: _best_rate(name, by_rate) for name, by_rate in trials.items()}
        runs = [
            _run(name, _preset(worlds[seed], name, chosen[name]), seed) for seed in seeds for name in settings.methods
        ]
        yield from _train(study, runs, "runs")
        with waiting("measuring runs", len(runs)) as wait:
            points = {}
            for run in runs:
                points[run.way.arm, run.seed] = points_of(worlds[run.seed], out / run.folder)
                wait.done += 1
        with waiting("measuring bases and decoding", settings.seeds) as wait:
            by_seed = []
            for seed in seeds:
                by_seed.append(_seed_findings(worlds[seed]))
                wait.done += 1
        findings = Findings(
            settings=settings,
            machine=_machine(base),
            seeds=by_seed,
            methods=[
                MethodFindings(
                    name=name,
                    title=ENTRANTS[name].title,
                    rate=chosen[name],
                    trials=trials[name],
                    ideal=_ideal(name, [worlds[seed] for seed in seeds]),
                    points=[points[name, seed] for seed in seeds],
                )
                for name in settings.methods
            ],
        )
        folder.write(RESULTS, findings.model_dump(mode="json"))
        write_page(out / PAGE, findings)
        return findings


def _check_folder(settings: RegretSettings, out: Path) -> None:
    """Raises StudyError where a study of other settings, or a comparison, began in the folder."""
    for name in (SETTINGS, RESULTS, PAGE):
        if why := not_plain(out / name):
            raise StudyError(f"{out / name}: {why}, and is not written through; move it away")
    if (out / "plan.json").exists():
        raise StudyError(f"{out}: holds a study of `nanogrove compare`; choose another --out")
    check_run_folders(out, [DATA])
    stored = read_part(out / SETTINGS)
    if stored is None:
        return
    was = checked(stored, f"{out / SETTINGS}: ").model_dump(mode="json")
    now = settings.model_dump(mode="json")
    for key, before, after in differences(_fixed(was), _fixed(now)):
        raise StudyError(
            f"{out}: this study began with {key} {shown(before)}, and here it is {shown(after)}; put that back, or "
            "choose another --out"
        )


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in GROWS}


def _preset(world: World, name: str, rate: float) -> Preset:
    try:
        return resolve(ENTRANTS[name].preset(world, rate))
    except NanogroveError as error:
        raise StudyError(f"method {name}: {error}") from None


def _run(name: str, preset: Preset, seed: int, trial: int | None = None) -> Run:
    """A run of the study, of a preset of its own."""
    values = preset.model_dump(mode="json")
    steps = preset.train.steps or 0
    planned = PlannedArm(
        arm=name, trial=trial, requested=values, preset=values, steps=0, short=0, long=0, all_steps=steps, flops=1.0
    )
    return run_of(Way(name, preset, planned, trial=trial), seed)


def _best_rate(name: str, trials: Mapping[float, float | None]) -> float:
    """The learning rate of the least regret. Raises StudyError where all diverged."""
    known = {rate: regret for rate, regret in trials.items() if regret is not None}
    if not known:
        raise StudyError(f"method {name}: diverged at every learning rate of rates; give lower ones")
    return min(known, key=known.__getitem__)


def _trials(study: _Study, worlds: Sequence[World]) -> Generator[Update, None, dict[str, dict[float, float | None]]]:
    """The mean regret at the end by method and learning rate, over the worlds of tuning; None where a run diverged."""
    settings = study.settings
    runs = [
        _run(name, _preset(world, name, rate), world.seed, trial)
        for name in settings.methods
        for trial, rate in enumerate(settings.rates)
        for world in worlds
    ]
    yield from _train(study, runs, "trials of learning rates")
    by_seed = {world.seed: world for world in worlds}
    ends: dict[tuple[str, float], list[Point]] = {}
    with waiting("measuring trials", len(runs)) as wait:
        for run in runs:
            points = points_of(by_seed[run.seed], study.out / run.folder)
            last = [each for each in points if each.texts == settings.scored]
            ends.setdefault((run.way.arm, settings.rates[run.way.trial or 0]), []).extend(last)
            wait.done += 1
    return {
        name: {
            rate: mean_regret(last) if len(last := ends[name, rate]) == len(worlds) else None for rate in settings.rates
        }
        for name in settings.methods
    }


def _train(study: _Study, runs: Sequence[Run], what: str) -> Iterator[Update]:
    """Trains the runs that are not finished."""
    left = [run for run in runs if not _finished(study.out / run.folder)]
    if not left:
        return
    check_run_folders(study.out, [run.folder for run in left])
    yield Update(1 - len(left) / len(runs), f"{len(left)} {what} to train, {min(study.workers, len(left))} at a time")
    done = len(runs) - len(left)
    for happened in train_here([Job((run,)) for run in left], Place(study.out, study.workers)):
        text = f"{happened.run.label}: {happened.text}" if happened.kind == "diverged" else ""
        done += happened.kind in FINISHED
        yield Update(done / len(runs), text)
    lost = next((run for run in left if not _finished(study.out / run.folder)), None)
    if lost is not None:
        raise StudyError(f"{study.out / lost.folder}: ended without a result; delete it, and the same command goes on")


def _finished(run: Path) -> bool:
    event = last_event(run / "events.jsonl")
    return event is not None and event.kind in FINISHED


def _machine(base: Preset) -> dict[str, Any]:
    return dict(circumstances(build(base)))


def _ideal(name: str, worlds: Sequence[World]) -> float | None:
    """The mean regret of what a method aims at; None where that is not known."""
    ideal = ENTRANTS[name].ideal
    return None if ideal is None else fmean(divergence(ideal(world), world.optimum.log_probs) for world in worlds)


def _seed_findings(world: World) -> SeedFindings:
    star = world.optimum
    return SeedFindings(
        excess=excess_of_base(world),
        short=short_mass(world),
        value=star.value,
        base=point(world, world.reference),
        optimum=point(world, star.log_probs),
        best_of=best_of_points(world),
        steered=steered_points(world),
        frontier=list(frontier(world)),
    )
