"""A stranger's tokenizer.json is used or refused in one line: it aborts nothing, hangs nothing, eats no memory."""

import base64
import copy
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from nanogrove.data.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    load_tokenizer,
)
from nanogrove.data.tokenizer_json import MAX_BYTES, MAX_TOKENS
from nanogrove.errors import DataError

TEXTS = ["the cat's hat é🙂\n  it's " + "a" * 300, "", "Hello, WORLD 12345", "naïve\u0301 日本"]


def trie(*entries: tuple[int, str]) -> str:
    """A table of SentencePiece that replaces single bytes of text by texts."""
    words, texts = [0] * 512, b""
    words[0] = 1 << 18  # children of the root are at 256 ^ byte
    for byte, text in entries:
        node = 256 ^ byte
        words[node] = byte | 1 << 8 | (node ^ byte) << 10  # its child of byte 0 is at `byte`
        words[byte] = 1 << 31 | len(texts)
        texts += text.encode() + b"\0"
    return base64.b64encode(struct.pack(f"<I{len(words)}I", 4 * len(words), *words) + texts).decode()


def files() -> dict[str, dict[str, Any]]:
    """A tokenizer.json of each kind of model, with many kinds of parts."""
    end = {"content": END_OF_TEXT, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    unigram = Backend(
        models.Unigram([("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in "abcdehlo"), ("▁the", -1.5)], 0)
    )
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    pieces = Backend(models.WordPiece({"[UNK]": 0, "the": 1, "##e": 2, "t": 3, "##h": 4}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    parts = Backend(models.BPE({**{c: n for n, c in enumerate("abct eh")}, "th": 7}, [("t", "h")], fuse_unk=True))
    parts.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(" {2,}"), " "), normalizers.Prepend(" ")]
    )
    splits = [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Digits(),
        pre_tokenizers.FixedLength(5),
    ]
    parts.pre_tokenizer = pre_tokenizers.Sequence(splits)
    parts.post_processor = processors.TemplateProcessing(single="a $A", special_tokens=[("a", 0)])
    parts.decoder = decoders.Sequence(
        [decoders.Replace("t", "T"), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    known = {"bpe": bpe_tokenizer(TEXTS * 9, 290).backend, "char": character_tokenizer(TEXTS).backend}
    known |= {"unigram": unigram, "pieces": pieces, "parts": parts}
    contents = {name: json.loads(backend.to_str()) for name, backend in known.items()}
    for content in contents.values():
        if not content["added_tokens"]:
            content["added_tokens"] = [{"id": 400, **end, "special": True}]
    contents["unigram"]["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": trie((97, "ab"), (104, ""))}
    contents["unigram"]["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
                                      "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}  # fmt: skip
    return contents


def use(text: str) -> Tokenizer:
    """A tokenizer that has encoded and decoded."""
    tokenizer = Tokenizer.from_json(text)
    for ids in tokenizer.encode_batch(TEXTS):
        tokenizer.decode(ids.tolist())
    tokenizer.decode(range(20))
    return tokenizer


@pytest.mark.parametrize("name", files())
def test_a_file_of_each_kind_is_used(name: str) -> None:
    content = files()[name]
    if name == "char":
        assert Tokenizer.from_json(json.dumps(content)).encode("cat") != []
    elif name == "parts":
        assert Tokenizer.from_json(json.dumps(content)).encode("that") == [4, 7, 0, 3]
    else:
        use(json.dumps(content))
    if name == "unigram":
        normalizer = Backend.from_str(json.dumps(content)).normalizer
        assert normalizer.normalize_str("hah!") == "ab!", "the table of the test means what the library reads"


def changed(name: str, path: str, value: Any) -> str:
    content = files()[name]
    *parents, last = path.split(".")
    holder = content
    for key in parents:
        holder = holder[key]
    holder[last] = value
    return json.dumps(content)


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


TABLE = base64.b64decode(trie((97, "ab")))
LEADS_OUTSIDE = base64.b64encode(TABLE[:4] + b"\xff\xff\xff\x00" + TABLE[8:]).decode()
BOMBS = {
    "a pattern of a billion steps": (
        changed("bpe", "pre_tokenizer", split("((a{1000}){1000}){1000}")),
        "the pattern .* repeats more",
    ),
    "a pattern that tries all ways": (
        changed("bpe", "pre_tokenizer", split("(a|aa)+b")),
        "repeats a group that repeats",
    ),
    "one in a decoder": (
        changed("bpe", "decoder", {**replace("", "b"), "pattern": {"Regex": "(a+)+$"}}),
        "repeats a group",
    ),
    "one in a sequence": (
        changed("bpe", "normalizer", sequence({**replace("", "b"), "pattern": {"Regex": "(a*)*"}})),
        "repeats a group",
    ),
    "texts that grow": (
        changed("bpe", "normalizer", sequence(*[replace("l", "l" * 100)] * 4)),
        "more than 1,000 times as long",
    ),
    "a prefix that grows": (
        changed("bpe", "normalizer", {"type": "Prepend", "prepend": "x" * 10_000}),
        "times as long",
    ),
    "a division by zero": (changed("bpe", "pre_tokenizer", {"type": "FixedLength", "length": 0}), "FixedLength"),
    "a table of one byte": (
        changed("unigram", "normalizer.precompiled_charsmap", base64.b64encode(b"\xff" * 40).decode()),
        "precompiled_charsmap is damaged",
    ),
    "a table that leads outside": (
        changed("unigram", "normalizer.precompiled_charsmap", LEADS_OUTSIDE),
        "precompiled_charsmap is damaged",
    ),
    "words of any length": (changed("pieces", "model.max_input_chars_per_word", 10**12), "max_input_chars_per_word"),
    "a prefix that is not there": (
        changed("bpe", "model.continuing_subword_prefix", "ééé"),
        "without the prefix 'ééé'",
    ),
    "an id beyond any table": (changed("bpe", "model.vocab.t", 4_294_967_295), "a token of id 4294967295"),
    "an added id beyond any table": (changed("bpe", "added_tokens", [{"id": MAX_TOKENS}]), "a token of id 16777216"),
    "nested parts": (
        '{"normalizer": ' + '{"type": "Sequence", "normalizers": [' * 90 + "]}" * 90 + "}",
        "nested too deeply",
    ),
    "nested lists": ("[" * 100_000, "nested too deeply"),
    "a key twice": ('{"normalizer": {"type": "NFC"}, "normalizer": null}', "a key comes twice"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused(case: str) -> None:
    text, reason = BOMBS[case]
    with pytest.raises(DataError, match=f"^mine.json: this tokenizer.json is refused .*{reason}"):
        Tokenizer.from_json(text, "mine.json")


def test_ids_may_have_gaps() -> None:
    """An id of 70,000 in a vocabulary of a few hundred tokens needs a table of 70,001, and more than 16 bits."""
    content = files()["bpe"]
    content["model"]["vocab"] |= {"h": 70_000}
    tokenizer = Tokenizer.from_json(json.dumps(content))
    assert tokenizer.vocab_size == 70_001
    assert 70_000 in tokenizer.encode("h")


def test_what_panics_in_the_library_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer.from_json(changed("bpe", "pre_tokenizer", split("[a-y]*[a-y]*[a-y]*[a-y]+[a-y]+(?=[0-9])")))
    with pytest.raises(DataError, match=r"fails on a text that begins 'aaa.*retry-limit.*choose another one"):
        tokenizer.encode("a" * 2000)


def test_half_a_character_is_named() -> None:
    with pytest.raises(DataError, match=r"holds half a character, '\\ud800' at position 1; leave it out"):
        byte_tokenizer().encode("a\ud800")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev", "."])
def test_what_is_not_a_file_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="cannot read this tokenizer"):
        load_tokenizer(path)


def test_a_pipe_and_a_file_that_is_too_large_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="not a regular file"):
        load_tokenizer(str(tmp_path / "pipe.json"))
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="at most 104,857,600"):
        load_tokenizer(str(tmp_path / "large.json"))


def try_mutations(mutate: Any, first: int, count: int) -> int:
    """Uses mutations of the files of all kinds; returns how many are refused."""
    contents, refused = list(files().values()), 0
    for seed in range(first, first + count):
        generator = np.random.default_rng(seed)
        data = mutate(copy.deepcopy(contents[seed % len(contents)]), generator)
        try:
            use(data.decode("utf-8", "replace"))
        except DataError:
            refused += 1
    return refused


def test_mutations_are_used_or_refused(mutate: Any) -> None:
    assert 20 < try_mutations(mutate, 0, 100) < 100


@pytest.mark.slow
def test_many_mutations_in_bounded_memory(mutate: Any) -> None:
    """In a process whose memory is bounded: the library aborts where it is refused memory."""
    script = f"""
import importlib.util, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
def module(path):
    spec = importlib.util.spec_from_file_location("m", path); m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m); return m
print(module({__file__!r}).try_mutations(module({str(Path(__file__).with_name("conftest.py"))!r}).mutated, 1000, 3000))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 600
