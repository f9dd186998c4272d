"""Fitness: exact match is what greedy decoding writes, a reward is of what was sampled, and bad rewards are named."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanogrove.corpora import make_corpus
from nanogrove.errors import PresetError
from nanogrove.evaluate import committee
from nanogrove.evaluate.fitness import FitnessConfig, assess, evaluate_fitness, exact_match, loss
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.evaluate.reward import RewardConfig, find_reward
from nanogrove.evaluate.selection import standard_error
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.synthetic.examples import TaskConfig, TaskCorpus
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState


@pytest.fixture(scope="module")
def corpus() -> TaskCorpus:
    built = make_corpus(TaskConfig(type="task", task="copy", base=(2, 3), held_out=40), 16, 32, 0)
    assert isinstance(built, TaskCorpus)
    return built


@pytest.fixture(scope="module")
def model(corpus: TaskCorpus) -> GPT:
    """Three members that can copy two digits or three, or not yet."""
    config = ModelConfig(vocab_size=corpus.tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=32)
    population = GPT(config, 3).initialize(0, 1, 2)
    state = TrainState(population, make_optimizer(population, OptimizerConfig(lr=0.01)))
    rates = torch.tensor([0.02, 0.5, 1.0], dtype=torch.float64)
    list(fit(state, corpus.batch, next_token, Plan(seed=0, steps=200, lr_factor=lambda step: rates)))
    return population


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "scores_of_mine.py").write_text(
        "def digits(texts):\n    return [sum(c.isdigit() for c in t) for t in texts]\n"
        "def short(texts):\n    return [0.5]\n"
        "def nan(texts):\n    return [float('nan') for _ in texts]\n"
        "def broken(texts):\n    raise RuntimeError('no such word')\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "scores_of_mine"
    sys.modules.pop("scores_of_mine", None)


def test_exact_match_is_what_greedy_decoding_gives(model: GPT, corpus: TaskCorpus) -> None:
    values, wrong = assess(model, corpus, exact_match, None, 0)
    assert wrong.shape == (3, 80)
    right = []
    for member in range(3):
        num_right = 0
        for difficulty in (2, 3):
            prompts = [prompt for prompt, _ in corpus.held_out(difficulty, "validation")]
            answers = committee.decode(model, corpus, prompts, difficulty)[member]
            num_right += sum(committee.correct(corpus.task, prompts, answers))
        right.append(num_right / 80)
    assert (1 - wrong.mean(1)).tolist() == pytest.approx(right) == values["exact_match"]
    assert values["exact_match_error"] == standard_error(wrong, corpus.documents("validation")).tolist()
    assert right[0] < right[2]


def test_loss_samples_are_those_of_the_split_and_their_mean_is_the_loss(model: GPT, corpus: TaskCorpus) -> None:
    values, samples = assess(model, corpus, loss, None, 0)
    assert samples.mean(1).tolist() == pytest.approx(evaluate_split(model, corpus, "validation")["loss"])
    assert values["loss"] == pytest.approx(samples.mean(1).tolist())


def test_a_model_is_scored_by_its_fitness_and_no_code_is_run_unasked(
    model: GPT, corpus: TaskCorpus, module: str
) -> None:
    config = FitnessConfig(fitness=RewardConfig(function=f"{module}:digits"), prompt=3, tokens=6)
    figures = evaluate_fitness(model, corpus, config, "test", None, 0, allow_code=True)
    _, samples = assess(model, corpus, config.find_fitness(corpus, 16, True), None, 0, "test")
    assert figures["reward"] == (-samples.mean(1)).tolist()
    assert figures["reward_error"] == standard_error(samples, corpus.documents("test")).tolist()
    refused = evaluate_fitness(model, corpus, config, "test", None, 0, allow_code=False)
    assert refused["unmeasured"] == [
        f"no reward is measured: {module}:digits is Python code; to run it, add --allow-code"
    ]
    assert refused["exact_match"] == figures["exact_match"]
    assert "reward" not in refused


def test_a_reward_is_of_sampled_texts_and_is_the_same_again(model: GPT, corpus: TaskCorpus, module: str) -> None:
    fitness = FitnessConfig(fitness=RewardConfig(function=f"{module}:digits"), prompt=3, tokens=6).find_fitness(
        corpus, 16, True
    )
    scores = assess(model, corpus, fitness, None, 5)[1]
    assert torch.equal(scores, assess(model, corpus, fitness, None, 5)[1])
    assert not torch.equal(scores, assess(model, corpus, fitness, None, 6)[1])
    assert scores.shape == (3, 80)
    assert float(scores.min()) >= -6
    assert float(scores.min()) < float(scores.max()) <= 0
    by_name = FitnessConfig(fitness=RewardConfig(length=2), prompt=3, tokens=6).find_fitness(corpus, 16, False)
    assert set(assess(model, corpus, by_name, None, 5)[1].unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("short", r"must give each of \d+ texts a finite number; it gave 0.5"),
        ("nan", "must give each of 2 texts a finite number; it gave nan"),
        ("broken", r"failed on a text of the model \(RuntimeError: no such word\)"),
        ("number", "is not a function"),
        ("missing", "cannot be imported .*missing"),
    ],
)
def test_a_reward_that_does_not_work_is_named(function: str, message: str, module: str) -> None:
    with pytest.raises(PresetError, match=f"{module}:{function} {message}"):
        find_reward(f"{module}:{function}", allow_code=True)(["a", "b"])


def test_a_preset_runs_no_code_unless_allowed(module: str, corpus: TaskCorpus) -> None:
    with pytest.raises(PresetError, match="--allow-code"):
        FitnessConfig(fitness=RewardConfig(function=f"{module}:digits"), prompt=3, tokens=6).find_fitness(
            corpus, 16, False
        )
    assert module not in sys.modules
    with pytest.raises(PresetError, match=r"prompt \+ method.tokens is 30, and model.block_size is 16"):
        FitnessConfig(fitness=RewardConfig(function=f"{module}:digits"), prompt=10, tokens=20).find_fitness(
            corpus, 16, True
        )
    with pytest.raises(PresetError, match=r"method\.fitness=luck is unknown"):
        FitnessConfig(fitness="luck").find_fitness(corpus, 16, False)
