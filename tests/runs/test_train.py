"""A preset becomes a run: record, checkpoints, report, the model that comes back; from Python and the shell."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import nanogrove
from nanogrove.cli import main as cli
from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError
from nanogrove.record.events import read_events
from nanogrove.runs import circumstances
from nanogrove.runs.checkpointer import Checkpointer
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.autotune import instructions
from nanogrove.train.checkpoint import load_checkpoint


@pytest.fixture
def preset(tmp_path: Path) -> dict:
    text = tmp_path / "verse.txt"
    text.write_text("".join(f"{n} and {n + 1} are {2 * n + 1}, as anyone can see.\n" for n in range(700)))
    return {
        "name": "verse",
        "data": {"sources": [str(text)], "tokenizer": "char"},
        "model": {"family": "llama", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32},
        "train": {"steps": 40, "batch_size": 8, "precision": "float32", "threads": 1, "device": "cpu"},
        "optimizer": {"lr": 0.01},
        "evaluate": {"every": 10, "tokens": 500},
        "sample": {"every": 20, "prompts": ["1 and"], "tokens": 12},
        "save": {"every": 10, "snapshots": True},
    }


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["nanogrove", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def without_time(path: Path) -> list[dict]:
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in path.read_text().splitlines()]


def test_a_run_leaves_what_the_design_says(preset: dict, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    nanogrove.run(preset, out)
    assert {p.name for p in out.iterdir()} >= {"preset.json", "events.jsonl", "checkpoints", "report.html"}
    names = {p.name for p in (out / "checkpoints").iterdir()}
    assert names == {"current", "prev", "prev2", "best", *(f"step-{n}" for n in (1, 2, 4, 8, 16, 32))}
    assert [load_checkpoint(out / "checkpoints" / n).state["step"] for n in ("current", "prev", "prev2")] == [
        40,
        30,
        20,
    ]
    events = read_events(out / "events.jsonl")
    kinds = [event.kind for event in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert (kinds.count("step"), kinds.count("eval"), kinds.count("sample")) == (40, 4, 2)
    losses = [event.values["loss"] for event in events if event.kind == "eval"]
    assert losses[-1] < losses[0] - 0.5
    best = min((e for e in events if e.kind == "eval"), key=lambda e: e.values["loss"])
    assert events[-1].values["best_step"] == best.step == load_checkpoint(out / "checkpoints" / "best").state["step"]


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_ends_the_script_too(sent: int, raised: type, preset: dict, tmp_path: Path, monkeypatch) -> None:
    out, save = tmp_path / "a", Checkpointer.save

    def interrupted(self: Checkpointer, name: str, member: int = 0) -> None:
        save(self, name, member)
        monkeypatch.undo()
        signal.raise_signal(sent)

    monkeypatch.setattr(Checkpointer, "save", interrupted)
    with pytest.raises(raised, match="stopped at step 1 and saved; resume=True goes on"):
        nanogrove.run(preset, out)
    nanogrove.run(preset, out, resume=True)
    assert read_events(out / "events.jsonl")[-1].step == 40


def test_two_runs_of_one_preset_differ_in_time_alone(preset: dict, tmp_path: Path) -> None:
    preset["model"]["dropout"] = 0.2
    for name in ("a", "b"):
        nanogrove.run(preset, tmp_path / name)
    assert without_time(tmp_path / "a" / "events.jsonl") == without_time(tmp_path / "b" / "events.jsonl")
    nanogrove.run(preset, tmp_path / "c", overrides={"seed": 1})
    assert without_time(tmp_path / "a" / "events.jsonl") != without_time(tmp_path / "c" / "events.jsonl")


def test_the_resolved_preset_runs_again_to_the_same_end(preset: dict, tmp_path: Path) -> None:
    nanogrove.run(preset, tmp_path / "a")
    nanogrove.run(str(tmp_path / "a" / "preset.json"), tmp_path / "b")
    assert without_time(tmp_path / "a" / "events.jsonl") == without_time(tmp_path / "b" / "events.jsonl")


def test_a_loaded_model_writes_from_one_prompt_or_many(preset: dict, tmp_path: Path) -> None:
    nanogrove.run(preset, tmp_path / "a")
    lm = nanogrove.load(tmp_path / "a")
    text = lm.generate("1 and", tokens=10, temperature=0.8)
    assert text.startswith("1 and")
    assert len(text) <= 15
    assert lm.generate("1 and", tokens=10, seed=3) == lm.generate("1 and", tokens=10, seed=3)
    prompts = ["1 and", "2", ""]
    together = lm.generate(prompts, tokens=10, temperature=0)
    assert together == [lm.generate(prompt, tokens=10, temperature=0) for prompt in prompts]
    assert lm.generate([], tokens=5) == []
    assert lm.generate("1 and", tokens=0) == "1 and"
    with pytest.raises(NanogroveError, match="temperature"):
        lm.generate("1", temperature=-1)
    with pytest.raises(NanogroveError, match="'é' at position 0"):
        lm.generate("é")


def test_evaluate_scores_the_whole_split(preset: dict, tmp_path: Path) -> None:
    nanogrove.run(preset, tmp_path / "a")
    end = read_events(tmp_path / "a" / "events.jsonl")[-1].values
    score = nanogrove.score(tmp_path / "a")
    assert score["loss"] == pytest.approx(end["loss"], abs=1e-6)
    assert score["bits_per_byte"] == pytest.approx(score["loss"] / torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    assert score["tokens"] == end["scored"] > 500
    assert nanogrove.score(tmp_path / "a", "test")["split"] == "test"


def test_it_goes_to_transformers_and_back(preset: dict, tmp_path: Path) -> None:
    nanogrove.run(preset, tmp_path / "a")
    assert nanogrove.to_transformers(tmp_path / "a", tmp_path / "hf") == "llama"
    ours, back = nanogrove.load(tmp_path / "a"), nanogrove.from_transformers(tmp_path / "hf")
    assert all(torch.equal(p, q) for p, q in zip(ours.model.parameters(), back.model.parameters(), strict=True))
    texts = (lm.generate("1 and", temperature=0, precision="float32") for lm in (ours, back))
    assert next(texts) == next(texts)


def test_the_budget_in_tokens_and_epochs(preset: dict) -> None:
    def steps(**budget: float) -> int:
        return build(resolve({**preset, "train": {**preset["train"], "steps": None, **budget}})).plan.steps

    assert steps(tokens=8 * 32 * 10) == 10
    assert steps(tokens=8 * 32 * 10 + 1) == 11
    parts = build(resolve({**preset, "train": {**preset["train"], "steps": None, "epochs": 2}}))
    assert parts.plan.steps == round(2 * parts.corpus.windows_per_epoch / 8)


def test_the_verbs(preset: dict, tmp_path: Path, monkeypatch, capsys) -> None:
    path, out = tmp_path / "verse.json", str(tmp_path / "a")
    path.write_text(json.dumps(preset))
    assert run(["train", str(path), "train.steps=12", "--dry-run"], monkeypatch) == 0
    output = capsys.readouterr().out
    for word in ("parameters", "tokens", "memory", "FLOPs"):
        assert word in output
    assert not Path(out).exists()
    assert run(["train", str(path), "train.steps=12", "--out", out], monkeypatch) == 0
    output = capsys.readouterr().out
    assert "A sample" in output
    assert "bits per byte" in output
    assert f"{out}/report.html" in output
    assert run(["generate", out, "1 and", "2 and", "--tokens", "5"], monkeypatch) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert run(["evaluate", out, "--split", "test"], monkeypatch) == 0
    assert "test loss" in capsys.readouterr().out
    Path(out, "report.html").unlink()
    assert run(["report", out], monkeypatch) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert run(["presets"], monkeypatch) == 0
    assert "quickstart" in capsys.readouterr().out
    assert run([], monkeypatch) == 0
    assert "Usage" in capsys.readouterr().out  # no terminal: help


def test_what_a_model_writes_cannot_steer_a_terminal(capsys) -> None:
    from rich.console import Console

    from nanogrove.cli.render import show
    from nanogrove.record.events import Event

    hostile = "\x1b[2J\x1b]0;owned\x07 [red]not markup[/] \r over"
    events = [Event("sample", 0, {"prompt": "", "text": hostile}), Event("note", 0, {"text": hostile})]
    show(events, Console(force_terminal=False), Path("x"))
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "\r" not in output
    assert "[red]not markup[/]" in output


def cut(preset: dict, out: Path, step: int) -> None:
    """Trains a preset until it goes on from a step, as if it were killed there."""
    for event in train(resolve(preset), out, resume=out.exists()):
        if event.kind == "step" and event.step == step:
            return


@pytest.mark.parametrize(
    ("name", "place", "now"),
    [
        ("instructions", "instructions", "AVX2"),
        pytest.param("processor", "device_name", "another processor", marks=pytest.mark.slow),
        pytest.param("torch", "torch.__version__", "2.99.0", marks=pytest.mark.slow),
        pytest.param("threads", "torch.get_num_threads", 3, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_goes_on_elsewhere_says_so_once(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, now: object
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "cut"
    cut(preset, whole, 41)
    cut(preset, out, 14)
    with monkeypatch.context() as patch:
        patch.setattr(f"nanogrove.runs.circumstances.{place}", now if name == "torch" else lambda *_: now)
        events = []
        for event in train(resolve(preset), out, resume=True):
            events.append(event)
            if event.kind == "step" and event.step == 24:
                break
        note = next(event for event in events if event.kind == "note")
        assert f"resumed with {name} {now}, before " in note.values["text"]
        assert "it may round otherwise than an uninterrupted run" in note.values["text"]
        assert [event.kind for event in resumed_events(preset, out)][:1] != ["note"], "it is said of each change once"
    record = [event for event in without_time(out / "events.jsonl") if event["kind"] != "resume"]
    changes = [event for event in without_time(out / "events.jsonl") if event["kind"] == "resume"]
    assert record == without_time(whole / "events.jsonl")
    (change,) = changes
    assert change["step"] == 10
    assert list(change["changed"]) == [name]
    assert change["changed"][name][1] == now


def resumed_events(preset: dict, out: Path) -> list:
    """All events of a resume to the end."""
    return list(train(resolve(preset), out, resume=True))


def test_what_a_run_goes_on_is_compared_with_what_it_last_went_on(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(preset, tmp_path / "run", 14)
    with monkeypatch.context() as patch:
        patch.setattr("nanogrove.runs.circumstances.instructions", lambda: "AVX2")
        cut(preset, tmp_path / "run", 24)
    resumed_events(preset, tmp_path / "run")
    here = instructions()
    events = read_events(tmp_path / "run" / "events.jsonl")
    changes = [event.values["changed"] for event in events if event.kind == "resume"]
    assert changes == [{"instructions": [here, "AVX2"]}, {"instructions": ["AVX2", here]}]


def test_ranks_count_among_what_changes() -> None:
    old = {"versions": {"torch": "1"}, "machine": {"threads": 1}}
    machine = {"threads": 1, "processor": "x", "instructions": "y"}
    assert circumstances.changes(old, {"ranks": 2, "versions": {"torch": "1"}, "machine": machine}) == {"ranks": [1, 2]}


@pytest.mark.slow
def test_two_thousand_steps_take_no_more_memory_than_four_hundred(tiny: Any, tmp_path: Path) -> None:
    small = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8}
    preset = tiny(model=small, train={"steps": 2000, "batch_size": 2}, evaluate={"every": 200}, save={"every": 100})
    process, resident, files = psutil.Process(), list[int](), list[int]()
    for event in train(resolve(preset), tmp_path / "run"):
        if event.kind == "step" and event.step % 400 == 0:
            resident.append(process.memory_info().rss)
            files.append(process.num_fds())
    assert resident[-1] - resident[0] < 2_000_000
    assert len(set(files)) == 1
