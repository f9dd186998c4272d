"""A run that goes on for longer is the longer run from the beginning, or is refused in one line that says why."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.golden.make import preset_of, write_data

from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError
from nanogrove.record.events import Event, read_events
from nanogrove.record.folder import RunFolder
from nanogrove.record.lineage import genealogy
from nanogrove.record.reading import read_run
from nanogrove.reports.report import write_report
from nanogrove.runs.longer import minutes_in_steps
from nanogrove.runs.train import train

STEPS = 12  # of a run, which goes on to twice as many
SLOW = (
    "cosine to a step, by tokens",
    "offline_rl, awr",
    "reward_model",
    "pretrain, mixing",
    "longer generations",
    "difficulties",
)


def cases(names: Iterable[str]) -> list[Any]:
    """The names of cases, of which some are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


def trained(values: Any, out: Path, *overrides: str, until: str | int | None = None, **options: Any) -> list[Event]:
    """Trains, or goes on, to the end, or until the first event of a kind, or a step, as if killed there."""
    events = []
    for event in train(resolve(values, overrides), out, resume=True, report=False, **options):
        events.append(event)
        if until in (event.kind, event.step if event.kind == "step" else None) and until is not None:
            break
    return events


def stored(run: Path) -> Any:
    return json.loads((run / "preset.json").read_text("utf-8"))


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run folder but its lock."""
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}


def bits(run: Path) -> dict[str, Any]:
    """The weights, moments and kept tensors of the newest state, and the loss and rate of each step."""
    tensors = {path.name: path.read_bytes() for path in (run / "checkpoints/current").glob("*.safetensors")}
    steps = [event.values for event in read_events(run / "events.jsonl") if event.kind == "step"]
    return {**tensors, "steps": steps}


def history(run: Path) -> list[tuple[str, int, Any]]:
    """The record less its clock, and less what says how the run was begun."""
    events = read_events(run / "events.jsonl")
    return [(event.kind, event.step, event.values) for event in events if event.kind not in ("start", "resume")]


@pytest.fixture(scope="module")
def make(tiny: Any) -> Callable[..., Any]:
    """Makes a preset whose evaluations and saves a longer run has too."""

    def preset(**sections: Any) -> Any:
        plain = {"train": {"steps": STEPS}, "evaluate": {"every": 4}, "sample": {"tokens": 0}, "save": {"every": 4}}
        plain["model"] = {"n_layer": 1}
        return tiny(**{**plain, **sections})

    return preset


CASES: dict[str, tuple[dict[str, Any], int | None]] = {
    "constant": ({"schedule": {"name": "constant"}}, None),
    "wsd before its decay": ({"schedule": {"name": "wsd", "warmup": 3, "decay": 0.3}}, 8),
    "cosine to a step, by tokens": (
        {"schedule": {"name": "cosine", "steps": 10}, "train": {"steps": None, "tokens": 16 * 4 * STEPS}},
        None,
    ),
}


@pytest.mark.parametrize("case", cases(CASES))
def test_a_longer_run_is_the_run_from_the_beginning(make: Any, tmp_path: Path, case: str) -> None:
    sections, until = CASES[case]
    preset, longer = make(**sections), f"train.steps={2 * STEPS}"
    trained(preset, tmp_path / "run", until=until)
    trained(preset, tmp_path / "whole", longer)
    notes = [e.values["text"] for e in trained(stored(tmp_path / "run"), tmp_path / "run", longer) if e.kind == "note"]
    assert notes[0].startswith("goes on from step ")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    assert stored(tmp_path / "run") == {**stored(tmp_path / "whole"), "description": preset.get("description", "")}
    if case == "constant":
        assert history(tmp_path / "run") == history(tmp_path / "whole")
        (resumed,) = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e.kind == "resume"]
        assert resumed.step == STEPS
        assert resumed.values["changed"] == {"train.steps": [STEPS, 2 * STEPS]}
        assert resumed.values["steps"] == 2 * STEPS


@pytest.fixture(scope="module")
def finished(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run under a cosine; not to be changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    trained(make(schedule={"warmup": 2, "decay": 0.5}), run)
    return run


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.steps=24"], r"train\.steps=24 the learning rate of step 3 would have been .*add --schedule extend"),
        (["train.steps=12", "optimizer.lr=0.5"], "the run is finished, and other settings alone change nothing"),
        (["train.steps=8"], "with train.steps=8 the run has 8 steps, and it has taken 12; give more"),
        (["train.minutes=0.000001"], r"with train\.minutes=1e-06 the run has 1 steps, and it has taken 12"),
        (["train.steps=24", "train.clip=null"], "a resumed run keeps its preset, and train.clip is 1.0 there and null"),
        (["train.steps=24", "schedule.name=constant"], "keeps its preset, and schedule.name is"),
        (["method=evolve"], "keeps its preset, and "),
    ],
)
def test_what_is_refused(finished: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = contents(run)
    with pytest.raises(NanogroveError, match=message) as error:
        trained(stored(run), run, *overrides)
    assert "\n" not in str(error.value)
    assert contents(run) == before


def test_an_extended_schedule_keeps_the_past_and_is_resumed_exactly(finished: Path, tmp_path: Path) -> None:
    """Killed before the first step, in the middle, and once more after another extension of an unfinished run."""
    runs = whole, killed = [shutil.copytree(finished, tmp_path / name) for name in ("whole", "killed")]
    for run in runs:
        trained(stored(run), run, "train.steps=24", extend=True, until="resume" if run == killed else 18)
    trained(stored(killed), killed, until=15)
    assert stored(whole)["schedule"]["joints"] == [[12, 12]]
    for run in runs:
        trained(stored(run), run, until=22)
    for run in runs:
        trained(stored(run), run, "train.steps=40", extend=True, until=25 if run == killed else None)
    trained(stored(killed), killed)
    assert stored(whole)["schedule"]["joints"] == [[12, 12], [20, 24]]
    assert bits(killed) == bits(whole)
    assert history(killed) == history(whole)
    rates = [step["lr"] / 0.001 for step in bits(whole)["steps"]]
    assert rates[:12] == [step["lr"] / 0.001 for step in bits(finished)["steps"]]
    assert rates[12:16] == pytest.approx([0.55, 1, 1, 1])  # a warmup of two steps from the last rate
    assert rates[22:29] == pytest.approx([1.0] * 7)
    assert rates[39] == pytest.approx(0.1)


def test_other_settings_change_from_where_the_run_stands(make: Any, tmp_path: Path) -> None:
    preset, run = make(schedule={"name": "constant"}), tmp_path / "run"
    trained(preset, run, until=9)
    changes = ["evaluate.every=3", "save.every=5", "sample.tokens=4", "sample.every=7", "optimizer.lr=0.01"]
    trained(stored(run), run, *changes, until="resume")  # killed before anything is saved
    events = trained(stored(run), run)
    assert [e.step for e in events if e.kind == "eval"] == [9, 12]
    assert next((e.step, e.values["lr"]) for e in events if e.kind == "step") == (9, 0.01)
    (resumed,) = [e for e in read_events(run / "events.jsonl") if e.kind == "resume"]
    assert resumed.step == 8
    assert resumed.values["changed"]["optimizer.lr"] == [0.001, 0.01]
    assert len(resumed.values["changed"]) == len(changes)
    assert stored(run)["sample"]["tokens"] == 4


METHODS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "evolve": ({"method": {"generations": 2}}, ["method.generations=4"]),
    "evolution_strategies": ({"method": {"generations": 2}}, ["method.generations=5"]),
    "align": ({"method": {"rounds": 1}}, ["method.rounds=2"]),
    "offline_rl, awr": ({}, ["train.steps=9"]),
    "policy_gradient, grpo": ({}, ["train.steps=9"]),
    "reward_model": ({}, ["train.tokens=1200"]),
    "self_improve": ({"method": {"si_rounds": 1}}, ["method.si_rounds=2"]),
    "pretrain, mixing": ({}, ["train.steps=12"]),
}


@pytest.mark.parametrize("case", cases(METHODS))
def test_every_method_goes_on_after_its_end_in_a_folder_that_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    sections, longer = METHODS[case]
    preset = {**preset_of(case), "schedule": {"name": "cosine" if "rounds" in longer[0] else "constant"}}
    shorter = {**preset, **{name: {**preset[name], **values} for name, values in sections.items()}}
    (tmp_path / "a").mkdir()
    write_data(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "a")
    trained(preset, Path("whole"), *longer)
    trained(shorter, Path("run"))
    monkeypatch.chdir(tmp_path)
    Path("a/run").rename("moved")
    trained(stored(Path("moved")), Path("moved"), *longer, until="resume")
    trained(stored(Path("moved")), Path("moved"))
    assert bits(Path("moved")) == bits(Path("a/whole"))
    lines = [genealogy(read_run(run).of("generation")) for run in (Path("moved"), Path("a/whole"))]
    assert lines[0] == lines[1]
    if case == "evolve":
        assert write_report(Path("moved")).exists()


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "curriculum": (
        "pretrain, curriculum",
        {},
        "train.steps=12",
        "method.curriculum follows from the budget, and by it",
    ),
    "longer generations": ("evolve", {}, "method.steps_per_generation=3", "method.steps_per_generation follows from"),
    "a longer base": (
        "align",
        {},
        "train.steps=9",
        "step 5 would have been one of the base, and was one of the round 1",
    ),
    "difficulties": ("self_improve", {"to": None}, "method.si_rounds=5", "method.to follows from the budget"),
    "an end": ("align", {"kl_cap": 1e-9}, "method.rounds=4", "cannot go on for longer, it ended by itself: KL"),
}


@pytest.mark.parametrize("case", cases(REFUSED))
def test_a_method_whose_past_is_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    name, method, longer, message = REFUSED[case]
    preset = {**preset_of(name), "schedule": {"name": "constant"}}
    preset["method"] = {**preset["method"], **method}
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    trained(preset, Path("run"))
    before = contents(Path("run"))
    with pytest.raises(NanogroveError, match=message) as error:
        trained(stored(Path("run")), Path("run"), longer, extend=True)
    assert "\n" not in str(error.value)
    assert contents(Path("run")) == before


@pytest.mark.slow
def test_patience_ends_a_run_and_is_resumed_exactly(make: Any, tmp_path: Path) -> None:
    preset = make(
        train={"steps": 24, "divergence": 1e6},
        evaluate={"every": 2, "patience": 3},
        optimizer={"lr": 1e-30},  # so that no evaluation is better than the first
        schedule={"name": "constant"},
    )
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    end = trained(preset, whole)[-1]
    assert end.kind == "end"
    assert end.step < 24
    assert end.values["ended"].startswith("3 evaluations brought no better score than that of step ")
    trained(preset, killed, until=end.step - 3)
    trained(preset, killed, until=end.step)
    assert trained(preset, killed)[-1].values == end.values
    assert bits(killed) == bits(whole)
    assert history(killed) == history(whole)
    for override in ("train.steps=48", "evaluate.patience=2"):
        with pytest.raises(NanogroveError, match=r"set evaluate\.patience=4 or more too, or null"):
            trained(stored(whole), whole, override)
    assert trained(stored(whole), whole, "evaluate.patience=null")[-1].step == 24


def test_minutes_are_those_of_training_in_all(make: Any) -> None:
    asked, saved = resolve(make(train={"steps": None, "minutes": 1})), {"step": 10, "seconds": 5.0}
    assert minutes_in_steps(asked, saved).train.steps == 120
    chain = {"name": "ensemble", "members": 3, "chain": True, "distill_steps": 30}
    asked = resolve(make(method=chain, train={"steps": None, "minutes": 1}))
    assert minutes_in_steps(asked, saved).train.steps == 30  # of each member


def test_the_command_says_what_goes_on(command: Any, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    assert "--schedule extend goes on" in command("train", run, "train.steps=24", "--schedule", "extend").error()
    assert "; add --schedule extend, " in command("train", run, "--resume", "train.steps=24").error()
    other = command("train", run, "--resume", "train.steps=24", "--schedule", "cosine").error()
    assert "takes extend alone; the schedule of a new run is a setting, such as schedule.name=cosine" in other
    extended = command("train", run, "--resume", "train.steps=24", "--schedule", "extend")
    assert extended.code == 0
    assert (
        "note: goes on from step 12 with train.steps 24, before 12; schedule.joints [[12, 12]], before []"
        in extended.out
    )
    assert "the run is finished, all of its 24 steps" in command("train", run, "--resume").out
    (line,) = [line for line in command("runs", tmp_path).out.splitlines() if "24 of 24" in line]
    assert "finished" in line


@pytest.mark.parametrize("write", ["write_preset", "append"])
def test_a_kill_between_two_writes_leaves_a_run_that_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Before preset.json is written the run is the shorter one, whose end is cut off; after it, the longer one."""
    whole, killed = [shutil.copytree(finished, tmp_path / name) for name in ("whole", "killed")]
    trained(stored(whole), whole, "train.steps=24", extend=True)

    def kill(*given: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, write, kill)
        with pytest.raises(InterruptedError):
            trained(stored(killed), killed, "train.steps=24", extend=True)
    end = trained(stored(killed), killed)[-1]
    assert (end.kind, end.step) == ("end", 12 if write == "write_preset" else 24)
    if write == "write_preset":
        assert bits(killed) == bits(finished)
        trained(stored(killed), killed, "train.steps=24", extend=True)
    assert bits(killed) == bits(whole)
    assert history(killed) == history(whole)


