"""The arms of a study become candidates: presets that are resolved, pinned and ready to be trained, of one measure.

An arm has one candidate, or one for each trial. What a preset leaves to `auto` is pinned, so that the study has the
same bits whatever trains it: one thread, no compilation, the micro-batches of the run alone, float32 on a CPU.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.data.rng import derived_seed
from nanogrove.data.splits import Split
from nanogrove.errors import NanogroveError, StudyError, nearest
from nanogrove.json_difference import differences, shown
from nanogrove.methods.contract import Trained
from nanogrove.model.gpt import GPT
from nanogrove.record.measures import Measure, measured
from nanogrove.runs.setup import Setup, build
from nanogrove.studies.plan import Plan, PlannedArm
from nanogrove.studies.settings import ArmSettings, StudySettings
from nanogrove.train.precision import pick_device

PROBED_TOKENS = 1  # on which an untrained model is scored, to learn what its method measures


@dataclass(frozen=True)
class Candidate:
    """An arm, or a trial of it, set up.

    Args:
        arm: its name.
        requested: its preset as it was asked for.
        setup: of its pinned preset, whose steps are those of its own budget.
        trial: its number; None where nothing is tuned.
        overrides: what the trial sets.
    """

    arm: str
    requested: Preset
    setup: Setup
    trial: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The candidate in words, for a message."""
        return f"arm {self.arm}" + (f" with {' '.join(self.overrides)}" if self.overrides else "")


def candidates(study: StudySettings, allow_code: bool = False) -> list[Candidate]:
    """All candidates of a study, arm by arm.

    Raises StudyError, naming the arm, for a preset or override that makes no sense, and for two equal arms.
    """
    entries: list[Candidate] = []
    trials = study.trials
    for arm in study.arms:
        for number, overrides in enumerate(trials):
            trial = number if len(trials) > 1 else None
            requested = arm_preset(study, arm, overrides)
            try:
                setup = build(pinned(requested), allow_code=allow_code)
            except NanogroveError as error:
                raise StudyError(f"arm {arm.name}: {error}") from None
            entries.append(Candidate(arm.name, requested, setup, trial, overrides))
    _refuse_equal(entries)
    return entries


def arm_preset(study: StudySettings, arm: ArmSettings, further: Sequence[str] = ()) -> Preset:
    """The preset of an arm. Raises StudyError, naming the arm, for an override that it does not know."""
    source = study.preset if arm.preset is None else arm.preset
    try:
        values: Mapping[str, Any] = read_preset_file(source) if isinstance(source, str) else source
        return resolve(values, [*study.overrides, *arm.overrides, *further])
    except NanogroveError as error:
        raise StudyError(f"arm {arm.name}: {error}") from None


def refuse_other_presets(study: StudySettings, plan: Plan, where: Path) -> None:
    """Raises StudyError where the preset of an arm is not what it was when the study began."""
    known = {(each.arm, tuple(each.overrides)): each.requested for each in plan.arms}
    for arm in study.arms:
        for overrides in study.trials:
            now = arm_preset(study, arm, overrides).model_dump(mode="json")
            stored = known.get((arm.name, overrides), now)
            was = resolve(stored).model_dump(mode="json")  # settings that are new since then have their defaults
            for key, before, after in differences(was, now):
                raise StudyError(
                    f"{where}: arm {arm.name} began with {key} {shown(before)}, and its preset now has {shown(after)}; "
                    "put that back, or choose another --out"
                )


def refuse_other_data(arms: Sequence[PlannedArm], where: Path, allow_code: bool = False) -> None:
    """Raises StudyError where the data of an arm are not what they were when the study began, so that runs of both
    would be compared.
    """
    seen: set[str] = set()
    for arm in arms:
        preset = resolve(arm.preset)
        data = json.dumps(arm.preset["data"])
        if arm.data and data not in seen:
            seen.add(data)
            if fingerprint(build(preset, allow_code=allow_code)) != arm.data:
                raise StudyError(
                    f"{where}: the data of arm {arm.arm} have changed since the study began; put them back, or choose "
                    "another --out"
                )


