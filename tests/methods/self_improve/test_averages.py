"""Rounds with an average of weights: it labels, votes, is measured and saved; an undone round restores it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.make import preset_of

from nanogrove.config.overrides import resolve
from nanogrove.errors import CheckpointError
from nanogrove.evaluate import committee
from nanogrove.evaluate.committee import Labels
from nanogrove.methods.self_improve import rounds
from nanogrove.record.events import Event
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import Checkpoint, load_checkpoint
from nanogrove.train.saving import save_checkpoint

AVERAGE = {"half_life": 1.5}
BASE, ROUND, UNDONE = 4, 3, 2  # steps of the base and of a round, and the number of the round that is undone


@dataclass
class Asked:
    """Embeddings of the committees that labelled, and of those that were measured."""

    labelled: list[torch.Tensor]
    surveyed: list[torch.Tensor]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Round 2 raises an alarm; labels are the first voter's answers."""
    asked, survey = Asked([], []), committee.survey

    def measured(model: Any, *rest: Any) -> Any:
        asked.surveyed.append(model.embed.weight.detach().clone())
        return survey(model, *rest)

    def alarm(config: Any, progress: Any, *_: Any) -> str | None:
        return "a hook" if progress["current"]["round"] == UNDONE else None

    def verdicts(model: Any, corpus: Any, prompts: list[str], answers: Any, *_: Any) -> Any:
        asked.labelled.append(model.embed.weight.detach().clone())
        labels = Labels([(answer or "")[: len(prompts[0])] for answer in answers[0]], [1.0] * len(prompts))
        return labels, {"finished": [True] * len(prompts)}

    monkeypatch.setattr(rounds, "alarm", alarm)
    monkeypatch.setattr(rounds, "base_problem", lambda *_: None)
    monkeypatch.setattr(committee, "verdicts", verdicts)
    monkeypatch.setattr(committee, "survey", measured)
    return asked


@pytest.fixture
def preset() -> dict[str, Any]:
    """Four rounds of two voters, of which the second is undone and the third tries again."""
    preset = preset_of("self_improve")
    preset["method"] |= {"si_rounds": 4, "si_iter": ROUND, "guard": True, "reset_moments": False}
    preset["train"]["average"] = AVERAGE
    preset["save"] = {"every": 1}
    return preset


def saved_states(preset: dict[str, Any], out: Path) -> tuple[list[Event], dict[int, Checkpoint]]:
    """The events of a run, and what was saved after each step."""
    events, states, current = [], {}, out / "checkpoints" / "current"
    for event in train(resolve(preset), out, report=False):
        events.append(event)
        if current.exists() and (saved := load_checkpoint(current)).state["step"] not in states:
            states[saved.state["step"]] = saved
    last = load_checkpoint(current)
    return events, {**states, last.state["step"]: last}


def test_an_undone_round_restores_weights_and_average_and_the_average_answers(
    preset: dict[str, Any], asked: Asked, tmp_path: Path
) -> None:
    events, states = saved_states(preset, tmp_path / "run")
    accepted = [event.values["accepted"] for event in events if event.kind == "round"]
    assert accepted == [True, False, True, True]
    ends = [BASE + ROUND * number for number in range(5)]
    share = 1 - 0.5 ** (1 / AVERAGE["half_life"])
    for step, state in states.items():
        past = (step - BASE - 1) % ROUND + 1 if step > BASE else step
        if step == ends[UNDONE]:
            before = states[ends[UNDONE - 1]]
            for name, weight in state.model.items():
                assert torch.equal(weight, before.model[name]), "the weights are those before the round"
                assert torch.equal(state.average[name], before.average[name]), "and so is the average"
            continue
        for name, average in state.average.items():
            expected = state.model[name]
            if past > 1:
                earlier = states[step - 1].average[name]
                expected = earlier + max(1 / past, share) * (state.model[name] - earlier)
            torch.testing.assert_close(average, expected, atol=2e-6, rtol=1e-5)
    assert len(asked.labelled) == len(ends[:-1])
    for end, labelling in zip(ends, asked.labelled, strict=False):
        assert torch.equal(labelling, states[end].average["embed.weight"]), "the average answers"
        assert not torch.equal(labelling, states[end].model["embed.weight"])
    exact = {event.step: event for event in events if event.kind == "exact"}
    assert [exact[end].values["averaged"] for end in ends] == [BASE, ROUND, ROUND, ROUND, ROUND]
    assert len(asked.surveyed) == len(ends)
    for number, end in enumerate(ends):
        if number != UNDONE:  # whose average is not saved
            assert torch.equal(asked.surveyed[number], states[end].average["embed.weight"]), "the average is measured"


def test_a_run_with_an_undone_round_is_resumed_bit_for_bit(
    preset: dict[str, Any], tmp_path: Path, resumes_exactly: Any
) -> None:
    preset["save"] = {"every": 2}
    resumes_exactly(preset, tmp_path, [("step", n) for n in (3, 7, 9, 11, 13)])


def test_an_average_to_fall_back_to_that_does_not_fit_is_refused(preset: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    going = train(resolve(preset), out, report=False)
    for event in going:
        if event.kind == "step" and event.step == BASE + 2:  # what was saved is within the first round
            going.close()  # type: ignore[attr-defined]
            break
    checkpoint = load_checkpoint(out / "checkpoints" / "current")
    setup = build(resolve(preset), checkpoint)
    state = setup.new_state()
    checkpoint.restore(state)
    state.method_tensors = {k: v for k, v in state.method_tensors.items() if k != "average/embed.weight"}
    extra = {key: checkpoint.state[key] for key in ("best", "data", "events", "position") if key in checkpoint.state}
    save_checkpoint(out / "checkpoints", "current", state, setup.corpus.tokenizer, json.loads(json.dumps(extra)))
    with pytest.raises(CheckpointError, match=r"the average of embed.weight that its round falls back to is missing"):
        list(train(resolve(preset), out, resume=True))
