"""Attention within documents: nothing of an earlier one reaches a later one, cached, packed or in a population."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nanogrove
from nanogrove.config.overrides import resolve
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.steering import model_score
from nanogrove.errors import PresetError
from nanogrove.model import attention
from nanogrove.model.config import ModelConfig
from nanogrove.model.documents import document_mask, document_starts
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import export_model
from nanogrove.runs.setup import build
from nanogrove.train.checkpoint import read_checkpoint

V, MARK = 23, 0  # the id that also fills up what is padded
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2, shift": {"family": "gpt2", "token_shift": True},
    "llama": {"n_kv_head": 2},
    "llama, none": {"family": "llama", "position": "none"},
    "llama, shift": {"family": "llama", "token_shift": True, "n_kv_head": 1},
    "llama, learned": {"family": "llama", "position": "learned"},
    "nanochat": {"zero_init": False},
}


def make(name: str = "llama", population: int | None = None, within: bool = True, **changes: Any) -> GPT:
    """Far from uniform, so that a wrong key or position shows."""
    settings = {"family": name, "block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32, **CONFIGS[name], **changes}
    config = ModelConfig(vocab_size=V, within_documents=within, document_mark=MARK, **settings)
    model = GPT(config, population).initialize(*range(population or 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        if model.shift is not None:
            torch.nn.init.normal_(model.shift.weight, generator=torch.Generator().manual_seed(9))
    return model.eval()


def drawn(*shape: int, seed: int = 1, marks: tuple[int, ...] = ()) -> Tensor:
    """Tokens that are not marks, but for the positions where one is asked for."""
    tokens = torch.randint(1, V, shape, generator=torch.Generator().manual_seed(seed))
    tokens[..., list(marks)] = MARK
    return tokens


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)


@pytest.fixture(params=["written out", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute attention on a CPU."""
    if request.param == "kernel":
        monkeypatch.setattr(attention, "MAX_SCORES_WRITTEN_OUT", -1)


def test_the_mask_is_its_definition() -> None:
    tokens = torch.tensor([[5, 0, 5, 5, 0, 0, 5], [0, 5, 5, 5, 5, 5, 5], [5, 5, 5, 5, 5, 5, 0]])
    starts = document_starts(tokens, 0, torch.arange(7))
    assert starts.tolist() == [[0, 1, 1, 1, 4, 5, 5], [0] * 7, [0] * 6 + [6]]
    mask = document_mask(starts, torch.empty(0, dtype=torch.float64))
    assert (mask.shape, mask.dtype) == ((3, 1, 7, 7), torch.float64)
    for row in range(3):
        for i in range(7):
            for j in range(7):
                sees = j <= i and not (tokens[row, j + 1 : i + 1] == 0).any()
                assert mask[row, 0, i, j] == (0.0 if sees else -torch.inf)
    with torch.autocast("cpu", torch.bfloat16):
        assert document_mask(starts, torch.empty(0)).dtype == torch.bfloat16


@pytest.mark.parametrize("population", [None, 3])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_change_in_one_document_reaches_no_other(name: str, population: int | None, way: None) -> None:
    """Token by token, and the rows of a batch have their documents at positions of their own."""
    model, across = make(name, population), make(name, population, within=False)
    axes = () if population is None else (population,)
    tokens = drawn(*axes, 2, 20)
    tokens[..., 0, [6, 7, 13]] = MARK  # 0-5 have no mark of their own, and 6 is a document of one token
    tokens[..., 1, [0, 9]] = MARK
    ends = {0: [6] * 6 + [7] + [13] * 6 + [20] * 7, 1: [9] * 9 + [20] * 11}
    logits, logits_across = model(tokens), across(tokens)
    for row, ends_of_row in ends.items():
        for at, end in enumerate(ends_of_row):
            if bool((tokens[..., row, at] == MARK).any()):
                continue
            changed = tokens.clone()
            changed[..., row, at] = changed[..., row, at] % (V - 1) + 1
            same = (logits == model(changed)).all(-1)[..., row, :]
            assert same[..., :at].all()
            assert same[..., end:].all(), f"{at} reaches past {end}"
            assert not same[..., at:end].any(), "what it should reach, it does not"
            if end < 20:
                assert not (logits_across == across(changed)).all(-1)[..., row, end:].any()


