"""The Random Hierarchy Model against the list of all its derivations."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from nanogrove.errors import DataError
from nanogrove.synthetic import RandomHierarchyModel, tree

SMALL = [(3, 2, 2, 2), (2, 1, 2, 3), (2, 2, 2, 3), (2, 3, 3, 2), (5, 3, 2, 1), (4, 2, 4, 1)]  # v, m, s, L


def texts(model: RandomHierarchyModel) -> list[tuple[int, ...]]:
    """The leaves of every derivation; all derivations are equally likely."""
    grown: list[tuple[int, ...]] = [(root,) for root in range(model.v)]
    for rules in model.rules:
        synonyms = rules.tolist()
        grown = [
            tuple(itertools.chain.from_iterable(chosen))
            for symbols in grown
            for chosen in itertools.product(*(synonyms[symbol] for symbol in symbols))
        ]
    return grown


def joint(model: RandomHierarchyModel) -> np.ndarray:
    """p(x_1, ..., x_T), an array of T axes of v."""
    table, every = np.zeros((model.v,) * model.T), texts(model)
    for text in every:
        table[text] += 1 / len(every)
    return table


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize(("v", "m", "s", "L"), SMALL)
def test_predictions_are_those_of_all_derivations(v: int, m: int, s: int, L: int) -> None:  # noqa: N803
    model = RandomHierarchyModel(v, m, s, L, seed_rules=v)
    table = joint(model)
    tokens = torch.tensor(list(itertools.product(range(v), repeat=model.T)))
    distributions = model.next_token_distributions(tokens)
    log_probs = model.next_token_log_probs(tokens)
    assert not log_probs.isnan().any()
    for t in range(model.T):
        prefix = table.sum(tuple(range(t + 1, model.T)))
        total = prefix.sum(-1, keepdims=True)
        exact = prefix / np.where(total > 0, total, 1)
        wanted = exact[tuple(tokens[:, :t].T.numpy())] if t else np.broadcast_to(exact, (len(tokens), v))
        assert distributions[:, t].numpy() == pytest.approx(wanted, abs=1e-10)
    assert log_probs.sum(1).exp().numpy() == pytest.approx(table.flatten(), abs=1e-10)
    assert log_probs.equal(distributions.gather(2, tokens[..., None])[..., 0].log())
    assert log_probs.sum(1).isfinite().tolist() == (table.flatten() > 0).tolist()


@pytest.mark.parametrize(("v", "m", "s", "L"), SMALL)
def test_averages_and_entropies_are_those_of_all_derivations(v: int, m: int, s: int, L: int) -> None:  # noqa: N803
    model = RandomHierarchyModel(v, m, s, L, seed_rules=v)
    table = joint(model)
    axes = range(model.T)
    ones = [table.sum(tuple(set(axes) - {t})) for t in axes]
    twos = [table.sum(tuple(set(axes) - {t - 1, t})) for t in axes[1:]]
    assert model.unigram().numpy() == pytest.approx(np.mean(ones, 0), abs=1e-12)
    assert model.bigram().numpy() == pytest.approx(np.mean(twos, 0), abs=1e-12)
    assert model.symbol_entropy() == pytest.approx(entropy(np.mean(ones, 0)), abs=1e-10)
    for t in axes:
        assert model.unigram(t).numpy() == pytest.approx(ones[t], abs=1e-12)
    for t in axes[1:]:
        assert model.bigram(t).numpy() == pytest.approx(twos[t - 1], abs=1e-12)
        assert model.pair_entropy(t) == pytest.approx(entropy(twos[t - 1]) - entropy(ones[t - 1]), abs=1e-10)
    totals = [entropy(table.sum(tuple(range(t + 1, model.T)))) for t in axes]
    exact = model.bayes_loss_exact()
    assert exact.numpy() == pytest.approx(np.diff(totals, prepend=0), abs=1e-10)
    assert float(exact.sum()) == pytest.approx(math.log(len(texts(model))), abs=1e-10)
    mean, error = model.bayes_loss(2000, step=1)
    assert ((mean - exact).abs() <= 4 * error + 1e-12).all()


@pytest.mark.parametrize(("v", "m", "s", "L"), [*SMALL, (4, 4, 2, 2), (16, 12, 3, 2)])
def test_no_text_has_two_derivations(v: int, m: int, s: int, L: int) -> None:  # noqa: N803
    model = RandomHierarchyModel(v, m, s, L)
    assert len(model.rules) == L
    for rules in model.rules:
        assert rules.shape == (v, m, s)
        assert len(set(map(tuple, rules.view(-1, s).tolist()))) == v * m
    if (v, m, s, L) in SMALL:
        assert len(set(texts(model))) == len(texts(model)) == v * m ** ((s**L - 1) // (s - 1))


def test_the_synonyms_of_a_symbol_are_any_tuples() -> None:
    """Were tuples not dealt at random, the first symbol's would be the lowest."""
    drawn = [RandomHierarchyModel(8, 2, 2, 1, seed_rules=seed).rules[0] for seed in range(300)]
    first = torch.stack([rules[0, 0] for rules in drawn]).double()
    assert (first.mean(0) - 3.5).abs().max() < 4 * math.sqrt(63 / 12 / 300)


