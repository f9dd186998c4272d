"""Coupled positions: the ids of a definition read token by token, offsets in training alone, and what refuses them."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.model.cache import first_placement
from nanogrove.model.config import ModelConfig
from nanogrove.model.coupled import CoupledIds
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import export_model
from nanogrove.model.members import stack
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.train.checkpoint import read_checkpoint
from nanogrove.train.loop import fit
from nanogrove.train.objective import next_token
from nanogrove.train.optim.optimizer import OptimizerConfig, make_optimizer
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

SYMBOLS = "0123456789+=()*\0"
DIGITS, EQUALS = tuple(range(10)), SYMBOLS.index("=")
SIZES: dict[str, Any] = {"vocab_size": len(SYMBOLS), "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}
COUPLED = {"position": "coupled", "coupled_tokens": DIGITS, "coupled_start_tokens": (EQUALS,), "coupled_offset": 6}
ENDS = {"coupled_end_tokens": (SYMBOLS.index("+"),)}


def ids(text: str, starts: str = "=", ends: str = "") -> list[int]:
    """The coupled positions of a text."""
    first, last = ([SYMBOLS.index(symbol) for symbol in symbols] for symbols in (starts, ends))
    coupled = CoupledIds(len(SYMBOLS), DIGITS, first, last, 0)
    placement = first_placement(encoded(text), None, torch.empty(0), coupled)
    assert placement.ids is not None
    return placement.ids[0].tolist()  # type: ignore[no-any-return]


def encoded(*texts: str) -> Tensor:
    return torch.tensor([[SYMBOLS.index(symbol) for symbol in text] for text in texts])


def make(population: int | None = None, **changes: Any) -> GPT:
    config = ModelConfig(**{**SIZES, **COUPLED, "init_scale": 5.0, **changes})
    return GPT(config, population).initialize(*range(population or 1)).eval()


def test_ids_are_those_of_the_definition() -> None:
    assert ids("21+54=750\0\0") == [1, 2, 0, 1, 2, 1, 2, 3, 4, 0, 0]
    assert ids("=1=23+4") == [1, 2, 1, 2, 3, 0, 1]
    assert ids("21*43=840+0630=8040", "=+") == [1, 2, 0, 1, 2, 1, 2, 3, 4, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    assert ids("+\0=", "") == [0, 0, 0]
    assert ids("21+54=750", ends="+") == [1, 2, 3, 1, 2, 1, 2, 3, 4]
    assert ids("+12++3=+", ends="+") == [1, 1, 2, 3, 1, 1, 1, 2]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        drawn = torch.randint(len(SYMBOLS), (12,), generator=generator).tolist()
        text, expected, last = "".join(SYMBOLS[token] for token in drawn), [], 0
        for symbol in text:  # the same rule as a recurrence: one more than the token before
            last = last + 1 if symbol.isdigit() else int(symbol == "=")
            expected.append(last)
        assert ids(text) == expected


def test_the_token_that_predicts_a_place_has_its_id() -> None:
    prompt, answer = "918+273=", "1811"
    places = dict(enumerate(ids(prompt + answer)[len(prompt) - 1 : -1], start=1))
    assert places == {1: 1, 2: 2, 3: 3, 4: 4}


def test_offsets_move_all_ids_but_0_in_training_alone() -> None:
    coupled = CoupledIds(len(SYMBOLS), DIGITS, [EQUALS], [], 6).eval()
    plain = torch.tensor([ids("21+54=750")] * 400)
    assert torch.equal(coupled.with_offsets(plain), plain)
    coupled.train()
    coupled.seed([3], torch.device("cpu"))
    moved = coupled.with_offsets(plain) - plain
    assert (moved[plain == 0] == 0).all()
    offsets = moved[:, 0]
    assert torch.equal(moved, offsets[:, None] * (plain > 0))
    assert sorted(set(offsets.tolist())) == list(range(7))
    coupled.seed([4, 3], torch.device("cpu"))
    assert torch.equal(coupled.with_offsets(torch.cat([plain, plain]))[400:], moved + plain), "a stream for each member"


def test_a_wrong_id_changes_logits_and_equal_places_share_an_embedding() -> None:
    model, tokens = make(), encoded("21+54=750")
    with torch.no_grad():
        before = model(tokens)
        model.position.weight[4] += 1.0  # the last digit of the answer alone
        assert torch.equal(model(tokens)[:, :-1], before[:, :-1])
        assert not torch.equal(model(tokens)[:, -1], before[:, -1])
        model.position.weight[5:] += 1.0  # ids that no token has
        now = model(tokens)
        model.position.weight[5:] -= 9.0
        assert torch.equal(model(tokens), now)


@pytest.mark.parametrize("population", [None, 3])
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(population: int | None) -> None:
    """In step and ragged; a run goes on over the border of a read."""
    model = make(population, **ENDS).double()
    axes = () if population is None else (population,)
    rows = encoded("2190+5478=75701\0", "91+4=500000\0=123").expand(*axes, 2, 16)
    full = model(rows)
    for sizes in ((16,), (1,) * 16, (3, 1, 1, 4, 2, 5)):
        cache, at = model.cache(2), 0
        for size in sizes:
            logits = model.logits(model.hidden(rows[..., at : at + size], cache))
            torch.testing.assert_close(logits, full[..., at : at + size, :], atol=1e-12, rtol=0)
            at += size
    if population is None:
        starts, cache = torch.tensor([7, 3]), model.cache(2)
        model.hidden(rows[:, :7], cache, starts)
        for step in range(9):
            positions = (starts + step)[:, None]
            logits = model.logits(model.hidden(rows.gather(1, positions), cache))[:, 0]
            torch.testing.assert_close(logits, full[torch.arange(2), positions[:, 0]], atol=1e-12, rtol=0)


@torch.no_grad()
def test_a_packed_document_has_the_ids_of_its_own() -> None:
    model = make(within_documents=True, document_mark=len(SYMBOLS) - 1, family="llama")
    first, second = encoded("\x0012+3=5"), encoded("\x00990+10=0001")
    packed = model(torch.cat((first, second), 1))
    torch.testing.assert_close(packed[:, first.shape[1] :], model(second), atol=1e-5, rtol=1e-5)


def trained(model: GPT, *seeds: int) -> tuple[GPT, list[Any]]:
    """Three steps on sums, the same for all members, and their losses."""
    tokens = encoded("21+54=750\0", "91+40=131\0", "36+25=510\0")

    def batch(step: int) -> Batch:
        return Batch.uniform(tokens[:, :-1], tokens[:, 1:], torch.ones(3, 9, dtype=torch.bool))

    plan = Plan(seed=0, steps=3, lr_factor=lambda step: 1.0, member_seeds=seeds)
    state = TrainState(model, make_optimizer(model, OptimizerConfig(lr=0.01)))
    return model, [event.values["loss"] for event in fit(state, batch, next_token, plan)]


def test_a_member_draws_the_offsets_of_the_run_alone() -> None:
    seeds = [5, 6]
    alone = [trained(make(n_embd=32, family="llama"), seed) for seed in seeds]
    together = make(2, n_embd=32, family="llama")
    together.load_state_dict(stack([make(n_embd=32, family="llama").state_dict()] * 2))
    population, losses = trained(together, *seeds)
    assert losses == [list(pair) for pair in zip(alone[0][1], alone[1][1], strict=True)]
    assert losses[0][0] != losses[0][1], "equal weights and rows, so only offsets differ"
    for member, (model, _) in enumerate(alone):
        for name, weight in model.state_dict().items():
            assert torch.equal(population.state_dict()[name][member], weight), name


@pytest.fixture
def preset() -> dict[str, Any]:
    return {
        "data": {"type": "task", "task": "reversed-addition", "base": [1, 2], "held_out": 5},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 24, "position": "coupled"},
        "train": {"steps": 4, "batch_size": 4, "precision": "float32", "threads": 1, "device": "cpu"},
        "evaluate": {"every": 2, "tokens": 500},
        "sample": {"every": 4, "tokens": 5, "prompts": ["21+54="]},
    }


def test_a_run_takes_its_tokens_from_the_vocabulary_and_resumes_bit_for_bit(
    preset: dict[str, Any], tmp_path: Path
) -> None:
    nanogrove.run(preset, tmp_path / "a")
    checkpoint = read_checkpoint(tmp_path / "a")
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    assert [tokenizer.decode([token]) for token in config.coupled_tokens or ()] == list("0123456789")
    assert [tokenizer.decode([token]) for token in config.coupled_start_tokens or ()] == ["="]
    assert nanogrove.load(tmp_path / "a").generate("21+54=", tokens=3)
    longer = {**preset, "train": {**preset["train"], "steps": 8}, "save": {"every": 1}}
    nanogrove.run(longer, tmp_path / "whole")
    for event in train(resolve(longer), tmp_path / "cut"):
        if event.kind == "step" and event.step == 5:
            break
    nanogrove.run(longer, tmp_path / "cut", resume=True)
    whole, cut = (read_checkpoint(tmp_path / name).model for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    again = {**preset, "train": {**preset["train"], "init": str(tmp_path / "a")}}
    nanogrove.run(again, tmp_path / "b")
    assert read_checkpoint(tmp_path / "b").config == config


def test_what_is_refused(preset: dict[str, Any], tmp_path: Path) -> None:
    for override, problem in {
        "model.coupled=abc": "no token consists of characters of model.coupled='abc' alone",
        "model.coupled_starts=9": "model.coupled, coupled_starts and coupled_ends share '9'",
        "model.coupled_ends==": "model.coupled, coupled_starts and coupled_ends share '='; leave it out of all but one",
        "model.coupled_tokens=[1]": "model.coupled_tokens is not what the tokenizer says; leave it out",
        "model.memory_tokens=2": "memory_tokens and position=coupled do not go together",
    }.items():
        with pytest.raises(PresetError, match=re.escape(problem)):
            build(resolve(preset, [override, "model.memory_segment=8"]))
    with pytest.raises(ValueError, match="position=coupled needs coupled_tokens"):
        GPT(ModelConfig(**SIZES, position="coupled"))
    model = make()
    with pytest.raises(PresetError, match="family has position=coupled"):
        export_model(model.state_dict(), model.config, tmp_path / "out")
    nanogrove.run(preset, tmp_path / "a")
    with pytest.raises((PresetError, CheckpointError), match="position"):
        nanogrove.export(tmp_path / "a", "onnx", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
