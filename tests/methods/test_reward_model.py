"""A reward model: its loss by hand, exact resume, what it learns, and how it steers a model and chooses from it."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.errors import CheckpointError, NanogroveError, PresetError
from nanogrove.evaluate.reward import RewardModel, load_reward
from nanogrove.language_model import LanguageModel, load
from nanogrove.methods.reward_model import batch, objective, scaled, score
from nanogrove.model.gpt import GPT
from nanogrove.record.events import read_events
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import load_latest

PLAIN = {"device": "cpu", "precision": "float32", "threads": 1, "accumulation": 1, "compile": False}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words over four letters; the reward is minus the number of b's, so the truth is known of every prefix."""
    path, rng = tmp_path_factory.mktemp("texts") / "texts.jsonl", random.Random(0)
    words = {"".join(rng.choice("abcd") for _ in range(rng.randint(2, 9))) for _ in range(400)}
    path.write_text("".join(json.dumps({"text": w, "reward": 3 - 2 * w.count("b")}) + "\n" for w in sorted(words)))
    return path


def preset(path: Path, method: str = "reward_model", steps: int = 6, **data: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "method": {"name": method},
        "data": {"type": "rewarded", "path": str(path), **data},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 12, "scalar": method == "reward_model"},
        "train": {"steps": steps, "batch_size": 16, **PLAIN},
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.0},
        "evaluate": {"every": 3},
        "sample": {"every": 2, "tokens": 5},
        "save": {"every": 2},
    }


def trained(made: dict[str, Any], out: Path, *overrides: str) -> list[Any]:
    for _ in train(resolve(made, overrides), out):
        pass
    return read_events(out / "events.jsonl")