@pytest.mark.parametrize("name", [name for name in CONFIGS if "gpt2" not in name and "learned" not in name])
@torch.no_grad()
def test_a_packed_document_is_one_read_alone(name: str, way: None) -> None:
    """Where positions are relative, or none."""
    model, tokens = make(name), drawn(1, 30, marks=(8, 19))
    states = model(tokens)
    for begin, end in ((0, 8), (8, 19), (19, 30)):
        close(states[:, begin:end], model(tokens[:, begin:end]))


@torch.no_grad()
def test_positions_keep_running() -> None:
    model, tokens = make("gpt2"), drawn(1, 12, marks=(5,))
    model.position.weight[:5] = 7.0  # which the second document does not have
    wanted = make("gpt2")
    close(model(tokens)[:, 5:], wanted(tokens)[:, 5:])
    assert (model(tokens)[:, :5] - wanted(tokens)[:, :5]).abs().max() > 0.1


@torch.no_grad()
def test_without_a_mark_it_is_plain_attention(way: None) -> None:
    for name in CONFIGS:
        tokens = drawn(2, 17)
        close(make(name)(tokens), make(name, within=False)(tokens))


@torch.no_grad()
def test_a_long_context_whose_first_blocks_nothing_sees() -> None:
    """The kernel works in blocks of keys; those of an earlier document are masked whole."""
    model = make("llama", block_size=1500, n_layer=1)
    tokens = drawn(1, 1500, marks=(1300,))
    states = model(tokens)[:, 1300:]
    close(states, model(tokens[:, 1300:]))
    tokens[:, :1300] = drawn(1, 1300, seed=5)
    assert torch.equal(model(tokens)[:, 1300:], states)


@pytest.mark.parametrize("name", CONFIGS)
def test_members_and_gradients_are_those_of_single_models(name: str, way: None) -> None:
    tokens, targets = drawn(3, 2, 18, marks=(4, 11)), drawn(3, 2, 18, seed=2)
    population = make(name, 3)
    population(tokens, targets).sum().backward()
    for p in range(3):
        single = make(name)
        single.load_state_dict({key: value[p] for key, value in population.state_dict().items()})
        nll = single(tokens[p], targets[p])
        close(population(tokens, targets)[p], nll)
        nll.sum().backward()
        for ours, alone in zip(population.parameters(), single.parameters(), strict=True):
            assert alone.grad.isfinite().all()
            torch.testing.assert_close(ours.grad[p], alone.grad, atol=1e-4, rtol=1e-3)


def test_a_later_document_leaves_the_words_of_an_earlier_one_without_gradient(way: None) -> None:
    model = make("llama, shift", tie_embeddings=False)
    tokens = torch.tensor([[1, 2, 3, MARK, 4, 5, 6]])
    model(tokens)[:, 3:].square().sum().backward()
    touched = model.embed.weight.grad.abs().sum(1) > 0
    assert touched.nonzero().flatten().tolist() == [MARK, 4, 5, 6]


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_cached_logits_are_the_uncached_ones(name: str) -> None:
    """Ragged prompts with marks inside, as first and as last token; then marks among the new tokens."""
    model = make(name)
    sequences, starts = drawn(4, 30), torch.tensor([9, 3, 6, 7])
    for row, marks in enumerate([(4, 12, 20), (2, 3), (0, 5, 6, 25), ()]):
        sequences[row, list(marks)] = MARK
    full, each, cache = model(sequences), torch.arange(4), model.cache(4)
    prompt = sequences[:, :9].clone()
    for row, start in enumerate(starts):
        prompt[row, start:] = MARK  # padding that looks like a mark
    logits = model.logits(model.hidden(prompt, cache, starts))
    for row, start in enumerate(starts):
        close(logits[row, :start], full[row, :start])
    for step in range(21):
        at = starts + step
        close(model.logits(model.hidden(sequences.gather(1, at[:, None]), cache))[:, 0], full[each, at])


