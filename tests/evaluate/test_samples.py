"""The reward of samples: whose prompts they go on from, what scores them, and how sure their mean is."""

import json
from pathlib import Path

import numpy as np
import pytest

from nanogrove.corpora import make_corpus
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.data.sources.pieces import Skipped
from nanogrove.evaluate import samples
from nanogrove.evaluate.reward import RewardConfig
from nanogrove.evaluate.samples import Sample, reward_of_samples
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT


@pytest.fixture
def corpus(tmp_path: Path) -> RewardedCorpus:
    """Twenty prompts of one to four letters, three texts each."""
    rows = [
        {"prompt": "abcd"[: n % 4 + 1] + str(n), "text": "xyz"[: m + 1], "reward": m}
        for n in range(20)
        for m in range(3)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    built = make_corpus(RewardedConfig(type="rewarded", path=str(path), prompt="prompt", validation=0.3), 16, 8, 0)
    assert isinstance(built, RewardedCorpus)
    return built


@pytest.fixture
def model(corpus: RewardedCorpus) -> GPT:
    size = corpus.tokenizer.vocab_size
    return GPT(ModelConfig(vocab_size=size, block_size=16, n_layer=1, n_head=2, n_embd=16)).initialize(0)


def test_samples_go_on_from_held_out_prompts_and_are_the_same_again(
    corpus: RewardedCorpus, model: GPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[Sample]] = []
    plain = samples.sample

    def watched(*given: object, **settings: object) -> list[Sample]:
        drawn.append(plain(*given, **settings))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(samples, "sample", watched)
    length = RewardConfig(length=0)
    figures = [reward_of_samples("reward", model, corpus, length, "validation", seed, False) for seed in (0, 0, 1)]
    assert figures[0] == figures[1] != figures[2]
    lengths = np.array([-len(each.text) for each in drawn[0]], dtype=float)
    assert figures[0]["reward"] == pytest.approx(lengths.mean())
    prompts = [each.prompt for each in drawn[0]]
    assert len(prompts) == samples.SAMPLES
    assert set(prompts) == {corpus.prompts[row] for row in corpus.row_indices("validation")}
    sums = np.array(
        [sum(n for n, p in zip(lengths - lengths.mean(), prompts, strict=True) if p == q) for q in {*prompts}]
    )
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(lengths)
    assert figures[0]["reward_error"] == pytest.approx(error), "texts of one prompt are not independent"


def test_without_a_reward_nothing_is_measured(corpus: RewardedCorpus, model: GPT) -> None:
    assert reward_of_samples("reward", model, corpus, None, "validation", 0, False) == {}


def test_the_data_of_every_installation_know_their_reward() -> None:
    config = RewardedConfig(type="rewarded", path="python-defs", prompt="prompt")
    groups = config.examples(Skipped())
    assert config.known_reward is not None
    assert all(config.known_reward(one.prompt + one.text) == one.reward for [one] in groups)
    pairs = PreferencesConfig(type="preferences", path="python-defs")
    assert pairs.known_reward is not None
    chosen, rejected = pairs.examples(Skipped())[0]
    assert pairs.known_reward(chosen.text) > pairs.known_reward(rejected.text)
