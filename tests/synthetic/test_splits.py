"""The splits of a grammar against lists of all its sequences, and overlaps against literal counts."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogrove.cli.render import described_held_out
from nanogrove.config.catalog import list_presets, read_preset_file
from nanogrove.corpora import make_corpus
from nanogrove.errors import DataError
from nanogrove.synthetic import RandomHierarchyModel, RandomLanguageModel
from nanogrove.synthetic.corpus import GrammarCorpus, RHMConfig, RLMConfig
from nanogrove.synthetic.splits import distinct, expected_overlap, independent, overlap

SMALL = {"type": "rhm", "v": 4, "m": 2, "s": 2, "L": 3, "held_out": 40}  # 4·2^7 = 512 sequences


def corpus(**settings: Any) -> GrammarCorpus:
    built = make_corpus(RHMConfig.model_validate({**SMALL, **settings}), 8, 16, seed=0)
    assert isinstance(built, GrammarCorpus)
    return built


def rows(sequences: Tensor, tokens: int | None = None) -> list[tuple[int, ...]]:
    return [tuple(row[:tokens]) for row in sequences.tolist()]


def every_text(model: RandomHierarchyModel) -> list[tuple[int, ...]]:
    texts: list[tuple[int, ...]] = [(root,) for root in range(model.v)]
    for rules in model.rules:
        synonyms = rules.tolist()
        texts = [
            tuple(itertools.chain.from_iterable(chosen))
            for symbols in texts
            for chosen in itertools.product(*(synonyms[symbol] for symbol in symbols))
        ]
    return texts


@pytest.mark.parametrize(("v", "m", "s", "L"), [(4, 2, 2, 3), (3, 2, 3, 2), (5, 1, 2, 2), (5, 3, 2, 1)])
def test_numbers_give_every_text_once(v: int, m: int, s: int, L: int) -> None:  # noqa: N803
    model = RandomHierarchyModel(v, m, s, L)
    texts = model.derive(np.arange(model.num_derivations), np.random.default_rng(0))
    assert sorted(rows(texts)) == sorted(every_text(model))


@pytest.mark.parametrize("name", [n for n in list_presets() if read_preset_file(n)["data"].get("type") == "rhm"])
def test_no_preset_tests_what_it_was_trained_on(name: str) -> None:
    preset = read_preset_file(name)
    config = RHMConfig.model_validate(preset["data"])
    made = make_corpus(config, preset["model"]["block_size"], preset["train"]["batch_size"], seed=0)
    splits = made.sequences
    assert {split: len(sequences) for split, sequences in splits.items()} == {
        "train": config.training_set,
        "validation": config.held_out,
        "test": config.held_out,
    }
    assert len(set(rows(torch.cat(list(splits.values()))))) == sum(map(len, splits.values()))
    trained = set(rows(splits["train"], -1))
    assert not any(prefix in trained for split in ("validation", "test") for prefix in rows(splits[split], -1))
    epoch = [made.batch(step).targets for step in range(config.training_set // preset["train"]["batch_size"])]
    assert sorted(rows(torch.cat(epoch))) == sorted(rows(splits["train"]))
    assert torch.equal(torch.cat([batch.targets for batch in made.eval_batches("test")]), splits["test"])
    assert list(described_held_out(made.describe())) == []


def test_a_training_set_of_all_that_is_left_is_all_that_is_left() -> None:
    made = corpus(training_set=512 - 80)
    assert sorted(rows(torch.cat(list(made.sequences.values())))) == sorted(every_text(made.grammar))  # type: ignore[arg-type]
    trained = set(rows(made.sequences["train"], -1))
    share = sum(prefix in trained for prefix in rows(made.sequences["test"], -1)) / 40
    assert 0 < share < 1, "prefixes cannot all be kept apart"
    assert made.describe()["overlap"] == {"sequences": 0.0, "prefixes": share}
    [line] = described_held_out(made.describe())
    assert line.startswith(f"overlap: 0.0% of the test sequences, and {share:.1%} of their prefixes")


@pytest.mark.parametrize("size", [10, 200])
def test_prefixes_are_kept_apart_where_there_are_enough(size: int) -> None:
    made = corpus(training_set=size)
    held = set(rows(torch.cat([made.sequences["validation"], made.sequences["test"]]), -1))
    assert len(made.sequences["train"]) == size
    assert not any(prefix in held for prefix in rows(made.sequences["train"], -1))
    assert torch.equal(made.sequences["test"], corpus(training_set=77).sequences["test"])
    assert made.describe()["fingerprint"] != corpus(training_set=size, seed_samples=1).describe()["fingerprint"]


def test_all_tokens_scored_keeps_sequences_apart_and_tells_of_prefixes() -> None:
    made = corpus(training_set=300, targets="all")
    splits = made.sequences
    assert len(set(rows(torch.cat(list(splits.values()))))) == 380
    trained = set(rows(splits["train"], -1))
    shared = sum(prefix in trained for prefix in rows(splits["test"], -1)) / 40
    assert made.describe()["overlap"] == {"sequences": 0.0, "prefixes": shared}
    assert shared > 0


def test_test_sequences_are_a_sample_of_the_grammar_whatever_is_trained_on() -> None:
    """Each sequence is tested equally often, and the true distributions have the loss of the grammar on average.

    Were held-out sequences passed over for their prefixes, those whose last token is certain would be too many.
    """
    model = RandomHierarchyModel(4, 3, 2, 2, seed_rules=2)  # 108 sequences
    exact = float(model.bayes_loss_exact()[-1])
    counts: dict[tuple[int, ...], int] = dict.fromkeys(every_text(model), 0)
    losses = []
    for seed in range(250):
        model.seed_samples = seed
        test = distinct(model, 50, 20, by_prefix=True)["test"]
        losses.append(-float(model.next_token_log_probs(test)[:, -1].mean()))
        for row in rows(test):
            counts[row] += 1
    assert exact > 0.2
    assert np.mean(losses) == pytest.approx(exact, abs=4 * np.std(losses) / 250**0.5)
    statistic = sum((count - 5000 / 108) ** 2 / (5000 / 108) for count in counts.values()) / (1 - 20 / 108)
    assert 0.001 < torch.special.gammaincc(torch.tensor(107 / 2), torch.tensor(statistic / 2)) < 0.999


def test_nothing_in_the_training_set_tells_the_last_token_of_a_test_sequence() -> None:
    """Tokens that followed a test prefix in training would be those that do not follow it in the test split."""
    model = RandomHierarchyModel(4, 3, 2, 2, seed_rules=2)
    for seed in range(50):
        model.seed_samples = seed
        splits = distinct(model, 40, 10, by_prefix=True)
        assert overlap(splits["train"], splits["test"]) == {"sequences": 0.0, "prefixes": 0.0}
        assert overlap(splits["train"], splits["validation"]) == {"sequences": 0.0, "prefixes": 0.0}


@pytest.mark.parametrize(("training_set", "held_out"), [(433, 40), (10**9, 255), (1, 256), (1, 10**9)])
def test_more_sequences_than_there_are_is_refused_and_the_advice_fits(training_set: int, held_out: int) -> None:
    with pytest.raises(DataError, match="are more than the 512 sequences of this grammar") as error:
        corpus(training_set=training_set, held_out=held_out)
    text = str(error.value)
    assert "\n" not in text
    advised = dict(part.split("=") for part in text.split("; ")[1].removesuffix(" would fit").split(" and "))
    settings = {"training_set": training_set, "held_out": held_out}
    settings |= {key.removeprefix("data."): int(value) for key, value in advised.items()}
    made = corpus(**settings)
    assert len(made.sequences["train"]) == settings["training_set"]


def test_grammars_whose_derivations_no_number_tells_apart() -> None:
    model = RandomHierarchyModel(32, 8, 2, 5)  # 32·8^31 sequences
    assert model.num_derivations == 1 << 62
    splits = distinct(model, 3000, 500, by_prefix=True)
    drawn = torch.cat(list(splits.values()))
    assert len(set(rows(drawn, -1))) == 4000
    assert model.next_token_log_probs(drawn[::50]).isfinite().all()
    assert torch.equal(drawn, torch.cat(list(distinct(model, 3000, 500, by_prefix=True).values())))


def test_overlap_is_counted() -> None:
    train, test = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 3], [4, 5, 7], [7, 8, 9], [1, 2, 0]])
    assert overlap(train, test) == {"sequences": 0.25, "prefixes": 0.75}


def test_a_random_language_model_is_sampled_independently_and_its_overlap_told() -> None:
    made = make_corpus(RLMConfig(type="rlm", v=5, L=2, beta=1.5, held_out=60, training_set=24), 4, 8, seed=3)
    trained = set(rows(made.sequences["train"]))
    share = sum(row in trained for row in rows(made.sequences["test"])) / 60
    assert share > 0
    assert made.describe()["overlap"]["sequences"] == pytest.approx(share, abs=1e-6)
    assert next(described_held_out(made.describe())).startswith(f"overlap: {share:.1%} of the test sequences")


@pytest.mark.parametrize("fresh", [5, 100])
def test_expected_overlap_is_that_of_a_simulation(fresh: int) -> None:
    model = RandomLanguageModel(4, 2, 2.0)
    test = independent(model, None, 30)["test"]
    shares = [overlap(model.sample(fresh, step), test)["sequences"] for step in range(1, 1001)]
    found = expected_overlap(model, test, fresh)
    assert found == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 1000**0.5)
    assert 0 < found < 1


def test_fresh_sequences_meet_held_out_ones_by_chance_and_the_record_tells() -> None:
    expected = corpus().describe()["expected_overlap"]
    assert expected["10000"] == pytest.approx(1 - (1 - 1 / 512) ** 10_000, abs=1e-6)
    [line] = described_held_out(corpus().describe())
    assert "100.0% of 10,000, 100.0% of 100,000, 100.0% of 1,000,000" in line
    assert list(described_held_out({"expected_overlap": {"1000000": 0.0004}})) == []
