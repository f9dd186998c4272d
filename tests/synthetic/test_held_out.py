"""Held-out prompts of tasks: no training prompt is one, whatever the task, the difficulty and the purpose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove.cli.render import described_held_out
from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.errors import DataError
from nanogrove.runs.train import train
from nanogrove.synthetic.examples import Mixture, TaskConfig, TaskCorpus
from nanogrove.synthetic.tasks import TASKS

OPTIONS: dict[str, dict[str, Any]] = {"maze": {"nodes": 6}, "maze-nodes": {"hops": 2}}
DIFFICULTIES = {"maze": (1, 4), "maze-nodes": (3, 6)}
CASES = [(task, d) for task in TASKS for d in range(*[n + k for k, n in enumerate(DIFFICULTIES.get(task, (1, 4)))])]


def corpus(task: str, base: tuple[int, int], seed: int = 0, **settings: Any) -> TaskCorpus:
    values = {"type": "task", "task": task, "base": base, "options": OPTIONS.get(task, {}), **settings}
    built = make_corpus(TaskConfig.model_validate(values), 200, 64, seed)
    assert isinstance(built, TaskCorpus)
    return built


@pytest.mark.parametrize(("task", "difficulty"), CASES)
def test_no_training_prompt_is_held_out(task: str, difficulty: int) -> None:
    """1,000 draws, each hundred from a step and a member of its own."""
    made = corpus(task, (difficulty, difficulty))
    held_out = {split: {p for p, _ in made.held_out(difficulty, split)} for split in ("validation", "test")}  # type: ignore[arg-type]
    drawn = {prompt for step in range(5) for member in range(2) for prompt, _ in made.draw(step, 100, step, member)}
    labelled = {prompt for prompt, _ in made.examples(difficulty, "train", "round-1", range(200))}
    assert all(held_out.values())
    assert not held_out["validation"] & held_out["test"]
    for prompts in (drawn, labelled):
        assert prompts
        assert not prompts & (held_out["validation"] | held_out["test"])
    assert all(made.task.correct(*pair) for pair in made.held_out(difficulty, "test"))


def test_few_prompts_are_all_used_and_a_tenth_of_them_is_in_each_held_out_split() -> None:
    made = corpus("copy", (1, 2))
    trained = {prompt for step in range(40) for prompt, _ in made.draw(step, 64)}
    sides = {
        split: [{p for p, _ in made.held_out(d, split)} for d in (1, 2)]  # type: ignore[arg-type]
        for split in ("validation", "test")
    }
    one, two = (set.union(sides["validation"][n], sides["test"][n]) for n in range(2))
    assert len(sides["validation"][0]) == len(sides["test"][0]) == 1
    assert {f"{n}=" for n in range(10)} == one | {prompt for prompt in trained if len(prompt) == 2}
    assert {f"{n:02}=" for n in range(100)} == two | {prompt for prompt in trained if len(prompt) == 3}
    assert 6 <= len(sides["test"][1]) <= 14
    counts = made.describe()["held_out_prompts"]
    assert counts == {split: list(map(len, prompts)) for split, prompts in sides.items()}
    [line] = described_held_out(made.describe())
    assert line.startswith(
        f"held out: few different prompts, 1 of difficulty 1, {counts['test'][1]} of difficulty 2, come"
    )
    assert list(described_held_out(corpus("copy", (5, 6)).describe())) == []


def test_which_prompts_are_held_out_depends_on_the_seed_and_they_are_like_the_others() -> None:
    firsts = []
    for seed in range(40):
        made = corpus("addition", (3, 3), seed, held_out=50)
        firsts += [int(prompt[0]) for prompt, _ in made.held_out(3, "test")]
    counts = np.bincount(firsts, minlength=10)
    assert counts[0] == 0
    assert ((counts[1:] - 2000 / 9) ** 2 / (2000 / 9)).sum() < 26, "the first digit is 1-9, each as often: 8 degrees"
    assert {p for p, _ in corpus("copy", (5, 5), 0).held_out(5, "test")} != {
        p for p, _ in corpus("copy", (5, 5), 1).held_out(5, "test")
    }


def test_a_task_of_too_few_prompts_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = corpus("copy", (1, 1))
    monkeypatch.setattr(type(made.task), "example", lambda self, d, generator: (f"{generator.integers(2)}=", "0"))
    with pytest.raises(DataError, match="copy: difficulty 1 has 2 prompts, too few for three splits"):
        made.batch(0)


def test_base_examples_of_self_improvement_are_not_held_out_either() -> None:
    made = corpus("copy", (1, 3))
    held_out = {p for d in (1, 2, 3) for split in ("validation", "test") for p, _ in made.held_out(d, split)}  # type: ignore[arg-type]
    mixed = Mixture(made, 2, 12, [], None, 0.0)
    symbols = dict(enumerate(made._symbols.tolist()))
    for step in range(40):
        for row in mixed.batch(step).tokens.flatten(0, 1).tolist():
            text = "".join(symbols.get(token, "") for token in row)
            assert f"{text.partition('=')[0]}=" not in held_out


def test_labels_of_rounds_and_measured_prompts_do_not_meet(tmp_path: Path) -> None:
    preset = {
        "data": {"type": "task", "task": "copy", "base": [1, 2], "held_out": 30},
        "model": {"block_size": 12, "n_layer": 1, "n_embd": 16, "n_head": 1},
        "train": {"steps": 60, "batch_size": 16, "precision": "float32", "threads": 1, "accumulation": 1},
        "method": {"name": "self_improve", "voters": 2, "si_rounds": 2, "si_iter": 5, "examples": 60, "guard": False},
        "optimizer": {"lr": 0.01},
        "sample": {"tokens": 0},
    }
    preset["train"]["compile"] = False  # type: ignore[index]
    for _ in train(resolve(preset), tmp_path / "run"):
        pass
    made = make_corpus(TaskConfig.model_validate(preset["data"]), 12, 16, 0)
    labels = [json.loads(line) for path in (tmp_path / "run/data").iterdir() for line in path.read_text().splitlines()]
    assert labels
    for label in labels:
        assert made.belongs("train", label["difficulty"], label["prompt"])
