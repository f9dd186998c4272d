"""Runs trained as one program leave the folders of the runs alone, apart from what the clock says."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.studies.conftest import DATA, content

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.errors import DivergedError
from nanogrove.runs.train import train
from nanogrove.studies.stack import Numbered, stack_key, train_together, why_alone

Make = Callable[..., Preset]


@pytest.fixture
def make(tiny: Any) -> Make:
    """Makes the preset of a run of a study: no samples, 6 steps, some of its checkpoints superseded."""

    def made(kind: str = "text", **sections: Any) -> Preset:
        base = tiny(
            model={"n_layer": 1},
            train={"steps": 6},
            evaluate={"every": 4, "tokens": 60},
            sample={"tokens": 0},
            save={"every": 2},
            schedule={"warmup": 2},
        )
        if kind != "text":
            base["data"] = DATA[kind]
        for name, section in sections.items():
            base[name] = {**base[name], **section} if isinstance(base.get(name), dict) else section
        return resolve(base)

    return made


def alone(preset: Preset, out: Path) -> dict[str, object]:
    for _ in train(preset, out, report=False):
        pass
    return content(out)


def check(
    presets: list[Preset], out: Path, run: Callable[..., Iterator[Numbered]] = train_together, noted: bool = False
) -> None:
    """Trains presets together and each alone, and compares their folders."""
    assert len({stack_key(preset) for preset in presets}) == 1
    folders = [out / f"{n}" for n in range(len(presets))]
    events = list(run(list(zip(presets, folders, strict=True))))
    assert noted or not [event for _, event in events if event.kind == "note"]
    for n, preset in enumerate(presets):
        expected = alone(preset, out / f"alone {n}")
        together = content(folders[n])
        assert together.keys() == expected.keys()
        for name in expected:
            if not name.startswith("checkpoints/prev"):  # a signal saves at a step of its own
                assert together[name] == expected[name], (n, name)


@pytest.mark.parametrize("kind", DATA)
def test_seeds_of_all_kinds_of_data(kind: str, make: Make, tmp_path: Path) -> None:
    check([make(kind, seed=seed) for seed in (0, 1, 2)], tmp_path)


@pytest.mark.parametrize("name", ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("muon", "sgd"))])
def test_everything_that_may_differ_does(name: str, make: Make, tmp_path: Path) -> None:
    free: list[dict[str, Any]] = [
        {"optimizer": {"name": name}},
        {"optimizer": {"name": name, "lr": 0.02, "adamw_lr": 0.01, "weight_decay": 0.3}, "seed": 1},
        {"optimizer": {"name": name, "betas": (0.8, 0.9), "momentum": 0.5}, "schedule": {"name": "wsd", "warmup": 0}},
        {"optimizer": {"name": name}, "model": {"dropout": 0.0, "init_scale": 2.0}, "schedule": {"final": 0.5}},
        {"optimizer": {"name": name}, "method": {"name": "pretrain", "label_smoothing": 0.1}},
    ]
    check([make(**sections) for sections in free], tmp_path)


@pytest.mark.slow
def test_what_was_killed_goes_on_at_its_step(make: Make, tmp_path: Path) -> None:
    """Members whose checkpoints stand at different steps, one that is finished and one that has not begun."""
    presets = [make(seed=seed) for seed in range(5)]

    def killed(runs: list[tuple[Preset, Path]]) -> Iterator[Numbered]:
        for part, last in ((runs[:2], 3), (runs[2:3], 5), (runs[3:4], 99)):
            for _, event in train_together(part):
                if event.kind == "step" and event.step == last:
                    break
        yield from (pair for pair in train_together(runs) if pair[1].kind != "note")

    check(presets, tmp_path, killed)


def test_a_member_that_diverges_leaves_and_the_others_go_on(make: Make, tmp_path: Path) -> None:
    rates = (0.01, 50.0, 0.02)
    presets = [make(optimizer={"name": "sgd", "lr": rate}, train={"clip": None}) for rate in rates]
    runs = [(preset, tmp_path / f"{n}") for n, preset in enumerate(presets)]
    diverged = [(n, event) for n, event in train_together(runs) if event.kind == "diverged"]
    with pytest.raises(DivergedError) as error:
        alone(presets[1], tmp_path / "alone 1")
    ((number, event),) = diverged
    assert number == 1
    assert event.values["text"] == str(error.value).replace("alone 1", "1")
    assert content(tmp_path / "1") == content(tmp_path / "alone 1")
    for n in (0, 2):
        assert content(tmp_path / f"{n}") == alone(presets[n], tmp_path / f"alone {n}")


def test_a_signal_saves_all(make: Make, tmp_path: Path) -> None:
    presets = [make(seed=seed) for seed in range(2)]

    def interrupted(runs: list[tuple[Preset, Path]]) -> Iterator[Numbered]:
        stops = []
        for number, event in train_together(runs):
            if event.kind == "step" and event.step == 3 and number == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            stops += [(number, event.step)] if event.kind == "stop" else []
        assert stops == [(0, 3), (1, 3)]
        yield from train_together(runs)

    check(presets, tmp_path, interrupted)


@pytest.mark.parametrize(("kind", "stops"), [("start", [(1, 1), (2, 1), (0, 2)]), ("end", [(0, 2)])])
def test_a_signal_before_a_group_is_trained_saves_all(
    kind: str, stops: list[tuple[int, int]], make: Make, tmp_path: Path
) -> None:
    """While the first of two groups is set up, and between the two."""
    presets = [make(seed=seed) for seed in range(3)]

    def interrupted(runs: list[tuple[Preset, Path]]) -> Iterator[Numbered]:
        for _, event in train_together(runs[:1]):
            if event.kind == "step" and event.step == 3:
                break
        events, late = [], list[int]()
        before = signal.signal(signal.SIGTERM, lambda number, frame: late.append(number))
        try:
            for number, event in train_together(runs):
                events.append((number, event))
                if (number, event.kind) == (2, kind):
                    os.kill(os.getpid(), signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert not late
        assert [(number, event.step) for number, event in events if event.kind == "stop"] == stops
        yield from (pair for pair in train_together(runs) if pair[1].kind != "note")

    check(presets, tmp_path, interrupted)


def test_products_that_are_rounded_otherwise_are_computed_alone(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nanogrove.studies.stack.difference_from_alone", lambda *_: "of a reason")

    def noted(runs: list[tuple[Preset, Path]]) -> Iterator[Numbered]:
        events = list(train_together(runs))
        assert [event.values["text"] for _, event in events if event.kind == "note"] == [
            "trained one after the other, to have the bits of each alone: of a reason"
        ]
        return (pair for pair in events if pair[1].kind != "note")

    check([make(seed=seed) for seed in range(2)], tmp_path, noted)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"method": {"name": "pretrain", "follow": {"lr": [[0, 0.1]]}}}, "method.follow changes"),
        ({"method": {"name": "pretrain", "curriculum": {}}}, "method.curriculum chooses"),
        ({"auxiliary": {"enable_value": True}}, "auxiliary heads"),
        ({"track": {"trackers": ["tensorboard"]}}, "trackers follow"),
        ({"train": {"compile": True}}, "train.compile"),
    ],
)
def test_what_is_trained_alone(sections: dict[str, Any], reason: str, make: Make) -> None:
    preset = make(**sections)
    assert (why_alone(preset) or "").startswith(reason)
    assert stack_key(preset) is None


def test_keys_differ_where_programs_do(make: Make) -> None:
    base = stack_key(make())
    assert stack_key(make(seed=3, optimizer={"lr": 0.5}, schedule={"name": "constant"})) == base
    for sections in ({"model": {"n_layer": 2}}, {"train": {"steps": 8}}, {"optimizer": {"name": "sgd"}}):
        assert stack_key(make(**sections)) != base


@pytest.mark.slow
@pytest.mark.parametrize("case", range(40))
def test_random_programs(case: int, make: Make, tmp_path: Path) -> None:
    """Models, data and free settings drawn at random, of widths that fill no vector registers too."""
    draw = random.Random(case)
    heads = draw.choice([1, 2, 4])
    model = {
        "family": draw.choice(["gpt2", "llama", "nanochat"]),
        "n_layer": draw.choice([1, 2]),
        "n_head": heads,
        "n_embd": heads * draw.choice([6, 8, 10, 16]),
        "block_size": draw.choice([16, 24]),
    }
    name, rows = draw.choice(["adamw", "muon", "sgd"]), draw.choice([2, 3, 4, 7])

    def member() -> dict[str, Any]:
        optimizer = {"name": name, "lr": draw.choice([0.003, 0.01]), "weight_decay": draw.choice([0.0, 0.1])}
        optimizer |= {"betas": draw.choice([[0.9, 0.95], [0.8, 0.99]]), "momentum": draw.choice([0.0, 0.9])}
        return {
            "seed": draw.randrange(3),
            "optimizer": optimizer,
            "schedule": {"name": draw.choice(["cosine", "wsd"]), "warmup": draw.choice([0, 3])},
            "model": {**model, "dropout": draw.choice([0.0, 0.2]), "init_scale": draw.choice([1.0, 2.0])},
            "method": {"name": "pretrain", "label_smoothing": draw.choice([0.0, 0.1])},
            "train": {"batch_size": rows},
        }

    kind = draw.choice(list(DATA))
    check([make(kind, **member()) for _ in range(draw.choice([2, 3, 5, 8]))], tmp_path, noted=True)
