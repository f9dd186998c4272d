"""Self-improvement: labels that nobody checked, rounds kept and undone, and runs that resume bit for bit."""

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogrove
from nanogrove.config.catalog import list_presets, read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.errors import CheckpointError, DataError, NanogroveError, PresetError, RunError
from nanogrove.evaluate import committee
from nanogrove.evaluate.committee import Labels
from nanogrove.methods.self_improve import rounds
from nanogrove.methods.self_improve.config import Config
from nanogrove.methods.self_improve.guard import Losses
from nanogrove.paths import with_absolute_paths
from nanogrove.record.events import Event
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.synthetic.copying import Copying
from nanogrove.synthetic.examples import Mixture, TaskCorpus
from nanogrove.train.checkpoint import load_checkpoint

PRESET: dict[str, Any] = {
    "name": "si",
    "method": {"name": "self_improve", "si_rounds": 3, "si_iter": 4, "examples": 30, "guard": False},
    "data": {"type": "task", "task": "copy", "base": [1, 2], "held_out": 20},
    "model": {"family": "llama", "position": "none", "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {
        "steps": 20,
        "batch_size": 16,
        "threads": 1,
        "device": "cpu",
        "precision": "float32",
        "compile": False,
        "accumulation": 1,
    },
    "optimizer": {"name": "muon", "lr": 0.02, "adamw_lr": 0.01},
    "evaluate": {"every": 8},
    "sample": {"tokens": 0},
    "save": {"every": 1},
}


def of_kind(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event.kind == kind]


def trained(out: Path, *overrides: str, resume: bool = False, base: dict[str, Any] = PRESET) -> list[Event]:
    return list(train(resolve(base, overrides), out, resume))


def label_rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "data" / f"{name}.jsonl").read_text().splitlines()]


Hook = Callable[[list[str], Labels], list[str | None]]


def replace_labels(patch: pytest.MonkeyPatch, hook: Hook) -> None:
    """Replaces every label of a round by `hook(prompts, labels)`, after the filters."""
    honest = committee.verdicts

    def instead(model: Any, corpus: Any, prompts: list[str], *rest: Any) -> Any:
        labels, passed = honest(model, corpus, prompts, *rest)
        return Labels(hook(prompts, labels), labels.support), {name: [True] * len(prompts) for name in passed}

    patch.setattr(committee, "verdicts", instead)


def copied(prompts: list[str], labels: Labels) -> list[str | None]:
    return [prompt[:-1] for prompt in prompts]


def rotten(prompts: list[str], labels: Labels) -> list[str | None]:
    """Answers of the right length that have nothing to do with the question."""
    digits = [str(int(hashlib.sha256(prompt.encode()).hexdigest(), 16)) for prompt in prompts]
    return [text[: len(prompt) - 1] for text, prompt in zip(digits, prompts, strict=True)]


def test_base_then_rounds_of_one_difficulty_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_labels(monkeypatch, copied)
    events = trained(tmp_path / "run")
    assert [event.step for event in of_kind(events, "step")] == list(range(1, 33))
    assert [(e.step, e.values["frontier"]) for e in of_kind(events, "exact")] == [(20, 2), (24, 3), (28, 4), (32, 5)]
    assert [(e.step, e.values["count"]) for e in of_kind(events, "data")] == [(20, 30), (24, 30), (28, 30)]
    assert [e.values["difficulties"] for e in of_kind(events, "round")] == [[3], [4], [5]]
    assert [(e.step, e.values["name"]) for e in of_kind(events, "phase")] == [(0, "base"), (20, "rounds")]
    assert of_kind(events, "exact")[1].values["difficulties"] == [1, 2, 3, 4, 5]
    fields = {"round", "frontier", "difficulties", "agreement", "apart", "exact", "vote", "effective", "votes"}
    assert all(set(event.values) == fields for event in of_kind(events, "exact")), "the fields of the record"
    for number in (1, 2, 3):
        labels = label_rows(tmp_path / "run", f"round-{number}")
        assert [row["difficulty"] for row in labels] == [number + 2] * 30
        assert all(row["answer"] == row["prompt"][:-1] for row in labels)
    kinds = [event.kind for event in events if event.kind not in ("step", "note", "phase")]
    assert kinds[:2] == ["start", "eval"]
    assert kinds[-5:] == ["data", "exact", "eval", "round", "end"]
    following = [b.kind for a, b in pairwise(events) if a.kind == "round"]
    assert set(following) == {"step"}, "all of a round stands before its last step, where the run may be stopped"


