"""Each step from a preset to a setup: what it resolves, and what it refuses in a line."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.corpora import make_corpus
from nanogrove.data.corpus import Corpus
from nanogrove.data.tokenizer import byte_tokenizer
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.methods import AnyMethod, load_method
from nanogrove.model.config import ModelConfig
from nanogrove.runs.model_on_data import resolve_model
from nanogrove.runs.setup import (
    build,
    check_method,
    check_model,
    check_parallel,
    check_same_data,
    check_sharding,
    resolve_runtime,
    resolve_steps,
)
from nanogrove.train.checkpoint import Checkpoint
from nanogrove.train.loop import TrainConfig
from nanogrove.train.parallel.members import ByMember
from nanogrove.train.parallel.ranks import ALONE, Ranks

CPU = torch.device("cpu")
TWO = Ranks(0, 2)


@pytest.fixture(scope="module")
def preset(tiny: Any) -> Preset:
    return resolve(tiny())


@pytest.fixture(scope="module")
def corpus(preset: Preset) -> Corpus:
    return make_corpus(preset.data, preset.model.block_size, preset.train.batch_size, preset.seed)


def method_of(preset: Preset) -> AnyMethod:
    return load_method(preset.method.name)


@pytest.mark.parametrize(
    ("name", "ranks", "error"),
    [
        ("pretrain", 1, None),
        ("pretrain", 4, None),
        ("pretrain", 5, r"train.batch_size=4 is fewer sequences than the 5 ranks; raise it, or start 4 ranks at most"),
        ("evolve", 8, None),
        ("evolve", 9, "8 members are fewer than the 9 ranks; start 8 at most"),
        ("evolution_strategies", 1, None),
        ("evolution_strategies", 2, "trains in one process; start it without torchrun"),
    ],
)
def test_as_many_ranks_as_the_method_keeps_busy(tiny: Any, name: str, ranks: int, error: str | None) -> None:
    budget = {"train": {"steps": None}} if name == "evolve" else {}
    chosen = resolve(tiny(method=name, **budget))
    if error is None:
        check_parallel(chosen, method_of(chosen), Ranks(0, ranks))
        return
    with pytest.raises(PresetError, match=error):
        check_parallel(chosen, method_of(chosen), Ranks(0, ranks))


def test_weights_are_sharded_over_several_ranks_only(tiny: Any, preset: Preset) -> None:
    check_sharding(preset, method_of(preset), ALONE)
    sharded = resolve(tiny(train={"shard": True}))
    check_sharding(sharded, method_of(sharded), TWO)
    with pytest.raises(PresetError, match=r"train\.shard: there is one rank"):
        check_sharding(sharded, method_of(sharded), ALONE)


def checkpoint(corpus: Corpus, **changes: Any) -> Checkpoint:
    """A checkpoint of the data, as far as is looked at."""
    state = {"data": corpus.describe()["fingerprint"]}
    whole = Checkpoint(Path("run"), ModelConfig(), corpus.tokenizer, {}, None, {}, state, {}, {}, {})
    return replace(whole, **changes)


def test_a_run_goes_on_with_the_data_it_was_trained_on(corpus: Corpus) -> None:
    check_same_data(None, corpus)
    check_same_data(checkpoint(corpus), corpus)
    with pytest.raises(CheckpointError, match="run: has another vocabulary than the data"):
        check_same_data(checkpoint(corpus, tokenizer=byte_tokenizer()), corpus)
    with pytest.raises(CheckpointError, match="run: the data has changed since; bring it back, or start anew"):
        check_same_data(checkpoint(corpus, state={"data": "another"}), corpus)


def test_a_method_trains_the_kind_of_model_it_needs(tiny: Any, preset: Preset, corpus: Corpus) -> None:
    check_model(preset, method_of(preset), corpus)
    with pytest.raises(PresetError, match=r"method pretrain needs model\.scalar=true; only a reward model is scalar"):
        check_model(preset, load_method("reward_model"), corpus)
    scalar = resolve(tiny(model={"scalar": True}))
    with pytest.raises(PresetError, match=r"method pretrain needs model\.scalar=false"):
        check_model(scalar, method_of(scalar), corpus)


def test_the_vocabulary_is_the_tokenizers_unless_it_is_given(corpus: Corpus) -> None:
    needed = corpus.tokenizer.vocab_size
    assert resolve_model(ModelConfig(), corpus)[0].vocab_size == needed
    assert resolve_model(ModelConfig(vocab_size=needed + 5), corpus)[0].vocab_size == needed + 5
    with pytest.raises(PresetError, match=rf"model\.vocab_size={needed - 1} is smaller than the tokenizer's {needed}"):
        resolve_model(ModelConfig(vocab_size=needed - 1), corpus)


def test_a_model_knows_the_end_of_documents_where_it_must_see_them(corpus: Corpus) -> None:
    end = corpus.tokenizer.end
    within = ModelConfig(within_documents=True)
    assert resolve_model(within, corpus)[1].document_mark == end
    assert resolve_model(ModelConfig(document_mark=end), corpus)[1].document_mark is None
    with pytest.raises(PresetError, match=r"model\.document_mark is not the end of text of the tokenizer"):
        resolve_model(ModelConfig(document_mark=end + 1), corpus)
    with pytest.raises(PresetError, match=r"model\.within_documents: a reward model judges by the end mark"):
        resolve_model(within.model_copy(update={"scalar": True}), corpus)


def test_steps_of_each_budget(corpus: Corpus) -> None:
    def steps(**budget: float) -> int:
        return resolve_steps(TrainConfig(batch_size=4, **budget), corpus)

    per_step, per_epoch = 4 * corpus.length, corpus.windows_per_epoch
    assert per_epoch is not None
    assert steps(steps=7) == 7
    assert (steps(tokens=3 * per_step), steps(tokens=3 * per_step + 1)) == (3, 4)
    assert (steps(epochs=2), steps(epochs=1e-9)) == (round(2 * per_epoch / 4), 1)
    assert steps() == steps(minutes=5) == 0


def test_there_is_no_epoch_of_data_that_never_ends(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(corpus), "windows_per_epoch", None)
    with pytest.raises(PresetError, match=r"train\.epochs: this data never ends or is still being read"):
        resolve_steps(TrainConfig(epochs=1), corpus)


def test_a_method_is_asked_before_a_new_run_and_not_before_one_that_goes_on(preset: Preset, corpus: Corpus) -> None:
    def refuse(*given: object) -> None:
        raise PresetError("refused")

    method = replace(method_of(preset), check=refuse)
    check_method(preset, method, corpus, preset.model, False, new=False)
    with pytest.raises(PresetError, match="refused"):
        check_method(preset, method, corpus, preset.model, False, new=True)
    with pytest.raises(PresetError, match="refused"):
        check_method(preset, replace(method_of(preset), check_scored=refuse), corpus, preset.model, False, new=True)


def test_a_method_needs_its_data_and_its_last_split(preset: Preset, corpus: Corpus) -> None:
    class Another:
        splits = ("train", "validation")

    other = replace(method_of(preset), corpora=(Another,), needs="learns from others")
    with pytest.raises(PresetError, match="method pretrain learns from others"):
        check_method(preset, other, corpus, preset.model, False, new=False)
    with pytest.raises(PresetError, match=r"ends on the test split, which is empty; set data\.test"):
        check_method(preset, replace(method_of(preset), final_split="test"), Another(), preset.model, False, new=True)  # type: ignore[arg-type]


def test_a_preset_may_name_the_split_that_a_run_ends_on(preset: Preset, corpus: Corpus) -> None:
    class Another:
        splits = ("train", "validation")

    on_test = preset.model_copy(update={"evaluate": preset.evaluate.model_copy(update={"final": "test"})})
    with pytest.raises(PresetError, match=r"evaluate\.final: the run ends on the test split, which is empty"):
        check_method(on_test, method_of(preset), cast(Corpus, Another()), preset.model, False, new=False)


def runtime(preset: Preset, corpus: Corpus, ranks: Ranks = ALONE) -> Any:
    model, _ = resolve_model(preset.model, corpus)
    return resolve_runtime(preset, method_of(preset), corpus, model, CPU, 12, False, ranks)


def test_no_auto_is_left_that_would_change_a_result(tiny: Any, corpus: Corpus) -> None:
    auto = dict.fromkeys(("precision", "accumulation", "compile"), "auto")
    setup = runtime(resolve(tiny(train={**auto, "threads": 1})), corpus)
    assert "auto" not in setup.preset.train.model_dump(exclude={"device"}).values()
    assert (setup.plan.steps, setup.plan.precision) == (12, setup.preset.train.precision)
    assert setup.device == setup.whole_device == CPU


def test_members_are_spread_over_ranks_and_rows_are_not(tiny: Any, preset: Preset, corpus: Corpus) -> None:
    bred = resolve(tiny(method="evolve", train={"steps": None}))
    assert isinstance(runtime(bred, corpus, TWO).plan.layout, ByMember)
    assert not isinstance(runtime(bred, corpus).plan.layout, ByMember)
    assert not isinstance(runtime(preset, corpus, TWO).plan.layout, ByMember)


def test_the_preset_of_a_setup_builds_the_same_setup(preset: Preset) -> None:
    setup = build(preset)
    again = build(resolve(setup.preset.model_dump(mode="json")))
    assert (again.preset, again.model_on_data, again.plan.steps) == (setup.preset, setup.model_on_data, 30)
    assert setup.population is None
    assert setup.model_on_data.vocab_size == setup.corpus.tokenizer.vocab_size
