"""Learning from scored texts: known optima, losses against float64, no gradient where none belongs, exact resume."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from nanogrove.cli.render import show
from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.errors import NanogroveError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.record.events import read_events
from nanogrove.runs.score import evaluate
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import load_latest, read_checkpoint
from nanogrove.train.objective import Loss, next_token
from nanogrove.train.objectives.preference import dpo, kto, kto_batch, log_ratio

ITEMS = {"a": (0.4, 1.0), "b": (0.3, 0.0), "c": (0.2, 2.0), "d": (0.1, -3.0)}  # share under μ, reward
PROMPTS = "0123456789"


def preset(path: Path, algorithm: str, steps: int = 300, **more: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "method": {"name": "offline_rl", "algorithm": algorithm, "scale": "none", "beta": 1.5, **more},
        "data": {
            "type": "preferences" if algorithm == "dpo" else "rewarded",
            "path": str(path),
            "prompt": "prompt",
            "validation": 0.2,
            "test": 0.2,
        },
        "model": {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 4, "bias": False},
        "train": {
            "steps": steps, "batch_size": 400, "device": "cpu", "precision": "float32", "threads": 1,
            "accumulation": 1, "compile": False,
        },
        "optimizer": {"name": "adamw", "lr": 0.05, "weight_decay": 0.0},
        "schedule": {"name": "wsd", "decay": 0.8, "final": 0.0},
        "evaluate": {"every": 100},
        "sample": {"tokens": 0},
        "save": {"every": 50},
    }  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Forty texts after each of ten prompts, in the shares of μ exactly."""
    path = tmp_path / "toy.jsonl"
    rows = [
        {"prompt": prompt, "text": item, "reward": reward}
        for prompt in PROMPTS
        for item, (share, reward) in ITEMS.items()
        for _ in range(round(40 * share))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trained(made: dict[str, Any], out: Path, *overrides: str) -> list[Any]:
    for _ in train(resolve(made, overrides), out):
        pass
    return read_events(out / "events.jsonl")


def policy(out: Path) -> tuple[GPT, Any]:
    checkpoint, _ = load_latest(out / "checkpoints")
    assert checkpoint is not None
    model = GPT(checkpoint.config).eval()
    model.load_state_dict(checkpoint.model)
    return model, checkpoint.tokenizer


@torch.no_grad()
def probabilities(out: Path, prompt: str) -> np.ndarray:
    """Of the items, given that it is one of them."""
    model, tokenizer = policy(out)
    scores = model(torch.tensor([tokenizer.encode(prompt)]))[0, -1].double()
    return scores[[tokenizer.encode(item)[0] for item in ITEMS]].softmax(-1).numpy()


@pytest.mark.parametrize("algorithm", ["rwr", "awr"])
def test_weighted_imitation_reaches_mu_exp_r_over_beta(algorithm: str, toy: Path, tmp_path: Path) -> None:
    trained(preset(toy, algorithm, clip=1e6), tmp_path / "run")
    mu, rewards = (np.array(column) for column in zip(*ITEMS.values(), strict=True))
    wanted = mu * np.exp(rewards / 1.5)
    wanted /= wanted.sum()
    corpus = build(resolve(preset(toy, algorithm))).corpus
    seen = {corpus.tokenizer.decode(corpus.tokens[row, :1].tolist()) for row in corpus.row_indices("train")}
    assert len(seen) > 4
    for prompt in seen:
        found = probabilities(tmp_path / "run", prompt)
        assert float((wanted * np.log(wanted / found)).sum()) < 1e-3


def test_a_constant_added_to_all_rewards_changes_no_weight(toy: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.jsonl"
    rows = [json.loads(line) for line in toy.read_text().splitlines()]
    moved.write_text("".join(json.dumps({**row, "reward": row["reward"] + 64}) + "\n" for row in rows))
    for algorithm in ("rwr", "awr", "filter"):
        trained(preset(toy, algorithm, 20), tmp_path / f"{algorithm}-plain")
        trained(preset(moved, algorithm, 20), tmp_path / f"{algorithm}-moved")
        plain, other = (policy(tmp_path / f"{algorithm}-{name}")[0].state_dict() for name in ("plain", "moved"))
        for name, tensor in plain.items():
            torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_the_best_fraction_alone_is_imitated(toy: Path, tmp_path: Path) -> None:
    trained(preset(toy, "filter", fraction=0.2), tmp_path / "run")
    assert probabilities(tmp_path / "run", "3")[2] > 0.99


def test_filter_is_the_plain_loss_of_the_texts_it_keeps(toy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Exactly 1 where every NLL is 1, with the gradient of one mean over the kept texts; no other text is computed."""
    batches: list[Batch] = []

    def watched(model: Any, batch: Batch) -> Loss:
        if torch.is_grad_enabled():  # a step, not an evaluation
            batches.append(batch)
        return next_token(model, batch)

    monkeypatch.setattr("nanogrove.methods.offline_rl.next_token", watched)
    values = preset(toy, "filter", 4, fraction=0.2)
    values["train"]["batch_size"] = 16
    trained(values, tmp_path / "run")
    corpus = build(resolve(values)).corpus
    best = np.flatnonzero(corpus.rewards == 2.0)
    model = GPT(ModelConfig(vocab_size=corpus.tokenizer.vocab_size, block_size=4, n_layer=1, n_head=1, n_embd=16))
    model.initialize(0)
    assert len(batches) == 4
    for batch in batches:
        assert {corpus.tokenizer.decode(row[:1].tolist()) for row in batch.targets} == {"c"}
        assert next_token(lambda tokens, targets: torch.ones(tokens.shape), batch).total.item() == 1.0  # type: ignore[arg-type]
        scores = -model(batch.tokens).log_softmax(-1)[:, :2]  # an item and its end mark
        expected = torch.autograd.grad(scores.gather(-1, batch.targets[:, :2, None]).mean(), model.embed.weight)[0]
        gradient = torch.autograd.grad(next_token(model, batch).total, model.embed.weight)[0]
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)
    drawn = [corpus.batch_rows(step, best) for step in range(9)]
    assert set(np.concatenate(drawn).tolist()) <= set(best.tolist())
    assert np.array_equal(drawn[7], corpus.batch_rows(7, best)), "a function of the step"


@pytest.mark.slow
def test_dpo_recovers_reward_gaps_of_bradley_terry_pairs(tmp_path: Path) -> None:
    """β log(π/π_ref) of items against their true rewards, from pairs drawn by σ(r − r′), as many as say so."""
    rewards = dict(zip("abcdef", [1.5, 0.3, -0.7, 0.9, -1.6, 0.0], strict=True))
    path, rows = tmp_path / "pairs.jsonl", []
    for prompt in PROMPTS[:5]:
        for a in rewards:
            for b in rewards:
                if a != b:
                    count = round(20 / (1 + math.exp(rewards[b] - rewards[a])))
                    rows += [{"prompt": prompt, "chosen": a, "rejected": b}] * count
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = preset(path, "dpo", 250, beta=0.5, base_steps=60)
    made["train"]["batch_size"] = 3000
    events = trained(made, tmp_path / "run")
    model, tokenizer = policy(tmp_path / "run")
    checkpoint, _ = load_latest(tmp_path / "run/checkpoints")
    reference = GPT(checkpoint.config).eval()
    reference.load_state_dict(checkpoint.method_tensors)
    encoded = torch.tensor([tokenizer.encode("3")])
    with torch.no_grad():
        gap = 0.5 * (model(encoded)[0, -1].log_softmax(-1) - reference(encoded)[0, -1].log_softmax(-1))
    found = np.array([float(gap[tokenizer.encode(item)[0]]) for item in rewards])
    true = np.array(list(rewards.values()))
    assert np.corrcoef(found, true)[0, 1] > 0.99
    assert np.polyfit(true, found, 1)[0] == pytest.approx(1.0, abs=0.15)
    assert [event.values["kl"] for event in events if event.kind == "eval" and "kl" in event.values][-1] > 0.01


@pytest.fixture
def pair() -> tuple[GPT, GPT, Batch]:
    """A policy, a reference, and a batch of six rows of which some places do not count."""
    config = ModelConfig(vocab_size=20, block_size=8, n_layer=1, n_head=2, n_embd=16)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 20, (6, 9), generator=generator)
    mask = torch.rand(6, 8, generator=generator) > 0.3
    batch = Batch.uniform(tokens[:, :-1], tokens[:, 1:], mask, torch.zeros(6, dtype=torch.int64))
    models = [GPT(config).initialize(seed).double() for seed in (0, 1)]
    for model in models:
        for parameter in model.parameters():
            parameter.data *= 4
    return models[0], models[1], batch


def by_hand(model: GPT, batch: Batch) -> np.ndarray:
    """Log-probabilities of the rows' scored tokens, summed one by one."""
    logs = model(batch.tokens).detach().log_softmax(-1)
    sums = [
        sum(float(logs[b, t, batch.targets[b, t]]) for t in range(batch.tokens.shape[1]) if batch.mask[b, t])
        for b in range(len(batch.tokens))
    ]
    return np.array(sums)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_dpo_is_its_equation(pair: tuple[GPT, GPT, Batch]) -> None:
    model, reference, batch = pair
    ratio = (by_hand(model, batch) - by_hand(reference, batch)).reshape(3, 2)
    wanted = -np.log(sigmoid(0.3 * (ratio[:, 0] - ratio[:, 1]))).mean()
    found = dpo(reference, 0.3)(model, batch)
    assert found.total.item() == pytest.approx(wanted, abs=1e-5)
    assert found.parts["in_order"].item() == pytest.approx((ratio[:, 0] > ratio[:, 1]).mean())
    log_probs, lengths = by_hand(model, batch).reshape(3, 2), batch.mask.sum(-1).numpy().reshape(3, 2)
    for column, side in enumerate(("chosen", "rejected")):
        assert found.parts[f"{side}_log_prob"].item() == pytest.approx(log_probs[:, column].mean())
        per_token = (log_probs / lengths)[:, column].mean()
        assert found.parts[f"{side}_log_prob_per_token"].item() == pytest.approx(per_token)
    both = dpo(reference, 0.3, length_normalised=True, nll_weight=0.2)(model, batch).total.item()
    normalised = ratio / lengths
    wanted = -np.log(sigmoid(0.3 * (normalised[:, 0] - normalised[:, 1]))).mean()
    assert both == pytest.approx(wanted - 0.2 * log_probs[:, 0].sum() / lengths[:, 0].sum(), abs=1e-5)


def test_log_probabilities_of_held_out_pairs_are_in_the_record(tmp_path: Path) -> None:
    """Those of the reference when pairs begin, those of the policy with each evaluation, over all pairs held out.

    The end of the run, and the verb after it, say how often the preferred text of a test pair wins.
    """
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n:02}", "chosen": "ab" * (n % 3 + 1), "rejected": "cb" * (n % 4 + 1)} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = preset(path, "dpo", 6, base_steps=5, nll_weight=0.5)
    values["train"]["batch_size"], values["evaluate"]["every"], values["model"]["block_size"] = 8, 3, 12
    events = trained(values, tmp_path / "run")
    corpus = build(resolve(values)).corpus
    batch = corpus.batch_of(corpus.row_indices("validation"))
    assert len(batch.tokens) > 8, "more than one batch"
    checkpoint, _ = load_latest(tmp_path / "run/checkpoints")
    assert checkpoint is not None
    evaluations = [event for event in events if event.kind == "eval" and "kl" in event.values]
    for weights, event in (
        (checkpoint.method_tensors, next(e for e in events if e.kind == "rewards")),
        (checkpoint.model, evaluations[-1]),
    ):
        model = GPT(checkpoint.config).eval()
        model.load_state_dict(weights)
        sums, lengths = by_hand(model, batch), batch.mask.sum(-1).numpy()
        for first, side in enumerate(("chosen", "rejected")):
            assert event.values[f"{side}_log_prob"] == pytest.approx(sums[first::2].mean(), rel=1e-4)
            per_token = (sums / lengths)[first::2].mean()
            assert event.values[f"{side}_log_prob_per_token"] == pytest.approx(per_token, rel=1e-4)
    end, again = events[-1].values, evaluate(tmp_path / "run", "test")
    for name in ("in_order", "in_order_error", "margin", "margin_error", "chosen_log_prob", "kl"):
        assert again[name] == end[name], name
    policy, reference = (GPT(checkpoint.config).eval() for _ in range(2))
    policy.load_state_dict(read_checkpoint(tmp_path / "run").model)
    reference.load_state_dict(checkpoint.method_tensors)
    test = corpus.batch_of(corpus.row_indices("test"))
    ratio = by_hand(policy, test) - by_hand(reference, test)
    assert end["margin"] == pytest.approx(1.5 * (ratio[::2] - ratio[1::2]).mean(), abs=1e-4)
    shutil.rmtree(tmp_path / "run/checkpoints/current")
    for name in ("prev", "prev2"):
        shutil.rmtree(tmp_path / "run/checkpoints" / name, ignore_errors=True)
    alone = evaluate(tmp_path / "run", "test")
    assert alone["loss"] == end["loss"]
    assert "in_order" not in alone
    assert alone["unmeasured"] == ["no checkpoint holds the reference; nothing is compared with it"]


@pytest.mark.parametrize("flip", [1, -1])
def test_kto_is_its_equation(pair: tuple[GPT, GPT, Batch], flip: int) -> None:
    """With z clamped at 0 in one of the two cases."""
    model, reference, batch = pair if flip > 0 else (pair[1], pair[0], pair[2])
    sign = np.array([1, -1, -1, 1, -1, 1])
    other = torch.arange(6).roll(1)
    wrong = batch.take(other)
    z = max((by_hand(model, wrong) - by_hand(reference, wrong)).mean(), 0.0)
    ratio = by_hand(model, batch) - by_hand(reference, batch)
    share = np.where(sign > 0, 1.5, 0.7)
    wanted = (share * (1 - sigmoid(0.2 * sign * (ratio - z)))).mean()
    found = kto(reference, 0.2, 1.5, 0.7)(model, kto_batch(batch, torch.from_numpy(sign > 0), wrong))
    assert found.total.item() == pytest.approx(wanted, abs=1e-5)
    assert found.parts["z"].item() == pytest.approx(z, abs=1e-5)


def test_prompts_and_filling_get_exactly_no_gradient(pair: tuple[GPT, GPT, Batch]) -> None:
    model, reference, batch = pair
    quiet = (~batch.mask).nonzero()
    other = batch.targets.clone()
    for b, t in quiet.tolist():
        other[b, t] = (other[b, t] + 7) % 20  # what stands at a place that does not count
    changed = replace(batch, targets=other)
    for objective in (next_token, dpo(reference, 0.3)):
        gradients = []
        for shown in (batch, changed):
            model.zero_grad()
            objective(model, shown).total.backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("algorithm", ["rwr", "awr", "filter", "kto"])
def test_a_kill_behind_any_step_and_a_resume_end_alike(
    algorithm: str, toy: Path, tmp_path: Path, resumes_exactly: Any
) -> None:
    made = preset(toy, algorithm, 6, base_steps=4, reward={"pattern": "[ac]"})
    made["save"]["every"], made["evaluate"]["every"], made["train"]["batch_size"] = 2, 3, 16
    record = resumes_exactly(made, tmp_path, [("step", n) for n in range(1, 10)])
    phases = [(line["step"], line["name"], line["held_out"]) for line in record if line["kind"] == "phase"]
    assert phases == [(0, "base", "loss"), (4, algorithm, "score")]
    [before] = (line for line in record if line["kind"] == "rewards")
    learned = [line for line in record if line["kind"] == "eval" and line["step"] > 4] + record[-1:]
    assert len(learned) == 4
    for line in learned[:-1]:
        assert line["reward_before"] == before["reward_before"], "samples of the reference, after the same prompts"
        assert line["reward_before_error"] == before["reward_before_error"]
    for line in learned:
        assert {"reward", "reward_error", "reward_before", "reward_before_error", "kl"} < line.keys()
        assert 0 < line["reward"] < 1


def test_a_reward_that_nobody_knows_is_said_to_be_missing(toy: Path, tmp_path: Path) -> None:
    notes = [
        event.values["text"]
        for event in train(resolve(preset(toy, "rwr", 1)), tmp_path / "run")
        if event.kind == "note"
    ]
    assert notes == ["the reward of samples is not measured; method.reward says what scores a text"]


def test_training_ends_where_the_kl_passes_its_cap(toy: Path, tmp_path: Path) -> None:
    made = preset(toy, "rwr", 200, base_steps=60, kl_cap=0.02, beta=0.3)
    made["evaluate"]["every"] = 5
    events = trained(made, tmp_path / "run")
    scores = [event for event in events if event.kind == "eval" and "kl" in event.values]
    assert "exceeds method.kl_cap" in scores[-1].values["ended"]
    assert events[-1].kind == "end"
    assert events[-1].values["best_step"] < scores[-1].step
    assert max(event.step for event in events) < 260
    for _ in train(resolve(made), tmp_path / "run", resume=True):
        pass
    assert max(event.step for event in read_events(tmp_path / "run/events.jsonl")) == scores[-1].step


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        ("dpo", ["data.type=rewarded"], "method.algorithm=dpo needs data.type=preferences"),
        ("kto", [], "needs a policy to begin from; set method.base or method.base_steps"),
        ("kto", ["method.base_steps=3", "train.batch_size=1"], "set train.batch_size to 2 or more"),
        (
            "kto",
            ["method.base_steps=3", "method.threshold=2"],
            "threshold=2.0: no training text is wanted; their rewards",
        ),
        ("kto", ["method.base_steps=3", "method.threshold=-3.5"], "is unwanted; their rewards go from -3.0 to 2.0, so"),
        (
            "kto",
            ["method.base_steps=3", "method.threshold=nan"],
            "method.threshold: must be a finite number",
        ),
        ("rwr", ["method.base=nowhere"], "nowhere: neither a run, a checkpoint nor a model of transformers"),
        ("rwr", ["method.beta=0"], "method.beta=0: must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    algorithm: str, overrides: list[str], said: str, toy: Path, tmp_path: Path
) -> None:
    made = preset(toy, algorithm)
    if "data.type=rewarded" in overrides:
        made["data"], overrides = {**made["data"], "type": "rewarded"}, []
    with pytest.raises(NanogroveError) as error:
        trained(made, tmp_path / "run", *overrides)
    assert said in str(error.value)


def test_kto_with_one_side_is_refused_in_a_line(command: Any, toy: Path, tmp_path: Path) -> None:
    path, thumbs = tmp_path / "kto.json", tmp_path / "thumbs.csv"
    thumbs.write_text("prompt,text,reward\n" + "".join(f"{n},yes,1\n" for n in range(20)))
    path.write_text(json.dumps(preset(thumbs, "kto", base_steps=3)))
    error = command("train", path, "--out", tmp_path / "run").error()
    assert (
        "thumbs.csv: all training texts have the reward 1.0; method.algorithm=kto learns from wanted and unw" in error
    )
    path.write_text(json.dumps(preset(toy, "kto", base_steps=3, threshold=2)))
    error = command("train", path, "--out", tmp_path / "run").error()
    assert (
        "method.threshold=2.0: no training text is wanted; their rewards go from -3.0 to 2.0, so set it to at l"
        in error
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture
def thumbs(tmp_path: Path) -> Path:
    """Two hundred texts of which 90 % are wanted, these of one alphabet and the others of another."""
    generator, path = np.random.default_rng(0), tmp_path / "thumbs.jsonl"
    rows = []
    for n in range(200):
        liked = n % 10 > 0
        text = "".join(generator.choice(list("abcd" if liked else "wxyz"), size=6))
        rows.append({"prompt": f"{n:03}", "text": text, "reward": float(liked)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_kto_raises_the_likelihood_of_wanted_texts_where_most_are_wanted(
    seed: int, thumbs: Path, tmp_path: Path, capsys: Any
) -> None:
    """By log π − log π_ref of held-out texts; the counts are in the record, on the terminal and in the report."""
    values = preset(thumbs, "kto", 40, beta=0.1, base_steps=60) | {"seed": seed}
    values["model"]["block_size"], values["train"]["batch_size"], values["optimizer"]["lr"] = 12, 32, 0.003
    out = tmp_path / "run"
    show(train(resolve(values), out), Console(force_terminal=False, width=500), out)
    checkpoint, _ = load_latest(out / "checkpoints")
    assert checkpoint is not None
    corpus = build(resolve(values)).corpus
    assert isinstance(corpus, RewardedCorpus)
    held_out = np.concatenate([corpus.row_indices("validation"), corpus.row_indices("test")])
    policy, reference = models = GPT(checkpoint.config).eval(), GPT(checkpoint.config).eval()
    for model, weights in zip(models, (checkpoint.model, checkpoint.method_tensors), strict=True):
        model.load_state_dict(weights)
    with torch.no_grad():
        gained = log_ratio(policy, reference, corpus.batch_of(held_out)).numpy()
    wanted = corpus.rewards[held_out] == 1
    assert (~wanted).sum() >= 5
    assert gained[wanted].mean() > 0
    assert gained[~wanted].mean() < gained[wanted].mean()
    train_rows = corpus.rewards[corpus.row_indices("train")]
    event = next(event for event in read_events(out / "events.jsonl") if event.kind == "rewards").values
    assert (event["wanted"], event["unwanted"]) == ((train_rows == 1).sum(), (train_rows == 0).sum())
    assert event["wanted"] * event["wanted_weight"] == pytest.approx(
        event["unwanted"] * event["unwanted_weight"] * 4 / 3
    )
    assert f"{event['wanted']} wanted (weight 1), {event['unwanted']} unwanted (weight " in capsys.readouterr().out
    report = (out / "report.html").read_text()
    assert f"{event['wanted']} wanted, of weight 1" in report
    assert f"{event['unwanted']} unwanted, of weight {event['unwanted_weight']:.4f}" in report


def test_text_that_is_not_scored_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(NanogroveError, match="learns from scored texts"):
        trained(tiny(method="offline_rl"), tmp_path / "run")