@pytest.mark.parametrize("population", [None, 2])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_cached_in_step_and_in_chunks(name: str, population: int | None) -> None:
    """Rows of one length take the path without a mask where nothing else needs one."""
    model = make(name, population)
    axes = () if population is None else (population,)
    tokens = drawn(*axes, 2, 30)
    tokens[..., 0, [2, 7, 11, 12, 20]] = MARK
    tokens[..., 1, [14]] = MARK
    full, cache, at = model(tokens), model.cache(2), 0
    for size in (5, 1, 1, 1, 4, 1, 3, 1, 6, 1, 6):
        close(model.logits(model.hidden(tokens[..., at : at + size], cache)), full[..., at : at + size, :])
        at += size
    assert at == 30


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_candidates_one_of_them_a_mark(name: str, ragged: bool) -> None:
    """Candidates are scored as if each were read alone, and go on from the one that is taken."""
    model = make(name)
    rows = [[5, MARK, 7, 2], [3, 4, 9]] if ragged else [[5, MARK, 7], [3, 4, 9]]
    (tokens, lengths), cache = pad(rows), model.cache(2, 36)
    model.hidden(tokens, cache, lengths)
    for step in range(8):
        candidates = torch.stack([drawn(4, seed=step), drawn(4, seed=50 + step)])
        candidates[:, 1] = MARK
        logits = model.logits(model.hidden(candidates, cache, candidates=True))
        for row in range(2):
            wanted = [model(torch.tensor([[*rows[row], token]]))[0, -1] for token in candidates[row].tolist()]
            close(logits[row], torch.stack(wanted))
        chosen = torch.tensor([1 if step in (1, 5) else 0, 1 if step == 2 else 3])
        tokens = candidates.gather(1, chosen[:, None])[:, 0]
        cache.take(chosen, tokens)
        rows = [[*row, token] for row, token in zip(rows, tokens.tolist(), strict=True)]


def test_a_reward_model_steers_over_a_mark_and_a_full_context() -> None:
    """Its scores are those of a fresh read of as much as it has read: the last half where its context is full."""
    judge = make(scalar=True, block_size=8)
    judge.head.weight.data *= 0.1
    score, written, read_by_it = model_score(judge), [4, 5, MARK, 6, 7], 5
    for step in range(12):
        candidates = torch.tensor([[MARK, 3 + step, 9]])
        if read_by_it >= 8:
            read_by_it = 4
        history = torch.tensor([written + [-1] * (17 - len(written))])
        scores = score(history, torch.tensor([len(written)]), candidates)
        with torch.no_grad():
            wanted = [judge(torch.tensor([[*written[-read_by_it:], c]]))[0, -1] for c in candidates[0].tolist()]
        close(scores[0], torch.stack(wanted).clamp(0, 1))
        written, read_by_it = [*written, MARK if step % 5 == 1 else 3 + step], read_by_it + 1


