"""The Random Language Model against sums over all hidden trees, its published figures, and its own samples."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogrove.errors import DataError
from nanogrove.synthetic import RandomLanguageModel, tree

SMALL = [(2, 1, 2.0), (2, 2, 0.0), (2, 2, 1.0), (2, 3, 2.0), (3, 2, 2.0), (5, 1, 1.0), (3, 1, 8.0)]


def derivations(model: RandomLanguageModel) -> list[tuple[list[tuple[int, ...]], float]]:
    """Every assignment of symbols to the nodes of a tree, as levels, and its probability."""
    rules = model.rules.tolist()
    found = []
    for symbols in itertools.product(range(model.v), repeat=2 * model.T - 1):
        levels = [symbols[2**level - 1 : 2 ** (level + 1) - 1] for level in range(model.L + 1)]
        probability = 1 / model.v
        for above, below in itertools.pairwise(levels):
            for at, symbol in enumerate(above):
                probability *= rules[symbol][below[2 * at]][below[2 * at + 1]]
        found.append((levels, probability))
    return found


def joint(model: RandomLanguageModel) -> np.ndarray:
    """p(x_1, ..., x_T), an array of T axes of v."""
    table = np.zeros((model.v,) * model.T)
    for levels, probability in derivations(model):
        table[levels[-1]] += probability
    return table


def every_sequence(model: RandomLanguageModel) -> Tensor:
    return torch.tensor(list(itertools.product(range(model.v), repeat=model.T)))


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """The chance of counts further from those expected; the last axis holds the alternatives."""
    assert expected.min() > 5
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.numel() - counts.shape[:-1].numel()
    return float(torch.special.gammaincc(torch.tensor(freedom / 2), statistic.float() / 2))


def pairs_as(pairs: dict[int, tuple[int, int]]) -> np.ndarray:
    """Rules that leave no choice."""
    table = np.zeros((len(pairs),) * 3)
    for symbol, pair in pairs.items():
        table[symbol][pair] = 1
    return table


@pytest.mark.parametrize(("v", "L", "beta"), SMALL)
def test_predictions_are_those_of_the_sum_over_all_trees(v: int, L: int, beta: float) -> None:  # noqa: N803
    model = RandomLanguageModel(v, L, beta, seed_rules=v + L)
    table, tokens = joint(model), every_sequence(model)
    distributions = model.next_token_distributions(tokens)
    log_probs = model.next_token_log_probs(tokens)
    for t in range(model.T):
        prefix = table.sum(tuple(range(t + 1, model.T)))
        exact = prefix / prefix.sum(-1, keepdims=True)
        wanted = exact[tuple(tokens[:, :t].T.numpy())] if t else np.broadcast_to(exact, (len(tokens), v))
        assert distributions[:, t].numpy() == pytest.approx(wanted, abs=1e-10)
    assert distributions.sum(-1).numpy() == pytest.approx(1, abs=1e-12)
    assert log_probs.sum(1).exp().numpy() == pytest.approx(table.flatten(), abs=1e-10)
    assert float(log_probs.sum(1).exp().sum()) == pytest.approx(1, abs=1e-10)
    assert log_probs.equal(distributions.gather(2, tokens[..., None])[..., 0].log())


@pytest.mark.parametrize(("v", "L", "beta"), SMALL)
def test_averages_and_entropies_are_those_of_the_sum_over_all_trees(v: int, L: int, beta: float) -> None:  # noqa: N803
    model = RandomLanguageModel(v, L, beta, seed_rules=v + L)
    table = joint(model)
    axes = range(model.T)
    ones = [table.sum(tuple(set(axes) - {t})) for t in axes]
    twos = [table.sum(tuple(set(axes) - {t - 1, t})) for t in axes[1:]]
    assert model.unigram().numpy() == pytest.approx(np.mean(ones, 0), abs=1e-12)
    assert model.bigram().numpy() == pytest.approx(np.mean(twos, 0), abs=1e-12)
    for t in axes:
        assert model.unigram(t).numpy() == pytest.approx(ones[t], abs=1e-12)
        assert model.symbol_entropy(t) == pytest.approx(-(ones[t] * np.log(ones[t])).sum(), abs=1e-10)
    for t in axes[1:]:
        assert model.bigram(t).numpy() == pytest.approx(twos[t - 1], abs=1e-12)
        conditional = twos[t - 1] / ones[t - 1][:, None]
        assert model.pair_entropy(t) == pytest.approx(-(twos[t - 1] * np.log(conditional)).sum(), abs=1e-10)
    assert model.pair_entropy(-1) == model.pair_entropy(model.T - 1)
    chain = [table.sum(tuple(range(t + 1, model.T))) for t in axes]
    totals = [-(p * np.log(p)).sum() for p in chain]
    exact = model.bayes_loss_exact()
    assert exact.numpy() == pytest.approx(np.diff(totals, prepend=0), abs=1e-10)
    assert float(exact[1]) == pytest.approx(model.pair_entropy(1), abs=1e-10)
    assert float(exact[-1]) <= model.pair_entropy(-1) + 1e-12


@pytest.mark.parametrize(("v", "L", "beta"), [(2, 2, 1.0), (2, 3, 2.0), (3, 2, 2.0)])
def test_the_order_parameter_is_its_definition_averaged_over_trees(v: int, L: int, beta: float) -> None:  # noqa: N803
    model = RandomLanguageModel(v, L, beta)
    q = np.zeros((v, v, v))
    for levels, probability in derivations(model):
        for above, below in itertools.pairwise(levels):
            for at, symbol in enumerate(above):
                indicator = np.zeros((v, v))
                indicator[below[2 * at], below[2 * at + 1]] = 1
                q[symbol] += probability * (v**2 * indicator - 1) / (model.T - 1)
    assert model.order_parameter() == pytest.approx((q**2).sum(), rel=1e-10)


def test_the_order_parameter_grows_from_nothing_to_its_bound() -> None:
    grown = [RandomLanguageModel(16, 3, beta).order_parameter() for beta in (0, 0.5, 1, 1.5, 2, 3, 5)]
    assert grown[0] == pytest.approx(0, abs=1e-20)
    assert all(one < other for one, other in itertools.pairwise(grown))
    frozen = RandomLanguageModel(4, 3, probs=pairs_as({a: (a, a) for a in range(4)}))
    assert frozen.order_parameter() == pytest.approx(4 * (4**2 - 1))
    assert grown[-1] < 16 * (16**2 - 1) * 2


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.0])
def test_the_entropy_of_the_rules_is_that_of_the_random_energy_model(beta: float) -> None:
    limit = (2 - beta**2 / 2) * math.log(128)
    assert RandomLanguageModel(128, beta=beta).rule_entropy() == pytest.approx(limit, rel=0.02)


@pytest.mark.parametrize(("beta", "share"), [(0.0, 2.0), (1.5, 1.004), (2.0, 0.647), (3.0, 0.336)])
def test_the_entropy_of_the_rules_beyond_the_limit(beta: float, share: float) -> None:
    assert RandomLanguageModel(128, beta=beta).rule_entropy() == pytest.approx(share * math.log(128), abs=0.1)


@pytest.mark.parametrize(
    ("v", "L", "beta", "figure"),
    [
        *[(64, 1, 1.0, 3.98), (64, 2, 1.0, 3.99), (64, 3, 1.0, 3.93)],
        *[(64, 1, 2.0, 2.52), (64, 2, 2.0, 1.53), (64, 3, 2.0, 1.37)],
        *[(32, 1, 2.0, 2.12), (32, 2, 2.0, 1.61), (32, 3, 2.0, 1.22)],
    ],
)
def test_the_best_last_token_loss_of_a_reference(v: int, L: int, beta: float, figure: float) -> None:  # noqa: N803
    """The figures are means of two grammars and 400 samples: ±.1, and two standard deviations of such a mean."""
    models = [RandomLanguageModel(v, L, beta, seed_rules=seed) for seed in range(20)]
    losses = torch.stack([model.bayes_loss(50)[0][-1] for model in models])
    assert float(losses.mean()) == pytest.approx(figure, abs=0.1 + 2 * float(losses.std()) / math.sqrt(2))


def test_two_tokens_of_context_lose_a_nat_to_the_whole() -> None:
    models = [RandomLanguageModel(64, 3, 2.0, seed_rules=seed) for seed in range(8)]
    gaps = [model.pair_entropy(-1) - float(model.bayes_loss(100)[0][-1]) for model in models]
    assert 0.8 < np.mean(gaps) < 1.3
    flat = RandomLanguageModel(64, 3, 1.0)
    assert flat.pair_entropy(-1) - float(flat.bayes_loss(100)[0][-1]) < 0.05


@pytest.mark.parametrize(("v", "L", "beta"), [(2, 4, 2.0), (4, 3, 1.0), (10, 2, 3.0)])
def test_the_sampled_loss_lies_about_the_enumerated_one(v: int, L: int, beta: float) -> None:  # noqa: N803
    model = RandomLanguageModel(v, L, beta)
    mean, error = model.bayes_loss(2000, step=3)
    assert mean.shape == error.shape == (model.T,)
    assert ((mean - model.bayes_loss_exact()).abs() <= 4 * error + 1e-12).all()
    losses = -model.next_token_log_probs(model.sample(2000, step=4))
    spread = losses.std(0) / math.sqrt(2000)
    assert ((losses.mean(0) - mean).abs() <= 4 * (spread + error)).all()
    assert (error < 0.05).all()


def test_samples_follow_the_rules() -> None:
    model = RandomLanguageModel(5, 3, beta=1.0)
    levels = model.trees(40_000)
    assert [level.shape for level in levels] == [(40_000, 2**level) for level in range(4)]
    assert levels[-1].equal(model.sample(40_000))
    roots = levels[0].flatten().bincount(minlength=5).double()
    chances = [chi_square(roots, torch.full((5,), 8000.0))]
    for above, below in itertools.pairwise(levels):
        counts = (above.flatten() * 25 + below[:, 0::2].flatten() * 5 + below[:, 1::2].flatten()).bincount(
            minlength=125
        )
        counts = counts.view(5, 25).double()
        chances.append(chi_square(counts, counts.sum(1, keepdim=True) * model.rules.view(5, 25)))
    assert min(chances) > 0.01
    assert max(chances) < 0.99


def test_a_rule_of_no_probability_is_never_drawn() -> None:
    probs = torch.rand(40, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probs[:, 0, 0] = probs[:, 39] = probs[:, 10:30, ::2] = 0  # before the first drawn, after the last, between
    probs /= probs.sum((1, 2), keepdim=True)
    model = RandomLanguageModel(40, 4, probs=probs)
    for above, below in itertools.pairwise(model.trees(2000)):
        assert (probs[above, below[:, 0::2], below[:, 1::2]] > 0).all()
    symbols = torch.arange(40)[None]
    assert model._expand(0, symbols, torch.zeros_like(symbols)).eq(torch.tensor([0, 1])).all()
    assert (
        model._expand(0, symbols, torch.full_like(symbols, (1 << tree.DRAW_BITS) - 1)).eq(torch.tensor([38, 39])).all()
    )


def test_seeds_give_the_same_rules_and_samples_for_ever() -> None:
    model = RandomLanguageModel(3, 2)
    golden = [
        *[0.0871650673573885, 0.00963037213419209, 0.537818870002365],
        *[0.170877770544785, 0.00079309482451077, 0.0115662743666609],
        *[0.0650410072014676, 0.0914319274954146, 0.025675616073216],
    ]
    assert model.rules[1].flatten().tolist() == pytest.approx(golden, rel=1e-12)
    assert model.sample(4).tolist() == [[0, 0, 0, 0], [0, 2, 0, 0], [2, 2, 0, 2], [2, 2, 2, 2]]
    large = RandomLanguageModel(L=2).sample(3, step=7)
    assert large.tolist() == [[3, 125, 87, 3], [99, 51, 105, 79], [43, 113, 25, 55]]


def test_samples_are_a_function_of_seeds_and_step() -> None:
    model = RandomLanguageModel(16, 3)
    assert model.sample(50, 5).equal(RandomLanguageModel(16, 3).sample(50, 5))
    assert model.sample(50, 5)[:20].equal(model.sample(20, 5))
    assert not model.sample(50, 5).equal(model.sample(50, 6))
    other = RandomLanguageModel(16, 3, seed_samples=1)
    assert other.rules.equal(model.rules)
    assert not other.sample(50, 5).equal(model.sample(50, 5))
    assert not RandomLanguageModel(16, 3, seed_rules=1).rules.equal(model.rules)
    assert RandomLanguageModel(16, 5).rules.equal(model.rules)


def test_the_last_token_task() -> None:
    model = RandomLanguageModel(16, 3)
    inputs, targets = model.sample_batch(32, step=2)
    assert inputs.shape == (32, 7)
    assert targets.shape == (32,)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.cat([inputs, targets[:, None]], 1).equal(model.sample(32, 2))
    for depth in (1, 2, 4):
        inputs, targets = model.sample_batch(32, L=depth)
        assert inputs.shape == (32, 2**depth - 1)
        assert torch.cat([inputs, targets[:, None]], 1).equal(RandomLanguageModel(16, depth).sample(32))


def test_depth_costs_no_precision() -> None:
    """Two thousand tokens, and their first half, have a probability far below the smallest float."""
    model = RandomLanguageModel(4, 11)
    tokens = model.sample(3)
    inside = torch.nn.functional.one_hot(tokens, 4).double().log()  # ln p(leaves below | symbol)
    while inside.shape[1] > 1:
        pairs = model.rules.log() + inside[:, 0::2, None, :, None] + inside[:, 1::2, None, None, :]
        inside = pairs.flatten(3).logsumexp(-1)
    log_probability = inside[:, 0].logsumexp(-1) - math.log(4)
    assert (log_probability < -1600).all()
    assert model.next_token_log_probs(tokens).sum(1).numpy() == pytest.approx(log_probability.numpy(), rel=1e-12)


def test_what_cannot_occur_has_no_probability_and_is_no_nan() -> None:
    model = RandomLanguageModel(3, 3, probs=pairs_as({0: (0, 1), 1: (1, 2), 2: (2, 0)}))
    possible = model.sample(20)
    assert model.next_token_log_probs(possible).sum(1).numpy() == pytest.approx(math.log(1 / 3))
    for t in range(1, 8):
        tokens = possible.clone()
        tokens[:, t] = (tokens[:, t] + 1) % 3
        log_probs = model.next_token_log_probs(tokens)
        assert log_probs[:, :t].isfinite().all()
        assert log_probs[:, t:].eq(-math.inf).all()
        distributions = model.next_token_distributions(tokens)
        assert distributions[:, : t + 1].sum(-1).numpy() == pytest.approx(1)
        assert distributions[:, t + 1 :].eq(0).all()


def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RandomLanguageModel(8, 4)
    tokens = model.sample(50)
    whole = model.next_token_distributions(tokens)
    monkeypatch.setattr(tree, "FLOATS_AT_ONCE", 1)
    assert model.next_token_distributions(tokens).numpy() == pytest.approx(whole.numpy(), abs=1e-14)
    assert model.next_token_log_probs(tokens[:0]).shape == (0, 16)
    assert model.sample(0).shape == (0, 16)


def test_given_rules_are_used() -> None:
    given = RandomLanguageModel(6, 2, beta=1.0, seed_rules=3)
    for probs in (given.rules, given.rules.numpy(), given.rules.tolist()):
        assert RandomLanguageModel(6, 2, probs=probs).sample(20).equal(given.sample(20))
    single = RandomLanguageModel(6, 2, probs=given.rules.float())
    assert single.rules.numpy() == pytest.approx(given.rules.numpy(), rel=1e-5)
    assert single.rules.sum((1, 2)).numpy() == pytest.approx(1, abs=1e-14)
    kept = given.rules.clone()
    RandomLanguageModel(6, 2, probs=kept).rules.zero_()
    assert kept.equal(given.rules)


FLAT = torch.full((2, 2, 2), 0.25)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"v": 1}, "v is 1; give a whole number of at least 2"),
        ({"v": 2.5}, "v is 2.5"),
        ({"v": True}, "v is True"),
        ({"L": 0}, "L is 0"),
        ({"L": 10**9}, "more than any machine holds"),
        ({"beta": -1}, "beta is -1"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": math.inf}, "beta is inf"),
        ({"beta": "2"}, "beta is '2'"),
        ({"seed_rules": -1}, "seed_rules is -1"),
        ({"seed_samples": 0.5}, "seed_samples is 0.5"),
        ({"v": 100_000}, "v=100000: .* take 24,000,000,000,000,000 bytes, more than half"),
        ({"v": 3, "probs": FLAT}, r"shape \[2, 2, 2\]; give \[3, 3, 3\]"),
        ({"v": 2, "probs": FLAT * 1.00001}, "sum to one only within 1e-05"),
        ({"v": 2, "probs": FLAT * math.nan}, "negative values or NaN"),
        ({"v": 2, "probs": FLAT * math.inf}, "within inf"),
        ({"v": 2, "probs": FLAT + torch.tensor([-0.5, 0.5])}, "negative values or NaN"),
        ({"v": 2, "probs": [[1, 2], "x"]}, "not a table of numbers"),
    ],
)
def test_a_grammar_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        RandomLanguageModel(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (torch.zeros(3, 3, dtype=torch.int64), r"shape \[3, 3\]; give \[N, 4\]"),
        (torch.zeros(4, dtype=torch.int64), r"shape \[4\]"),
        (torch.full((2, 4), 8), "lie in 8..8; give 0..7"),
        (torch.full((2, 4), -1), "lie in -1..-1"),
        (torch.zeros(2, 4), "torch.float32; give whole numbers"),
    ],
)
def test_tokens_of_another_grammar_are_refused(tokens: Tensor, said: str) -> None:
    model = RandomLanguageModel(8, 2)
    for read in (model.next_token_log_probs, model.next_token_distributions):
        with pytest.raises(DataError, match=said):
            read(tokens)


def test_other_requests_that_are_refused() -> None:
    model = RandomLanguageModel(8, 3)
    with pytest.raises(DataError, match=r"8\^8 sequences are too many to go through, 1,048,576 at most"):
        model.bayes_loss_exact()
    with pytest.raises(DataError, match="samples is 1"):
        model.bayes_loss(1)
    with pytest.raises(DataError, match="n is -1"):
        model.sample(-1)
    with pytest.raises(DataError, match="step is -1"):
        model.sample(1, -1)
    with pytest.raises(DataError, match=r"10,000,000,000 trees of depth 3 take .* bytes"):
        model.sample(10**10)
    for position in (0, 8, -8):
        with pytest.raises(DataError, match=f"position is {position}; give 1..7"):
            model.pair_entropy(position)
    with pytest.raises(DataError, match=r"position is 8; give 0..7"):
        model.symbol_entropy(8)


def test_a_prefix_has_the_predictions_of_whole_sequences() -> None:
    model = RandomLanguageModel(5, 3, 1.5, seed_rules=2)
    tokens = model.sample(4)
    for sequence, distributions in zip(tokens.tolist(), model.next_token_distributions(tokens), strict=True):
        prefix = tree.Prefix(model)
        for token, expected in zip(sequence, distributions, strict=True):
            given = prefix.next_distribution()
            assert given is not None
            assert given.numpy() == pytest.approx(expected.numpy(), abs=1e-12)
            prefix.append(token)
