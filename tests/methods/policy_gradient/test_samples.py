"""Samples: which prompts they begin with, what is scored of them, and what they are worth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanogrove.corpora import make_corpus
from nanogrove.data.corpus import Corpus
from nanogrove.data.rewarded_files import RewardedConfig
from nanogrove.methods.policy_gradient.config import Config
from nanogrove.methods.policy_gradient.samples import Samples, draw, prompts_of, rewards, texts
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.synthetic.corpus import RLMConfig
from nanogrove.synthetic.examples import TaskConfig


def task(batch_size: int = 6) -> Corpus:
    return make_corpus(TaskConfig(type="task", task="copy", base=(1, 3), held_out=5), 8, batch_size, 0)


def model_for(corpus: Corpus, population: int | None = None, block_size: int = 16, scale: float = 20.0) -> GPT:
    """One whose next tokens are far from alike."""
    size = corpus.tokenizer.vocab_size
    config = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=block_size, vocab_size=size, init_scale=scale)
    return GPT(config, population).initialize(*range(population or 1))


def spelled(samples: Samples, corpus: Corpus) -> list[tuple[str, str]]:
    """Each sample's prompt, and what is scored of it, which `batch` says."""
    batch, decode = samples.batch(), corpus.tokenizer.decode
    return [
        (decode(row[:start]), decode(targets[mask].tolist()))
        for row, start, targets, mask in zip(
            samples.tokens.tolist(), samples.start.tolist(), batch.targets, batch.mask, strict=True
        )
    ]


def test_a_prompt_is_all_before_the_first_scored_token_and_holds_no_answer() -> None:
    corpus = task()
    rows = corpus.batch(3)
    prompts = prompts_of(rows, Config(), corpus)
    for tokens, length, row in zip(prompts.tokens.tolist(), prompts.lengths.tolist(), rows.tokens, strict=True):
        text = corpus.tokenizer.decode(tokens[:length])
        assert text.endswith("=")
        assert row[:length].tolist() == tokens[:length]
        assert set(tokens[length:]) <= {corpus.tokenizer.end}, "an answer must not stand after a shorter prompt"
    assert len(set(prompts.lengths.tolist())) > 1


def test_samples_are_scored_from_the_prompt_to_the_mark_and_go_no_further_than_a_row() -> None:
    corpus = task()
    prompts, model = prompts_of(corpus.batch(0), Config(), corpus), model_for(corpus)
    samples = draw(model, prompts, Config(), corpus, 4, [7])
    assert samples.tokens.shape == (24, corpus.length + 1)
    asked = [
        corpus.tokenizer.decode(t[:n]) for t, n in zip(prompts.tokens.tolist(), prompts.lengths.tolist(), strict=True)
    ]
    written = spelled(samples, corpus)
    assert [prompt for prompt, _ in written] == [prompt for prompt in asked for _ in range(4)]
    assert [text for _, text in written] == texts(samples, corpus)
    ended = samples.batch().targets.masked_fill(~samples.batch().mask, -1) == corpus.tokenizer.end
    assert 0 < int(ended.any(-1).sum()) < 24, "some end, and some are cut"
    assert (ended.sum(-1) <= 1).all()
    last = samples.tokens.gather(1, samples.stop[:, None] - 1)[:, 0]
    assert ((last == corpus.tokenizer.end) | (samples.stop == corpus.length + 1)).all()
    short = draw(model, prompts, Config(tokens=2), corpus, 4, [7])
    assert int((short.stop - short.start).max()) == 2
    for cut, whole in zip(texts(short, corpus), texts(samples, corpus), strict=True):
        assert cut == whole[:2], "the same draws"


def test_a_right_answer_is_worth_one_whatever_its_length_and_an_unfinished_one_nothing() -> None:
    corpus = task()
    prompts = prompts_of(corpus.batch(0), Config(), corpus)
    right = corpus.batch(0)
    tokens = torch.cat([right.tokens[:, :1], right.targets], 1)
    start = prompts.lengths
    stop = start + right.mask.sum(-1)
    assert rewards(Samples(tokens, start, stop), prompts, None, corpus).tolist() == [1.0] * 6
    wrong = tokens.clone()
    wrong[0, start[0]] = (wrong[0, start[0]] + 1) % 10
    wrong[1, stop[1] - 1] = 3  # where the mark stood
    assert rewards(Samples(wrong, start, stop), prompts, None, corpus).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    width = int(stop.max()) - 1  # too short for the longest
    found = rewards(Samples(tokens[:, :width], start, stop.clamp(max=width)), prompts, None, corpus)
    assert found.tolist() == (stop <= width).double().tolist()


