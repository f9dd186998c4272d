"""Averages in every method: recomputed from the weights of each step, measured, kept, resumed bit for bit."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.make import preset_of, write_data
from torch import Tensor

from nanogrove.config.overrides import resolve
from nanogrove.methods.contract import Trained
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, read_events
from nanogrove.runs.setup import Setup, build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import Checkpoint, heads_of, load_checkpoint
from nanogrove.train.initial import read_initial
from nanogrove.train.plan import Span

HALF_LIFE, TAIL = {"half_life": 2.5}, {"tail": 0.6}
SLOW = pytest.mark.slow
CASES = {
    "pretrain": HALF_LIFE,
    "pretrain, heads": TAIL,
    "pretrain, memory": HALF_LIFE,
    "evolution_strategies": TAIL,
    "self_improve": HALF_LIFE,
    "align": HALF_LIFE,
    "offline_rl, awr": TAIL,
    "policy_gradient, grpo": HALF_LIFE,
    "policy_gradient, rloo": TAIL,
    "reward_model": HALF_LIFE,
}
FAST = {"pretrain, heads", "evolution_strategies", "self_improve", "policy_gradient, grpo"}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the presets read."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)


def with_average(case: str, average: Mapping[str, float], **sections: Any) -> dict[str, Any]:
    preset = preset_of(case)
    for name, section in ("train", {"average": average}), ("save", {"every": 1}), *sections.items():
        preset[name] = {**preset.get(name, {}), **section}
    return preset


def states(preset: dict[str, Any], out: Path) -> Iterator[tuple[Event, Checkpoint | None]]:
    """The events of a run, each with what was saved after the step before."""
    current = out / "checkpoints" / "current"
    for event in train(resolve(preset), out, report=False):
        yield event, load_checkpoint(current) if current.exists() else None


def coefficients(average: Mapping[str, float], span: Span, step: int) -> dict[int, float]:
    """How much the weights after each step of a phase count in its average after `step`."""
    if "tail" in average:
        begin = span.end - max(round(average["tail"] * (span.end - span.start)), 1)
        counted = range(begin + 1, step + 1) if step > begin else range(step, step + 1)
        return dict.fromkeys(counted, 1 / len(counted))
    kept, shares = 1.0, {}
    for past in range(step, span.start, -1):
        count = past - span.start
        share = max(1 / count, 1 - 0.5 ** (1 / average["half_life"]))
        shares[past], kept = kept * share, kept * (1 - share)
    return shares


def by_hand(average: Mapping[str, float], setup: Setup, step: int, weights: Mapping[int, Mapping[str, Tensor]]) -> Any:
    """The average after a step, from the weights after each step of its phase, in float64."""
    span = next(s for s in setup.method.phases(setup.preset.method, setup.plan.steps) if s.start < step <= s.end)
    parts = coefficients(average, span, step)
    assert sum(parts.values()) == pytest.approx(1.0)
    return {name: sum(share * weights[past][name].double() for past, share in parts.items()) for name in weights[step]}


def trained(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All that is trained, by the names of `average.safetensors`."""
    return {**checkpoint.model, **{f"heads.{name}": weight for name, weight in checkpoint.heads.items()}}


