"""Self-alignment: what is trained on, exact resume, the cap, rewards by name, what is refused."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.errors import CheckpointError, PresetError, RunError
from nanogrove.evaluate import samples
from nanogrove.evaluate.reward import RewardConfig, load_reward
from nanogrove.methods import align
from nanogrove.record.events import Event, read_events
from nanogrove.runs.score import evaluate
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import load_latest


@pytest.fixture
def preset(tiny: Any) -> dict[str, Any]:
    return tiny(
        method={
            "name": "align",
            "reward": {"terms": {"moon": 1.0}},
            "rounds": 2,
            "steps_per_round": 4,
            "texts": 24,
            "prompt": 3,
            "tokens": 10,
            "kl_cap": None,
        },
        train={"steps": 6},
        evaluate={"every": 5, "tokens": 200},
        save={"every": 3},
        sample={"tokens": 0},
    )


def run(preset: dict[str, Any], out: Path, *overrides: str) -> list[Event]:
    for _ in train(resolve(preset, overrides), out):
        pass
    return read_events(out / "events.jsonl")


def test_the_best_texts_are_kept_and_only_what_the_model_wrote_is_scored(preset: dict, tmp_path: Path) -> None:
    preset["method"] |= {"reward": {"length": 4}, "replay": 0.5}
    events = run(preset, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/data/round-1.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(row["reward"] == -abs(len(row["text"]) - 4) for row in rows)
    parts = build(resolve(preset))
    batch = align.Mixed(parts.corpus, rows, 0.5, 0, 0).batch(7)
    assert batch.extra["kept"].tolist() == [False, False, True, True]
    texts = {row["text"]: row["ended"] for row in rows}
    assert len(texts) == len(rows)
    for place in (2, 3):
        counted = batch.targets[place][batch.mask[place]].tolist()
        ended = counted[-1] == parts.corpus.tokenizer.end
        assert texts[parts.corpus.tokenizer.decode(counted[:-1] if ended else counted)] == ended
    assert torch.equal(batch.tokens[:2], parts.corpus.batch(7).tokens[:2])
    told = [event.values for event in events if event.kind == "reward"]
    assert [values["round"] for values in told] == [0, 1, 2]
    shown = [[text["prompt"] for text in values["texts"]] for values in told]
    assert shown[0] == shown[1] == shown[2], "the same prompts, so that texts stand side by side"
    best = next(event for event in events if event.kind == "end").values["best_step"]
    assert best in (10, 14), "the base is no candidate"


def test_an_end_mark_is_scored_only_where_the_model_wrote_it(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kept text against the tokens that were drawn, also by a resumed run whose rows do not say what ended."""
    drawn: list[list[int]] = []
    generate = samples.generate

    def watched(*given: Any, **settings: Any) -> torch.Tensor:
        new = generate(*given, **settings)
        drawn.extend(new.tolist())
        return new

    monkeypatch.setattr(samples, "generate", watched)
    preset["method"] |= {"keep": 1.0, "replay": 0.0, "rounds": 1, "steps_per_round": 8}
    for _ in train(resolve(preset), tmp_path / "run"):
        pass
    corpus = build(resolve(preset)).corpus
    end, decode = corpus.tokenizer.end, corpus.tokenizer.decode
    texts = {decode([t for t in row if t not in (-1, end)]): end in row for row in drawn}
    rows = [json.loads(line) for line in (tmp_path / "run/data/round-1.jsonl").read_text().splitlines()]
    assert {row["ended"] for row in rows} == {True, False}
    assert all(row["ended"] == texts[row["text"]] for row in rows)
    mixed = align.Mixed(corpus, rows, 0.0, 0, 0)
    for row, tokens, mask in zip(rows, mixed.tokens, mixed.mask, strict=True):
        ids = [*corpus.tokenizer.encode(row["text"]), *([end] if row["ended"] else [])]
        assert tokens[1:][mask].tolist() == ids

    steps = train(resolve(preset), tmp_path / "stopped")
    while next(steps).step < 10:  # what was saved is step 9, within the round
        pass
    steps.close()
    stored = tmp_path / "stopped/data/round-1.jsonl"
    old = [{name: value for name, value in row.items() if name != "ended"} for row in rows]
    stored.write_text("".join(json.dumps(row) + "\n" for row in old))
    for _ in train(resolve(preset), tmp_path / "stopped", resume=True):
        pass
    ends = [load_latest(tmp_path / name / "checkpoints")[0] for name in ("run", "stopped")]
    assert all(checkpoint is not None and checkpoint.state["step"] == 14 for checkpoint in ends)
    for name, tensor in ends[0].model.items():
        assert torch.equal(tensor, ends[1].model[name]), name


