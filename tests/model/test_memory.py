"""A rolling memory: what reaches whom, decoding without an end, reconstruction, and what does not go together."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.data.batch import Batch
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.errors import PresetError
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads
from nanogrove.model.huggingface import family_of
from nanogrove.runs.setup import build
from nanogrove.train.objectives.auxiliary import head_losses, states_and_memories

V, S, M, T = 7, 4, 3, 16
FAMILIES = ["gpt2", "llama", "nanochat"]


def random_model(family: str = "gpt2", population: int | None = None) -> GPT:
    """A model in float64, of weights large enough that everything matters."""
    config = ModelConfig(
        family=family,  # type: ignore[arg-type]
        vocab_size=V,
        block_size=T,
        n_layer=2,
        n_head=2,
        n_embd=16,
        memory_tokens=M,
        memory_segment=S,
    )
    model, generator = GPT(config, population).initialize(*range(population or 1)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.double()


def tokens(rows: int = 3, length: int = T, seed: int = 0) -> Tensor:
    return torch.randint(0, V, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def slowly(model: GPT, text: list[int]) -> Tensor:
    """The states of one text, each from a pass of its own through what it may see; written positions likewise."""
    assert model.memory is not None
    memory, states = model.memory.start, []
    for first in range(0, len(text), S):
        segment = model.embed(torch.tensor(text[first : first + S]))
        for reach in range(1, len(segment) + 1):
            states.append(model.through(torch.cat([memory, segment[:reach]])[None])[0, -1])
        if len(segment) == S:
            write_inputs = memory + model.memory.write
            memory = torch.stack(  # type: ignore[assignment]
                [model.through(torch.cat([memory, segment, write_inputs[: n + 1]])[None])[0, -1] for n in range(M)]
            )
    return torch.stack(states)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 4, 5, 16, 22])
def test_states_are_those_of_a_pass_for_each_place(family: str, length: int) -> None:
    """Causality follows: a state is computed from what stands before it alone. A text may be longer than a window."""
    model, text = random_model(family), tokens(1, length)
    torch.testing.assert_close(model.hidden(text)[0], slowly(model, text[0].tolist()))


def test_what_was_read_reaches_as_far_as_the_window_and_never_back() -> None:
    model, given = random_model(), tokens(1)
    before = model(given)
    for place in range(T):
        changed = given.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        moved = (model(changed) - before).abs().amax(-1)[0] > 1e-9
        assert not moved[:place].any()
        assert moved[place:].all(), "through memory also what lies segments ahead"


def test_gradients_flow_through_all_segments() -> None:
    model = random_model()
    embedded = model.embed(tokens(1)).detach().requires_grad_()
    model.embed.forward = lambda index: embedded  # type: ignore[method-assign]
    model.remember(tokens(1))[0][0, -1].sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[0].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_a_cache_is_decoding_without_and_does_not_end_with_the_window(family: str) -> None:
    """Prompts of different lengths, some of which end with a segment, and 40 tokens where a window has 16."""
    model, prompts = random_model(family), [[1, 2, 3], [4], [5, 6, 1, 2, 0, 3, 1, 2], [2, 2, 1, 1], [3] * 19]
    given, lengths = pad(prompts)
    written = generate(model, given, lengths, new_tokens=40, greedy=True)
    for prompt, row in zip(prompts, written.tolist(), strict=True):
        likeliest = model(torch.tensor([prompt + row]))[0].argmax(-1)  # at each position, which sees none after it
        assert likeliest[len(prompt) - 1 : -1].tolist() == row
    stop = int(written[0, 5])
    ended = generate(model, given, lengths, new_tokens=40, greedy=True, stop=[stop])
    for whole, row in zip(written.tolist(), ended.tolist(), strict=True):
        end = whole.index(stop) + 1 if stop in whole else 40
        assert row == whole[:end] + [-1] * (40 - end)


def test_a_population_is_a_loop_over_its_members() -> None:
    """In training; a run has one model."""
    model, given = random_model(population=3), tokens(2)
    together = model(given.expand(3, -1, -1))
    for member in range(3):
        alone = GPT(model.config).double()
        alone.load_state_dict({name: tensor[member] for name, tensor in model.state_dict().items()})
        torch.testing.assert_close(together[member], alone(given))


@pytest.mark.parametrize("start", [0, 1, 6])
def test_reconstruction_is_its_equation_and_what_was_not_scored_has_no_say(start: int) -> None:
    model, given = random_model(), tokens(3, T + 1)
    config = AuxiliaryConfig(enable_memory=True, memory_every=3)
    heads = Heads(config, model.config).initialize(0).double()
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    mask = torch.ones(3, T, dtype=torch.bool)
    mask[1, 9:] = False
    mask[2, :3] = False
    batch = Batch.uniform(given[:, :-1], given[:, 1:], mask, torch.zeros(3, dtype=torch.int64))
    hidden, memories = states_and_memories(model, heads, batch.tokens)
    assert memories is not None
    assert memories.shape == (3, T // S - 1, M, 16), "none after the last segment"
    loss = head_losses(heads, model, hidden, model.nll(hidden, batch.targets), batch, start, memories)["memory"]
    assert heads.recall is not None
    total = 0.0
    for row in range(3):
        for segment in range(T // S - 1):
            memory = memories[row, segment]
            keys, contents = heads.recall.key(memory), heads.recall.content(memory)
            for position in range(start % 3, S, 3):
                t = segment * S + position
                if t == 0 or not mask[row, t - 1]:
                    continue
                query = heads.recall.place.weight[position]
                attended = torch.tensor([(query @ key).item() / 4 for key in keys], dtype=torch.float64).softmax(0)
                state = heads.recall.bend(query + sum(a * c for a, c in zip(attended, contents, strict=True)))
                total += F.cross_entropy(model.logits(state)[None], batch.tokens[row, t][None]).item()
    assert loss.item() == pytest.approx(3 * total / mask.sum().item())
    gradient = torch.autograd.grad(loss, model.memory.write)[0]  # type: ignore[union-attr]
    assert gradient.abs().sum() > 0, "it teaches the model to write"
    whole = states_and_memories(model, Heads(AuxiliaryConfig(enable_value=True), model.config), batch.tokens)
    assert whole[1] is None
    assert torch.equal(whole[0], hidden)


def test_a_run_with_reconstruction_resumes_alike_and_writes(tiny: Any, tmp_path: Path, resumes_exactly: Any) -> None:
    values = tiny(
        model={"memory_tokens": 2, "memory_segment": 8, "block_size": 24},
        auxiliary={"enable_memory": True, "enable_value": True, "value_horizon": 4},
        train={"steps": 10, "batch_size": 8, "accumulation": 2},
        sample={"every": 5, "tokens": 40},
    )
    record = resumes_exactly(values, tmp_path, [("step", 6)])
    event = [line for line in record if line["kind"] == "auxiliary"][-1]
    assert 0 < event["measures"]["memory_loss"] < 10
    assert event["shares"]["memory"] > 0
    lm = nanogrove.load(tmp_path / "whole")
    assert lm.heads is not None
    texts = lm.generate(["the", "a", "the moon"], 60, temperature=0, precision="float32")
    assert texts[1] == lm.generate("a", 60, temperature=0, precision="float32")
    assert math.isfinite(lm.continuations(["the"], 9)[0].mean_log_probability)


def test_what_does_not_go_together_is_refused_in_a_line(tiny: Any) -> None:
    memory = {"memory_tokens": 2, "memory_segment": 8}
    for changes, message in (
        ({"model": {**memory, "block_size": 20}}, "block_size 20 is not a whole number of segments of 8"),
        ({"model": {**memory, "token_shift": True}}, "memory_tokens and token_shift do not go together"),
        ({"model": {**memory, "within_documents": True}}, "memory_tokens and within_documents do not go together"),
        (
            {"model": memory, "method": "evolve", "train": {"steps": None}},
            "model.memory_tokens goes with method pretrain",
        ),
        (
            {"auxiliary": {"enable_memory": True}},
            "auxiliary.enable_memory reconstructs from a memory; set model.memory",
        ),
    ):
        with pytest.raises(PresetError, match=message):
            build(resolve(tiny(**changes)))
    model = random_model()
    lm = LanguageModel(model.float(), character_tokenizer(["abcdef"]))
    with pytest.raises(PresetError, match="speculative: a model with a memory is decoded plainly only"):
        lm.generate("a", 3, speculative=True)
    with pytest.raises(PresetError, match="a reward: a model with a memory is decoded plainly only"):
        lm.generate("a", 3, reward=lambda texts: [0.0 for _ in texts])
    with pytest.raises(PresetError, match="confidence: a model with a memory takes one prompt at a time"):
        lm.continuations(["a", "b"], 3)
    with pytest.raises(PresetError, match=r"family has memory_tokens=3; .* without model.memory_tokens$"):
        family_of(model.config)


def test_settings_of_a_memory_that_is_off_change_no_model() -> None:
    plain, off = ({"vocab_size": V, "block_size": 10, **more} for more in ({}, {"memory_segment": 4}))
    one, other = (GPT(ModelConfig(**settings)).initialize(0) for settings in (plain, off))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert list(one.state_dict()) == list(other.state_dict())
    assert not [name for name in one.state_dict() if "memory" in name]