def close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name].double(), weight.double(), atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("case", [case if case in FAST else pytest.param(case, marks=SLOW) for case in CASES])
def test_the_average_is_that_of_each_phase_and_is_what_is_measured_and_kept(case: str, tmp_path: Path) -> None:
    average, out = CASES[case], tmp_path / "run"
    preset = with_average(case, average)
    weights: dict[int, dict[str, Tensor]] = {}
    averages: dict[int, dict[str, Tensor]] = {}
    for _, saved in states(preset, out):
        if saved is not None:
            weights[saved.state["step"]], averages[saved.state["step"]] = trained(saved), saved.average
    last = load_checkpoint(out / "checkpoints" / "current")
    weights[last.state["step"]], averages[last.state["step"]] = trained(last), last.average
    setup = build(resolve(preset))
    assert sorted(averages) == list(range(1, setup.plan.steps + 1))
    expected = {step: by_hand(average, setup, step, weights) for step in averages}
    for step, theirs in expected.items():
        close(averages[step], theirs)
    assert any(not torch.equal(averages[last.state["step"]][name], weight) for name, weight in last.model.items())
    events = list(read_events(out / "events.jsonl"))
    assert events[0].values["scored"].startswith("average of the weights, ")
    scored = [event for event in events if event.kind == "eval"]
    assert scored
    method, config = setup.method, setup.preset.method
    for event in scored:
        span = next(s for s in method.phases(config, setup.plan.steps) if s.start < event.step <= s.end)
        counted = len(coefficients(average, span, event.step))
        begins_anew = event.values["averaged"] == 1 and event.step == span.end
        assert event.values["averaged"] == counted or begins_anew, "a reference is the weights at the end of the base"
        measured = weights[event.step] if begins_anew else expected[event.step]
        model = GPT(last.config, setup.population)
        model.load_state_dict({name: measured[name].float() for name in last.model})
        limit = setup.preset.evaluate.tokens
        values = method.evaluate(Trained(model, config, setup.plan.seed), setup.corpus, "validation", limit)
        assert event.values["loss"] == pytest.approx(values["loss"], abs=2e-5), event.step
    best = load_checkpoint(out / "checkpoints" / "best")
    start = best.state["step"] if scored[0].step == best.state["step"] else 0
    kept = weights[start] if start and scored[0].values["averaged"] == 1 else averages[best.state["step"]]
    if setup.population is not None:
        kept = {name: weight[best.state["best"]["member"]] for name, weight in kept.items()}
    assert all(torch.equal(weight, kept[name]) for name, weight in trained(best).items())
    assert (heads_of(best) is None) == (not last.heads)


@pytest.mark.parametrize("case", ["pretrain, heads", "evolution_strategies"])
def test_a_run_with_an_average_is_resumed_bit_for_bit(case: str, tmp_path: Path, resumes_exactly: Any) -> None:
    preset = with_average(case, CASES[case], save={"every": 2})
    resumes_exactly(preset, tmp_path, [("step", n) for n in (4, 7)])