@pytest.mark.slow
def test_a_kill_at_every_change_of_the_file_system_until_it_is_saved(
    forked: Any, finished: Path, tmp_path: Path
) -> None:
    command = ["--resume", "train.steps=24", "--schedule", "extend"]
    whole = shutil.copytree(finished, tmp_path / "whole")
    assert forked("train", whole, *command, count=str(tmp_path / "changes")).code == 0
    changes = (tmp_path / "changes").read_text().splitlines()
    saved = next(n for n, change in enumerate(changes) if "mkdir" in change)  # of the first checkpoint
    for at in range(1, saved + 2):
        run = shutil.copytree(finished, tmp_path / f"kill-{at}")
        forked("train", run, *command, mishap={"at": at, "kind": "kill"})
        assert forked("train", run, "--resume").code == 0, at
        if stored(run)["train"]["steps"] == 12:
            assert bits(run) == bits(finished), at
            assert forked("train", run, *command).code == 0, at
        assert bits(run) == bits(whole), at
        assert history(run) == history(whole), at
        shutil.rmtree(run)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "longer"), [("pretrain", "train.steps=16"), ("evolve", "method.generations=6")])
def test_ranks_go_on_for_longer_together(tmp_path: Path, case: str, longer: str) -> None:
    write_data(tmp_path)
    preset = {**preset_of(case), "schedule": {"name": "constant"}}
    preset["evaluate"] |= {"patience": 100}
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
    command = [*torchrun, "--nproc_per_node=2", "-m", "nanogrove", "train"]
    for arguments in (["--out", "whole", longer], ["--out", "run"], ["--out", "run", "--resume", longer]):
        ended = subprocess.run(
            [*command, "preset.json", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_the_commands_of_the_guide_end_with_equal_files(command: Any, make: Any, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/guide/runs.md").read_text("utf-8")
    block = guide.partition("the two files are equal:\n")[2].partition("\nWhere")[0]
    *trains, compare = [line.split() for line in block.splitlines() if line.strip()]
    (tmp_path / "tiny.json").write_text(json.dumps(make(evaluate={"every": 60}, save={"every": 60})))
    places = {"quickstart": str(tmp_path / "tiny.json")}
    for words in trains:
        arguments = [places.get(word, word.replace("runs/", f"{tmp_path}/")) for word in words[1:]]
        assert command(*arguments).code == 0
    first, second = (Path(word.replace("runs/", f"{tmp_path}/")).read_bytes() for word in compare[1:])
    assert first == second
