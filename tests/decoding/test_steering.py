"""Reward-augmented decoding: the cached scores, the closed form, and what steering buys against a constant bias."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scipy.stats import chi2

from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import draw, temperature
from nanogrove.decoding.steering import model_score, reward_augmented, sequence_score
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"n_kv_head": 2},
    "nanochat": {"zero_init": False},
    "llama-none": {"family": "llama", "position": "none"},
    "llama-shift": {"family": "llama", "token_shift": True},
}
V = 23


def make(family: str = "gpt2", block_size: int = 32, scalar: bool = False) -> GPT:
    """Far from uniform, so that a wrong key or position shows; numbers of both sides of 0 and 1."""
    settings: dict[str, Any] = {"family": family, **FAMILIES[family]}
    config = ModelConfig(vocab_size=V, block_size=block_size, n_layer=2, n_head=4, n_embd=32, scalar=scalar, **settings)
    model = GPT(config).initialize(int(scalar))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        if model.shift is not None:
            torch.nn.init.normal_(model.shift.weight, generator=torch.Generator().manual_seed(9))
        if scalar:
            model.head.weight.mul_(4.0)
            model.head.bias.fill_(0.4)
    return model.eval()


@torch.no_grad()
def alone(model: GPT, prefix: list[int], candidates: list[int]) -> torch.Tensor:
    """What a reward model says of each candidate after a prefix, read anew."""
    return model(torch.tensor([[*prefix, token] for token in candidates]))[:, -1].clamp(0, 1)


def test_a_scalar_model_gives_one_number_a_position() -> None:
    model = make(scalar=True)
    tokens = torch.randint(0, V, (2, 7))
    assert model(tokens).shape == (2, 7)
    assert model.head.weight.shape == (1, 32)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % V
    assert torch.equal(model(tokens)[:, :5], model(changed)[:, :5])
    assert (model(tokens)[:, 5] != model(changed)[:, 5]).all()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_scores_are_those_of_a_fresh_read(family: str, ragged: bool) -> None:
    """Along sampled texts, batched, with rows that end before others; far past the context where it is short."""
    lm, judge, seen = make(family), make(family, scalar=True), 0
    score = model_score(judge)

    def watched(tokens: torch.Tensor, lengths: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        scores = score(tokens, lengths, candidates)
        for row in range(len(tokens)):
            prefix = tokens[row, : lengths[row]]
            if (prefix >= 0).all():
                wanted = alone(judge, prefix.tolist(), candidates[row].tolist())
                torch.testing.assert_close(scores[row], wanted, atol=2e-5, rtol=0)
                seen += 1
        return scores

    prompts = [[1, 5, 2], [7], [3, 4, 5, 6, 7, 8]] if ragged else [[1, 5, 2], [7, 7, 1], [9, 3, 4]]
    generate(
        lm,
        *pad(prompts),
        new_tokens=18,
        transforms=[reward_augmented(watched, 3.0, 6)],
        stop=[11],
        generator=torch.Generator().manual_seed(1),
    )
    assert seen > 20


def test_the_reward_model_reads_its_last_half_again_where_its_context_is_full() -> None:
    lm, judge, lengths_read = make(block_size=64), make("llama", block_size=8, scalar=True), []
    judge.head.weight.data *= 0.1  # within 0 and 1, where a clamp hides nothing
    score = model_score(judge)

    def watched(tokens: torch.Tensor, lengths: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        scores, length = score(tokens, lengths, candidates), int(lengths)
        matches = [
            n
            for n in range(1, min(length, 7) + 1)
            if torch.allclose(
                scores[0],
                alone(judge, tokens[0, length - n : length].tolist(), candidates[0].tolist()),
                atol=2e-5,
            )
        ]
        lengths_read.append(matches)
        return scores

    prompt = list(range(11))
    generator = torch.Generator().manual_seed(2)  # no repetitions, which would make windows alike
    steering = [temperature(3.0), reward_augmented(watched, 3.0, 20)]
    generate(lm, *pad([prompt]), new_tokens=11, transforms=steering, generator=generator)
    wanted = [7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5]
    assert lengths_read == [[n] for n in wanted]


@pytest.mark.parametrize("family", ["gpt2", "nanochat"])
def test_without_beta_and_with_all_tokens_it_is_plain_sampling(family: str) -> None:
    lm, prompts = make(family), pad([[1, 2], [3, 4, 5, 6], [7]])
    plain = generate(lm, *prompts, new_tokens=25, generator=torch.Generator().manual_seed(3))
    steering = [reward_augmented(model_score(make(family, scalar=True)), 0.0, V)]
    steered = generate(lm, *prompts, new_tokens=25, transforms=steering, generator=torch.Generator().manual_seed(3))
    assert steered.tolist() == plain.tolist()


def test_logits_become_their_definition() -> None:
    """logit + β r of the k likeliest, −∞ of all others, whatever the order and sign of the rewards."""
    logits = torch.tensor([[0.5, -1.0, 2.0, 1.0], [3.0, 2.0, 1.0, 0.0]])
    rewards = {0: 0.25, 1: 9.0, 2: -0.5, 3: 1.0}
    score = sequence_score(lambda rows: [rewards[row[-1]] + len(row) for row in rows])
    steered = reward_augmented(score, 4.0, 2)(logits, torch.tensor([[1, 2], [3, -1]]), torch.tensor([2, 1]))
    out = -torch.inf
    wanted = [[out, out, 2.0 + 4 * 2.5, 1.0 + 4 * 4.0], [3.0 + 4 * 2.25, 2.0 + 4 * 11.0, out, out]]
    torch.testing.assert_close(steered, torch.tensor(wanted))


def p_value(counts: torch.Tensor, p: torch.Tensor) -> float:
    expected = p * counts.sum()
    assert counts[p == 0].sum() == 0
    kept = p > 0
    statistic = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    return float(chi2.sf(float(statistic), int(kept.sum()) - 1))


def by_function(rows: Sequence[Sequence[int]]) -> list[float]:
    return [float(row[-1] % 3) - 0.3 * row[-2] for row in rows]


@pytest.mark.parametrize("kind", ["model", "function"])
def test_sampled_frequencies_are_the_closed_form(kind: str) -> None:
    """p ∝ exp(logit + β r) over the k likeliest, for the first token and, given it, for the second."""
    lm, judge, beta, k, count = make(), make("llama", scalar=True), 2.0, 6, 6000
    prompt = [4, 2]

    def reward(prefix: list[int], candidates: list[int]) -> torch.Tensor:
        if kind == "model":
            return alone(judge, prefix, candidates)
        return torch.tensor(by_function([[*prefix, token] for token in candidates]))

    @torch.no_grad()
    def closed_form(prefix: list[int]) -> torch.Tensor:
        logits = lm(torch.tensor([prefix]))[0, -1]
        kept = logits.topk(k).indices
        p = torch.zeros(V, dtype=torch.float64)
        p[kept] = (logits[kept].double() + beta * reward(prefix, kept.tolist()).double()).softmax(-1)
        return p

    score = model_score(judge) if kind == "model" else sequence_score(by_function)
    drawn = generate(
        lm,
        torch.tensor([prompt]).expand(count, 2),
        new_tokens=2,
        transforms=[reward_augmented(score, beta, k)],
        generator=torch.Generator().manual_seed(0),
    )
    first = closed_form(prompt)
    assert p_value(drawn[:, 0].bincount(minlength=V).double(), first) > 0.001
    plain = lm(torch.tensor([prompt]))[0, -1].detach().double().softmax(-1)
    assert (first - plain).abs().max() > 0.05, "steering changes nothing here, so nothing is shown"
    common = int(drawn[:, 0].mode().values)
    second = drawn[drawn[:, 0] == common, 1].bincount(minlength=V).double()
    assert p_value(second, closed_form([*prompt, common])) > 0.001


def test_greedy_takes_the_best_of_logit_and_reward() -> None:
    lm, judge = make(), make("llama", scalar=True)
    written = generate(
        lm, *pad([[4, 2]]), new_tokens=8, greedy=True, transforms=[reward_augmented(model_score(judge), 5.0, 7)]
    )
    prefix = [4, 2]
    for token in written[0].tolist():
        with torch.no_grad():
            logits, kept = lm(torch.tensor([prefix]))[0, -1].topk(7)
        assert token == int(kept[(logits + 5.0 * alone(judge, prefix, kept.tolist())).argmax()])
        prefix.append(token)


def changes(rows: Sequence[Sequence[int]]) -> list[float]:
    """1 where a token and the one before it are of different parity: no token is good or bad by itself."""
    return [float((row[-1] + row[-2]) % 2) for row in rows]


@pytest.mark.slow
def test_on_a_reward_of_context_it_beats_every_constant_bias_of_tokens_at_lower_perplexity() -> None:
    """A bias of each token climbs on what it earns in the very draws that count, at whatever perplexity."""
    lm, length = make(), 12
    prompts = torch.arange(250)[:, None] % V

    def measured(transform: Callable) -> tuple[float, float]:
        """Mean reward per token, and mean NLL under the base model in nats."""
        generator = torch.Generator().manual_seed(5)
        written = generate(lm, prompts, new_tokens=length, transforms=[transform], generator=generator)
        whole = torch.cat([prompts, written], 1)
        with torch.no_grad():
            nll = lm(whole[:, :-1], whole[:, 1:]).mean()
        return float(((whole[:, 1:] + whole[:, :-1]) % 2).float().mean()), float(nll)

    def biased(bias: torch.Tensor) -> tuple[float, float]:
        return measured(lambda logits, *_: logits + bias)

    plain, _ = measured(lambda logits, *_: logits)
    steered, nll = measured(reward_augmented(sequence_score(changes), 2.0, 8))
    generator, bias = torch.Generator().manual_seed(6), torch.zeros(V)
    best = biased(bias)
    for step in range(60):
        tried = bias + 2.0 * 0.97**step * torch.randn(V, generator=generator)
        figures = biased(tried)
        if figures[0] > best[0]:
            bias, best = tried, figures
    print(f"plain {plain:.3f}; steered {steered:.3f} at {nll:.3f} nats; best bias {best[0]:.3f} at {best[1]:.3f}")
    assert best[0] > plain + 0.02, "the search found nothing"
    assert steered > best[0] + 0.1
    assert nll < best[1]


def test_an_impossible_token_stays_impossible() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 2.0]])
    steer = reward_augmented(sequence_score(lambda rows: [9.0] * len(rows)), 100.0, 4)
    steered = steer(logits, torch.tensor([[2, -1]]), torch.tensor([1]))
    assert steered[0, 1] == -torch.inf
    assert int(draw(steered)) != 1
