"""Auxiliary losses against slow loops over the equations; nothing crosses a window, a document or a pad."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.errors import CheckpointError, NanogroveError
from nanogrove.evaluate.auxiliary import IDLE_GRADIENT_SHARE, gradient_shares, idle, measure
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.model.members import unstack
from nanogrove.record.events import read_events
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import heads_of, load_checkpoint
from nanogrove.train.loop import fit
from nanogrove.train.objective import weighted
from nanogrove.train.objectives.auxiliary import (
    head_losses,
    objective_of,
    policy_target,
    span_start,
    valid_span_mask,
    value_targets,
    weight_of,
)
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

HEADS = ("policy", "value", "dynamics", "span_contrastive", "multi_token")
ALL = {f"enable_{name}": True for name in HEADS}
CONFIG = AuxiliaryConfig(
    **ALL,
    dynamics_rollouts=2,
    multi_token_count=3,
    value_horizon=3,
    value_discount=0.8,
    span_mask_fraction=0.25,
    policy_every=3,
    policy_candidates=3,
    policy_beta=0.7,
)
T, V, MARK, START = 12, 11, 0, 5


def made(population: int | None = None, documents: bool = False) -> tuple[GPT, Heads]:
    """A model and heads in float64, no weight of them zero."""
    config = ModelConfig(
        vocab_size=V,
        block_size=T,
        n_layer=1,
        n_head=2,
        n_embd=8,
        within_documents=documents,
        document_mark=MARK if documents else None,
    )
    seeds = range(population or 1)
    model, heads = GPT(config, population).initialize(*seeds), Heads(CONFIG, config, population).initialize(*seeds)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*model.parameters(), *heads.parameters()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double(), heads.double()


def batch(rows: int = 4, seed: int = 0) -> Batch:
    """Rows of which one holds a document's beginning, one a prompt, one ends in pads and one has a weight of two."""
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randint(1, V, (rows, T + 1), generator=generator)
    windows[0, 7] = MARK
    weight = torch.ones(rows, T, dtype=torch.float64)
    mask = torch.ones(rows, T, dtype=torch.bool)
    mask[1, :3] = False
    mask[2, 9:] = False
    weight[3, 5:8] = 2
    return Batch(windows[:, :-1], windows[:, 1:], mask, weight, torch.zeros(rows, dtype=torch.int64))


def losses(model: GPT, heads: Heads, given: Batch, start: int = START) -> dict[str, Tensor]:
    hidden = model.hidden(given.tokens)
    return head_losses(heads, model, hidden, model.nll(hidden, given.targets), given, start)


