"""Each logit transform against its definition, and the draw against its distribution."""

import pytest
import torch

from nanogrove.decoding.sampling import (
    Sampler,
    Sampling,
    SamplingOptions,
    draw,
    min_p,
    no_repeat_ngram,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).expand(10_000, 5)
    drawn = draw(logits, torch.Generator().manual_seed(0)).bincount(minlength=5) / 10_000
    expected = logits[0].softmax(-1)
    assert (drawn[expected == 0] == 0).all()
    torch.testing.assert_close(drawn, expected, atol=0.015, rtol=0)


LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.07, 0.03]]))
NONE = torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("transform", "kept"),
    [
        (top_k(2), [0, 1]),
        (top_k(99), [0, 1, 2, 3, 4]),
        (top_p(0.5), [0]),
        (top_p(0.51), [0, 1]),
        (top_p(0.92), [0, 1, 2, 3]),
        (min_p(0.2), [0, 1, 2]),
        (temperature(0.7), [0, 1, 2, 3, 4]),
    ],
)
def test_cuts_keep_what_they_should(transform: object, kept: list[int]) -> None:
    assert (transform(LOGITS, *NONE)[0] > -torch.inf).nonzero().flatten().tolist() == kept  # type: ignore[operator]


def test_top_p_keeps_the_likely_tokens_wherever_they_stand() -> None:
    shuffled = LOGITS[:, [3, 0, 4, 1, 2]]
    assert (top_p(0.6)(shuffled, *NONE)[0] > -torch.inf).tolist() == [False, True, False, True, False]


def test_repetition_penalty_lowers_seen_tokens_of_either_sign() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    history, lengths = torch.tensor([[0, 1, -1]]), torch.tensor([2])
    assert repetition_penalty(2.0)(logits, history, lengths).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_no_ngram_is_written_twice() -> None:
    history = torch.tensor([[1, 2, 3, 1, 2, -1], [1, 2, 3, 4, 1, 2], [3, -1, -1, -1, -1, -1]])
    lengths = torch.tensor([5, 6, 1])
    out = no_repeat_ngram(3)(torch.zeros(3, 5), history, lengths)
    assert [(row == -torch.inf).nonzero().flatten().tolist() for row in out] == [[3], [3], []]
    one = no_repeat_ngram(1)(torch.zeros(1, 3), torch.tensor([[0, 1, 2]]), torch.tensor([3]))
    assert one.tolist() == [[0.0, 0.0, 0.0]]  # every token is banned, so none is


def test_the_options_are_the_settings() -> None:
    assert SamplingOptions.__annotations__.keys() == Sampling.model_fields.keys()
    for name, kind in SamplingOptions.__annotations__.items():
        assert Sampling.model_fields[name].annotation == kind


def test_a_sampler_applies_its_transforms_in_order_and_draws_nothing_at_temperature_0() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.float64)
    sampler = Sampler([lambda x, *_: x + 1, lambda x, *_: x * 2], 0.0, torch.Generator().manual_seed(0))
    scores = sampler.scores(logits, *NONE)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[4.0, 8.0, 6.0]]
    before = sampler.generator.get_state()
    assert sampler.choose(scores).tolist() == [1]
    assert torch.equal(sampler.generator.get_state(), before)
