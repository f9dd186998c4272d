"""Plain decoding, and the cache and the packed weights that it uses, against the uncached model."""

from typing import Any

import pytest
import torch

from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import (
    Sampling,
)
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import packed_weights

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"n_kv_head": 2},
    "nanochat": {"zero_init": False},
    "llama-none": {"family": "llama", "position": "none"},
    "llama-shift": {"family": "llama", "token_shift": True},
    "llama-coupled": {
        "family": "llama",
        "position": "coupled",
        "coupled_tokens": tuple(range(4, 20)),
        "coupled_start_tokens": (3,),
    },
    "llama-wide-heads": {"family": "llama", "n_kv_head": 2, "head_size": 12},
}


def make(family: str, population: int | None = None, block_size: int = 32) -> GPT:
    settings = {"family": family, **FAMILIES[family]}
    config = ModelConfig(vocab_size=23, block_size=block_size, n_layer=2, n_head=4, n_embd=32, **settings)
    model = GPT(config, population).initialize(*range(population or 1))
    with torch.no_grad():  # far from uniform, so that a wrong key or position shows
        for parameter in model.parameters():
            parameter.mul_(3.0)
        if model.shift is not None:
            torch.nn.init.normal_(model.shift.weight, generator=torch.Generator().manual_seed(9))
    return model.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_states_equal_uncached_at_every_position_with_ragged_prompts(
    family: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = make(family).to(dtype)
    torch.manual_seed(1)
    sequences = torch.randint(0, 23, (3, 30))
    starts = torch.tensor([3, 9, 6])
    full = model(sequences)
    cache = model.cache(3)
    prompt = sequences[:, :9].clone()
    for row, start in enumerate(starts):
        prompt[row, start:] = 0
    logits = model.logits(model.hidden(prompt, cache, starts))
    for row, start in enumerate(starts):
        torch.testing.assert_close(logits[row, :start], full[row, :start], atol=tolerance, rtol=0)
    for step in range(20):
        at = starts + step
        token = sequences.gather(1, at[:, None])
        logits = model.logits(model.hidden(token, cache))
        torch.testing.assert_close(logits[:, 0], full[torch.arange(3), at], atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_tokens_at_once_after_a_ragged_cache(family: str) -> None:
    model = make(family)
    sequences = torch.randint(0, 23, (2, 20), generator=torch.Generator().manual_seed(2))
    starts = torch.tensor([4, 7])
    cache = model.cache(2)
    model.hidden(sequences[:, :7], cache, starts)
    chunk = torch.stack([sequences[0, 4:9], sequences[1, 7:12]])
    logits = model.logits(model.hidden(chunk, cache))
    full = model(sequences)
    torch.testing.assert_close(logits[0], full[0, 4:9], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], full[1, 7:12], atol=1e-5, rtol=1e-5)


def greedy_by_rereading(model: GPT, prompt: list[int], count: int) -> list[int]:
    """The plain loop: no cache; when the context is full, the last half of it is kept, as documented."""
    context, written = list(prompt)[-model.config.block_size :], []
    for _ in range(count):
        if len(context) > model.config.block_size:
            context = context[-(model.config.block_size // 2) :]
        token = int(model(torch.tensor([context]))[0, -1].argmax())
        written.append(token)
        context.append(token)
    return written


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_the_plain_loop_far_past_the_context(family: str) -> None:
    model = make(family, block_size=16)
    prompt = [1, 5, 2, 8]
    rows, lengths = pad([prompt])
    written = generate(model, rows, lengths, new_tokens=50, greedy=True)
    assert written[0].tolist() == greedy_by_rereading(model, prompt, 50)


def test_prompts_in_a_batch_write_what_they_write_alone() -> None:
    model = make("llama")
    prompts = [[1], [2, 3, 4, 5, 6], [7, 8, 9]]
    together = generate(model, *pad(prompts), new_tokens=12, greedy=True)
    for prompt, row in zip(prompts, together, strict=True):
        alone = generate(model, *pad([prompt]), new_tokens=12, greedy=True)
        assert row.tolist() == alone[0].tolist()


def test_a_prompt_longer_than_the_context_reads_its_end() -> None:
    model = make("gpt2", block_size=8)
    prompt = list(range(20))
    written = generate(model, *pad([prompt]), new_tokens=1, greedy=True)
    assert int(written) == int(model(torch.tensor([prompt[-8:]]))[0, -1].argmax())


def test_a_population_decodes_as_its_members() -> None:
    model = make("nanochat", population=3)
    tokens = torch.randint(0, 23, (3, 2, 5), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([[5, 3], [4, 5], [5, 5]])
    together = generate(model, tokens, lengths, new_tokens=9, greedy=True)
    for p in range(3):
        single = GPT(model.config)
        single.load_state_dict({name: value[p] for name, value in model.state_dict().items()})
        alone = generate(single, tokens[p], lengths[p], new_tokens=9, greedy=True)
        assert together[p].tolist() == alone.tolist()


def test_a_stop_token_ends_its_row_only() -> None:
    model = make("gpt2")
    rows, lengths = pad([[1, 2], [3, 4, 5]])
    free = generate(model, rows, lengths, new_tokens=15, greedy=True).tolist()
    stop = free[0][4]
    stopped = generate(model, rows, lengths, new_tokens=15, greedy=True, stop=[stop]).tolist()
    for before, after in zip(free, stopped, strict=True):
        end = before.index(stop) + 1 if stop in before else 15
        assert after == before[:end] + [-1] * (15 - end)


def test_sampling_follows_the_distribution() -> None:
    model = make("gpt2")
    rows = torch.tensor([[4, 2]]).expand(4000, 2)
    drawn = generate(model, rows, new_tokens=1, generator=torch.Generator().manual_seed(0))
    expected = model(rows[:1])[0, -1].softmax(-1) * 4000
    counts = drawn.flatten().bincount(minlength=23)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 48.3  # the 99.9 % quantile at 22 degrees of freedom


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_change_nothing_but_rounding_and_are_dropped(family: str) -> None:
    model = make(family)
    tokens = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        plain = model(tokens)
        with packed_weights(model, rows=3):
            assert model.blocks[0].mlp.down.packed is not None
            torch.testing.assert_close(model(tokens), plain, atol=1e-5, rtol=1e-5)
        model.blocks[0].mlp.down.weight.mul_(2.0)
        assert (model(tokens) - plain).abs().max() > 1e-3  # a copy kept would not see the change


def test_bfloat16_products_round_and_no_more() -> None:
    model = make("gpt2")
    tokens = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode(), packed_weights(model, 3, torch.bfloat16):
        rounded = model(tokens)
    assert rounded.dtype == torch.float32
    error = (rounded - model(tokens)).abs().max() / rounded.abs().max()
    assert 1e-5 < error < 0.05


def test_packed_weights_are_dropped_when_decoding_fails() -> None:
    model = make("gpt2")

    def fail(logits: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        raise KeyError("a user's transform")

    with pytest.raises(KeyError):
        generate(model, torch.zeros(1, 4, dtype=torch.int64), new_tokens=MIN_TOKENS_TO_PACK, transforms=[fail])
    assert all(getattr(module, "packed", None) is None for module in model.modules())


def test_generating_leaves_the_training_mode_as_it_was() -> None:
    model = make("gpt2").train()
    generate(model, torch.tensor([[1]]), new_tokens=2)
    assert model.training


def test_a_long_greedy_text_repeats_no_trigram() -> None:
    transforms = Sampling(temperature=0, no_repeat_ngram=3).transforms()
    written = generate(make("llama"), torch.tensor([[1, 2]]), new_tokens=60, greedy=True, transforms=transforms)
    text = [1, 2, *written[0].tolist()]
    trigrams = list(zip(text, text[1:], text[2:], strict=False))
    assert len(set(trigrams)) == len(trigrams)