def slowly(model: GPT, heads: Heads, given: Batch) -> dict[str, Any]:
    """The parts, one place after the other, for a single model."""
    c, mark = heads.config, model.config.mark
    assert heads.value is not None
    assert heads.step is not None
    assert heads.project is not None
    assert heads.query is not None
    assert heads.key is not None
    assert heads.policy is not None
    hidden = model.hidden(given.tokens)
    nll = model.nll(hidden, given.targets)
    count = int(given.mask.sum())
    parts: dict[str, Any] = dict.fromkeys(("value", "value_imagined", "dynamics_latent", "dynamics_token"), 0.0)
    parts |= {"multi_token": 0.0, "policy": 0.0}
    discounts = [c.value_discount**k for k in range(c.value_horizon)]
    queries, keys = [], []

    def allowed(b: int, first: int, last: int) -> bool:
        """Whether the predictions at `first` … `last` are in the window, scored and of one document."""
        inside = last < T and all(bool(given.mask[b, i]) for i in range(first, last + 1))
        return inside and (mark is None or mark not in given.tokens[b, first + 1 : last + 1].tolist())

    def ahead(b: int, t: int) -> Tensor:
        found = sum(d * nll[b, t + k].item() for k, d in enumerate(discounts)) / sum(discounts)
        return torch.tensor(found, dtype=torch.float64)

    def token_loss(state: Tensor, target: Tensor) -> Tensor:
        return -F.log_softmax(model.logits(state), -1)[target]

    for b in range(len(given.tokens)):
        for t in range(T):
            h = hidden[b, t]
            if allowed(b, t, t + c.value_horizon - 1):
                parts["value"] += (heads.value(h) - ahead(b, t)) ** 2 / count
            state = h
            for k in range(1, c.dynamics_rollouts + 1):
                if t + k >= T:
                    break
                state = heads.step(state, heads.action_embedding(model.embed(given.tokens[b, t + k])))
                if allowed(b, t, t + k):
                    guess, true = heads.latent(state), heads.project(hidden[b, t + k].detach()).detach()
                    parts["dynamics_latent"] += -(guess @ true) / (guess.norm() * true.norm()) / 2 / count
                    told = given.weight[b, t + k] * token_loss(state, given.targets[b, t + k])
                    parts["dynamics_token"] += told / 2 / count
                if allowed(b, t, t + k + c.value_horizon - 1):
                    parts["value_imagined"] += (heads.value(state) - ahead(b, t + k)) ** 2 / 2 / count
            for n, bend in enumerate(heads.ahead, 1):
                if allowed(b, t, t + n):
                    told = given.weight[b, t + n] * token_loss(bend(h), given.targets[b, t + n])
                    parts["multi_token"] += told / 2 / count
            if allowed(b, t, t) and t % 3 == START % 3:
                own = F.softmax(model.logits(h), -1).detach()
                tried = sorted(range(V), key=lambda a: -own[a].item())[:3]
                values = {
                    a: heads.value(heads.step(h, heads.action_embedding(model.embed(torch.tensor(a))))).item()
                    for a in tried
                }
                mean = sum(own[a].item() * values[a] for a in tried) / sum(own[a].item() for a in tried)
                tilted = [own[a].item() * math.exp(0.7 * (mean - values.get(a, mean))) for a in range(V)]
                policy = F.log_softmax(model.logits(heads.policy(h)), -1)
                for a in range(V):
                    share = tilted[a] / sum(tilted)
                    parts["policy"] += share * (math.log(share) - policy[a]) / count
        length = round(c.span_mask_fraction * T)
        if allowed(b, START - 1, START + length - 1):
            queries.append(F.normalize(heads.query(hidden[b, START - 1]), dim=0))
            keys.append(F.normalize(heads.key(hidden[b, START : START + length].mean(0)), dim=0))
    parts["policy"] = parts["policy"] * T / len(range(START % 3, T, 3))
    each = [
        torch.logsumexp(torch.stack([q @ k / 0.07 for k in keys]), 0) - q @ keys[i] / 0.07
        for i, q in enumerate(queries)
    ]
    parts["span"] = sum(each) / len(each)
    assert len(queries) > 1
    return parts


@pytest.mark.parametrize("documents", [False, True])
def test_every_part_is_its_equation(documents: bool) -> None:
    model, heads = made(documents=documents)
    found, wanted = losses(model, heads, batch()), slowly(model, heads, batch())
    assert found.keys() == wanted.keys()
    for name, loss in found.items():
        assert loss.item() == pytest.approx(torch.as_tensor(wanted[name]).item(), rel=1e-9), name


