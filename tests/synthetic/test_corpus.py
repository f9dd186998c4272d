"""Grammars as a corpus, and a model's figures against their exact distributions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.corpora import make_corpus
from nanogrove.errors import DataError, NanogroveError, PresetError
from nanogrove.evaluate.loss import against_truth, evaluate_split
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.runs.score import evaluate
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.synthetic.corpus import GrammarCorpus, RHMConfig, RLMConfig

RLM = {"type": "rlm", "v": 5, "L": 2, "beta": 1.5, "held_out": 60}


def corpus(batch_size: int = 8, **settings: object) -> GrammarCorpus:
    built = make_corpus(RLMConfig.model_validate({**RLM, **settings}), 4, batch_size, seed=3)
    assert isinstance(built, GrammarCorpus)
    return built


def test_a_batch_is_the_sequence_behind_an_end_of_text() -> None:
    made = corpus(targets="all")
    batch = made.batch(7)
    assert (batch.tokens[:, 0] == made.tokenizer.end).all()
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert torch.equal(batch.targets, made.grammar.sample(8, 7))
    assert torch.equal(made.batch(7).tokens, batch.tokens)
    assert not torch.equal(made.batch(8).tokens, batch.tokens)
    assert batch.mask.all()
    assert (batch.weight == 1).all()
    assert corpus(targets="last").batch(0).mask.tolist() == [[0, 0, 0, 1]] * 8


def test_a_fixed_training_set_is_read_once_an_epoch_in_new_orders() -> None:
    made = corpus(training_set=24)
    epochs = [torch.cat([made.batch(3 * epoch + n).targets for n in range(3)]) for epoch in range(2)]
    assert made.windows_per_epoch == 24
    for epoch in epochs:
        assert sorted(epoch.tolist()) == sorted(made.grammar.sample(24).tolist())
    assert not torch.equal(*epochs)


def test_splits_are_drawn_from_seeds_of_their_own() -> None:
    made = corpus(batch_size=60, v=16)
    validation, test = (next(made.eval_batches(split)).targets for split in ("validation", "test"))
    assert not torch.equal(validation, test)
    assert not torch.equal(validation, made.batch(0).targets)
    assert sum(len(batch.targets) for batch in made.eval_batches("validation", limit=40)) == 10


@pytest.mark.parametrize("targets", ["last", "all"])
def test_reference_losses_are_those_of_counting_predictors(targets: str) -> None:
    made = corpus(targets=targets)
    x = torch.cartesian_prod(*[torch.arange(5)] * 4)
    p = made.grammar.next_token_log_probs(x).sum(1).exp()
    positions = [3] if targets == "last" else range(4)
    unigram, bigram = 0.0, 0.0
    for t in positions:
        alone = torch.zeros(5, dtype=torch.float64).index_add(0, x[:, t], p)
        unigram -= float((p * alone[x[:, t]].log()).sum())
        before = x[:, t - 1] if t else torch.zeros_like(x[:, t])
        pairs = torch.zeros(5, 5, dtype=torch.float64).index_put((before, x[:, t]), p, accumulate=True)
        bigram -= float((p * (pairs / pairs.sum(1, keepdim=True))[before, x[:, t]].log()).sum())
    said = made.describe()
    assert said["unigram_loss"] == pytest.approx(unigram / len(positions))
    assert said["bigram_loss"] == pytest.approx(bigram / len(positions))


def test_tokens_are_written_as_numbers() -> None:
    tokenizer = corpus().tokenizer
    assert tokenizer.decode([4, 0, 3]) == "4 0 3"
    assert tokenizer.encode("4 0 3") == [4, 0, 3]
    assert tokenizer.vocab_size == 6
    with pytest.raises(DataError, match="holds a word that is not among the 5"):
        tokenizer.encode("4 hello")


@pytest.mark.parametrize("config", [RLMConfig.model_validate(RLM), RHMConfig(type="rhm", v=4, m=2, s=2, L=2)])
def test_the_truth_is_that_of_the_windows(config: RLMConfig | RHMConfig) -> None:
    made = make_corpus(config, 4, 16, seed=0)
    assert isinstance(made, GrammarCorpus)
    for batch, truth in zip(
        made.eval_batches("validation", 100), made.true_distributions("validation", 100), strict=True
    ):
        expected = made.grammar.next_token_log_probs(batch.targets)
        found = truth.double().gather(-1, batch.targets[..., None])[..., 0].log()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Oracle(nn.Module):
    """Answers with fixed distributions, batch after batch; `scale` flattens them."""

    population = None

    def __init__(self, truths: list[Tensor], scale: float) -> None:
        super().__init__()
        self.embed, self.answers = nn.Embedding(1, 1), iter(truths)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        unused = torch.full((*tokens.shape, 1), -torch.inf)
        return torch.cat([next(self.answers).log() * self.scale, unused], -1)


@pytest.mark.parametrize("targets", ["last", "all"])
def test_the_truth_itself_has_no_excess(targets: str) -> None:
    made = corpus(targets=targets)
    truths = list(made.true_distributions("validation"))
    score, _ = against_truth(Oracle(truths, 1.0), made.eval_batches("validation"), iter(truths))  # type: ignore[arg-type]
    assert score["excess"] == pytest.approx(0, abs=1e-6)
    assert score["kl"] == pytest.approx([0] * len(score["positions"]), abs=1e-6)
    assert score["accuracy"] == score["bayes_accuracy"]
    assert score["positions"] == ([4] if targets == "last" else [1, 2, 3, 4])


def test_figures_against_the_truth_equal_their_definitions() -> None:
    made = corpus(targets="all", beta=1.0)
    truths = list(made.true_distributions("validation"))
    score, _ = against_truth(Oracle(truths, 0.5), made.eval_batches("validation"), iter(truths))  # type: ignore[arg-type]
    p = torch.cat(truths).numpy().astype(float)
    q = p**0.5 / (p**0.5).sum(-1, keepdims=True)
    x = torch.cat([batch.targets for batch in made.eval_batches("validation")]).numpy()
    rows, places = np.indices(x.shape)
    gap = (np.log(p) - np.log(q))[rows, places, x].mean(1)
    assert score["loss"] == pytest.approx(-np.log(q)[rows, places, x].mean(), abs=1e-5)
    assert score["bayes_loss"] == pytest.approx(-np.log(p)[rows, places, x].mean(), abs=1e-5)
    assert score["excess"] == pytest.approx(gap.mean(), abs=1e-5)
    assert score["excess_error"] == pytest.approx(gap.std(ddof=1) / math.sqrt(len(gap)), rel=1e-3)
    assert score["kl"] == pytest.approx((p * np.log(p / q)).sum(-1).mean(0).tolist(), abs=1e-5)


def test_a_population_is_scored_as_its_members() -> None:
    made = corpus(targets="all")
    config = ModelConfig(vocab_size=6, block_size=4, n_layer=1, n_head=2, n_embd=8)
    both = evaluate_split(GPT(config, 2).initialize(1, 2), made, "validation")
    for member, seed in enumerate((1, 2)):
        alone = evaluate_split(GPT(config).initialize(seed), made, "validation")
        for key in ("loss", "excess", "excess_error", "accuracy"):
            assert both[key][member] == pytest.approx(alone[key], abs=1e-6)
        assert both["kl"][member] == pytest.approx(alone["kl"], abs=1e-6)


def test_a_run_on_a_grammar_tells_the_excess(tmp_path: Path) -> None:
    small = [
        "train.steps=12",
        "train.batch_size=8",
        "train.threads=1",
        "train.precision=float32",
        "data.v=4",
        "data.held_out=100",
    ]
    preset = resolve(read_preset_file("rlm"), [*small, "train.accumulation=1", "evaluate.tokens=100"])
    events = list(train(preset, tmp_path / "run"))
    evaluated = [event.step for event in events if event.kind == "eval"]
    assert evaluated == [1, 2, 4, 8, 12]
    score = evaluate(tmp_path / "run")
    assert score["split"] == "test"
    assert score["excess"] == pytest.approx(score["loss"] - score["bayes_loss"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Against the best possible" in page
    assert "Trees of this grammar" in page


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.v=1", "data.v"),
        ("data.L=0", "data.L"),
        ("data.beta=-1", "data.beta"),
        ("data.beta=NaN", "data.beta"),
        ("data.v=100000", "bytes"),
        ("data.L=3", "set model.block_size=8"),
        ("data.L=60", "leaves are more than"),
        ("data.type=rlx", "rlm"),
        ("data.betta=1", "did you mean data.beta"),
        ("data.m=4", "unknown key data.m"),
        ("train.epochs=2", "set train.steps, train.tokens or train.minutes instead"),
    ],
)
def test_bad_settings_are_told_in_one_line(override: str, said: str) -> None:
    with pytest.raises(NanogroveError) as caught:
        build(resolve(read_preset_file("rlm"), [override]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_endless_source_has_no_epochs() -> None:
    with pytest.raises(PresetError, match="never ends"):
        build(resolve(read_preset_file("rlm"), ["train.epochs=2", "train.steps=null"]))


def test_too_many_synonyms_are_refused() -> None:
    with pytest.raises(DataError, match="m of at most"):
        build(resolve(read_preset_file("rhm"), ["data.m=300"]))
