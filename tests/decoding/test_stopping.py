"""Stop texts are seen wherever tokens begin and end, in bytes of characters that tokens divide too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogrove.data.tokenizer import Tokenizer, bpe_tokenizer, byte_tokenizer
from nanogrove.decoding.loop import Sequences
from nanogrove.decoding.stopping import stop_texts

BPE = bpe_tokenizer(["the river waits over the quiet stone — é! " * 20], 300)


@pytest.mark.parametrize("tokenizer", [BPE, byte_tokenizer()])
@given(
    text=st.text("the rivé—\U0001f600\n", max_size=20), stop=st.text("the rivé—\U0001f600\n", min_size=1, max_size=4)
)
def test_what_is_cut_is_what_follows_the_first_stop_text(tokenizer: Tokenizer, text: str, stop: str) -> None:
    stops = stop_texts([stop, "never"], tokenizer.decode)
    assert stops is not None
    ids = tokenizer.encode(text)
    count, kept = stops.cut(ids)
    assert kept == text.partition(stop)[0]
    assert stops.within(ids) == (stop in text)
    if stop in text:
        assert stop in tokenizer.decode(ids[:count])
        assert stop not in tokenizer.decode(ids[: count - 1]), "no token more than it takes"
    else:
        assert count == len(ids)


def test_the_first_of_several_counts_and_one_may_be_given_alone() -> None:
    stops = stop_texts(["quiet", "over"], BPE.decode)
    assert stops is not None
    assert stops.cut(BPE.encode("the river over the quiet"))[1] == "the river "
    assert stop_texts("over", BPE.decode) == stop_texts(["over"], BPE.decode)
    assert stop_texts((), BPE.decode) is None


@pytest.mark.parametrize("together", [1, 3])
def test_a_row_ends_once_it_has_written_a_stop_text(together: int) -> None:
    """One token at a time, as plain decoding, or several, as drafts that were accepted."""
    text = "a long beginning that is no part of it, and the \U0001f600 stone"
    rows = [BPE.encode(text + " and more"), BPE.encode("x" * 70)]
    end = stop_texts("\U0001f600 st", BPE.decode)
    assert end is not None
    width = min(map(len, rows)) // together * together
    grown = Sequences(torch.tensor([[1], [2]]), torch.tensor([1, 1]), width, [], 4, end)
    for first in range(0, width, together):
        step = torch.tensor([row[first : first + together] for row in rows])
        if together == 1:
            grown.append(step[:, 0])
        else:
            grown.extend(step, torch.tensor([together, together]))
        reached = "\U0001f600 st" in BPE.decode(rows[0][: first + together])
        assert grown.ended.tolist()[0] is reached or first + together >= width
        if reached:
            break
    assert reached
    written = [token for token in grown.written()[0].tolist() if token >= 0]
    assert end.cut(written)[1] == "a long beginning that is no part of it, and the "