def test_a_population_is_a_loop_over_its_members() -> None:
    model, heads = made(population=3)
    batches = [batch(seed=p) for p in range(3)]
    columns = zip(*((b.tokens, b.targets, b.mask, b.weight, b.source) for b in batches), strict=True)
    tokens, targets, mask, weight, source = map(torch.stack, columns)
    together = Batch(tokens, targets, mask, weight, source)
    found = losses(model, heads, together)
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
    for p, one in enumerate(batches):
        alone, theirs = GPT(model.config).double(), Heads(CONFIG, model.config).double()
        alone.load_state_dict(unstack(model.state_dict(), p))
        theirs.load_state_dict(unstack(heads.state_dict(), p))
        single = losses(alone, theirs, one)
        torch.stack(list(single.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, loss in single.items():
            assert found[name][p].item() == pytest.approx(loss.item(), rel=1e-10), name
        both = zip((*model.parameters(), *heads.parameters()), (*alone.parameters(), *theirs.parameters()), strict=True)
        assert all(torch.allclose(a.grad[p], b.grad, atol=1e-10) for a, b in both)  # type: ignore[index, arg-type]
    shares = gradient_shares(model, heads, together, START)
    assert all(share.shape == (3,) for share in shares.values())
    assert {len(v) for v in measure(model, heads, [batch()]).values() if isinstance(v, list)} <= {2, 3}


def test_what_is_not_scored_has_no_gradient_and_no_say() -> None:
    model, heads = made()
    given = batch()
    hidden = model.hidden(given.tokens).detach().requires_grad_()
    nll = model.nll(hidden, given.targets)
    for name, part in head_losses(heads, model, hidden, nll, given, START).items():
        (gradient,) = torch.autograd.grad(part, hidden, retain_graph=True)
        assert (gradient[~given.mask] == 0).all(), name
        assert gradient.abs().sum() > 0, name
    before = losses(model, heads, given)
    tokens, targets = given.tokens.clone(), given.targets.clone()
    tokens[2, 10:], targets[2, 9:] = 3, 3  # other pads
    for name, loss in losses(model, heads, replace(given, tokens=tokens, targets=targets)).items():
        assert loss.item() == before[name].item(), name


def test_targets_are_not_taught() -> None:
    """A value's gradient would else lower the NLL that it is told, and a policy's the model that it learns from."""
    model, heads = made()
    given = batch()
    for name in ("value", "policy"):
        hidden = model.hidden(given.tokens).detach()
        nll = model.nll(hidden, given.targets)
        part = head_losses(heads, model, hidden, nll, given, START)[name]
        learning = {
            n
            for n, p in heads.named_parameters()
            if torch.autograd.grad(part, p, None, True, allow_unused=True)[0] is not None
        }
        assert {n.partition(".")[0] for n in learning} == {name}


@pytest.mark.parametrize(("target", "rollouts"), [("value", 2), ("search", 1), ("search", 2), ("search", 3)])
def test_a_policy_is_tilted_towards_easier_text(target: str, rollouts: int) -> None:
    """A search follows the likeliest text as far as the dynamics are trained to, one state at a time here."""
    model, heads = made()
    heads.config = CONFIG.model_copy(update={"policy_target": target, "dynamics_rollouts": rollouts})
    hidden = model.hidden(batch().tokens)
    own, improved = policy_target(heads, model, hidden)
    assert torch.allclose(improved.exp().sum(-1), torch.ones(4, T, dtype=torch.float64))
    tried = own.topk(3).indices
    assert heads.step is not None
    assert heads.value is not None
    values = torch.zeros(tried.shape, dtype=torch.float64)
    discounts = [CONFIG.value_discount**k for k in range(CONFIG.value_horizon)]
    for place in np.ndindex(*tried.shape):
        state = heads.step(hidden[place[:-1]], heads.action_embedding(model.embed(tried[place])))
        for discount in discounts[: rollouts - 1] if target == "search" else []:
            best, token = model.logits(state).log_softmax(-1).max(-1)
            values[place] -= discount * best
            state = heads.step(state, heads.action_embedding(model.embed(token)))
        values[place] += sum(discounts[rollouts - 1 :] if target == "search" else discounts) * heads.value(state)
        values[place] /= sum(discounts)
    moved = (improved - own).gather(-1, tried)
    mean = (own.gather(-1, tried).softmax(-1) * values).sum(-1, keepdim=True)
    wanted = CONFIG.policy_beta * (mean - values)
    assert torch.allclose(moved - moved.mean(-1, keepdim=True), wanted - wanted.mean(-1, keepdim=True))
    others = (improved - own).scatter(-1, tried, torch.nan)
    assert (others.nan_to_num(-torch.inf).amax(-1) - others.nan_to_num(torch.inf).amin(-1)).abs().max() < 1e-12


@pytest.mark.parametrize("rows", [8, 24])
def test_contrast_begins_at_chance_and_equal_spans_are_no_negatives(rows: int) -> None:
    config = ModelConfig(vocab_size=200, block_size=64)
    model, heads = GPT(config).initialize(0), Heads(AuxiliaryConfig(enable_span_contrastive=True), config).initialize(0)
    windows = torch.randint(200, (rows, 65), generator=torch.Generator().manual_seed(0))
    given = Batch.uniform(
        windows[:, :-1], windows[:, 1:], torch.ones(rows, 64, dtype=torch.bool), torch.zeros(rows, dtype=torch.int64)
    )
    found = losses(model, heads, given, 20)["span"].item()
    assert found == pytest.approx(math.log(rows), rel=0.05)
    same = windows.clone()
    same[1::2, 20:30] = same[0::2, 20:30]
    paired = losses(model, heads, replace(given, tokens=same[:, :-1], targets=same[:, 1:]), 20)["span"].item()
    assert paired == pytest.approx(math.log(rows - 1), rel=0.01)


def test_spans_fit_every_window() -> None:
    for tokens in (12, 40):
        starts = {span_start(CONFIG, tokens, 0, "span", step) for step in range(300)}
        assert starts == set(range(1, tokens - CONFIG.span_length(tokens) + 1))


@pytest.mark.parametrize("name", ["policy", "value", "dynamics", "multi_token", "memory"])
def test_accumulation_changes_neither_loss_nor_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2, 3, 5 and, where logits are made a few positions at a time, again 2 micro-batches of 7 uneven rows."""
    wanted = {"policy", "value", "dynamics"} if name == "policy" else {name}
    config = CONFIG.model_copy(update={f"enable_{head}": head in wanted for head in (*HEADS, "memory")})
    memory = {"memory_tokens": 2, "memory_segment": 4} if name == "memory" else {}
    family = "nanochat" if name == "memory" else "gpt2"
    shape = ModelConfig(family=family, vocab_size=V, block_size=T, n_layer=1, n_head=2, n_embd=8, dropout=0.0, **memory)
    given = batch(7)
    given.mask[4:] = torch.arange(T) >= torch.tensor([[1], [7], [5]])

    def trained(accumulation: int) -> tuple[dict[str, Any], list[Tensor]]:
        """The figures of one step of plain gradient descent at rate 1, and what it took off each weight."""
        model, heads = GPT(shape).initialize(0).double(), Heads(config, shape).initialize(0).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in (*model.parameters(), *heads.parameters()):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        before = [parameter.detach().clone() for parameter in (*model.parameters(), *heads.parameters())]
        sgd = OptimizerConfig(name="sgd", lr=1.0, adamw_lr=1.0, momentum=0.0, weight_decay=0.0)
        state = TrainState(model, make_optimizer(model, sgd, heads=heads), heads=heads)
        plan = Plan(seed=0, steps=1, lr_factor=lambda step: 1.0, accumulation=accumulation, clip=None)
        (event,) = fit(state, lambda step: given, objective_of(state, plan), plan)
        after = (*model.parameters(), *heads.parameters())
        return event.values, [a.detach() - b for a, b in zip(after, before, strict=True)]

    whole, gradients = trained(1)
    assert whole[{"dynamics": "dynamics_latent"}.get(name, name)] != 0
    assert sum(gradient.abs().sum().item() for gradient in gradients) > 0
    for accumulation in (2, 3, 5, 2):
        figures, parts = trained(accumulation)
        for key, value in whole.items():
            assert figures[key] == pytest.approx(value, rel=1e-6), (key, accumulation)
        for a, b in zip(gradients, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        monkeypatch.setattr("nanogrove.train.objectives.auxiliary.MAX_LOGITS_PER_CHUNK", 5 * V)


def test_the_contrast_alone_is_that_of_micro_batches() -> None:
    model, heads = made()
    given = batch(6)
    whole, count = losses(model, heads, given), given.mask.sum()
    pieces = [(losses(model, heads, b), b.mask.sum().double() / count) for b in given.split(3)]
    for name, loss in whole.items():
        parts = sum(share * figures[name] for figures, share in pieces).item()
        assert (parts == pytest.approx(loss.item(), rel=1e-9)) == (name != "span"), name


def test_the_total_is_the_weighted_sum_and_idle_parts_are_told() -> None:
    model, heads = made()
    state = TrainState(model, make_optimizer(model, OptimizerConfig(), heads=heads), heads=heads)
    given = batch()
    loss = objective_of(state, Plan(seed=3, steps=1, lr_factor=lambda step: 1.0))(model, given)
    start = span_start(CONFIG, T, 3, "span", 0)
    found = losses(model, heads, given, start)
    wanted = weighted(model(given.tokens, given.targets), given).total
    wanted = wanted + sum(weight_of(CONFIG, name) * part for name, part in found.items())
    assert loss.total.item() == pytest.approx(wanted.item())
    assert loss.parts.keys() == {"next_token", *found}
    shares = gradient_shares(model, heads, given, START)
    assert idle(shares) == []
    hidden = model.hidden(given.tokens)
    nll = model.nll(hidden, given.targets)
    part = losses(model, heads, given)["span"]
    norms = []
    for each in (0.05 * part, weighted(nll, given).total):
        found_ = torch.autograd.grad(each, list(model.parameters()), allow_unused=True)
        norms.append(torch.cat([g.flatten() for g in found_ if g is not None]).norm().item())
    assert shares["span"].item() == pytest.approx(norms[0] / norms[1], rel=1e-5)
    heads.config = CONFIG.model_copy(update={"span_contrastive_weight": 0.0, "value_weight": 1e-9})
    assert idle(gradient_shares(model, heads, given, START)) == ["value", "value_imagined", "span"]
    assert IDLE_GRADIENT_SHARE == 0.001


def test_measures_are_against_what_needs_no_learning() -> None:
    model, heads = made()
    found = measure(model, heads, [batch(seed=s) for s in range(3)])
    assert found["span_chance"] == pytest.approx(1 / 3, abs=0.1), "one of four rows has no span that is scored whole"
    assert len(found["latent_cosine"]) == len(found["latent_copying"]) == 2
    assert found["value_r2"] < 0.1
    assert heads.value is not None
    assert heads.policy is not None
    errors, entropies = [], []
    for given in (batch(seed=s) for s in range(3)):
        hidden = model.hidden(given.tokens)
        targets, there = (
            value_targets(model.nll(hidden, given.targets), CONFIG),
            valid_span_mask(given, None, CONFIG.value_horizon),
        )
        errors += (heads.value(hidden[..., : there.shape[-1], :]) - targets)[there].tolist()
        policy = Categorical(logits=model.logits(heads.policy(hidden)))
        entropies.append(policy.entropy()[given.mask])
    assert found["value_error"] == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    heads.config = CONFIG.model_copy(update={"policy_every": 1})
    found = measure(model, heads, [batch(seed=s) for s in range(3)])
    assert found["policy_entropy"] == pytest.approx(torch.cat(entropies).mean().item(), rel=1e-5)
    assert all(0 <= share <= 1 for share in found["multi_token_accuracy"])
    one = batch().each(lambda tensor: tensor[:, :2] if tensor.dim() == 2 else tensor)
    assert measure(model, heads, [one]) == {}, "a window too short for the heads"
    last = replace(batch(), mask=torch.arange(T).eq(T - 1).expand(4, T))
    assert measure(model, heads, [last]).keys() <= {"policy_kl", "policy_kl_of_model", "policy_entropy"}, (
        "nothing else can be measured"
    )
    assert all(loss.item() == 0 for name, loss in losses(model, heads, last).items() if name != "policy")


def trained(preset: dict[str, Any], out: Path) -> list[Any]:
    for _ in train(resolve(preset), out):
        pass
    return read_events(out / "events.jsonl")


@pytest.fixture
def preset(tiny: Any, tmp_path: Path) -> Iterator[dict[str, Any]]:
    (tmp_path / "other.txt").write_text("another text of quite other words, again and again\n" * 200)
    made = tiny(
        auxiliary={**ALL, "value_horizon": 4},
        train={"steps": 10, "batch_size": 8, "accumulation": 2},
        sample={"tokens": 0},
    )
    made["data"]["sources"] = [made["data"]["sources"], str(tmp_path / "other.txt")]
    return made


def test_a_resume_ends_alike(preset: dict[str, Any], tmp_path: Path, resumes_exactly: Any) -> None:
    record = resumes_exactly(preset, tmp_path, [("step", 6), ("auxiliary", 1)])
    told = [line for line in record if line["kind"] == "auxiliary"]
    assert [line["step"] for line in told] == [5, 10]
    assert told[0]["shares"].keys() == {"value", "value_imagined", "dynamics_latent", "dynamics_token"} | {
        "span",
        "multi_token",
        "policy",
    }
    step = next(line for line in record if line["kind"] == "step")
    assert told[0]["shares"].keys() | {"next_token"} <= step.keys()
    assert [line["kind"] for line in record if line["kind"] == "sources"], "losses by source are told beside them"
    run = tmp_path / "whole"
    page = (run / "report.html").read_text()
    assert "Auxiliary heads" in page
    assert "Gradient in the trunk" in page
    lm = nanogrove.load(run)
    assert isinstance(lm.generate("the", tokens=3), str)
    best = load_checkpoint(run / "checkpoints/best")
    assert best.model.keys() == GPT(best.config).state_dict().keys()
    assert {key.partition(".")[0] for key in best.heads} >= {"value", "step", "query", "ahead", "policy"}
    assert lm.heads is not None
    assert lm.heads.config == resolve(preset).auxiliary
    assert all(torch.equal(tensor, best.heads[key]) for key, tensor in lm.heads.state_dict().items())
    with pytest.raises(CheckpointError, match=r"state.json does not tell what its heads are"):
        heads_of(replace(best, state={}))
    damaged = bytearray((run / "checkpoints/best/heads.safetensors").read_bytes())
    damaged[-1] ^= 1
    (run / "checkpoints/best/heads.safetensors").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"heads.safetensors: damaged"):
        load_checkpoint(run / "checkpoints/best")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_all_heads_train_in_bfloat16_as_in_float32(device: str, tiny: Any, tmp_path: Path) -> None:
    said = {}
    for precision in ("float32", "bfloat16"):
        values = tiny(
            model={"dropout": 0.0},
            auxiliary={**ALL, "value_horizon": 4},
            train={"steps": 8, "batch_size": 8, "device": device, "precision": precision},
        )
        said[precision] = [event for event in trained(values, tmp_path / precision) if event.kind == "step"]
    for ours, theirs in zip(said["bfloat16"], said["float32"], strict=True):
        for part in (
            "loss",
            "next_token",
            "value",
            "dynamics_latent",
            "dynamics_token",
            "span",
            "multi_token",
            "policy",
        ):
            assert ours.values[part] == pytest.approx(theirs.values[part], rel=0.03, abs=0.03), part


METHODS: dict[str, dict[str, Any]] = {
    "evolve": {"population_size": 4, "generations": 2, "steps_per_generation": 4, "noise": 0.1, "significance": None},
    "self_improve": {"si_rounds": 2, "si_iter": 4, "examples": 30, "guard_agreement": 0.0, "guard_fit": 0.0},
    "align": {"reward": {"terms": {"moon": 1.0}}, "rounds": 1, "steps_per_round": 4, "texts": 24, "tokens": 10},
    "offline_rl": {"algorithm": "rwr", "base_steps": 4},
}


@pytest.mark.parametrize(
    "method",
    ["evolve", "self_improve", *(pytest.param(name, marks=pytest.mark.slow) for name in ("align", "offline_rl"))],
)
def test_heads_train_with_every_method_that_learns_from_each_token(
    method: str, tiny: Any, tmp_path: Path, resumes_exactly: Any
) -> None:
    """Members breed, copied, mutated and crossed with their heads; a round that is undone undoes heads too."""
    task = method == "self_improve"
    values = tiny(
        method={"name": method, **METHODS[method]},
        model={"dropout": 0.0, "block_size": 24},
        auxiliary={**ALL, "value_horizon": 3, "span_mask_fraction": 0.3, "policy_every": 1},
        train={"steps": None if method == "evolve" else 8, "batch_size": 8},
        evaluate={"every": 4, "tokens": 200},
        sample={"tokens": 0},
    )
    if task:
        values["data"] = {"type": "task", "task": "copy", "base": [2, 3], "held_out": 20}
    if method == "offline_rl":
        rows = [{"prompt": f"so {n}", "text": f"many words of {n} kinds", "reward": n / 9} for n in range(40)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        values["data"] = {"type": "rewarded", "path": str(tmp_path / "rows.jsonl"), "prompt": "prompt"}
    record = resumes_exactly(values, tmp_path, [("step", 6)])
    told = [line for line in record if line["kind"] == "auxiliary"]
    assert len(told) >= 2
    assert told[-1]["measures"].keys() >= {"value_r2", "latent_cosine", "multi_token_loss", "policy_kl"}
    shape = {"evolve": (4,), "self_improve": (3,)}.get(method, ())
    for name, share in told[-1]["shares"].items():
        assert np.shape(share) == shape
        assert (np.array(share) > 0).any() or (task and name == "span"), "an answer is seldom long enough for a span"
    lm = nanogrove.load(tmp_path / "whole")
    assert lm.heads is not None
    fresh = Heads(lm.heads.config, lm.model.config).initialize(0)
    assert not torch.equal(lm.heads.value.up.weight, fresh.value.up.weight)  # type: ignore[union-attr]
    assert any(line["kind"] == "alarm" for line in record) == task


def test_heads_of_no_weight_leave_the_model_as_it_would_be(tiny: Any, tmp_path: Path) -> None:
    weights = {f"{name}_weight": 0.0 for name in ("policy_kl", "value", "dynamics", "span_contrastive", "multi_token")}
    plain = tiny(train={"steps": 6, "clip": None}, sample={"tokens": 0})
    events = trained({**plain, "auxiliary": {**ALL, **weights}}, tmp_path / "heads")
    trained(plain, tmp_path / "plain")
    files = [tmp_path / name / "checkpoints/current/model.safetensors" for name in ("heads", "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (tmp_path / "plain/checkpoints/current/heads.safetensors").exists()
    told = [event.values for event in events if event.kind == "auxiliary"]
    assert len(told[-1]["idle"]) == 7


def test_idle_heads_are_told_on_the_screen(tiny: Any, tmp_path: Path, command: Any) -> None:
    preset = tiny(auxiliary={"enable_value": True, "value_weight": 0.0}, train={"steps": 5}, sample={"tokens": 0})
    (tmp_path / "preset.json").write_text(json.dumps(preset))
    said = command("train", tmp_path / "preset.json", "--out", tmp_path / "run").out
    assert "value R²" in said
    assert "idle: value, whose gradient is below 0.1% of the main loss's" in said


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"auxiliary": {"enable_value": True, "value_horizon": 17}}, "auxiliary.value_horizon 17 reaches beyond"),
        ({"auxiliary": {"enable_policy": True}}, "set enable_value and enable_dynamics"),
        ({"auxiliary": {"dynamics_weight": -1}}, "auxiliary.dynamics_weight"),
        ({"auxiliary": {"span_mask_fraction": 1}}, "auxiliary.span_mask_fraction"),
        ({"auxiliary": {"enable_valeu": True}}, "did you mean auxiliary.enable_value"),
        (
            {"auxiliary": {"enable_value": True}, "method": "evolution_strategies"},
            "auxiliary: evolution_strategies does not learn from the NLL of each token, which heads need",
        ),
        ({"auxiliary": {"enable_span_contrastive": True, "span_mask_fraction": 0.98}}, "leaves no token ahead"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(sections: dict[str, Any], said: str, tiny: Any) -> None:
    with pytest.raises(NanogroveError) as error:
        resolve(tiny(**sections))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