def test_each_voter_trains_on_the_same_labels_in_batches_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_labels(monkeypatch, copied)
    batches: list[tuple[int, Any]] = []
    honest = Mixture.batch

    def watched(self: Mixture, step: int) -> Any:
        batch = honest(self, step)
        batches.append((step, batch))
        return batch

    monkeypatch.setattr(Mixture, "batch", watched)
    events = trained(tmp_path / "run")
    assert len({tuple(e.values["loss"]) for e in of_kind(events, "step")}) == 32
    for step, batch in batches:
        assert batch.tokens.shape == (3, 16, 2 * (2 if step < 20 else 3 + (step - 20) // 4) + 1)
        assert not torch.equal(batch.tokens[0], batch.tokens[1])
        newest = 0 if step < 20 else 1 + (step - 20) // 4
        assert ((batch.extra["labels"] == newest).sum(1) == (16 if step < 20 else 8)).all()


def test_no_true_answer_is_used_but_for_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every true answer past the base made a lie, the same labels are kept and the same models come out."""
    settings = ["method.vote=0.6", "method.guard=true", "method.guard_agreement=0", "method.length_margin=2"]
    settings += ["method.gate=agreement", "method.threshold=0.02", "method.lengths=2", "method.to=6"]
    honest_run = trained(tmp_path / "honest", *settings)
    true_answer = Copying.answer

    def lie(self: Copying, prompt: str) -> str | None:
        true = true_answer(self, prompt)
        return true if true is None or len(true) <= 2 else "0" * (len(true) + 1)

    def example(self: Copying, difficulty: int, generator: Any) -> tuple[str, str]:
        prompt = true_example(self, difficulty, generator)[0]
        return prompt, str(lie(self, prompt))

    true_example = Copying.example
    monkeypatch.setattr(Copying, "answer", lie)
    monkeypatch.setattr(Copying, "example", example)
    fooled = trained(tmp_path / "fooled", *settings)
    assert of_kind(honest_run, "data"), "no label was made, so nothing is shown"
    for event in of_kind(honest_run, "data"):
        name = event.values["name"]
        assert label_rows(tmp_path / "honest", name) == label_rows(tmp_path / "fooled", name)
    for kind, keys in (("round", ("difficulties", "rows", "accepted", "frontier")), ("eval", ("score", "loss"))):
        for a, b in zip(of_kind(honest_run, kind), of_kind(fooled, kind), strict=True):
            assert [a.values.get(key) for key in keys] == [b.values.get(key) for key in keys]
    for name in ("current", "best"):
        files = [tmp_path / run / "checkpoints" / name / "model.safetensors" for run in ("honest", "fooled")]
        assert files[0].read_bytes() == files[1].read_bytes()


# Resuming.


def outcome(run: Path) -> dict[str, Any]:
    """The record less its clock, the labels, and every bit of the tensors."""
    parts: dict[str, Any] = {}
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        del event["time"]
        parts[f"event {len(parts)}"] = event
    for file in sorted([*run.glob("data/*"), *run.glob("checkpoints/*/*")]):
        if not file.parent.name.startswith(("prev", ".")):
            data = file.read_bytes()
            if file.name == "state.json":
                state = json.loads(data)
                data = json.dumps({key: state[key] for key in ("step", "tokens", "round", "best", "data")}).encode()
            parts[str(file.relative_to(run))] = hashlib.sha256(data).hexdigest()
    return parts


STEPS = {  # base ends after step 20; round 1 is kept, round 2 undone, round 3 tries again, round 4 keeps nothing
    3: "in the base",
    19: "before the last base step",
    20: "before round 1 begins",
    21: "at its first step",
    22: "within it",
    24: "between rounds 1 and 2",
    26: "in a round to be undone",
    28: "after the alarm",
    30: "in the retry",
    32: "before the round that keeps nothing",
    34: "in the round on older data",
}
RESUMED = [
    "method.si_rounds=4",
    "method.guard=true",
    "method.reset_moments=false",
    "method.temperature=0.5",
    "method.empty=replay",
    "evaluate.every=3",
    "save.snapshots=true",
]


@pytest.fixture
def eventful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round 2 raises an alarm, round 4 keeps no label; the first voter's answers are the labels, cut to the prompt."""

    def alarm(config: Any, progress: Any, *_: Any) -> str | None:
        return "a hook" if progress["current"]["round"] == 2 else None

    def verdicts(model: Any, corpus: Any, prompts: list[str], answers: Any, *_: Any) -> Any:
        labels = Labels([(answer or "")[: len(prompts[0])] for answer in answers[0]], [1.0] * len(prompts))
        return labels, {"finished": [len(prompts[0]) < 6] * len(prompts)}

    monkeypatch.setattr(rounds, "alarm", alarm)
    monkeypatch.setattr(rounds, "base_problem", lambda *_: None)
    monkeypatch.setattr(committee, "verdicts", verdicts)


@pytest.fixture
def undisturbed(eventful: None, tmp_path: Path) -> dict[str, Any]:
    events = trained(tmp_path / "whole", *RESUMED)
    assert [event.step for event in of_kind(events, "alarm")] == [28]
    accepted = [event.values["accepted"] for event in of_kind(events, "round")]
    assert accepted == [True, False, True, True]
    assert [event.values["rows"] for event in of_kind(events, "round")] == [30, 30, 30, 0]
    assert [event.values["strict"] for event in of_kind(events, "round")] == [False, False, True, False]
    return outcome(tmp_path / "whole")


def test_a_run_killed_at_any_step_resumes_bit_for_bit(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """One run dies after each of `STEPS`, and is what it would have been."""
    run, settings = tmp_path / "run", resolve(PRESET, RESUMED)
    for step in STEPS:
        going = train(settings, run, resume=True)
        for event in going:
            if event.kind == "step" and event.step == step + 1:  # `step` is saved by now, `step` + 1 is not
                going.close()  # type: ignore[attr-defined]
                break
        assert load_checkpoint(run / "checkpoints" / "current").state["step"] == step, STEPS[step]
    trained(run, *RESUMED, resume=True)
    assert outcome(run) == undisturbed


def test_labels_that_are_damaged_are_refused(eventful: None, tmp_path: Path) -> None:
    run, stored = tmp_path / "run", tmp_path / "run/data/round-1.jsonl"
    going = train(resolve(PRESET, RESUMED), run)
    while next(going).step < 23:  # what was saved is step 22, within the round
        pass
    going.close()
    first, *others = stored.read_text().splitlines()
    damages: list[tuple[dict[str, Any] | None, str]] = [
        ({"difficulty": 9}, "line 1: difficulty 9 is none of that round"),
        ({"answer": "1" * 12}, "line 1: the label is longer than any of its difficulty"),
        ({"prompt": "\u2603"}, "line 1: "),
        ({"answer": None}, "line 1: answer must be text"),
        (None, "with 29 rows of 30"),
    ]
    for changed, message in damages:
        row = [] if changed is None else [json.dumps(json.loads(first) | changed)]
        stored.write_text("\n".join([*row, *others, ""]))
        with pytest.raises(RunError, match=f"{re.escape(str(stored))}: is damaged, {message}"):
            trained(run, *RESUMED, resume=True)


@pytest.mark.slow
def test_a_run_stopped_between_saves_resumes_bit_for_bit(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    rarely = [*RESUMED, "save.every=7"]
    trained(tmp_path / "rarely", *rarely)
    whole = outcome(tmp_path / "rarely")
    for step in (20, 26, 28):
        run = tmp_path / f"run-{step}"
        for event in train(resolve(PRESET, rarely), run):
            if event.kind == "step" and event.step == step:
                os.kill(os.getpid(), signal.SIGINT)
        assert load_checkpoint(run / "checkpoints" / "current").state["step"] == step
        trained(run, *rarely, resume=True)
        assert outcome(run) == whole, step
    same = {key: value for key, value in whole.items() if key.startswith(("current/", "event", "data"))}
    assert same.items() <= undisturbed.items(), "how often it is saved changes nothing"


def test_an_undone_round_leaves_the_weights_and_moments_it_began_with(eventful: None, tmp_path: Path) -> None:
    trained(tmp_path / "run", *RESUMED, "method.si_rounds=2")
    checkpoints = tmp_path / "run" / "checkpoints"
    last = load_checkpoint(checkpoints / "current")
    assert last.state["step"] == 28
    assert not last.method_tensors, "what a round fell back to is dropped after it"
    going = train(resolve(PRESET, [*RESUMED, "method.si_rounds=2"]), tmp_path / "again")
    for event in going:
        if event.step == 25 and event.kind == "step":
            going.close()  # type: ignore[attr-defined]
            break
    before = load_checkpoint(tmp_path / "again" / "checkpoints" / "current")
    assert before.state["step"] == 24
    for name, tensor in before.model.items():
        assert torch.equal(tensor, last.model[name]), name
    assert before.optimizer is not None
    assert last.optimizer is not None
    for name, tensor in before.optimizer.items():
        assert torch.equal(tensor, last.optimizer[name]), name


# The guard, and what else ends rounds.


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Voters of two steps. They know nothing; where a test needs answers that they would give, it gives them."""
    run = tmp_path_factory.mktemp("saved") / "run"
    trained(run, *SIZE, "train.steps=2", "method.si_rounds=0", "save.every=2")
    return run


SIZE = ["model.n_layer=2", "model.n_embd=32", "data.held_out=20", "data.base=[1, 3]"]


def from_base(base: Path, out: Path, *overrides: str, resume: bool = False) -> list[Event]:
    return trained(out, *rounds_alone(base), *overrides, resume=resume)


def rounds_alone(base: Path) -> list[str]:
    method = [f"method.base={json.dumps(str(base))}", "method.guard=true", "save.every=1000", "method.examples=200"]
    return [*SIZE, *method, "method.vote=1.0"]


class Voters:
    """Answers and losses instead of a committee's: calm and right, or with `apart` no two voters alike."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.apart = False
        patch.setattr(committee, "decode", self.decode)
        patch.setattr(rounds._Rounds, "losses", lambda _, labels: self.losses(len(labels)))

    def decode(self, model: Any, corpus: Any, prompts: list[str], *_: Any, **__: Any) -> list[list[str]]:
        return [[prompt[:-1] + str(voter) * self.apart for prompt in prompts] for voter in range(model.population)]

    def losses(self, count: int) -> Losses:
        return Losses({"loss": [0.05] * 3}, [[0.05] * 3] * count)


def test_the_guard_lets_right_labels_pass(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Voters(monkeypatch)
    events = from_base(saved, tmp_path / "run", "method.si_rounds=2", "method.to=4")
    assert not of_kind(events, "alarm")
    assert [event.values["accepted"] for event in of_kind(events, "round")] == [True, True]
    assert [event.values["count"] for event in of_kind(events, "data")] == [200, 200]
    assert of_kind(events, "exact")[0].step == 0, "the base is measured before the rounds"
    assert [event.values["agreement"][3] for event in of_kind(events, "exact")] == [1.0, 1.0, 1.0]


def test_the_guard_undoes_an_avalanche(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The committee comes apart as soon as it is trained on answers that have nothing to do with the questions."""

    def spoiled(prompts: list[str], labels: Labels) -> list[str | None]:
        voters.apart = True
        return rotten(prompts, labels)

    voters = Voters(monkeypatch)
    replace_labels(monkeypatch, spoiled)
    settings = ["method.si_rounds=3", "method.retries=1"]
    events = from_base(saved, tmp_path / "run", *settings)
    assert [(e.values["round"], e.values["retry"]) for e in of_kind(events, "alarm")] == [(1, True), (2, False)]
    assert [event.values["strict"] for event in of_kind(events, "round")] == [False, True]
    ended = of_kind(events, "round")[-1].values["ended"]
    assert ended.endswith("and no retry is left")
    assert of_kind(events, "step")[-1].step == 8, "two of three rounds, and no more"
    before, after = (load_checkpoint(run / "checkpoints" / "current").model for run in (saved, tmp_path / "run"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert events[-1].kind == "end"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Round 1 was undone" in page
    voters.apart = False
    unguarded = from_base(saved, tmp_path / "unguarded", *settings, "method.guard=false")
    assert not of_kind(unguarded, "alarm")
    assert len(of_kind(unguarded, "step")) == 12
    spoilt = load_checkpoint(tmp_path / "unguarded" / "checkpoints" / "current").model
    assert not any(torch.equal(before[name], spoilt[name]) for name in before), "what the guard undid"
    without, guarded = (of_kind(run, "exact")[-1].values["agreement"] for run in (unguarded, events))
    assert without[2] == 0.0 < 1.0 == of_kind(events, "exact")[0].values["agreement"][2], "what the guard stopped"
    assert len(without) > len(guarded), "the unguarded run went on to harder ones"


def test_labels_that_follow_no_rule_cannot_be_learned(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real answers and losses. A digit drawn at random costs log 10 nats, four times the limit, until it is learned by
    heart, for which these steps show each label one or two times."""
    replace_labels(monkeypatch, rotten)
    loose = ["method.guard_agreement=0", "method.guard_drop=1", "method.guard_loss=1000", "method.guard_fit=0.5"]
    events = from_base(saved, tmp_path / "run", *loose, "method.si_rounds=1", "method.si_iter=20")
    [alarm] = of_kind(events, "alarm")
    assert alarm.values["reason"].startswith("the loss on the round's own labels is ")


def test_a_retry_asks_for_a_unanimous_vote(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third voter of three is of another opinion wherever a question ends in 0, 1 or 2."""

    def decode(model: Any, corpus: Any, prompts: list[str], *_: Any, **__: Any) -> list[list[str]]:
        answers = [prompt[:-1] for prompt in prompts]
        return [answers, answers, [answer + "0" * (answer[-1] in "012") for answer in answers]]

    Voters(monkeypatch)
    monkeypatch.setattr(committee, "decode", decode)
    settings = ["method.si_rounds=2", "method.si_iter=2", "method.guard_fit=0", "method.vote=null"]
    first, second = of_kind(from_base(saved, tmp_path / "run", *settings), "round")
    assert "vote" not in first.values["labels"][0]["filters"]
    label = second.values["labels"][0]
    kept = label_rows(tmp_path / "run", "round-2")
    assert not any(row["answer"][-1] in "012" for row in kept)
    assert label["filters"]["vote"]["kept"] == label["agreement"] == len(kept) / 200
    assert 100 < len(kept) < 200


def test_rounds_do_not_begin_from_a_base_that_learned_nothing(tmp_path: Path) -> None:
    events = trained(tmp_path / "run", "method.guard=true", "train.steps=2")
    [ended] = of_kind(events, "round")
    assert "agreement at base difficulty 2" in ended.values["ended"]
    assert of_kind(events, "step")[-1].step == 2
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.parametrize("empty", ["stop", "replay"])
def test_a_round_that_keeps_too_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    replace_labels(monkeypatch, lambda prompts, labels: [p[:-1] if n < 5 else None for n, p in enumerate(prompts)])
    settings = ["method.minimum=6", f"method.empty={empty}"]
    events = trained(tmp_path / "run", *settings)
    ended = of_kind(events, "round")
    reason = "the filters kept 5 of 30 labels, and method.minimum is 6"
    assert len(ended) == (1 if empty == "stop" else 3)
    assert (ended[0].values["ended"] if empty == "stop" else ended[0].values["short"]) == reason
    assert of_kind(events, "step")[-1].step == (20 if empty == "stop" else 32)
    assert {event.values["frontier"] for event in ended} == {2}
    assert not of_kind(events, "data")
    assert events[-1].kind == "end"
    assert nanogrove.load(tmp_path / "run").generate("12=", tokens=3).startswith("12=")
    before = outcome(tmp_path / "run")
    trained(tmp_path / "run", *settings, resume=True)
    assert outcome(tmp_path / "run") == before, "a run that ended early stays what it is"


def test_the_gate_opens_by_agreement_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_labels(monkeypatch, copied)
    agreed = {1: 1.0, 2: 1.0, 3: 0.9, 4: 0.8, 5: 0.7, 6: 0.9, 7: 0.9}
    honest = committee.survey

    def survey(*given: Any) -> committee.Survey:
        true = honest(*given)
        return true._replace(agreement=[agreed.get(d, 0.0) for d in true.difficulties])

    monkeypatch.setattr(committee, "survey", survey)
    gate = ["method.gate=agreement", "method.threshold=0.8", "method.lengths=3", "method.to=6", "method.guard=true"]
    events = trained(tmp_path / "run", *gate, "method.guard_loss=100", "method.guard_fit=100")
    opened = [event.values["difficulties"] for event in of_kind(events, "round")]
    assert opened == [[3, 4], [4], [4]], "6 is past 5, which is closed; closed, the hardest open one is labelled anew"
    assert [label["prompts"] for label in of_kind(events, "round")[0].values["labels"]] == [15, 15]


def test_the_control_trains_as_long_on_base_data_alone(tmp_path: Path) -> None:
    events = trained(tmp_path / "run", "method.labels=none")
    assert of_kind(events, "step")[-1].step == 32
    assert not of_kind(events, "data")
    assert not of_kind(events, "round")
    assert [(e.step, e.values["round"]) for e in of_kind(events, "exact")] == [(20, 0), (24, 1), (28, 2), (32, 3)]
    assert max(of_kind(events, "exact")[-1].values["difficulties"]) == 7, (
        "it is asked what the rounds would have reached"
    )


def test_all_filters_together_make_a_run(tmp_path: Path) -> None:
    settings = ["method.vote=0.3", "method.length_margin=20", "method.self_consistency=3", "method.temperature=0.4"]
    events = trained(tmp_path / "run", *settings, "method.confidence=-9", "method.inject=0.2", "method.empty=replay")
    names = ["finished", "length", "vote", "self-consistency", "confidence"]
    for event in of_kind(events, "round"):
        for label in event.values["labels"]:
            assert list(label["filters"]) == names
            assert label["kept"] <= min(figures["kept"] for figures in label["filters"].values())


def test_votes_by_reliability_are_those_of_voters_good_at_base_problems(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third voter errs everywhere: its vote is dropped, the other two label, and it learns with them.

    A retry asks for a tenth of the doubt, and a resumed run knows who votes.
    """

    def decode(model: Any, corpus: Any, prompts: list[str], *_: Any, **__: Any) -> list[list[str]]:
        right = [prompt[:-1] for prompt in prompts]
        return [right, [text if text[-1] != "7" else "1" for text in right], ["0" for _ in right]]

    Voters(monkeypatch)
    monkeypatch.setattr(committee, "decode", decode)
    settings = ["method.votes=reliability", "method.vote=0.6", "method.voter_minimum=0.5", "method.guard_fit=0"]
    settings += ["method.si_rounds=2", "method.si_iter=2", "save.every=1", "method.guard_agreement=0"]
    settings += ["method.guard_drop=1", "method.guard_loss=9"]
    first, second = of_kind(from_base(saved, tmp_path / "run", *settings), "round")
    label = first.values["labels"][0]
    assert label["agreement"] == label["kept"] == label["filters"]["vote"]["kept"]
    assert 0.8 < label["kept"] < 1
    assert label["precision"] == 1
    assert label["effective"] == pytest.approx(2, abs=0.1)
    assert label["reliability"][2] < 0.2 < 0.7 < min(label["reliability"][:2])
    assert [first.values["strict"], second.values["strict"]] == [False, True]
    going = train(resolve(PRESET, [*rounds_alone(saved), *settings]), tmp_path / "cut")
    assert next(event for event in going if event.kind == "exact").values["votes"] == [True, True, False]
    next(event for event in going if event.kind == "step" and event.step == 3)
    going.close()  # type: ignore[attr-defined]
    notes = load_checkpoint(tmp_path / "cut" / "checkpoints" / "current").state["notes"]
    assert notes["votes"] == [True, True, False]
    from_base(saved, tmp_path / "cut", *settings, resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "run")


def test_trust_falls_by_what_kept_rounds_inherit_and_ends_the_rounds(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Voters who each err on some prompts of their own, in every round alike; a round undone passes nothing on."""

    def decode(model: Any, corpus: Any, prompts: list[str], *_: Any, **__: Any) -> list[list[str]]:
        right = [prompt[:-1] for prompt in prompts]
        return [
            [text if text[0] not in wrong else f"{text}{wrong}" for text in right] for wrong in ("123", "345", "567")
        ]

    Voters(monkeypatch)
    monkeypatch.setattr(committee, "decode", decode)
    loose = ["method.guard=true", "method.guard_agreement=0", "method.guard_loss=99", "method.guard_drop=1"]
    loose += ["method.guard_fit=99", "method.si_rounds=3", "method.si_iter=2", "method.vote=null"]
    first, second, third = of_kind(from_base(saved, tmp_path / "run", *loose), "round")
    labels = [event.values["labels"][0] for event in (first, second, third)]
    assert labels[0]["trust"] == pytest.approx(sum(labels[0]["reliability"]) / 3)
    assert labels[0]["consensus"] < 0.95
    assert labels[1]["trust"] == pytest.approx(labels[0]["consensus"] * sum(labels[1]["reliability"]) / 3)
    both = labels[0]["consensus"] * labels[1]["consensus"]
    assert labels[2]["trust"] == pytest.approx(both * sum(labels[2]["reliability"]) / 3)
    bound = (labels[1]["trust"] + labels[2]["trust"]) / 2
    ended = of_kind(from_base(saved, tmp_path / "ended", *loose, f"method.guard_trust={bound}"), "round")
    assert [event.values["accepted"] for event in ended] == [True, True, False]
    assert f"an estimated {labels[2]['trust']:.4g} of the labels" in ended[2].values["ended"]
    voted = of_kind(from_base(saved, tmp_path / "voted", *loose, "method.vote=1"), "round")[0].values["labels"][0]
    assert voted["kept"] < 1
    assert voted["consensus"] == labels[0]["consensus"], "prompts without a label count, too"
    assert voted["consensus"] < voted["trust"] <= 1, "labels on which all voters agree are better than others"
    undone = of_kind(from_base(saved, tmp_path / "undone", *loose, "method.guard_fit=0", "method.retries=2"), "round")
    assert [event.values["accepted"] for event in undone] == [False] * 3
    [label] = undone[2].values["labels"]  # of a unanimous vote, since it is tried again
    assert label["trust"] > labels[0]["consensus"], "which would be in it"


def test_a_difficulty_without_prompts_has_no_trust(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Voters(monkeypatch)
    few = ["method.gate=agreement", "method.threshold=0", "method.lengths=3", "method.examples=2", "method.to=6"]
    [first, *_] = of_kind(from_base(saved, tmp_path / "run", *few, "method.guard_trust=0.5"), "round")
    *_, none = first.values["labels"]
    assert (none["prompts"], none["trust"], none["consensus"]) == (0, None, None)
    assert "estimated" not in first.values.get("ended", "")


def test_one_voter_needs_no_committee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_labels(monkeypatch, copied)
    loose = ["method.guard=true", "method.guard_loss=100"]
    events = trained(tmp_path / "run", "method.voters=1", *loose, "method.guard_fit=100")
    assert [event.values["accepted"] for event in of_kind(events, "round")] == [True] * 3
    [alarm] = of_kind(trained(tmp_path / "strict", "method.voters=1", *loose, "method.guard_fit=0.01"), "alarm")
    assert not alarm.values["retry"], "one voter has no stricter vote"
    assert of_kind(events, "exact")[0].values["agreement"] == [None] * 5


# Beginning from a saved base, presets, and what is refused.


def test_voters_may_come_from_a_checkpoint_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_labels(monkeypatch, copied)
    for seed in (5, 6):
        trained(tmp_path / f"{seed}", "method=pretrain", f"seed={seed}")
    paths = [str(tmp_path / f"{seed}" / "checkpoints" / "current") for seed in (5, 6)]
    settings = ["method.voters=2", f"method.base={json.dumps(paths)}", "model.block_size=24"]
    events = trained(tmp_path / "run", *settings)
    singles = [load_checkpoint(Path(path)).model["embed.weight"] for path in paths]
    assert of_kind(events, "step")[-1].step == 12
    going = train(resolve(PRESET, settings), tmp_path / "again")
    first = next(event for event in going if event.kind == "exact")
    going.close()  # type: ignore[attr-defined]
    assert first.step == 0
    config = Config(voters=2, base=paths)
    corpus = make_corpus(resolve(PRESET).data, 16, 16, 0)
    assert isinstance(corpus, TaskCorpus)
    weights = rounds.saved_voters(config, corpus, load_checkpoint(Path(paths[0])).config)
    assert torch.equal(weights["embed.weight"], torch.stack(singles))
    monkeypatch.chdir(tmp_path)
    relative = with_absolute_paths(resolve(PRESET, ["method.voters=2", 'method.base=["5", "6"]'])).method
    assert relative.model_dump()["base"] == [str(tmp_path / "5"), str(tmp_path / "6")]


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["data.task=chess"], DataError, "no task is called 'chess'"),
        (["data.base=[3, 1]"], PresetError, "write [1, 3]"),
        (["method.voters=1", "method.vote=0.8"], PresetError, "vote needs two voters or more, and voters is 1"),
        (["method.voters=1", "method.gate=agreement"], PresetError, "gate=agreement needs two voters"),
        (["method.self_consistency=4"], PresetError, "set temperature=0.7"),
        (["method.to=12"], DataError, "set model.block_size=25"),
        (["method.si_rounds=9"], DataError, "set model.block_size=23"),
        (["method.votes=reliability"], PresetError, "and vote is null; set vote=0.9"),
        (["method.voters=1", "method.guard_trust=0.9"], PresetError, "guard_trust needs two voters or more"),
        (
            ["method.guard=false", "method.guard_trust=0.9"],
            PresetError,
            "guard_trust is a bound of the guard, and guard",
        ),
        (["method.guard_trust=1"], PresetError, "method.guard_trust=1: must be below 1"),
        (["method.voters=1", "method.voter_minimum=0.9"], PresetError, "voter_minimum needs two voters or more"),
        (["method.voter_minimum=99"], PresetError, "method.voter_minimum=99: must be 1 or less"),
        (["method.to=1"], PresetError, "method.to=1 is easier than data.base"),
        (["method.si_rouns=3"], PresetError, "did you mean method.si_rounds?"),
        (["method.vote=1.5"], PresetError, "method.vote"),
        (["method.base=nowhere"], CheckpointError, "neither a run, a checkpoint nor a model"),
        (["method.base=x", "method.si_rounds=0"], PresetError, "nothing is left to train"),
        (['data={"type": "rlm", "v": 4}'], PresetError, "set data.type=task"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    tmp_path: Path, overrides: list[str], error: type[NanogroveError], message: str
) -> None:
    with pytest.raises(error) as caught:
        trained(tmp_path / "run", *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "what is refused leaves no folder"


def test_a_wrong_setting_in_a_file_is_refused_in_one_line() -> None:
    method = {**PRESET["method"], "votters": 3}
    with pytest.raises(PresetError, match=r"^unknown key method\.votters; did you mean method\.voters\?$"):
        resolve({**PRESET, "method": method})


def test_a_base_that_does_not_fit_is_refused(saved: Path, tmp_path: Path) -> None:
    size = ["model.n_layer=2", "model.n_embd=32"]
    base = f"method.base={json.dumps(str(saved))}"
    cases = [
        ([*size, "data.task=reversed-addition", "model.block_size=18"], "another vocabulary"),
        (["model.n_layer=2"], "its n_embd is 32 and here 16"),
        ([*size, "model.position=rotary"], "its position is none and here rotary"),
        ([*size, "method.voters=2"], "3 models where 2 are asked for"),
    ]
    for overrides, message in cases:
        with pytest.raises(CheckpointError, match=message):
            trained(tmp_path / "run", base, *overrides)
    single = f"method.base={json.dumps(str(saved / 'checkpoints' / 'best'))}"
    with pytest.raises(CheckpointError, match="1 models where 3 are asked for"):
        trained(tmp_path / "run", single, *size)


TINY = {
    "train.steps": 3,
    "train.batch_size": 8,
    "model.n_layer": 1,
    "model.n_embd": 16,
    "model.n_head": 2,
    "model.n_inner": None,
    "model.block_size": 64,
    "data.held_out": 5,
    "data.base": [1, 2],
    "method.si_rounds": 1,
    "method.si_iter": 2,
    "method.examples": 12,
    "method.guard": False,
    "method.to": 3,
    "method.gate": "schedule",
    "method.empty": "replay",
    **{f"train.{key}": PRESET["train"][key] for key in ("threads", "device", "precision", "compile", "accumulation")},
}


@pytest.mark.parametrize("name", [name for name in list_presets() if name.startswith("self-improve")])
def test_presets_fit_their_context_and_take_their_first_steps(name: str, tmp_path: Path) -> None:
    fixed = [f"train.{key}={json.dumps(PRESET['train'][key])}" for key in ("threads", "precision")]
    parts = build(resolve(read_preset_file(name), [*fixed, "train.compile=false", "train.device=cpu"]))
    wanted = parts.preset.method
    assert parts.plan.steps == parts.preset.train.steps + wanted.si_rounds * wanted.si_iter
    overrides = [f"{key}={json.dumps(value)}" for key, value in TINY.items()]
    if parts.preset.data.task == "maze":  # type: ignore[union-attr]
        overrides.append('data.options={"nodes": 4}')
    events = list(train(resolve(read_preset_file(name), overrides), tmp_path / "run"))
    assert of_kind(events, "step")[-1].step == 5
    assert [event.values["difficulties"] for event in of_kind(events, "round")] == [[3]]