@pytest.mark.parametrize("name", CONFIGS)
def test_generated_text_past_marks_and_past_the_context(name: str) -> None:
    """Greedy, against the uncached model on the window that decoding says it reads."""
    model = make(name, block_size=12)
    prompts, bias = [[3, MARK, 5, 8], [7, 7, 2, 9, 4, 1, 6]], torch.zeros(V)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watched(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        seen.append((logits.clone(), tokens.clone(), lengths.clone()))
        bias[MARK] = 1e3 if len(seen) % 4 == 0 else -1e3  # a mark at every fourth step
        return logits + bias

    new = generate(model, *pad(prompts), new_tokens=20, transforms=[watched], greedy=True)
    assert (new == MARK).sum(1).tolist() == [5, 5]
    kept, longest = [4, 7], 7
    for logits, tokens, lengths in seen:
        for row in range(2):
            text = tokens[row, : lengths[row]]
            with torch.no_grad():
                close(logits[row], model(text[None, -kept[row] :])[0, -1])
        full = longest >= 12
        kept, longest = ([6, 6], 6) if full else ([k + 1 for k in kept], longest + 1)


def test_off_is_the_path_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mask is made, with a cache or without."""
    model, masks = make(within=False), []
    forward = attention.Attention.forward

    def watched(self: attention.Attention, x: Tensor, rotary: Any, cache: Any, layer: int, mask: Any) -> Tensor:
        masks.append(mask)
        return forward(self, x, rotary, cache, layer, mask)

    monkeypatch.setattr(attention.Attention, "forward", watched)
    model(drawn(2, 9, marks=(3,)))
    generate(model, drawn(2, 9, marks=(3,)), new_tokens=4)
    assert masks == [None] * 10


def test_a_model_needs_its_mark_and_has_no_family_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="within_documents needs document_mark"):
        GPT(ModelConfig(vocab_size=9, within_documents=True))
    model = make()
    with pytest.raises(PresetError, match=r"family has within_documents=true; .* with model.within_documents=false$"):
        export_model(model.state_dict(), model.config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def preset(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "text").mkdir()
    for n in range(120):
        (tmp_path / "text" / f"{n}.txt").write_text(f"{n} and {n + 1} are {2 * n + 1}.")
    return {
        "data": {"sources": [str(tmp_path / "text")], "tokenizer": "char"},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32, "within_documents": True},
        "train": {"steps": 4, "batch_size": 4, "precision": "float32", "threads": 1, "device": "cpu"},
        "evaluate": {"every": 2, "tokens": 500},
        "sample": {"every": 4, "tokens": 5},
    }


def test_a_run_fills_in_the_mark_and_a_loaded_model_has_it(preset: dict[str, Any], tmp_path: Path) -> None:
    nanogrove.run(preset, tmp_path / "a")
    checkpoint = read_checkpoint(tmp_path / "a")
    assert checkpoint.config.mark == checkpoint.tokenizer.end is not None
    model = nanogrove.load(tmp_path / "a").model
    tokens = torch.tensor([[1, 2, 3, checkpoint.tokenizer.end, 4, 5]])
    changed = torch.tensor([[3, 1, 2, checkpoint.tokenizer.end, 4, 5]])
    with torch.no_grad():
        assert torch.equal(model(tokens)[:, 3:], model(changed)[:, 3:])
    again = {**preset, "data": {**preset["data"], "tokenizer": "byte"}}
    assert build(resolve(again)).model_on_data.mark == 256  # of the data, whatever a stored preset was trained on
    nanogrove.run(str(tmp_path / "a" / "preset.json"), tmp_path / "b")
    nanogrove.run(preset, tmp_path / "a", resume=True)
    off = {**preset, "model": {**preset["model"], "within_documents": False}}
    assert build(resolve(off)).model_on_data.document_mark is None


def test_what_a_run_refuses(preset: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(PresetError, match="document_mark is not the end of text of the tokenizer"):
        build(resolve(preset, ["model.document_mark=1"]))
    (tmp_path / "rated.csv").write_text("text,reward\n" + "".join(f"a{n},{n}\n" for n in range(40)))
    rated = {
        "data": {"type": "rewarded", "path": str(tmp_path / "rated.csv"), "tokenizer": "byte"},
        "method": "reward_model",
        "model": {**preset["model"], "scalar": True},
        "train": preset["train"],
    }
    with pytest.raises(PresetError, match="a reward model judges by the end mark"):
        build(resolve(rated))
