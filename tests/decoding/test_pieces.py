"""Pieces of text: joined they are what all tokens decode to, and each comes as soon as it is certain."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer
from nanogrove.decoding.pieces import MOST_TOKENS, TextPieces
from nanogrove.decoding.stopping import stop_texts
from nanogrove.errors import DataError


def vocabulary(tokens: list[str], decoder: decoders.Decoder | None) -> Tokenizer:
    """A tokenizer that only decodes."""
    backend = Backend(models.WordLevel({token: n for n, token in enumerate([*tokens, END_OF_TEXT])}, unk_token=""))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([END_OF_TEXT])
    if decoder is not None:
        backend.decoder = decoder
    return Tokenizer(backend)


BYTES = [f"<0x{byte:02X}>" for byte in (0x41, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0xFF)]
LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
TOKENIZERS = {
    "bpe": bpe_tokenizer(["the river waits over the quiet stone — é! " * 20], 300),
    "byte": byte_tokenizer(),
    "char": character_tokenizer(["a the quiet stone — é\ufffd!\n"]),
    "words": vocabulary(["the", "quiet", "stone", "—", "é"], None),
    "word pieces": vocabulary(["the", "##re", "do", "n't", ".", "—", "é"], decoders.WordPiece()),
    "sentence pieces": vocabulary(["▁the", "re", "▁", "é", *BYTES], decoders.Sequence(LLAMA)),
    "metaspace": vocabulary(["▁the", "re", "▁", "é"], decoders.Metaspace()),
}


@st.composite
def steps(draw: st.DrawFn, size: int) -> list[list[int]]:
    """Tokens as they come: several at a time at most, whatever they decode to."""
    ids = draw(st.lists(st.integers(0, size - 1), max_size=60))
    ends = [*accumulate(draw(st.lists(st.integers(1, 3), min_size=len(ids), max_size=len(ids))))]
    return [part for start, end in zip([0, *ends], ends, strict=False) if (part := ids[start:end])]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)
@given(data=st.data())
def test_pieces_joined_are_the_text_up_to_the_step_that_writes_a_stop_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    taken = data.draw(steps(tokenizer.vocab_size))
    stops = stop_texts(
        data.draw(st.lists(st.text("the rAé\ufffd€", min_size=1, max_size=3), max_size=2)), tokenizer.decode
    )
    pieces, ids, text = TextPieces(tokenizer, stops), [], ""
    for part in taken:
        ids += part
        text += pieces.take(part)
        assert pieces.stopped is (stops is not None and stops.within(ids))
        assert tokenizer.decode(ids).startswith(text)
        if pieces.stopped:
            break
    text += pieces.rest()
    assert text == (tokenizer.decode(ids) if stops is None else stops.cut(ids)[1])
    assert not pieces.stopped or pieces.take([0]) == pieces.rest() == ""


def test_a_character_waits_for_its_last_byte_and_nothing_else_does() -> None:
    pieces = TextPieces(TOKENIZERS["byte"])
    ids = TOKENIZERS["byte"].encode("aé😀b")
    assert [pieces.take([i]) for i in ids] == ["a", "", "é", "", "", "", "😀", "b"]
    assert pieces.take(ids[1:2]) == ""
    assert pieces.rest() == "\ufffd"


def test_a_byte_that_fits_nowhere_waits_for_one_byte_at_most() -> None:
    pieces = TextPieces(TOKENIZERS["byte"])
    (continuing,) = {TOKENIZERS["byte"].encode("é")[1]}
    assert [pieces.take([continuing]) for _ in range(4)] == ["", "\ufffd", "\ufffd", "\ufffd"]


def test_a_run_of_bytes_waits_for_the_word_that_ends_it() -> None:
    tokenizer = TOKENIZERS["sentence pieces"]
    ids = tokenizer.backend.get_vocab()
    the, end, euro, more = (ids[token] for token in ("▁the", END_OF_TEXT, "<0xE2>", "re"))
    pieces = TextPieces(tokenizer)
    assert [pieces.take([i]) for i in [the, euro, euro + 1, end, euro + 2, more]] == ["the", *[""] * 4, "€re"]
    pieces, run = TextPieces(tokenizer), [end] * 40 + [euro] * 40
    assert "".join(pieces.take([i]) for i in run) == ""
    assert pieces.rest() == "\ufffd" * 40


def test_what_a_stop_text_may_begin_with_waits_and_comes_when_it_does_not() -> None:
    tokenizer = TOKENIZERS["char"]
    pieces = TextPieces(tokenizer, stop_texts(["the stone", "quiet"], tokenizer.decode))
    assert [pieces.take([i]) for i in tokenizer.encode("athe qui t")] == [
        "a", *[""] * 4, "the ", "", "", "qui ", "",
    ]  # fmt: skip
    assert pieces.rest() == "t"


@pytest.mark.parametrize("name", ["bpe", "byte", "char", "metaspace"])
def test_a_long_text_takes_no_longer_per_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, sizes = TOKENIZERS[name], []
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: (sizes.append(len(ids)), decode(ids))[1])
    pieces, ids = TextPieces(tokenizer), [n * n % 7 % tokenizer.vocab_size for n in range(500)]
    text = "".join(pieces.take([i]) for i in ids) + pieces.rest()
    assert max(sizes) <= MOST_TOKENS + 1
    assert text == decode(ids)


def test_a_tokenizer_that_rewrites_its_text_is_refused() -> None:
    rewriting = decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")])
    pieces = TextPieces(vocabulary(["a", "b"], rewriting))
    assert pieces.take([0]) == "a"
    with pytest.raises(DataError, match="cannot come in pieces; use generate"):
        pieces.take([1])