def test_samples_follow_the_rules_uniformly() -> None:
    model = RandomHierarchyModel(5, 3, 3, 3)
    levels = model.trees(4000)
    assert [level.shape for level in levels] == [(4000, 3**level) for level in range(4)]
    assert levels[-1].equal(model.sample(4000))
    for rules, above, below in zip(model.rules, levels, levels[1:], strict=False):
        tuples = below.view(4000, -1, 3)
        chosen = (rules[above] == tuples[:, :, None]).all(-1)  # [N, K, m]
        assert chosen.sum(-1).eq(1).all()
        counts = torch.zeros(5, 3).index_add_(0, above.flatten(), chosen.flatten(0, 1).float())
        expected = counts.sum(1, keepdim=True) / 3
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert 0.01 < torch.special.gammaincc(torch.tensor(5.0), statistic / 2) < 0.99  # 10 degrees of freedom
    roots = levels[0].flatten().bincount(minlength=5)
    assert (roots - 800).abs().max() < 4 * math.sqrt(800)


def test_seeds_give_the_same_rules_and_samples_for_ever() -> None:
    model = RandomHierarchyModel(4, 2, 3, 2)
    assert model.rules[0].flatten(1).tolist() == [
        [2, 3, 0, 1, 3, 0],
        [1, 0, 0, 0, 3, 3],
        [2, 1, 2, 1, 0, 1],
        [1, 1, 1, 3, 3, 3],
    ]
    assert model.sample(2).tolist() == [[2, 0, 1, 2, 2, 3, 1, 0, 1], [2, 2, 2, 1, 0, 1, 2, 3, 3]]


def test_samples_are_a_function_of_seeds_and_step() -> None:
    model, other = RandomHierarchyModel(), RandomHierarchyModel(seed_samples=1)
    assert model.sample(50, 5).equal(RandomHierarchyModel().sample(50, 5))
    assert model.sample(50, 5)[:20].equal(model.sample(20, 5))
    assert not model.sample(50, 5).equal(model.sample(50, 6))
    assert other.rules[0].equal(model.rules[0])
    assert not other.sample(50).equal(model.sample(50))
    assert not RandomHierarchyModel(seed_rules=1).rules[0].equal(model.rules[0])
    assert not model.rules[0].equal(model.rules[1])