def test_a_grammar_begins_with_its_mark_and_a_sample_is_a_sequence() -> None:
    corpus = make_corpus(RLMConfig(type="rlm", v=5, L=2, targets="all"), 4, 8, 0)
    prompts = prompts_of(corpus.batch(0), Config(), corpus)
    assert prompts.tokens.tolist() == [[corpus.tokenizer.end]] * 8
    samples = draw(model_for(corpus, block_size=4, scale=1.0), prompts, Config(), corpus, 2, [0])
    assert samples.tokens.shape == (16, 5)
    whole = [text for text, stop in zip(texts(samples, corpus), samples.stop.tolist(), strict=True) if stop == 5]
    counted = [len(text.split()) for text in whole]
    assert max(counted) == 4
    given: list[str] = []

    def reward(each: Any) -> list[float]:
        given.extend(each)
        return [float(len(text.split())) for text in each]

    assert rewards(samples, prompts, reward, corpus).tolist() == [float(len(t.split())) for t in texts(samples, corpus)]
    assert given == texts(samples, corpus)


def test_prompts_of_scored_texts_are_their_prompts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    config = RewardedConfig(type="rewarded", path=str(path), prompt="prompt", split_by="text", tokenizer="char")
    path.write_text("".join(f'{{"prompt": "{"a" * (n % 3)}", "text": "b{n}", "reward": {n}}}\n' for n in range(60)))
    corpus = make_corpus(config, 8, 6, 0)
    rows = np.arange(6)
    prompts = prompts_of(corpus.batch_of(rows), Config(), corpus)  # type: ignore[attr-defined]
    assert prompts.lengths.tolist() == [1, 1, 2, 1, 1, 2], "an empty prompt is a mark"
    assert prompts.tokens[0, 0] == corpus.tokenizer.end


def test_a_member_draws_as_it_would_alone() -> None:
    """Each from a stream of its own: members before it, and rows of theirs that go on for longer, change nothing."""
    corpus = task()
    prompts, together = prompts_of(corpus.batch(0), Config(), corpus), model_for(corpus, 3)
    samples = draw(together, prompts, Config(temperature=1.3), corpus, 4, [5, 6, 7])
    for member in range(3):
        alone = GPT(together.config)
        alone.load_state_dict({name: tensor[member] for name, tensor in together.state_dict().items()})
        single = draw(alone, prompts, Config(temperature=1.3), corpus, 4, [5 + member])
        for ours, theirs in zip(samples, single, strict=True):
            assert torch.equal(ours[member], theirs)
    assert not torch.equal(samples.tokens[0], samples.tokens[1])


def test_samples_come_as_often_as_the_policy_says() -> None:
    """First tokens of 4,000 samples at a temperature of 0.7: χ² of 11, whose 1 - 1e-4 quantile is 37.4."""
    corpus = task(1)
    model, config = model_for(corpus), Config(temperature=0.7, tokens=1)
    prompts = prompts_of(corpus.batch(0), config, corpus)
    samples = draw(model, prompts, config, corpus, 4000, [3])
    first = samples.tokens[torch.arange(4000), samples.start]
    length = int(prompts.lengths)
    expected = (model(prompts.tokens[:, :length])[0, -1] / 0.7).softmax(-1).detach() * 4000
    counts = torch.bincount(first, minlength=len(expected))
    common = expected > 5
    assert float(((counts - expected)[common].square() / expected[common]).sum()) < 37.4


@pytest.mark.parametrize("prompt", [1, 3])
def test_a_prompt_of_so_many_tokens(prompt: int) -> None:
    corpus = task()
    assert prompts_of(corpus.batch(0), Config(prompt=prompt), corpus).tokens.shape == (6, prompt)