def fingerprint(setup: Setup) -> str:
    """The digest of the data of a run."""
    return str(setup.corpus.describe()["fingerprint"])


def pinned(preset: Preset) -> Preset:
    """A preset with what its bits depend on pinned, and without samples and trackers."""
    train = preset.train
    pins: dict[str, object] = {}
    if train.threads == "auto":
        pins["threads"] = 1
    if train.compile == "auto":
        pins["compile"] = False
    if train.precision == "auto" and pick_device(train.device).type == "cpu":
        pins["precision"] = "float32"
    quiet = preset.sample.model_copy(update={"tokens": 0})
    untracked = preset.track.model_copy(update={"trackers": []})
    return preset.model_copy(
        update={"train": train.model_copy(update=pins), "sample": quiet, "track": untracked, "description": ""}
    )


def _refuse_equal(entries: Sequence[Candidate]) -> None:
    """Raises StudyError where two arms are trained by the same settings, so that they would be equal bit for bit."""
    seen: dict[tuple[int | None, str], str] = {}
    for each in entries:
        key = each.trial, each.setup.preset.model_dump_json(exclude={"name", "description"})
        if key in seen:
            raise StudyError(f"arms {seen[key]} and {each.arm} have the same settings, so nothing could differ")
        seen[key] = each.arm


def common_measure(study: StudySettings, entries: Sequence[Candidate]) -> tuple[Measure, Split]:
    """What all arms are judged by, and the split that it is measured on.

    Where the arms are tuned, that is on validation, and the comparison is on test. Raises StudyError where they have no
    measure in common, or no split.
    """
    arms = list({each.arm: each for each in reversed(entries)}.values())[::-1]  # one candidate of each
    split = _common_split(arms, tuned=len(study.trials) > 1)
    known = {each.arm: _measures(each, split) for each in arms}
    names = [name for name in known[arms[0].arm] if all(name in measures for measures in known.values())]
    if "loss" in names and len({each.setup.corpus.tokenizer.to_json() for each in arms}) > 1:
        names.remove("loss")  # nats per token of different tokens
    if not names:
        listed = "; ".join(f"{arm} has {', '.join(measures)}" for arm, measures in known.items())
        reason = "" if any(set(a) != set(b) for a in known.values() for b in known.values()) else " of the same tokens"
        raise StudyError(f"the arms have no measure in common{reason}: {listed}; compare arms that learn the same")
    if study.measure is None:
        return known[arms[0].arm][names[0]], split
    if study.measure not in names:
        near = nearest(study.measure, names)
        raise StudyError(
            f"measure {study.measure}: not one that all arms have; {near or 'they have ' + ', '.join(names)}"
        )
    return known[arms[0].arm][study.measure], split


def _common_split(arms: Sequence[Candidate], tuned: bool) -> Split:
    splits: set[Split] = {each.setup.final_split for each in arms}
    if not tuned and len(splits) == 1:
        return splits.pop()
    for each in arms:
        if "test" not in each.setup.corpus.splits:
            why = "trials are judged on validation, so the comparison needs a test split"
            raise StudyError(f"arm {each.arm}: {why if tuned else 'arms need one split'}; set data.test=0.05")
    return "test"


def _measures(candidate: Candidate, split: str) -> dict[str, Measure]:
    """The measures that the method of a candidate gives, of one number each, by name."""
    setup = candidate.setup
    model = GPT(setup.model_on_data).initialize(derived_seed(0, "member", 0)).to(setup.whole_device)
    trained = Trained(model, setup.preset.method, setup.plan.seed, allow_code=setup.plan.allow_code)
    with torch.random.fork_rng(devices=[]):
        figures = setup.method.evaluate(trained, setup.corpus, split, PROBED_TOKENS)
    return {each.name: each for each in measured(figures) if isinstance(figures[each.name], (int, float))}
