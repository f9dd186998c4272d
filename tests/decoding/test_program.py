"""Decoding steps as a program of the C library, against torch's operators."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogrove.decoding import plain
from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK
from nanogrove.decoding.plain import generate
from nanogrove.decoding.program import OneToken, one_token
from nanogrove.decoding.reading import pad
from nanogrove.model.cache import Cache
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import packed_weights
from nanogrove.native import library, program

built = pytest.mark.skipif(library.missing() is not None, reason=library.missing() or "")
FAMILIES = ["gpt2", "llama", "nanochat"]
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "grouped": {"n_kv_head": 2, "n_inner": 40},
    "shifted": {"token_shift": True, "n_kv_head": 1, "tie_embeddings": False},
    "normed": {"qk_norm": True, "embed_norm": True, "bias": True, "norm": "layernorm"},
    "rms": {"qk_norm": True, "embed_norm": True, "norm": "rmsnorm", "position": "none", "mlp": "swiglu", "bias": True},
    "unscaled": {"norm": "rmsnorm-unscaled", "position": "learned", "mlp": "relu2", "bias": False},
    "narrow": {"n_embd": 24, "n_head": 3, "n_inner": 24, "position": "rotary", "mlp": "gelu"},  # not whole panels
    "head size": {"n_embd": 24, "n_head": 6, "n_kv_head": 2, "head_size": 16},
}
REFUSED: dict[str, dict[str, Any]] = {
    "documents": {"within_documents": True, "document_mark": 3},
    "coupled": {"position": "coupled", "coupled_tokens": (1, 2, 4), "coupled_start_tokens": (3,)},
    "head size": {"head_size": 4},
    "width": {"n_embd": 12, "n_head": 1, "n_inner": 16},
    "inner width": {"n_inner": 20},
}
PROMPTS = [[1, 5, 2], [8, 3, 3, 9, 1, 22, 0, 4, 7], [6, 6, 1, 3, 2, 5], [4]]


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def make(settings: dict[str, Any], population: int | None = None) -> GPT:
    """A model whose vectors are all drawn, so that none of them can be left out unseen."""
    sizes = {"vocab_size": 23, "block_size": 16, "n_layer": 2, "n_head": 4, "n_embd": 32, "zero_init": False}
    model = GPT(ModelConfig(**{**sizes, **settings}), population).initialize(*range(population or 1))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def prompts(population: int | None) -> tuple[Tensor, Tensor]:
    """Two rows, or of each member two of one length at most."""
    tokens, lengths = pad(PROMPTS[:2] if population is None else (PROMPTS * 2)[: 2 * population])
    return (tokens, lengths) if population is None else (tokens.view(population, 2, -1), lengths.view(population, 2))


def forced(model: GPT, tokens: Tensor, lengths: Tensor, new_tokens: int) -> Tensor:
    """The scores `[steps, R, V]` of a text that is given, so that rounding does not change what is read."""
    read, text = [], torch.randint(0, 23, (new_tokens, lengths.numel()), generator=torch.Generator().manual_seed(1))

    def force(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        read.append(logits.clone())
        return torch.full_like(logits, -torch.inf).scatter(1, text[len(read) - 1][:, None], 0.0)

    generate(model, tokens, lengths, new_tokens=new_tokens, transforms=[force], greedy=True)
    return torch.stack(read)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def switch_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(library, "missing", lambda: "off")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[OneToken | None]:
    """What each call of `generate` decodes with."""
    used: list[OneToken | None] = []
    monkeypatch.setattr(plain, "one_token", lambda model, rows: used.append(one_token(model, rows)) or used[-1])
    return used


@built
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("family", "population"), [*((family, None) for family in FAMILIES), ("llama", 3)])
def test_scores_are_those_of_torch_far_past_the_context(
    family: str,
    variant: str,
    population: int | None,
    monkeypatch: pytest.MonkeyPatch,
    programs: list[OneToken | None],
) -> None:
    model = make({"family": family, **VARIANTS[variant]}, population)
    torch.set_num_threads(2 if (family, variant, population) == ("llama", "grouped", None) else 1)
    monkeypatch.setattr(program, "SMALL", 0)  # all threads, however few weights
    scores = forced(model, *prompts(population), new_tokens=MIN_TOKENS_TO_PACK)
    assert isinstance(programs[0], OneToken)
    switch_off(monkeypatch)
    close(scores, forced(model, *prompts(population), new_tokens=MIN_TOKENS_TO_PACK))
    assert programs[1] is None


@built
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_those_of_torch(family: str, greedy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make({"family": family})

    def texts() -> Tensor:
        generator = torch.Generator().manual_seed(4)
        return generate(model, *pad(PROMPTS), new_tokens=24, greedy=greedy, stop=[11], generator=generator)

    written = texts()
    switch_off(monkeypatch)
    assert torch.equal(written, texts())


@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_that_no_program_takes_decodes_all_the_same(
    reason: str, population: int | None, monkeypatch: pytest.MonkeyPatch, programs: list[OneToken | None]
) -> None:
    model = make(REFUSED[reason], population)
    scores = forced(model, *prompts(population), new_tokens=20)
    switch_off(monkeypatch)
    close(scores, forced(model, *prompts(population), new_tokens=20))
    assert programs == [None, None]


@built
def test_few_new_tokens_are_decoded_without_a_program(programs: list[OneToken | None]) -> None:
    generate(make({}), *prompts(None), new_tokens=2)
    assert programs == [None]


def rows_of(cache: Cache, rows: Sequence[int], model: GPT) -> Cache:
    """A cache of its own for some of the rows."""
    c = model.config
    part = Cache(c.n_layer, len(rows), c.kv_heads, c.context, c.head_width, model.embed.weight)
    part.keys[:], part.values[:] = cache.keys[:, rows], cache.values[:, rows]
    part.lengths, part.last, part.longest = cache.lengths[rows], cache.last[rows], cache.longest
    return part


def states(model: GPT, cache: Cache, tokens: Tensor) -> Tensor:
    """Those `[steps, R, C]` after each of `tokens [steps, R]`."""
    with torch.inference_mode(), packed_weights(model, rows=1):
        reader = one_token(model, tokens.shape[1])
        assert reader is not None
        return torch.stack([reader.read(token, cache).flatten(0, -2).clone() for token in tokens])


def filled(model: GPT, rows: int) -> Cache:
    tokens, lengths = pad((PROMPTS * 3)[:rows])
    cache = model.cache(rows // (model.population or 1))
    shape = (*([] if model.population is None else [model.population]), -1, tokens.shape[1])
    with torch.inference_mode():
        model.hidden(tokens.view(shape), cache, lengths)
    return cache


@built
@pytest.mark.parametrize("settings", [{}, {"family": "llama", "n_kv_head": 2, "token_shift": True}])
def test_a_row_s_bits_do_not_depend_on_other_rows_nor_threads(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "SMALL", 0)
    model = make(settings)
    tokens = torch.randint(0, 23, (3, 11), generator=torch.Generator().manual_seed(2))
    together = states(model, filled(model, 11), tokens)
    for threads, rows in ((1, [0]), (2, [10]), (3, [1, 2, 3, 4]), (2, list(range(11)))):
        torch.set_num_threads(threads)
        part = states(model, rows_of(filled(model, 11), rows, model), tokens[:, rows])
        assert torch.equal(part, together[:, rows])


@built
@pytest.mark.parametrize("threads", [1, 2])
def test_a_member_s_bits_are_those_of_the_model_alone(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SMALL", 0)
    torch.set_num_threads(threads)
    model = make({**VARIANTS["normed"], "token_shift": True}, population=3)
    tokens = torch.randint(0, 23, (3, 6), generator=torch.Generator().manual_seed(2))
    together = states(model, filled(model, 6), tokens)
    for member in range(3):
        single = GPT(model.config)
        single.load_state_dict({name: value[member] for name, value in model.state_dict().items()})
        rows = [2 * member, 2 * member + 1]
        alone = states(single.eval(), rows_of(filled(model, 6), rows, single), tokens[:, rows])
        assert torch.equal(alone, together[:, rows])


@built
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_rounded_weights_give_rounded_scores(dtype: torch.dtype) -> None:
    model = make({"family": "llama"})
    tokens = torch.randint(0, 23, (5, 3), generator=torch.Generator().manual_seed(2))
    exact = states(model, filled(model, 3), tokens)
    with torch.inference_mode(), packed_weights(model, 1, dtype):
        reader, cache = one_token(model, 3), filled(model, 3)
        assert reader is not None
        rounded = torch.stack([reader.read(token, cache).flatten(0, -2).clone() for token in tokens])
    assert 1e-4 < float((rounded - exact).norm() / exact.norm()) < 0.1
