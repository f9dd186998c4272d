"""Every preset that comes with nanogrove runs, and is described."""

import abc
import json
import math
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import nanogrove
from nanogrove.config.catalog import QUICKSTART, list_presets, read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.data.sources.hub import SHORTCUTS
from nanogrove.data.sources.text import PythonStandardLibrary
from nanogrove.evaluate.reward import load_reward
from nanogrove.record.events import read_events

SMALL = {
    "train.steps": 2,
    "train.tokens": None,
    "train.epochs": None,
    "train.batch_size": 16,
    "train.accumulation": 1,
    "train.device": "cpu",
    "train.precision": "float32",
    "train.threads": 1,
    "train.compile": False,
    "model.block_size": 32,
    "model.n_layer": 1,
    "model.n_embd": 16,
    "model.n_head": 2,
    "model.n_kv_head": None,
    "evaluate.tokens": 200,
    "sample.every": 1,
    "sample.tokens": 5,
}


SMALL_DATA: dict[str, dict[str, Any]] = {
    "text": {"data.vocab_size": 300},
    "rlm": {"data.v": 16, "data.held_out": 64},
    "rhm": {"data.v": 8, "data.held_out": 64},
    "task": {"data.base": [1, 2], "data.held_out": 5},
    "dialogues": {"data.count": 100, "model.block_size": 104},
    "rewarded": {"model.block_size": 104},
    "preferences": {"model.block_size": 104},
}
SMALL_METHOD: dict[str, dict[str, Any]] = {
    "self_improve": {"method.si_rounds": 0},
    "evolve": {
        "train.steps": None,
        "method.generations": 2,
        "method.steps_per_generation": 1,
        "method.significance": None,  # the short text has too few documents to test a difference on
    },
    "align": {
        "method.rounds": 1,
        "method.steps_per_round": 1,
        "train.steps": 1,
        "method.prompt": 4,
        "method.tokens": 8,
    },
    "offline_rl": {"train.steps": 1, "method.base_steps": 1},
    "policy_gradient": {"train.steps": 1, "method.base_steps": 1},
    "ensemble": {"train.steps": 1, "method.members": 2, "method.distill_steps": 1},
    "evolution_strategies": {"train.steps": 1, "method.generations": 1, "method.population_size": 4},
}


def overrides(data: str = "text", method: str = "pretrain") -> list[str]:
    changes = {**SMALL, **SMALL_DATA[data], **SMALL_METHOD.get(method, {})}
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def at_hand(folder: Path, source: Any) -> None:
    """Makes what a preset reads from elsewhere: a folder of texts, or one laid out like a data set of the hub."""
    if source == "my_text":
        (folder / source).mkdir()
        (folder / source / "a.txt").write_text("a text of one's own, again. " * 300)
    if not isinstance(source, str) or source not in SHORTCUTS:
        return
    options = SHORTCUTS[source]
    columns = options.get("fields", ["text"])
    at = folder / options["dataset"]
    at.mkdir(parents=True)
    rows = [
        {name: f"{name} {n} of {source}, a row that is long enough to be kept" for name in columns} for n in range(300)
    ]
    (at / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"config_name": options.get("config", "default"), "data_files": "rows.jsonl"}
    (at / "README.md").write_text(f"---\nconfigs: {json.dumps([config])}\n---\n")


GAMES = {"Name": "Wii Sports", "Platform": "Wii", "Year": 2006, "Genre": "Sports", "Publisher": "a", "Global_Sales": 82}


@pytest.mark.slow
def test_the_quick_start_reads_the_library_as_a_whole(command: Any, tmp_path: Path) -> None:
    ended = command("train", "quickstart", "--out", tmp_path / "run", *overrides("text", "pretrain"))
    assert (ended.code, ended.err) == (0, "")
    assert read_events(tmp_path / "run" / "events.jsonl")[-1].kind == "end"


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_runs(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    for source in read_preset_file(name)["data"].get("sources", []):
        at_hand(tmp_path, source)
    raw = read_preset_file(name)
    if raw["data"].get("path") == "python-defs":
        whole = PythonStandardLibrary.pieces
        monkeypatch.setattr(PythonStandardLibrary, "pieces", lambda *arguments: islice(whole(*arguments), 60))
    data, method = raw["data"].get("type", "text"), raw.get("method", {}).get("name", "pretrain")
    small = overrides(data, method) + (['data.options={"nodes": 4}'] if name == "self-improve-maze" else [])
    if raw["data"].get("sources") == ["python-stdlib"]:  # which another test reads as a whole
        (tmp_path / "library.txt").write_text(Path(abc.__file__).read_text())
        small.append("data.sources=library.txt")
    if name == "games-csv":  # the files of the data set, as they would be downloaded
        (tmp_path / "vgsales.csv").write_text(
            ",".join(GAMES) + "\n" + (",".join(map(str, GAMES.values())) + "\n") * 300
        )
        small += [f"data.sources={json.dumps([{**raw['data']['sources'][0], 'local': '.'}])}", "data.split=tail"]
    ended = command("train", name, "--out", run, *small)
    assert (ended.code, ended.err) == (0, "")
    kinds = [event.kind for event in read_events(run / "events.jsonl")]
    assert kinds.count("step") == 2
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert (run / "report.html").stat().st_size > 10_000
    stored = json.loads((run / "preset.json").read_text())
    prompt = "1" if data in ("rlm", "rhm", "task") else "a"
    if method == "reward_model":
        assert math.isfinite(load_reward(run)([prompt])[0])
    else:
        assert nanogrove.load(run).generate(prompt, tokens=3).startswith(prompt)
    assert stored["name"] == name
    assert resolve(stored).model_dump(mode="json") == stored, "a resolved preset does not run again"


@pytest.mark.parametrize("name", list_presets())
def test_a_preset_is_described_and_resolves_as_it_is(name: str) -> None:
    raw = read_preset_file(name)
    preset = resolve(raw)
    assert preset.name == name
    assert re.fullmatch(r"[A-Z].{20,150}\.", raw["description"])


def test_presets_are_listed(command: Any) -> None:
    lines = command("presets").out.splitlines()
    assert [line.split("  ", 1)[0] for line in lines] == list(list_presets())
    assert [line.split("  ", 1)[1].strip() for line in lines] == list(list_presets().values()), "a line each"
    assert len({len(line) - len(line.split("  ", 1)[1].lstrip()) for line in lines}) == 1, "aligned"


def test_the_default_is_there() -> None:
    assert QUICKSTART in list_presets()