def test_the_last_token_task() -> None:
    model = RandomHierarchyModel(6, 4, 3, 3)
    inputs, targets = model.sample_batch(32, step=2)
    assert inputs.shape == (32, 26)
    assert torch.cat([inputs, targets[:, None]], 1).equal(model.sample(32, 2))
    inputs, targets = model.sample_batch(32, L=2)
    assert torch.cat([inputs, targets[:, None]], 1).equal(RandomHierarchyModel(6, 4, 3, 2).sample(32))
    with pytest.raises(DataError, match="L is 4; this grammar has rules for 3 levels"):
        model.sample_batch(32, L=4)


def test_longer_texts_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = RandomHierarchyModel(8, 3, 3, 4)
    tokens = model.sample(20)
    distributions = model.next_token_distributions(tokens)
    assert distributions.sum(-1).numpy() == pytest.approx(1, abs=1e-12)
    log_probs = model.next_token_log_probs(tokens)
    derivations = math.log(8) + 40 * math.log(3)  # of 40 nodes above the leaves; all equally likely
    assert log_probs.sum(1).numpy() == pytest.approx(-derivations, rel=1e-12)
    monkeypatch.setattr(tree, "FLOATS_AT_ONCE", 1)
    assert model.next_token_log_probs(tokens).numpy() == pytest.approx(log_probs.numpy(), abs=1e-12)


def test_rule_entropy_and_sample_complexity() -> None:
    model = RandomHierarchyModel(32, 8, 2, 3)
    assert model.rule_entropy() == math.log(8)
    assert model.sample_complexity() == pytest.approx([32 * 8 / 0.75, 32 * 8**3 / 0.75, 32 * 8**5 / 0.75])
    assert RandomHierarchyModel(4, 4, 2, 2).sample_complexity() == [math.inf, math.inf]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"v": 1}, "v is 1"),
        ({"m": 0}, "m is 0"),
        ({"s": 1}, "s is 1"),
        ({"L": 0}, "L is 0"),
        ({"L": 41}, "more than any machine holds"),
        ({"m": 33}, r"m is 33; .* at most v\^\(s−1\) = 32"),
        ({"m": 1.5}, "m is 1.5"),
        ({"s": 13, "L": 1}, r"beyond 2\^63"),
        ({"v": 2**21, "m": 2**21}, "bytes, more than half"),
        ({"seed_rules": -1}, "seed_rules is -1"),
    ],
)
def test_a_grammar_that_cannot_be_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        RandomHierarchyModel(**options)
    assert "\n" not in str(error.value)


def test_tokens_of_another_grammar_are_refused() -> None:
    model = RandomHierarchyModel(4, 2, 3, 2)
    with pytest.raises(DataError, match=r"give \[N, 9\]"):
        model.next_token_log_probs(torch.zeros(2, 8, dtype=torch.int64))
    with pytest.raises(DataError, match=r"give 0..3"):
        model.next_token_log_probs(torch.full((2, 9), 4))
    with pytest.raises(DataError, match=r"4\^27 sequences are too many"):
        RandomHierarchyModel(4, 2, 3, 3).bayes_loss_exact()


@pytest.mark.parametrize(("v", "m", "s", "L"), SMALL)
def test_a_prefix_has_the_predictions_of_whole_sequences(v: int, m: int, s: int, L: int) -> None:  # noqa: N803
    model = RandomHierarchyModel(v, m, s, L, seed_rules=v)
    tokens = torch.cat([model.sample(3), torch.randint(v, (9, model.T), generator=torch.Generator().manual_seed(1))])
    for sequence, distributions in zip(tokens.tolist(), model.next_token_distributions(tokens), strict=True):
        prefix = tree.Prefix(model)
        for token, expected in zip(sequence, distributions, strict=True):
            given = prefix.next_distribution()
            assert (given is None) == (not expected.any())
            assert given is None or given.numpy() == pytest.approx(expected.numpy(), abs=1e-12)
            prefix.append(token)
        assert prefix.next_distribution() is None
    outside = tree.Prefix(model)
    outside.append(v)
    assert outside.next_distribution() is None
