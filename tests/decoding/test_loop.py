"""The loop: how rows grow and end, what a strategy is asked for, and that ends are asked for only where they can be."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nanogrove.decoding.loop import Sequences, Strategy, decode
from nanogrove.decoding.sampling import Sampler

STOP = 9


def rows(stop: list[int] | None = None, new_tokens: int = 3, spare: int = 2) -> Sequences:
    prompts, lengths = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
    return Sequences(prompts, lengths, new_tokens, [STOP] if stop is None else stop, spare)


def test_an_ended_row_that_is_appended_to_grows_by_minus_one() -> None:
    grown = rows()
    assert grown.tokens.tolist() == [[1, 2, -1, -1, -1, -1, -1], [3, -1, -1, -1, -1, -1, -1]]
    for token in ([4, STOP], [5, 6], [STOP, 7]):
        assert grown.most_left
        grown.append(torch.tensor(token))
    assert grown.lengths.tolist() == [5, 4]
    assert grown.written().tolist() == [[4, 5, STOP], [STOP, -1, -1]]
    assert not grown.most_left


def test_rows_are_extended_up_to_their_count_their_first_stop_and_their_budget() -> None:
    grown = rows(new_tokens=4)
    assert grown.extend(torch.tensor([[4, 5, 6], [4, STOP, 6]]), torch.tensor([2, 3])).tolist() == [2, 2]
    assert grown.lengths.tolist() == [4, 3]
    assert grown.ended.tolist() == [False, True]
    assert grown.most_left == 2
    assert grown.extend(torch.tensor([[7, 8, STOP], [7, 8, 9]]), torch.tensor([3, 3])).tolist() == [2, 0]
    assert grown.written().tolist() == [[4, 5, 7, 8], [4, STOP, -1, -1]]
    assert grown.tokens[:, 6:].tolist() == [[-1, -1], [-1, -1]], "what was not accepted is wiped out"
    assert not grown.most_left


def test_tokens_up_to_a_length_hide_what_follows() -> None:
    grown = rows()
    grown.append(torch.tensor([4, 5]))
    assert grown.up_to(torch.tensor([1, 2])).tolist() == [[1, -1, -1, -1, -1, -1, -1], [3, 5, -1, -1, -1, -1, -1]]


def test_without_stop_tokens_the_device_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(tensor: Tensor) -> bool:
        raise AssertionError("a tensor was copied to know whether rows have ended")

    grown = rows(stop=[])
    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "__bool__", asked)
        patch.setattr(Tensor, "__int__", asked)
        while grown.most_left:
            grown.append(torch.tensor([4, 5]))
    assert grown.written().tolist() == [[4, 4, 4], [5, 5, 5]]


def counting(one_length: bool = False) -> tuple[Strategy, list[tuple[int, int]]]:
    """A strategy that writes each row's length, and what it was given: rows and width of each group."""
    given: list[tuple[int, int]] = []

    def steps(grown: Sequences, sampler: Sampler) -> Iterator[None]:
        given.append((len(grown.tokens), int(grown.lengths.max())))
        while True:
            grown.append(grown.lengths.clone())
            yield

    return Strategy(steps=steps, modules=(), one_length=one_length), given


def test_rows_stand_where_their_prompts_stood_also_where_they_are_taken_length_by_length() -> None:
    prompts, lengths = torch.zeros(3, 4, dtype=torch.int64), torch.tensor([4, 2, 4])
    wanted = [[4, 5], [2, 3], [4, 5]]
    together, given = counting()
    assert decode(together, prompts, lengths, new_tokens=2).tolist() == wanted
    assert given == [(3, 4)]
    by_length, given = counting(one_length=True)
    assert decode(by_length, prompts, lengths, new_tokens=2).tolist() == wanted
    assert given == [(1, 2), (2, 4)]


def test_no_new_tokens_ask_for_no_step_and_a_stop_token_ends_the_loop() -> None:
    strategy, given = counting()
    assert decode(strategy, torch.zeros(2, 3, dtype=torch.int64), new_tokens=0).shape == (2, 0)
    assert given == []
    written = decode(strategy, torch.zeros(2, 3, dtype=torch.int64), new_tokens=5, stop=[4])
    assert written.tolist() == [[3, 4, -1, -1, -1]] * 2
