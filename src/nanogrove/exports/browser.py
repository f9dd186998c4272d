"""A model as JSON for a page in which it writes: settings, weights as base64, the tokenizer.

`reports/browser/network.js` computes it there, and `tokenizer.js` reads and writes its text.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import PresetError
from nanogrove.exports.source import Source
from nanogrove.exports.vocabulary import byte_pairs
from nanogrove.model.config import ModelConfig
from nanogrove.native.program import in_int8
from nanogrove.waits import waiting

Weights = Literal["float32", "float16", "int8"]
WEIGHTS: Mapping[Weights, int] = {"float32": 4, "float16": 2, "int8": 1}  # bytes of each number of a matrix
READ = (  # settings that the page computes with; of the others `settings` and the weights have what there is to know
    *("block_size", "n_layer", "n_head", "n_embd", "norm", "norm_eps", "mlp", "position", "rope_theta"),
    *("qk_norm", "embed_norm", "logit_softcap", "within_documents", "document_mark", "memory_tokens", "memory_segment"),
)
SPLITS = {"gpt-2": "words", "smollm": "digits"}  # our names of the rules of `vocabulary.RULES`


def model_json(
    source: Source, weights: Weights, grammar: Mapping[str, Any] | None = None, voters: Sequence[Source] = ()
) -> str:
    """The model, with what `grammar_table` gave and the voters of a committee, as JSON that is safe in a page.

    Raises PresetError for a scalar model, a tokenizer that the page has not, and weights beyond float16.
    """
    check(source)
    model = {
        "config": settings(source.config),
        "tensors": _tensors(source, weights),
        "voters": [_tensors(voter, weights) for voter in voters],
        "tokenizer": tokenizer_table(source.tokenizer, source.config.vocab_size or 0),
        "grammar": grammar,
    }
    # Within a string of JSON `<` may be spelled so, and then no text of the model ends the data block.
    return json.dumps(model, separators=(",", ":")).replace("<", "\\u003c")


def check(source: Source) -> None:
    """Raises PresetError for a model that writes nothing, or whose positions the page does not compute."""
    if source.config.scalar:
        raise PresetError(
            "--with-model: this is a reward model (model.scalar), which writes nothing; write the report without it"
        )
    if source.config.position == "coupled":
        raise PresetError("--with-model: a page cannot compute model.position=coupled; write the report without it")


def is_rounded(name: str, weight: Tensor) -> bool:
    """Whether a weight is stored in fewer bits where that is asked for: matrices and the table of tokens."""
    return weight.dim() == 2 and not name.startswith(("position.", "memory."))


def stored_bytes(source: Source, weights: Weights) -> int:
    """The bytes of all weights in a page, as base64."""
    counts = []
    for name, weight in source.weights.items():
        rounded = is_rounded(name, weight)
        counts.append(weight.numel() * (WEIGHTS[weights] if rounded else 4))
        counts.append(4 * len(weight) if rounded and weights == "int8" else 0)
    return sum(-(-count // 3) * 4 for count in counts)


def settings(config: ModelConfig) -> dict[str, Any]:
    """The settings that the page computes with, sizes resolved."""
    sizes = {"kv_heads": config.kv_heads, "head_width": config.head_width, "context": config.context}
    return {name: getattr(config, name) for name in READ} | sizes


def tokenizer_table(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """A tokenizer as `tokenizer.js` has it, for a model of `size` tokens. Raises PresetError for another kind."""
    if tokenizer.vocab_size > size:
        raise PresetError(
            f"a page has no such tokenizer: its numbers reach {tokenizer.vocab_size - 1:,}, and the model has {size:,} "
            "tokens; put back the tokenizer.json that its run wrote"
        )
    whole = json.loads(tokenizer.to_json())
    kind, split, merges = "characters", "characters", list[str]()
    vocabulary: Mapping[str, int]
    if tokenizer.is_characters:
        vocabulary = whole["model"]["vocab"]
    elif _is_words(whole):
        kind, split, vocabulary = "words", "blanks", whole["model"]["vocab"]
    else:
        vocabulary, merges, rule = byte_pairs(whole, "a page", "")
        pieces = (whole.get("pre_tokenizer") or {}).get("use_regex", True)
        kind, split = "bpe", SPLITS[rule] if pieces else "bytes"
        if (whole.get("decoder") or {}).get("type") != "ByteLevel":
            raise PresetError(
                "a page has no such tokenizer: its decoder is not ByteLevel; "
                "train with data.tokenizer=char, byte or bpe"
            )
    names: list[str | None] = [None] * size
    for token, number in vocabulary.items():
        names[number] = token
    for added in whole["added_tokens"]:
        if not added["special"]:
            raise PresetError(
                f"a page has no such tokenizer: it adds the token {added['content'][:40]!r}, which is not special; "
                "train with data.tokenizer=char, byte or bpe"
            )
        names[added["id"]] = added["content"]
    special = sorted(tokenizer.special_tokens().values())
    table = {"kind": kind, "split": split, "names": names, "merges": merges, "special": special}
    return table | {"end": tokenizer.end}


def _is_words(whole: Mapping[str, Any]) -> bool:
    """Whether tokens are words between spaces, as those of grammars are."""
    splits = (whole.get("pre_tokenizer") or {}).get("type")
    plain = whole.get("normalizer") is None and whole.get("decoder") is None
    return whole["model"]["type"] == "WordLevel" and splits == "WhitespaceSplit" and plain


def _tensors(source: Source, weights: Weights) -> dict[str, Any]:
    """All weights of a model in this format, those that are rounded."""
    stored = source.halved() if weights == "float16" else source.weights
    tensors: dict[str, Any] = {}
    with waiting("packing weights", len(stored)) as wait:
        for name, weight in stored.items():
            tensors[name] = _tensor(weight, weights if is_rounded(name, weight) else "float32")
            wait.done += 1
    return tensors


def _tensor(weight: Tensor, kind: Weights) -> dict[str, Any]:
    """A weight in this format; in int8 each row is a whole number from −127 to 127 times the scale of the row."""
    stored: dict[str, Any] = {"shape": list(weight.shape), "kind": kind}
    if kind == "int8":
        whole, scale = in_int8(weight.float())
        return stored | {"data": _base64(whole.to(torch.int8)), "scale": _base64(scale)}
    return stored | {"data": _base64(weight.half() if kind == "float16" else weight.float())}


def _base64(tensor: Tensor) -> str:
    numbers = np.ascontiguousarray(tensor.cpu().numpy())
    return base64.b64encode(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes()).decode()
