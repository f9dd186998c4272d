"""Runs of every method, killed at random moments from outside and resumed, end bit for bit as if left alone.

    pytest -m slow -s tests/runs/test_kills.py      prints each moment: 105 kills, some minutes on two cores

A chain of kills strikes one run folder, each life of a random length, until the run ends; then another chain begins.
"""

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.golden.make import preset_of, write_data

METHODS = {
    "pretrain": {"train": {"steps": 24}},
    "evolve": {},
    "ensemble": {},
    "ensemble, chain": {},
    "evolution_strategies": {},
    "self_improve": {},
    "align": {},
    "offline_rl, awr": {"train": {"steps": 12}},
    "policy_gradient, grpo": {"train": {"steps": 12}},
    "reward_model": {"train": {"steps": 16}},
}
KILLS = 15  # of each method


def left(run: Path) -> dict[str, Any]:
    """The record less its clock, the rows that the run made, and the tensors of the newest and the best state."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    files = [
        *run.glob("checkpoints/current/*.safetensors"),
        *run.glob("checkpoints/best/*"),
        *run.glob("checkpoints/student/*"),
        *run.glob("data/*"),
    ]
    contents = {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "state.json"}
    return {"record": [{key: value for key, value in line.items() if key != "time"} for line in lines], **contents}


def moment(run: Path) -> str:
    """Where a kill found the run: the last event of its record, and what it was writing."""
    record = run / "events.jsonl"
    lines = record.read_bytes().split(b"\n") if record.exists() else [b""]
    event = json.loads(lines[-2]) if len(lines) > 1 else {"kind": "nothing", "step": 0}
    writing = sorted(str(path.relative_to(run)) for path in run.rglob(".*") if path.name != ".lock")
    writing += ["events.jsonl, torn"] if lines[-1] else []
    return f"after `{event['kind']}` of step {event['step']}" + (f", writing {', '.join(writing)}" if writing else "")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kills_at_random_moments(forked: Any, tmp_path: Path, method: str) -> None:
    write_data(tmp_path)
    preset, rng, run = preset_of(method), random.Random(method), tmp_path / "run"
    preset = {**preset, "save": {"every": 2}, "model": {**preset["model"], "dropout": 0.1}}
    for section, values in METHODS[method].items():
        preset[section] = {**preset[section], **values}
    path, where = tmp_path / "preset.json", {"cwd": str(tmp_path)}
    path.write_text(json.dumps(preset))
    assert forked("train", path, "--out", tmp_path / "first", **where).code == 0  # prepares the text, too
    undisturbed = forked("train", path, "--out", tmp_path / "whole", **where)
    assert undisturbed.code == 0
    whole, kills, chains = left(tmp_path / "whole"), 0, 0
    assert whole == left(tmp_path / "first")
    while kills < KILLS or run.exists():
        seconds = rng.uniform(0, undisturbed.cpu)
        later = {"kill_after": seconds} if kills < KILLS else {}
        ended = forked("train", path, "--out", run, "--resume", **where, **later)
        if ended.code == -signal.SIGKILL:
            kills += 1
            print(f"{method:22} kill {kills:2} at {seconds:5.2f} s, {moment(run) if run.exists() else 'no folder'}")
            continue
        assert (ended.code, ended.err) == (0, "")
        assert left(run) == whole
        chains += 1
        shutil.rmtree(run)
    end = f"each ended with the bits of the one left alone, which took {undisturbed.cpu:.2f} s"
    print(f"{method:22} {kills} kills of {chains} runs, seconds on a CPU: {end}")