@pytest.fixture(scope="module")
def judge(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that has learnt."""
    out = tmp_path_factory.mktemp("judge") / "run"
    made = preset(texts, steps=120)
    made["evaluate"]["every"] = 30
    trained(made, out)
    return out


@pytest.fixture(scope="module")
def writer(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of the same texts."""
    out = tmp_path_factory.mktemp("writer") / "run"
    trained(preset(texts, "offline_rl", 60), out, "method.scale=none", "method.beta=1000", "optimizer.lr=0.01")
    return out


@pytest.mark.parametrize("block_size", [12, 6])
def test_the_loss_is_its_equation(texts: Path, block_size: int) -> None:
    """2/(n(n+1)) Σ t (r̂_t − r)², token by token in float64; the prompt's tokens and the filling do not count."""
    made = preset(texts)
    made["data"]["path"] = str(texts.with_name("prompted.jsonl"))
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    lines = [json.dumps({"q": row["text"][:1] * 2, "text": row["text"], "reward": row["reward"]}) for row in rows]
    Path(made["data"]["path"]).write_text("\n".join(lines))
    made["data"]["prompt"], made["model"]["block_size"] = "q", block_size
    parts = build(resolve(made))
    corpus: Any = parts.corpus
    model = GPT(parts.model_on_data).initialize(0).double()
    model.head.weight.data *= 20
    rewards = scaled(corpus)
    train_rewards = corpus.rewards[corpus.row_indices("train")]
    assert rewards[torch.from_numpy(corpus.row_indices("train"))].min() == 0
    assert rewards[torch.from_numpy(corpus.row_indices("train"))].max() == 1
    chosen, wanted = corpus.batch_rows(0), []
    for row in chosen.tolist():
        whole = corpus.tokens[row, : corpus.stop[row]][:block_size]
        r = (corpus.rewards[row] - train_rewards.min()) / (train_rewards.max() - train_rewards.min())
        with torch.no_grad():
            said = model(whole[None])[0].tolist()[int(corpus.start[row]) :]
        n = len(said)
        assert n == min(len(corpus.texts[row]) + 1, block_size - 2)
        wanted.append(2 / (n * (n + 1)) * sum(t * (x - r) ** 2 for t, x in enumerate(said, start=1)))
    made_batch = batch(corpus, chosen, block_size)
    found = objective(rewards)(model, made_batch).total.item()
    assert found == pytest.approx(np.mean(wanted), rel=1e-5)


def test_micro_batches_change_nothing(texts: Path, tmp_path: Path) -> None:
    trained(preset(texts), tmp_path / "one")
    trained(preset(texts), tmp_path / "four", "train.accumulation=4")
    one, four = (load_latest(tmp_path / name / "checkpoints")[0].model for name in ("one", "four"))
    assert all(torch.allclose(one[name], four[name], atol=1e-5) for name in one)


def test_it_learns_the_reward_of_texts_it_has_not_seen(judge: Path, texts: Path) -> None:
    events = read_events(judge / "events.jsonl")
    scores = [event.values for event in events if event.kind == "eval"]
    assert scores[-1]["correlation"] > 0.98
    assert scores[-1]["loss"] < scores[0]["loss"]
    (told,) = (event for event in events if event.kind == "rewards")
    assert (told.values["low"], told.values["high"]) == (min(known_rewards(texts)), 3.0)
    assert not [event for event in events if event.kind == "sample"], "it writes nothing"
    end = events[-1].values
    assert end["split"] == "test"
    assert end["correlation"] > 0.98
    model = load_reward(judge)
    assert (model.low, model.high) == (told.values["low"], told.values["high"])
    assert model(["acd", "bbb", "abcb"]) == pytest.approx([3, -3, -1], abs=1.0)
    assert model([]) == []
    assert nanogrove.score(judge)["correlation"] == pytest.approx(end["correlation"])
    assert "Correlation with the true reward" in (judge / "report.html").read_text()


def known_rewards(texts: Path) -> list[float]:
    corpus: Any = build(resolve(preset(texts))).corpus
    return corpus.rewards[corpus.row_indices("train")].tolist()


def test_no_correlation_is_told_of_one_text(texts: Path) -> None:
    parts = build(resolve(preset(texts)))
    assert isinstance(parts.corpus, RewardedCorpus)
    found = score(GPT(parts.model_on_data).initialize(0), parts.corpus, "validation", 1)
    assert (found["texts"], found["correlation"]) == (1, None)


def test_a_kill_behind_any_step_and_a_resume_end_alike(texts: Path, tmp_path: Path, resumes_exactly: Any) -> None:
    stops = [("step", n) for n in range(1, 6)] + [("rewards", 1), ("eval", 1)]
    record = resumes_exactly(preset(texts), tmp_path, stops)
    assert sum(line["kind"] == "rewards" for line in record) == 1
    notes = [load_latest(tmp_path / name / "checkpoints")[0].state["notes"] for name in ("whole", "step-1")]
    assert notes[0] == notes[1]
    assert set(notes[0]) == {"scale"}


def test_run_gives_the_reward_model(texts: Path, tmp_path: Path) -> None:
    found = nanogrove.run(preset(texts, steps=1), tmp_path / "run")
    assert isinstance(found, RewardModel)


def share(texts: list[str]) -> float:
    """Of b's among the letters of texts."""
    return sum(text.count("b") for text in texts) / max(sum(map(len, texts)), 1)


def test_steering_and_choosing_raise_the_reward(judge: Path, writer: Path) -> None:
    lm, prompts = load(writer), ["a", "cd", "dda", "b"] * 15
    settings: dict[str, Any] = {"seed": 1, "temperature": 1.0, "precision": "float32"}
    plain = lm.generate(prompts, 20, **settings)
    steered = lm.generate(prompts, 20, reward=judge, beta=20.0, **settings)
    chosen = lm.best_of(8, prompts, 20, reward=load_reward(judge), **settings)
    by_function = lm.generate(prompts, 20, reward=count_b, beta=3.0, **settings)
    assert share(steered) < 0.6 * share(plain)
    assert share(by_function) < 0.6 * share(plain)
    assert share(chosen) < 0.6 * share(plain)
    assert all(text.startswith(prompt) for text, prompt in zip([*steered, *chosen], prompts * 2, strict=True))
    assert lm.generate(prompts[0], 20, reward=str(judge), **settings).startswith("a")
    (alone,) = lm.best_of(1, ["cd"], 20, reward=judge, **settings)
    assert alone == lm.generate(["cd"], 20, **settings)[0]
    by_hand = lm.generate(["cd"] * 8, 20, **settings)
    assert lm.best_of(8, ["cd"], 20, reward=count_b, **settings) == [max(by_hand, key=lambda t: count_b([t])[0])]
    assert lm.best_of(3, [], 20, reward=count_b) == []
    (told,) = lm.continuations(["cd"], 20, reward=judge, beta=20.0, **settings)
    assert told.text == lm.generate(["cd"], 20, reward=judge, beta=20.0, **settings)[0]


def count_b(texts: Any) -> list[float]:
    return [-float(text.count("b")) for text in texts]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_beta_and_with_all_tokens_it_writes_what_it_writes_unsteered(
    judge: Path, writer: Path, seed: int
) -> None:
    lm = load(writer)
    settings: dict[str, Any] = {"seed": seed, "temperature": 0.9, "top_p": 0.95, "precision": "float32"}
    plain = lm.generate(["", "ab", "c"], 30, **settings)
    for reward in (judge, count_b):
        assert lm.generate(["", "ab", "c"], 30, reward=reward, beta=0.0, top_k=99, **settings) == plain


@pytest.fixture(scope="module")
def stranger(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of another vocabulary."""
    out = tmp_path_factory.mktemp("stranger") / "run"
    trained(tiny(train={"steps": 1}), out)
    return out


def test_a_reward_model_on_the_vocabulary_of_a_run(
    stranger: Path, text_file: Path, tmp_path: Path, command: Any
) -> None:
    """data.tokenizer may be the file in a checkpoint, as the error says."""
    path = tmp_path / "lines.txt"
    lines = [line for line in text_file.read_text().splitlines() if 5 < len(line) < 60][:60]
    path.write_text("".join(f"{line}|{line.count('a')}\n" for line in lines))
    tokenizer = str(stranger / "checkpoints/best/tokenizer.json")
    made = preset(path, steps=1, tokenizer=tokenizer)
    trained(made, tmp_path / "run")
    ended = command("generate", stranger, "A", "--reward", tmp_path / "run", "--beta", 3, "--tokens", 4)
    assert (ended.code, len(ended.err.splitlines())) == (0, 1), "the format is said"
    assert ended.out.startswith("A")


def test_the_command_line_steers_and_chooses(judge: Path, writer: Path, command: Any) -> None:
    asked = ("generate", writer, "cd", "--tokens", 20, "--seed", 3, "--precision", "float32", "--temperature", 1)
    lm = load(writer)
    settings: dict[str, Any] = {"seed": 3, "temperature": 1.0, "precision": "float32"}
    assert command(*asked, "--reward", judge, "--beta", 9).out == (
        lm.generate("cd", 20, reward=judge, beta=9.0, **settings) + "\n"
    )
    assert command(*asked, "--reward", judge).out == lm.generate("cd", 20, reward=judge, **settings) + "\n"
    assert command(*asked, "--reward", judge, "--best-of", 8).out == (
        lm.best_of(8, ["cd"], 20, reward=judge, **settings)[0] + "\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reward", "STRANGER"], "is not a reward model; train one with `nanogrove train reward-model`"),
        (["--reward", "nowhere"], "nowhere: neither a run nor a checkpoint"),
        (["--reward", "JUDGE", "--beta", "nan"], "beta: must be a finite number, and nan was given"),
        (["--reward", "JUDGE", "--beta", "inf"], "beta: must be a finite number, and inf was given"),
        (["--reward", "JUDGE", "--top-k", "0"], "top_k: must be 1 or more"),
        (["--top-k", "0"], "top_k: must be 1 or more"),
        (["--reward", "JUDGE", "--best-of", "0"], "best of 0: there is no best of none"),
        (["--beta", "3"], "--beta needs a reward; name a run with --reward"),
        (["--best-of", "3"], "--best-of needs a reward"),
        (["--reward", "JUDGE", "--best-of", "3", "--beta", "1"], "--best-of goes without --beta"),
        (["--reward", "JUDGE", "--best-of", "3", "--confidence"], "--best-of goes without --confidence"),
    ],
)
def test_bad_input_is_one_line(
    options: list[str], said: str, judge: Path, writer: Path, stranger: Path, command: Any
) -> None:
    names = {"JUDGE": str(judge), "STRANGER": str(stranger)}
    error = command("generate", writer, "a", "--tokens", 3, *[names.get(o, o) for o in options]).error()
    assert said in error


def test_another_vocabulary_is_refused(judge: Path, stranger: Path, command: Any) -> None:
    error = command("generate", stranger, "a", "--reward", judge).error()
    assert f"{judge}: this reward model has another vocabulary than the model it is to steer" in error
    assert "the reward model has another vocabulary" in raised(
        lambda: load(stranger).generate("a", reward=load_reward(judge))
    )


def raised(work: Callable[[], object]) -> str:
    with pytest.raises(NanogroveError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_reward_model_does_not_write(judge: Path, tmp_path: Path, command: Any) -> None:
    assert "is a reward model and writes nothing" in command("generate", judge, "a").error()
    assert "is a reward model and writes nothing" in raised(lambda: load(judge))
    assert "is a reward model" in raised(lambda: nanogrove.to_transformers(judge, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert "a temperature is for one that predicts tokens" in command("evaluate", judge, "--calibrate").error()
    ended = command("evaluate", judge)
    assert "correlation" in ended.out


@pytest.mark.parametrize(
    ("method", "overrides", "said"),
    [
        ("reward_model", ["model.scalar=false"], "method reward_model needs model.scalar=true"),
        ("offline_rl", ["model.scalar=true"], "method offline_rl needs model.scalar=false"),
        ("reward_model", ["model.block_size=1"], "model.block_size=1: a reward model reads a prefix and a token"),
        ("reward_model", ["data.reward=one"], "all training texts have the reward 1; there is nothing to learn"),
    ],
)
def test_what_makes_no_sense_is_refused(
    method: str, overrides: list[str], said: str, texts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [json.loads(line) for line in texts.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "one": 1}) + "\n" for row in rows))
    assert said in raised(lambda: trained(preset(path, method), tmp_path / "run", *overrides))


def test_text_without_rewards_and_pairs_are_refused(tiny: Any, tmp_path: Path) -> None:
    made = tiny(method="reward_model", model={"scalar": True})
    assert "set data.type=rewarded" in raised(lambda: trained(made, tmp_path / "run"))


@pytest.mark.parametrize("given", [[1.0], [math.nan, 1.0] * 99, ["x"]])
def test_a_function_that_does_not_give_each_text_a_number_is_refused(given: Any, writer: Path) -> None:
    lm: LanguageModel = load(writer)
    with pytest.raises(PresetError) as error:
        lm.generate("a", 3, reward=lambda texts: given)
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_scale_is_no_reward_model(writer: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a reward model"):
        load_reward(writer)
