"""Policy gradients: exact resume, members, what is learned from, what is measured, and what is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.errors import CheckpointError, NanogroveError
from nanogrove.methods.policy_gradient.config import Config
from nanogrove.methods.policy_gradient.updates import Learner
from nanogrove.record.events import Event, read_events
from nanogrove.runs.score import evaluate
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import checksum_of
from nanogrove.train.objectives.policy_gradient import log_probs

TEXT = "data={'sources': 'TEXT', 'tokenizer': 'char'}"


@pytest.fixture
def of_task(tiny: Any) -> dict[str, Any]:
    """Copying one or two digits from a base of three steps."""
    values: dict[str, Any] = tiny(
        method={"name": "policy_gradient", "base_steps": 3, "samples": 4},
        model={"dropout": 0.0},
        train={"steps": 6, "batch_size": 12},
        optimizer={"lr": 0.01},
        evaluate={"every": 4},
        sample={"tokens": 0},
        save={"every": 2},
    )
    values["data"] = {"type": "task", "task": "copy", "base": [1, 2], "held_out": 10}
    return values


@pytest.fixture
def of_text(of_task: dict[str, Any], text_file: Path) -> dict[str, Any]:
    """Text, with a reward for the words a and o."""
    of_task["data"] = {"sources": str(text_file), "tokenizer": "char"}
    of_task["method"] |= {"reward": {"terms": {"a": 1.0, "o": 0.5}}, "prompt": 3, "tokens": 9, "algorithm": "rloo"}
    of_task["method"] |= {"beta": 0.1}
    return of_task


def run(values: dict[str, Any], out: Path, *overrides: str) -> list[Event]:
    for _ in train(resolve(values, overrides), out):
        pass
    return read_events(out / "events.jsonl")


def learner(values: dict[str, Any], *overrides: str) -> Learner:
    """That of a new state, as it begins to learn from samples."""
    built = build(resolve(values, overrides))
    assert isinstance(built.preset.method, Config)
    state = built.new_state()
    state.step = built.preset.method.base_steps
    return Learner(state, built.corpus, built.plan, built.preset.method)


@pytest.mark.parametrize(
    "changes",
    [
        {"members": 2, "iterations": 2},
        pytest.param({}, marks=[pytest.mark.slow]),
        pytest.param({"iterations": 3, "algorithm": "rloo", "beta": 0.2}, marks=[pytest.mark.slow]),
    ],
)
def test_a_run_cut_anywhere_and_resumed_ends_with_the_same_bits(
    of_task: dict[str, Any], changes: dict[str, Any], tmp_path: Path, resumes_exactly: Any
) -> None:
    """Also within updates on the same samples, which the checkpoint keeps."""
    of_task["method"] |= changes
    of_task["save"] = {"every": 1}
    record = resumes_exactly(of_task, tmp_path, [("step", n) for n in (2, 3, 4, 5, 8)])
    steps = [line for line in record if line["kind"] == "step"]
    assert {"reward", "no_signal", "length", "entropy", "clipped"} <= steps[-1].keys()
    assert "reward" not in steps[2]
    begin = [line for line in record if line["kind"] == "eval" and line["step"] == 3]
    assert len(begin) == 1
    assert [line["kind"] for line in record if line["step"] == 3][-2:] == ["phase", "eval"]


def test_a_member_is_the_run_alone(of_task: dict[str, Any], tmp_path: Path) -> None:
    """The first of three, whose seed is that of a run alone, bit for bit; and the second is that of two members."""
    of_task["method"] |= {"iterations": 2, "beta": 0.1}
    found = {}
    for members in (None, 2, 3):
        of_task["method"]["members"] = members
        steps = [e for e in run(of_task, tmp_path / f"{members}") if e.kind == "step"]
        found[members] = load_file(tmp_path / f"{members}/checkpoints/current/model.safetensors"), steps
    for name, tensor in found[None][0].items():
        assert torch.equal(found[3][0][name][0], tensor), name
        assert torch.equal(found[3][0][name][1], found[2][0][name][1]), name
        assert tensor.std() == 0 or not torch.equal(found[3][0][name][1], tensor), name
    for alone, three in zip(found[None][1], found[3][1], strict=True):
        assert {
            name: value[0] if isinstance(value, list) else value for name, value in three.values.items()
        } == alone.values


def test_so_many_updates_are_made_on_the_same_samples(of_task: dict[str, Any]) -> None:
    """Of log-probabilities that the policy had when it wrote them, though it has changed since."""
    each = learner(of_task, "method.iterations=3", 'method.reward={"length": 2}')
    batches = [each.batch(3)]
    for _ in each.steps(each.plan.until(8)):
        batches.append(each.batch(each.state.step))
    first, second = batches[:3], batches[3:]
    assert all(torch.equal(later.tokens, first[0].tokens) for later in first)
    assert all(torch.equal(later.extra["old"], first[0].extra["old"]) for later in first)
    assert not torch.equal(second[0].extra["old"], first[0].extra["old"])
    assert torch.equal(second[0].tokens, second[2].tokens)


def test_micro_batches_are_the_batch(of_task: dict[str, Any]) -> None:
    """Losses, gradients and figures of a batch in three parts, of samples of several lengths."""
    for changes in ({"algorithm": "rloo"}, {"aggregation": "grpo"}, {"aggregation": "dr_grpo", "beta": 0.3}):
        of_task["method"] |= changes
        found = []
        for parts in (1, 3):
            each = learner(of_task, f"train.accumulation={parts}", "train.clip=null", "optimizer.name=sgd")
            event = next(each.steps(each.plan))
            figures = [event.values[name] for name in ("loss", "reward", "no_signal", "length", "entropy", "grad_norm")]
            weights = torch.cat([p.detach().flatten() for p in each.state.model.parameters()])
            found.append((torch.tensor(figures), weights))
        assert found[0][0][3] > 1
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_the_first_update_is_reinforce_with_a_baseline(of_task: dict[str, Any]) -> None:
    """Its gradient is that of the sum of −A log π over samples, A from the rewards by hand."""
    each = learner(of_task, "method.algorithm=rloo", 'method.reward={"length": 2}')
    model, batch = each.state.model, each.batch(3)
    reward = batch.extra["reward"].view(3, 4)
    assert reward.std(1).max() > 0
    gained = torch.stack([reward[:, n] - reward[:, [m for m in range(4) if m != n]].mean(1) for n in range(4)], 1)
    (-(gained.flatten() * (log_probs(model, batch, 1.0) * batch.mask).sum(-1)).mean()).backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    each.objective(model, batch).total.backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_answers_are_learned_from_right_and_wrong_alone(of_task: dict[str, Any], tmp_path: Path) -> None:
    """From a base that is right in some answers; no true answer is in what the objective reads."""
    values = {**of_task, "train": {**of_task["train"], "steps": 60, "batch_size": 64}, "evaluate": {"every": 1000}}
    values["method"] |= {"base_steps": 60, "samples": 8, "rate": 0.3}
    values["data"] |= {"base": [1, 1], "held_out": 30}
    values["model"] = {**values["model"], "position": "none", "token_shift": True, "family": "llama"}
    events = run(values, tmp_path / "run")
    rewards = [e.values["reward"] for e in events if e.kind == "step" and "reward" in e.values]
    assert sum(rewards[-10:]) / 10 > sum(rewards[:5]) / 5 + 0.1
    each = learner(values)
    batch = each.batch(60)
    truth = each.corpus.batch(60)
    shown = batch.tokens[:, 2:]
    assert not torch.equal(shown[::8], truth.tokens[:8, 2:]), "samples stand there, not answers"


def test_a_text_is_rewarded_for_what_was_written_after_its_prompt(of_text: dict[str, Any], tmp_path: Path) -> None:
    events = run(of_text, tmp_path / "run")
    steps = [e for e in events if e.kind == "step" and "reward" in e.values]
    assert all(e.values["length"] <= 9 and e.values["kl"] is not None for e in steps)
    evals = [e.values for e in events if e.kind == "eval" and e.step >= 3]
    assert all({"reward", "reward_error", "reward_before", "kl"} <= values.keys() for values in evals)
    assert all(values["score"] == -values["reward"] for values in evals)
    end = next(e.values for e in events if e.kind == "end")
    again = evaluate(tmp_path / "run", "test")
    assert again["reward"] == end["reward"]
    assert {"reward_before", "kl"} <= again.keys()


def test_a_grammar_is_sampled_from_its_mark(of_task: dict[str, Any], tmp_path: Path) -> None:
    of_task["data"] = {"type": "rlm", "v": 4, "L": 2, "targets": "all", "held_out": 16}
    of_task["model"]["block_size"] = 4
    of_task["method"] |= {"reward": {"pattern": "^1 "}, "beta": 0.05}
    events = run(of_task, tmp_path / "run")
    assert max(e.values["length"] for e in events if e.kind == "step" and "length" in e.values) <= 4
    assert {"kl", "reward"} <= next(e.values for e in events if e.kind == "end").keys()


def test_adapters_learn_from_samples(of_task: dict[str, Any], tmp_path: Path) -> None:
    run(of_task, tmp_path / "base")
    of_task["train"] |= {"init": str(tmp_path / "base"), "lora": {"rank": 2}}
    of_task["method"]["base_steps"] = 0
    events = run(of_task, tmp_path / "run")
    kl = [e.values["kl"] for e in events if e.kind == "eval"]
    assert kl[0] == 0 < kl[-1]
    assert (tmp_path / "run/checkpoints/current/lora.safetensors").exists()


def test_a_base_is_the_reference_of_all_members(of_task: dict[str, Any], tmp_path: Path) -> None:
    run(of_task, tmp_path / "base")
    of_task["method"] |= {"base": str(tmp_path / "base"), "members": 2, "base_steps": 0}
    events = run(of_task, tmp_path / "run")
    first = next(e for e in events if e.kind == "eval")
    assert (first.step, first.values["kl"]) == (0, [0.0, 0.0])
    assert first.values["exact_match"][0] == first.values["exact_match"][1]
    kept = load_file(tmp_path / "run/checkpoints/current/kept.safetensors")
    weights = load_file(tmp_path / "base/checkpoints/current/model.safetensors")
    assert all(torch.equal(kept[name][member], weights[name]) for name in weights for member in range(2))
    assert "unmeasured" in next(e.values for e in events if e.kind == "end")
    assert nanogrove.load(tmp_path / "run").model.population is None


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "trained"])
def test_an_average_of_weights_begins_at_the_base(of_task: dict[str, Any], saved: bool, tmp_path: Path) -> None:
    """What is scored before the first update is the reference, not weights from before it."""
    if saved:
        run(of_task, tmp_path / "base")
        of_task["method"] |= {"base": str(tmp_path / "base"), "base_steps": 0}
    of_task["train"] |= {"average": {"half_life": 5}}
    first = next(e for e in run(of_task, tmp_path / "run") if e.kind == "eval" and "kl" in e.values)
    assert first.values["kl"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method.samples=5"], "train.batch_size=12 is not a multiple of method.samples=5, which are the samples of"),
        (["method.samples=1"], "method.samples=1: must be 2 or more"),
        (["method.algorithm=rloo", "method.scale=group"], "scale=group divides by the deviation of a group"),
        ([TEXT], "method.reward: this data has no answers that are right"),
        (
            [TEXT, "method.reward={'length': 3}", "method.tokens=99"],
            "ask for 100 tokens, and model.block_size=16",
        ),
        (["method.prompt=99"], "method.prompt=99 is longer than a row of the data, 5 tokens"),
        (["method.base=nowhere"], "nowhere"),
        (["method.reward={'function': 'os:getcwd'}"], "os:getcwd is Python code that this preset asks to run"),
        (["model.n_embd=40000"], "this run needs"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    of_task: dict[str, Any], text_file: Path, changes: list[str], message: str
) -> None:
    written = [change.replace("TEXT", str(text_file)).replace("'", '"') for change in changes]
    if any(change.startswith("data=") for change in written):
        of_task.pop("data")
        data = next(change for change in written if change.startswith("data="))
        of_task["data"] = json.loads(data.removeprefix("data="))
        written.remove(data)
    with pytest.raises(NanogroveError) as caught:
        build(resolve(of_task, written))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("samples/tokens", lambda t: t + 10**6, "its samples hold tokens, lengths or rewards that cannot be"),
        ("samples/tokens", lambda t: t[..., :1], "its samples are of another shape or type than those of this run"),
        ("samples/start", lambda t: t.float(), "its samples are of another shape or type than those of this run"),
        ("samples/stop", lambda t: t * 0, "its samples hold tokens, lengths or rewards that cannot be"),
        ("samples/old", lambda t: t / 0, "its samples hold tokens, lengths or rewards that cannot be"),
        ("samples/reward", None, "the samples that its step goes on with are missing"),
        ("embed.weight", lambda t: t[:1], "embed.weight is (1, 16)"),
        ("", None, "the weights of its reference are missing"),
    ],
)
def test_samples_that_no_run_kept_are_refused_in_one_line(
    of_task: dict[str, Any], name: str, change: Any, message: str, tmp_path: Path
) -> None:
    of_task["method"] |= {"iterations": 3}
    steps = train(resolve(of_task), tmp_path)
    while next(steps).step < 6:
        pass
    steps.close()
    folder = tmp_path / "checkpoints/current"
    kept = load_file(folder / "kept.safetensors")
    state = json.loads((folder / "state.json").read_text())
    assert (state["step"] - 3) % 3, "the step is amid updates on the same samples"
    if change is None:
        kept = {} if not name else {other: tensor for other, tensor in kept.items() if other != name}
    else:
        kept[name] = change(kept[name]).contiguous()
    save_file(kept, folder / "kept.safetensors")
    state["files"]["kept.safetensors"] = hashlib.sha256((folder / "kept.safetensors").read_bytes()).hexdigest()
    state["checksum"] = checksum_of(state)
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError) as caught:
        for _ in train(resolve(of_task), tmp_path, resume=True):
            pass
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
