"""When a run saves, which model it keeps as its best, and what it says where it cannot go on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.record.events import Event
from nanogrove.record.folder import RunFolder
from nanogrove.runs.checkpointer import Checkpointer, Due, due
from nanogrove.runs.setup import build
from nanogrove.train.checkpoint import load_checkpoint


@pytest.fixture
def saver(tiny: Any, tmp_path: Path) -> Iterator[Checkpointer]:
    """Of a state that has made no step."""
    setup = build(resolve(tiny()))
    with RunFolder(tmp_path / "run") as folder:
        yield Checkpointer(folder, setup, setup.new_state())


def names(saver: Checkpointer) -> set[str]:
    return {path.name for path in saver.folder.checkpoints.iterdir()}


def test_what_is_due_after_a_step(tiny: Any) -> None:
    preset = resolve(tiny(save={"every": 4, "snapshots": True}, sample={"every": 3, "tokens": 5}))
    assert [due(preset, step) for step in (1, 3, 4, 5)] == [
        Due(sample=False, snapshot=True, save=False),
        Due(sample=True, snapshot=False, save=False),
        Due(sample=False, snapshot=True, save=True),
        Due(sample=False, snapshot=False, save=False),
    ]
    assert [bool(due(preset, step)) for step in (4, 5)] == [True, False]
    assert not due(resolve(tiny(sample={"every": 3, "tokens": 0}, save={"every": 4})), 3)


def test_what_is_due_is_saved_and_current_once_for_each_step(saver: Checkpointer) -> None:
    saver.state.step = 4
    saver.save_due(Due(sample=False, snapshot=True, save=True))
    assert names(saver) == {"step-4", "current"}
    saver.save_current()
    assert names(saver) == {"step-4", "current"}, "the same step is not saved twice"
    saver.state.step = 5
    saver.save_current()
    assert names(saver) == {"step-4", "current", "prev"}


def test_the_best_is_the_lowest_score_or_else_loss(saver: Checkpointer) -> None:
    for step, values in enumerate(({"loss": 3.0}, {"loss": 2.0}, {"loss": 2.0}, {"loss": 9.0, "score": 1.0}), 1):
        saver.state.step = step
        saver.keep_best(Event("eval", step, values))
        assert load_checkpoint(saver.folder.checkpoints / "best").state["step"] == [1, 2, 2, 4][step - 1]
    assert saver.best == {"step": 4, "score": 1.0, "member": 0}


def test_the_best_of_a_population_is_its_best_member(tiny: Any, tmp_path: Path) -> None:
    setup = build(resolve(tiny(method="evolve", train={"steps": None})))
    with RunFolder(tmp_path / "run") as folder:
        saver = Checkpointer(folder, setup, setup.new_state())
        scores = [5.0] * 8
        saver.keep_best(Event("eval", 1, {"loss": scores, "score": [*scores[:6], 2.0, 5.0]}))
        assert saver.best_member == 6
        kept = load_checkpoint(folder.checkpoints / "best").model["embed.weight"]
        assert torch.equal(kept, saver.state.model.embed.weight[6])
        saver.keep_best(Event("eval", 2, {"loss": scores, "score": [3.0, *scores[1:]]}))
        assert saver.best == {"step": 1, "score": 2.0, "member": 0}, "slots change their owners, the best stays"


def test_what_a_run_says_where_it_cannot_go_on(saver: Checkpointer) -> None:
    assert saver.last_good() == "; last good checkpoint: none yet"
    assert saver.rescue(Event("eval", 0)) == "; nothing is saved yet, go on with --resume"
    saver.state.step = 3
    assert saver.rescue(Event("step", 3)) == "; the run is saved at step 3, go on with --resume"
    assert saver.last_good().endswith("current (step 3)")
    saver.state.step = 5
    assert saver.rescue(Event("step", 4)) == "; the run is saved at step 3, go on with --resume", "a step under way"