def test_a_clone_goes_on_with_the_average_of_its_parent(tmp_path: Path) -> None:
    preset = with_average("evolve", HALF_LIFE)
    preset["method"] |= {"noise": 0.0, "crossover": None}
    share = 1 - 0.5 ** (1 / 2.5)
    weights: dict[int, dict[str, Tensor]] = {}
    averages: dict[int, dict[str, Tensor]] = {}
    births: dict[int, dict[int, int]] = {}
    for event, saved in states(preset, tmp_path / "run"):
        if saved is not None:
            weights[saved.state["step"]], averages[saved.state["step"]] = saved.model, saved.average
        if event.kind == "generation" and "births" in event.values:
            owners = {member: slot for slot, member in enumerate(event.values["members"])}
            births[event.step] = {birth["slot"]: owners[birth["parents"][0]] for birth in event.values["births"]}
    assert any(births.values())
    for step in range(2, max(averages) + 1):
        if step in births:  # the weights of the step are replaced before they are saved
            continue
        for name, average in averages[step].items():
            moved = max(1 / step, share) * (weights[step][name] - averages[step - 1][name])
            torch.testing.assert_close(average, averages[step - 1][name] + moved, atol=2e-6, rtol=1e-5)
    for step, parents in births.items():
        for child, parent in parents.items():
            for tensors in (weights[step], averages[step]):
                assert all(torch.equal(tensor[child], tensor[parent]) for tensor in tensors.values())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A run to adapt."""
    for _ in train(resolve(preset_of("pretrain")), tmp_path / "base", report=False):
        pass
    return tmp_path / "base"


def adapted(base: Path, average: Mapping[str, float]) -> dict[str, Any]:
    lora = {"rank": 2, "alpha": 4.0}
    return with_average("pretrain, heads", average, train={"average": average, "init": str(base), "lora": lora},
                        model={"family": "gpt2"})  # fmt: skip


@pytest.mark.parametrize("average", [HALF_LIFE, TAIL], ids=["half-life", "tail"])
def test_an_average_of_adapters_is_that_of_each_a_and_b(average: dict[str, float], base: Path, tmp_path: Path) -> None:
    preset, out = adapted(base, average), tmp_path / "run"
    low_rank: dict[int, dict[str, Tensor]] = {}
    for _, saved in states(preset, out):
        if saved is not None:
            low_rank[saved.state["step"]] = {name: t for name, t in saved.lora.items() if ".lora_" in name}
    last = load_checkpoint(out / "checkpoints" / "current")
    steps = last.state["step"]
    low_rank[steps] = {name: tensor for name, tensor in last.lora.items() if ".lora_" in name}
    setup = build(resolve(preset))
    expected = by_hand(average, setup, steps, low_rank)
    close({name: last.average[name] for name in expected}, expected)
    products, apart = {}, 0.0
    span = Span("training", 0, steps)
    for name in (name for name in expected if ".lora_A." in name):
        b, path = name.replace("lora_A", "lora_B"), name.partition(".lora_A.")[0]
        assert name.endswith(".0.weight"), "one map for all of q, k and v, as gpt2 stores it"
        products[path] = 2.0 * expected[b] @ expected[name]
        base_weight = last.lora[f"base/{path}"].double()
        torch.testing.assert_close(
            last.average[f"{path}.weight"].double(), base_weight + products[path], atol=2e-6, rtol=1e-5
        )
        parts = coefficients(average, span, steps)
        of_models = sum(
            2.0 * share * low_rank[n][b].double() @ low_rank[n][name].double() for n, share in parts.items()
        )
        apart = max(apart, float((of_models - products[path]).norm() / products[path].norm()))
    assert len(products) == 8
    assert 0 < apart < 0.2, "the mean of the models is another one, and near"
    best = load_checkpoint(out / "checkpoints" / "best")
    assert best.state["step"] == steps
    merged = read_initial(str(out / "checkpoints" / "best")).weights
    alone = tmp_path / "adapter"  # as `peft` would read it: adapters, without the model
    alone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (alone / name).write_bytes((out / "checkpoints" / "best" / name).read_bytes())
    from_adapter = read_initial(str(alone)).weights
    for name, weight in best.model.items():
        assert torch.equal(weight, last.average[name])
        assert torch.equal(weight, merged[name])
        torch.testing.assert_close(weight, from_adapter[name], atol=1e-6, rtol=1e-5)


def test_a_run_of_adapters_with_an_average_is_resumed_bit_for_bit(
    base: Path, tmp_path: Path, resumes_exactly: Any
) -> None:
    preset = adapted(base, TAIL)
    preset["save"] = {"every": 2}
    resumes_exactly(preset, tmp_path / "runs", [("step", n) for n in (4, 7)])


def test_weights_of_a_base_are_what_an_average_begins_with(tmp_path: Path) -> None:
    """A saved base is measured before any step: it is what was saved, not what the run was initialized with."""
    base = preset_of("self_improve")
    base["method"]["si_rounds"] = 0
    for _ in train(resolve(base), tmp_path / "base", report=False):
        pass
    preset = with_average("self_improve", TAIL)
    preset["method"]["base"] = str(tmp_path / "base")
    plain = json.loads(json.dumps(preset))
    plain["train"]["average"] = {}
    first = [
        next(event for event, _ in states(each, tmp_path / name) if event.kind == "eval")
        for name, each in (("averaged", preset), ("plain", plain))
    ]
    assert first[0].step == first[1].step == 0
    assert first[0].values.pop("averaged") == 1
    assert first[0].values == first[1].values
