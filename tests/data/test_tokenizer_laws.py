"""Any text comes back from its tokens, also through the file of the tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer
from nanogrove.errors import DataError

LAWS = settings(derandomize=True, database=None, deadline=None, max_examples=150)
texts = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from(
            [END_OF_TEXT, "<|", "|>", " ", "\n", "\r\n", "\t", "é", "e\u0301", "👩\u200d🔬", "'s", "\x00", "ab"]
        )
    ).map("".join),
)
BYTE, BPE = byte_tokenizer(), bpe_tokenizer(["the cat's hat, the hat’s cat é🙂\n"] * 9, 290)


def returns(tokenizer: Tokenizer, text: str) -> None:
    """Checks the round trip of a text, and that none of its tokens is the one that ends a document."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.end not in ids
    assert all(0 <= token < tokenizer.vocab_size for token in ids)


@LAWS
@given(text=texts)
def test_bytes_return(text: str) -> None:
    returns(BYTE, text)
    assert len(BYTE.encode(text)) == len(text.encode())


@LAWS
@given(text=texts)
def test_merged_bytes_return_whatever_text_the_merges_are_of(text: str) -> None:
    returns(BPE, text)
    assert len(BPE.encode(text)) <= len(text.encode())


@LAWS
@given(alphabet=texts, data=st.data())
def test_characters_of_the_alphabet_return_and_others_are_refused(alphabet: str, data: st.DataObject) -> None:
    tokenizer = character_tokenizer([alphabet])
    assert tokenizer.vocab_size == len(set(alphabet)) + 1
    text = data.draw(st.text(st.sampled_from(sorted(alphabet)), max_size=60)) if alphabet else ""
    returns(tokenizer, text)
    assert len(tokenizer.encode(text)) == len(text)
    other = data.draw(st.characters(exclude_characters=alphabet, exclude_categories=["Cs"]))
    with pytest.raises(DataError, match=f"at position {len(text)} "):
        tokenizer.encode(text + other)


@settings(LAWS, max_examples=25)
@given(trained=st.lists(texts, max_size=5), text=texts)
def test_a_file_holds_all_of_a_tokenizer(trained: list[str], text: str) -> None:
    for tokenizer in (BYTE, character_tokenizer([*trained, text]), bpe_tokenizer(trained, 270)):
        again = Tokenizer.from_json(tokenizer.to_json())
        assert again.encode(text) == tokenizer.encode(text)
        assert (again.vocab_size, again.end) == (tokenizer.vocab_size, tokenizer.end)
        returns(again, text)


@LAWS
@given(many=st.lists(texts, min_size=1, max_size=5))
def test_a_batch_is_each_text_alone(many: list[str]) -> None:
    for tokenizer in (BYTE, BPE, character_tokenizer(many)):
        assert [ids.tolist() for ids in tokenizer.encode_batch(many)] == [tokenizer.encode(text) for text in many]
