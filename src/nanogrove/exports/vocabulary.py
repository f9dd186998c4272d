"""A vocabulary as llama.cpp has it: tokens, their kinds, merges, and the rule by which text is split into words.

llama.cpp reads byte-level BPE. There a token is spelled in GPT-2's letters, one for each byte, and the splitting rule
is known by a name alone: of a rule under another name it would make other tokens, so such a vocabulary is refused.

A vocabulary of characters becomes one of bytes whose merges spell each character: its first two bytes, then the next.
A first byte is followed by its own next ones only, so no merge reaches from one character into another. A character
that the vocabulary lacks has no token in llama.cpp either, which leaves it out where nanogrove refuses the text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import PresetError

Json = Mapping[str, Any]

# A file without merges is refused. This one never applies: symbols are single letters until a first merge joins two.
IDLE_MERGE = "aa aa"
RULES: dict[str, Json] = {  # llama.cpp's names of splitting rules, and what they are in a tokenizer.json
    "gpt-2": {"type": "ByteLevel"},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}],
    },
}
DEFAULTS = {"add_prefix_space": False, "use_regex": True}  # of ByteLevel
ONLY = {"dropout": (None, 0.0), "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, "")}
ONLY |= {"byte_fallback": (None, False), "ignore_merges": (None, False)}


class Kind(IntEnum):
    """Kinds of tokens, by llama.cpp's numbers."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by number, each with its kind; merges, first ones first; the name of the splitting rule."""

    tokens: list[str]
    kinds: list[Kind]
    merges: list[str]
    rule: str


def vocabulary_of(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The vocabulary of a model that has `size` tokens; those that the tokenizer has no name for are never written.

    Raises PresetError for a tokenizer that llama.cpp would read as another one.
    """
    whole: Json = json.loads(tokenizer.to_json())
    spelled: Mapping[str, int]
    if tokenizer.is_characters:
        spelled, merges, rule = *_spelled_characters(whole["model"]["vocab"]), "gpt-2"
    else:
        spelled, merges, rule = byte_pairs(whole, "llama.cpp", ", or export this --to transformers or onnx")
    tokens, kinds = [f"[unused {n}]" for n in range(size)], [Kind.UNUSED] * size
    for token, number in spelled.items():
        tokens[number], kinds[number] = token, Kind.NORMAL
    for added in whole["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = Kind.CONTROL if added["special"] else Kind.USER_DEFINED
    return Vocabulary(tokens, kinds, merges or [IDLE_MERGE], rule)


def letters() -> dict[int, str]:
    """GPT-2's letter for each byte: printable ones are themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}


def _spelled_characters(vocabulary: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """Characters spelled in letters, with their numbers, and the merges that make them of their bytes."""
    letter, spelled, merges = letters(), dict[str, int](), dict[str, None]()
    for character, number in vocabulary.items():
        word = "".join(letter[byte] for byte in character.encode())
        spelled[word] = number
        merges |= dict.fromkeys(f"{word[:n]} {word[n]}" for n in range(1, len(word)))
    return spelled, list(merges)


def byte_pairs(whole: Json, reader: str, advice: str) -> tuple[Mapping[str, int], list[str], str]:
    """Tokens, merges and the splitting rule of byte-level BPE.

    Raises PresetError for any other tokenizer, which says that `reader` has none such, and what else to do.
    """

    def refusal(why: str) -> PresetError:
        return PresetError(
            f"{reader} has no such tokenizer: {why}; train with data.tokenizer=char, byte or bpe{advice}"
        )

    model = whole["model"]
    if model["type"] != "BPE":
        raise refusal(f"it is of the kind {model['type']}")
    if whole.get("normalizer") is not None:
        raise refusal(f"it changes text first, by {whole['normalizer'].get('type')}")
    for name, values in ONLY.items():
        if model.get(name) not in values:
            raise refusal(f"its {name} is {json.dumps(model[name])}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    given = _bare(whole.get("pre_tokenizer") or {})
    rule = next((name for name, known in RULES.items() if _bare(known) == given), None)
    if rule is None and not merges and given == {"type": "ByteLevel", "use_regex": False}:
        rule = "gpt-2"  # each byte is a token, wherever words end
    if rule is None:
        raise refusal("its rule of splitting text into words has no name there")
    return model["vocab"], merges, rule


def _bare(rule: Json) -> dict[str, Any]:
    """A splitting rule without what stands in it by default, or changes no token."""
    return {
        key: list(map(_bare, value)) if key == "pretokenizers" else value
        for key, value in rule.items()
        if key != "trim_offsets" and value != DEFAULTS.get(key)
    }
