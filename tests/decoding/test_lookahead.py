"""Lookahead chooses what an exhaustive search by plain forwards chooses, within its budget."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.decoding.lookahead import lookahead, n_step_value
from nanogrove.decoding.loop import decode
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import Sampler, Sampling
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import AuxiliaryConfig, Heads

V, HORIZON, DISCOUNT = 6, 4, 0.9
PROMPTS = [[1, 2, 3], [4], [5, 1, 2, 0, 3], [2, 2]]


def random_model_and_heads(rollouts: int = 2, **settings: Any) -> tuple[GPT, Heads]:
    """A model and its heads in float64, of weights large enough that foresight matters."""
    config = ModelConfig(**{"vocab_size": V, "block_size": 40, "n_layer": 2, "n_head": 2, "n_embd": 16, **settings})
    auxiliary = AuxiliaryConfig(
        enable_value=True,
        enable_dynamics=True,
        value_horizon=HORIZON,
        value_discount=DISCOUNT,
        dynamics_rollouts=rollouts,
    )
    model, heads = GPT(config).initialize(0), Heads(auxiliary, config).initialize(1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (*model.parameters(), *heads.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.double(), heads.double()


def look_ahead(
    model: GPT,
    heads: Heads,
    tokens: Tensor,
    lengths: Tensor | None = None,
    *,
    budget: int,
    new_tokens: int,
    temperature: float = 0.0,
    stop: Sequence[int] = (),
) -> Tensor:
    transforms = Sampling(temperature=temperature).transforms()
    sampler = Sampler(transforms, temperature, torch.Generator().manual_seed(0))
    strategy = lookahead(model, heads, budget)
    return decode(strategy, tokens, lengths, new_tokens=new_tokens, sampler=sampler, stop=stop)


def slow_n_step_value(model: GPT, heads: Heads, state: Tensor, steps: int) -> float:
    """The equation, one state at a time."""
    assert heads.step is not None
    assert heads.value is not None
    total = 0.0
    for k in range(HORIZON):
        if k < steps:
            log_probs = model.logits(state).log_softmax(-1)
            total -= DISCOUNT**k * log_probs.max().item()
            state = heads.step(state, heads.action_embedding(model.embed(log_probs.argmax(-1))))
        else:
            total += DISCOUNT**k * heads.value(state).item()
    return total / sum(DISCOUNT**k for k in range(HORIZON))


@torch.no_grad()
def exhaustive(model: GPT, heads: Heads, prompt: list[int], new: int) -> list[int]:
    """Every token tried in a plain forward of the whole text."""
    written = list(prompt)
    for _ in range(new):
        scores = []
        log_probs = model(torch.tensor([written]))[0, -1].log_softmax(-1)
        for token in range(V):
            state = model.hidden(torch.tensor([[*written, token]]))[0, -1]
            ahead = slow_n_step_value(model, heads, state, heads.config.dynamics_rollouts)
            scores.append(log_probs[token].item() - sum(DISCOUNT**k for k in range(HORIZON)) * ahead)
        written.append(max(range(V), key=scores.__getitem__))
    return written[len(prompt) :]


@pytest.mark.parametrize("rollouts", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
@pytest.mark.parametrize(
    "settings",
    [{"family": "gpt2"}, {"family": "nanochat", "token_shift": True}, {"within_documents": True, "document_mark": 0}],
    ids=["gpt2", "nanochat-shift", "documents"],
)
def test_a_budget_of_all_tokens_is_an_exhaustive_search(settings: dict, rollouts: int) -> None:
    """Prompts of different lengths side by side: the cache keeps of the candidates the one that was chosen."""
    model, heads = random_model_and_heads(rollouts, **settings)
    tokens, lengths = pad(PROMPTS)
    written = look_ahead(model, heads, tokens, lengths, budget=V, new_tokens=10)
    assert written.tolist() == [exhaustive(model, heads, prompt, 10) for prompt in PROMPTS]
    assert not torch.equal(written, generate(model, tokens, lengths, new_tokens=10, greedy=True)), "foresight matters"


def test_the_n_step_value_is_its_equation() -> None:
    model, heads = random_model_and_heads()
    states = model.hidden(torch.tensor(PROMPTS[2:3]))
    for steps in (0, 1, 3, 9):
        wanted = [slow_n_step_value(model, heads, state, steps) for state in states[0]]
        assert n_step_value(model, heads, states, steps)[0].tolist() == pytest.approx(wanted)


def test_a_small_budget_reads_the_best_of_twice_as_many_imagined() -> None:
    """The candidates of each step, by slow code, are those the trunk reads: so many tokens, and no others."""
    model, heads = random_model_and_heads()
    assert heads.step is not None
    read, seen = model.hidden, []

    def counted(tokens: Tensor, *rest: Any, **named: Any) -> Tensor:
        seen.append(tokens)
        return read(tokens, *rest, **named)

    model.hidden = counted  # type: ignore[method-assign]
    written = look_ahead(model, heads, torch.tensor([[1, 2]]), budget=2, new_tokens=7)[0].tolist()
    prompt, *reads = seen
    assert [tokens.shape[-1] for tokens in reads] == [2] * 7, "two model calls per token"
    assert prompt.tolist() == [[1, 2]]
    text = [1, 2]
    for tokens, chosen in zip(reads, written, strict=True):
        state = read(torch.tensor([text]))[0, -1]
        log_probs = model.logits(state).log_softmax(-1)
        scores = {}
        for token in log_probs.topk(4).indices.tolist():
            imagined = heads.step(state, heads.action_embedding(model.embed(torch.tensor(token))))
            ahead = slow_n_step_value(model, heads, imagined, 1)
            scores[token] = log_probs[token].item() - sum(DISCOUNT**k for k in range(HORIZON)) * ahead
        assert set(tokens[0].tolist()) == set(sorted(scores, key=scores.__getitem__)[-2:])
        assert chosen in tokens[0].tolist()
        text.append(chosen)


def test_heads_that_foresee_nothing_leave_greedy_decoding_even_past_a_full_context() -> None:
    model, heads = random_model_and_heads(rollouts=1, block_size=16)
    assert heads.value is not None
    assert heads.step is not None
    with torch.no_grad():
        heads.value.head.weight.zero_()
        heads.config = heads.config.model_copy(update={"dynamics_rollouts": 0})  # nothing imagined after a candidate
    for prompt in PROMPTS:
        tokens, _ = pad([prompt])
        plain = generate(model, tokens, new_tokens=12 - len(prompt), greedy=True)
        assert torch.equal(look_ahead(model, heads, tokens, budget=3, new_tokens=12 - len(prompt)), plain)
    long = look_ahead(model, heads, torch.tensor([[1, 2]]), budget=3, new_tokens=60)
    assert long.shape == (1, 60)
    assert (long >= 0).all()


def test_rows_end_at_a_stop_and_are_those_of_rows_alone() -> None:
    model, heads = random_model_and_heads()
    tokens, lengths = pad(PROMPTS)
    stop = int(look_ahead(model, heads, tokens, lengths, budget=3, new_tokens=12)[0, 3])
    together = look_ahead(model, heads, tokens, lengths, budget=3, new_tokens=12, stop=[stop])
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = look_ahead(model, heads, torch.tensor([prompt]), budget=3, new_tokens=12, stop=[stop])
        assert torch.equal(row, alone[0])
        assert stop not in row.tolist() or set(row.tolist()[row.tolist().index(stop) + 1 :]) <= {-1}


def test_drawn_tokens_are_distributed_as_the_improved_policy() -> None:
    """With all tokens read, argmax g + log p + Q is a draw from the softmax of log p + Q."""
    model, heads = random_model_and_heads()
    rows, temperature = 8_000, 0.7
    prompt = torch.tensor([[1, 2]])
    with torch.no_grad():
        log_probs = (model(prompt)[0, -1] / temperature).log_softmax(-1)
        ahead = [
            slow_n_step_value(model, heads, model.hidden(torch.tensor([[1, 2, token]]))[0, -1], 2) for token in range(V)
        ]
    total = sum(DISCOUNT**k for k in range(HORIZON))
    wanted = (log_probs - total * torch.tensor(ahead, dtype=torch.float64) / temperature).softmax(-1)
    drawn = look_ahead(model, heads, prompt.expand(rows, -1), budget=V, new_tokens=1, temperature=temperature)
    counts = drawn[:, 0].bincount(minlength=V)
    kept = [token for token in range(V) if rows * wanted[token] >= 5]
    scale = sum(counts[t].item() for t in kept) / math.fsum(rows * wanted[t].item() for t in kept)
    assert len(kept) > 2
    test = chisquare([counts[t].item() for t in kept], [scale * rows * wanted[t].item() for t in kept])
    assert test.pvalue > 1e-3


def test_the_language_model_searches_and_refuses_what_cannot(command: Any, tmp_path: Any) -> None:
    model, heads = random_model_and_heads(vocab_size=6)
    tokenizer = character_tokenizer(["abcde"])
    lm = LanguageModel(model.float(), tokenizer, heads=heads.float())
    texts = lm.generate(["abc", "d"], 8, lookahead=2, temperature=0, precision="float32")
    assert [text[: len(prompt)] for text, prompt in zip(texts, ["abc", "d"], strict=True)] == ["abc", "d"]
    assert lm.generate("ab", 8, lookahead=2, seed=1) == lm.generate("ab", 8, lookahead=2, seed=1)
    for wrong, message in (
        ({"lookahead": 0}, "lookahead: 0 model calls per token write nothing; give 1 or more"),
        ({"lookahead": 2, "speculative": True}, "speculative and lookahead do not go together; take one"),
        ({"lookahead": 2, "reward": lambda texts: [0.0 for _ in texts]}, "lookahead and a reward do not go together"),
    ):
        with pytest.raises(PresetError, match=message):
            lm.generate("a", 3, **wrong)  # type: ignore[call-overload]
    for other in (None, Heads(AuxiliaryConfig(enable_value=True), model.config)):
        with pytest.raises(
            CheckpointError, match=r"no value and dynamics heads; train one with auxiliary.enable_value"
        ):
            LanguageModel(model, tokenizer, heads=other).generate("a", 3, lookahead=2)
    message = command("generate", tmp_path, "--lookahead", 2, "--best-of", 2, "--reward", tmp_path).error()
    assert "--lookahead goes without --best-of; leave one out" in message