@pytest.mark.parametrize(
    ("row", "message"),
    [({"prompt": 3}, "line 1: prompt must be text, and 3 was given"), ({"text": "\u2603"}, "line 1: ")],
)
def test_kept_texts_that_are_damaged_are_refused(
    preset: dict, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    steps = train(resolve(preset), tmp_path)
    while next(steps).step < 10:  # what was saved is step 9, within the round
        pass
    steps.close()
    stored = tmp_path / "data/round-1.jsonl"
    first, *others = stored.read_text().splitlines()
    stored.write_text("\n".join([json.dumps(json.loads(first) | row), *others, ""]))
    with pytest.raises(RunError, match=f"{re.escape(str(stored))}: is damaged, {message}"):
        list(train(resolve(preset), tmp_path, resume=True))


def test_a_kill_behind_any_step_and_a_resume_end_alike(preset: dict, tmp_path: Path, resumes_exactly: Any) -> None:
    stops = [("step", n) for n in range(1, 14)] + [("data", 2), ("reward", 2), ("phase", 2)]
    record = resumes_exactly(preset, tmp_path, stops)
    phases = [(line["step"], line["name"], line["held_out"]) for line in record if line["kind"] == "phase"]
    assert phases == [(0, "base", "loss"), (6, "rounds", "loss")]
    rewards = [line for line in record if line["kind"] == "reward"]
    rounds = [line for line in record if line["kind"] == "eval" and "kl" in line]
    assert [line["step"] for line in rounds] == [10, 14]
    for line, reward in zip(rounds, rewards[1:], strict=True):
        assert (line["reward"], line["reward_error"]) == (reward["mean"], reward["error"])
        assert (line["reward_before"], line["reward_before_error"]) == (rewards[0]["mean"], rewards[0]["error"])
    end, again = record[-1], evaluate(tmp_path / "whole", "test")
    for name in ("reward", "reward_error", "reward_before", "reward_before_error"):
        assert again[name] == end[name], name
    assert 0 < end["kl"] == pytest.approx(again["kl"])


def test_a_reward_that_is_code_is_not_run_to_score_a_run(
    preset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "length_of_mine.py").write_text("def reward(texts):\n    return [float(len(text)) for text in texts]\n")
    monkeypatch.chdir(tmp_path)
    preset["method"] |= {"reward": {"function": "length_of_mine:reward"}, "rounds": 1, "steps_per_round": 1}
    for _ in train(resolve(preset), tmp_path / "run", allow_code=True):
        pass
    sys.modules.pop("length_of_mine")
    (tmp_path / "length_of_mine.py").write_text("raise SystemExit('it ran')\n")
    figures = evaluate(tmp_path / "run")
    assert figures["unmeasured"] == [
        "no reward is measured: length_of_mine:reward is Python code; to run it, add --allow-code"
    ]
    assert "kl" in figures
    assert "reward" not in figures
    (tmp_path / "length_of_mine.py").write_text("def reward(texts):\n    return [7.0 for text in texts]\n")
    figures = evaluate(tmp_path / "run", allow_code=True)
    assert (figures["reward"], figures["reward_error"]) == (7.0, 0.0)
    assert "unmeasured" not in figures


def test_rounds_end_where_the_kl_passes_its_cap(preset: dict, tmp_path: Path) -> None:
    preset["method"]["kl_cap"] = 1e-9
    events = run(preset, tmp_path / "run")
    assert "exceeds method.kl_cap" in next(e.values["ended"] for e in events if e.values.get("ended"))
    assert max(event.step for event in events) == 10


@pytest.mark.slow
def test_the_reward_of_what_it_writes_rises(preset: dict, tmp_path: Path) -> None:
    preset["train"]["steps"] = 150
    preset["optimizer"] = {"lr": 0.01}
    preset["method"] |= {"rounds": 4, "steps_per_round": 15, "texts": 100, "rate": 1.0, "reward": {"pattern": "oo"}}
    told = [event.values for event in run(preset, tmp_path / "run") if event.kind == "reward"]
    assert told[-1]["mean"] - told[0]["mean"] > 2 * (told[-1]["error"] ** 2 + told[0]["error"] ** 2) ** 0.5


@pytest.mark.parametrize(
    ("settings", "scores"),
    [
        ({"terms": {"sun": 1.0, "old": -0.5}}, [1.0, 1.0, 0.5, 0.0]),
        ({"terms": {"sun": 1.0}, "case": True}, [1.0, 0.0, 1.0, 0.0]),
        ({"pattern": r"\bs\w+$"}, [1.0, 0.0, 1.0, 1.0]),
        ({"length": 3}, [-4.0, 0.0, -8.0, -5.0]),
    ],
)
def test_rewards_by_name(settings: dict, scores: list[float]) -> None:
    texts = ["sun sun", "Sun", "the old sun", "sunshine"]
    assert RewardConfig(**settings).find(False)(texts) == scores


def test_a_trained_reward_model_is_a_reward(preset: dict, tiny: Any, tmp_path: Path) -> None:
    texts = ["the moon", "a boat", "old sun", "rain", "the sea", "moon and sun"] * 3
    (tmp_path / "scored.txt").write_text("".join(f"{text}|{len(text)}\n" for text in texts))
    judge = tiny(
        method={"name": "reward_model"},
        model={"scalar": True},
        train={"steps": 30},
        sample={"tokens": 0},
    )
    judge["data"] = {"type": "rewarded", "path": str(tmp_path / "scored.txt"), "tokenizer": "byte"}
    run(judge, tmp_path / "judge")
    preset["method"]["reward"] = {"model": str(tmp_path / "judge")}
    model = load_reward(tmp_path / "judge")
    events = run(preset, tmp_path / "run", "method.tokens=4")
    told = next(event.values for event in events if event.kind == "reward")
    scores = model([text["text"] for text in told["texts"]])  # in a batch of another size
    assert [text["reward"] for text in told["texts"]] == pytest.approx(scores, rel=1e-5)
    with pytest.raises(CheckpointError, match="is not a reward model"):
        run(preset, tmp_path / "no", f'method.reward={{"model": "{tmp_path / "run"}"}}')


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({}, "a reward is one of terms, pattern, length, model and function, and 0 are given"),
        ({"length": 3, "pattern": "x"}, "and 2 are given"),
        ({"pattern": "("}, "is not a regular expression"),
        ({"terms": {"a": 1e308, "b": -1e308}}, "terms sum to more than a number holds; give smaller weights"),
        ({"terms": {}}, "must be 1 or more entries long"),
        ({"function": "os:getcwd"}, "--allow-code"),
        ({"function": "getcwd"}, "write module:function"),
    ],
)
def test_rewards_that_make_no_sense(reward: dict, said: str, preset: dict, tmp_path: Path) -> None:
    preset["method"]["reward"] = reward
    with pytest.raises(PresetError, match=re.escape(said)):
        run(preset, tmp_path / "run")


def test_texts_longer_than_a_batch_are_refused(preset: dict, tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=r"method\.prompt \+ method\.tokens is 33, and a batch holds 16"):
        run(preset, tmp_path / "run", "method.tokens=30")
