"""A model of a page, computed under node as in a browser: tokens, random numbers, logits, texts are nanogrove's."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers

from nanogrove.data.chat.template import PLAIN, spelled_tokens
from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer
from nanogrove.decoding.plain import generate
from nanogrove.errors import DataError, PresetError
from nanogrove.exports import browser
from nanogrove.exports.browser import model_json, stored_bytes
from nanogrove.exports.browser_grammar import grammar_table
from nanogrove.exports.source import Source
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.native.program import in_int8
from nanogrove.reports.writer import FOLDER, WORKER_FILES
from nanogrove.synthetic.corpus import RHMConfig, RLMConfig, number_tokenizer

SIZES: dict[str, Any] = {"block_size": 32, "n_layer": 2, "n_head": 4, "n_embd": 32, "init_scale": 12.0}
SIZES["zero_init"] = False
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "llama": {"family": "llama", "n_kv_head": 2, "bias": True, "head_size": 10},
    "qwen3": {"family": "llama", "qk_norm": True, "n_kv_head": 1},
    "nanochat": {"family": "nanochat"},
    "documents": {"within_documents": True, "document_mark": 5, "token_shift": True, "embed_norm": True},
    "untied": {"position": "none", "qk_norm": True, "logit_softcap": 3.0, "tie_embeddings": False, "token_shift": True},
    "memory": {"family": "llama", "memory_tokens": 3, "memory_segment": 16, "embed_norm": True},
    "learned memory": {"memory_tokens": 2, "memory_segment": 8},
}
FAMILIES = ("gpt2", "llama", "qwen3", "nanochat")
NEW = 232  # tokens of these, which are more than 200 past the context
FEW = 72
PROMPT = "The quick brown fox"
TEXTS = (
    *("", " ", "a", "It's we'll  three   spaces\n\n\nand\ttabs \r\n", "a1b22 ½ Ⅷ 三", "naïve café — “quotes” 😀👩‍👩‍👧"),
    *("\x85x\x85 \ufeffy\xa0\u2003z\u180e", "aaaaaaaaaaaaa", f"{END_OF_TEXT}<|x|>", "\x00\x1f\x7f\xad\u0301"),
    *("x" * 3000, "\x85\x85\x85\x85 \x85\x85x"),
)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def in_node(jobs: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The answers of `browser.mjs`."""
    code, script = folder / "code.js", Path(__file__).with_name("browser.mjs")
    code.write_text("".join((FOLDER / name).read_text("utf-8") for name in WORKER_FILES[:-1]), encoding="utf-8")
    done = subprocess.run(
        ["node", str(script), str(code)], input=json.dumps(jobs), capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def language_model(source: Source) -> LanguageModel:
    model = GPT(source.config)
    model.load_state_dict(dict(source.weights))
    return LanguageModel(model, source.tokenizer)


def written(answer: dict[str, Any]) -> str:
    return "".join(step["text"] for step in answer["steps"])


@needs_node
def test_every_shape_has_the_texts_and_the_logits_of_nanogrove(
    random_source: Callable[..., Source], tmp_path: Path
) -> None:
    sources = {name: random_source(byte_tokenizer(), **{**SIZES, **shape}) for name, shape in SHAPES.items()}
    counts = {name: NEW if name in FAMILIES else FEW for name in sources}
    options = {"prompt": PROMPT, "temperature": 0, "seed": 0, "logits": [70, 5, 9, 80]}
    jobs = [{"model": model_json(sources[name], "float32"), "count": counts[name], **options} for name in sources]
    for (name, source), answer in zip(sources.items(), in_node(jobs, tmp_path), strict=True):
        lm = language_model(source)
        prompt = torch.tensor([lm.tokenizer.encode(PROMPT)])
        expected = generate(lm.model, prompt, new_tokens=counts[name], greedy=True)[0].tolist()
        assert [step["token"] for step in answer["steps"][:-1]] == expected, name
        assert len(set(expected)) > 1, name
        with torch.no_grad():
            logits = lm.model(torch.tensor([[70, 5, 9, 80]]))[0, -1]
        assert (torch.tensor(answer["logits"]) - logits).abs().max() < 1e-5, name


@needs_node
def test_a_seed_draws_the_text_that_generate_draws(random_source: Callable[..., Source], tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer([" ".join(TEXTS) * 3, PROMPT * 9], 300)
    source = random_source(tokenizer, **{**SIZES, **SHAPES["llama"]})
    cuts: list[dict[str, Any]] = [{"seed": 0}, {"seed": 2**32 - 1, "top_k": 40, "top_p": 0.9}]
    cuts.append({"seed": 1, "top_p": 0.5})
    job = {"model": model_json(source, "float32"), "prompt": PROMPT, "count": FEW, "temperature": 0.8}
    jobs = [job | {"seed": cut["seed"], "topK": cut.get("top_k", 0), "topP": cut.get("top_p", 1)} for cut in cuts]
    lm = language_model(source)
    for cut, answer in zip(cuts, in_node(jobs, tmp_path), strict=True):
        assert PROMPT + written(answer) == lm.generate(PROMPT, FEW, temperature=0.8, precision="float32", **cut)
        for step in answer["steps"][:-1]:
            shares = [other["probability"] for other in step["alternatives"]]
            assert shares == sorted(shares, reverse=True)
    [continuation] = lm.continuations([PROMPT], FEW, temperature=0.8, precision="float32", **cuts[-1])
    assert [step["probability"] for step in answer["steps"][:-1]] == pytest.approx(continuation.probabilities, 1e-4)


@needs_node
def test_random_numbers_are_those_of_torch(random_source: Callable[..., Source], tmp_path: Path) -> None:
    model = model_json(random_source(byte_tokenizer(), **SIZES), "float32")
    [answer] = in_node([{"model": model, "random": 12345}], tmp_path)
    draw = torch.Generator().manual_seed(12345)
    assert answer["random"] == [torch.rand(1, dtype=torch.float64, generator=draw).item() for _ in range(1000)]


@needs_node
def test_every_tokenizer_reads_texts_as_the_library_does(random_source: Callable[..., Source], tmp_path: Path) -> None:
    bpe = bpe_tokenizer([text * 5 for text in TEXTS], 400)
    digits = Tokenizer.from_json(bpe.to_json())
    digits.backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    chat = bpe.for_chat(PLAIN, spelled_tokens(PLAIN))
    kinds = [bpe, digits, chat, byte_tokenizer(), character_tokenizer(TEXTS[:5]), number_tokenizer(30)]
    texts = [*TEXTS, "0 7 12", "".join(map(chr, range(0x80, 0x3000, 7))), "ab\ud800c"]
    jobs = [{"model": model_json(random_source(kind, **SIZES), "float32"), "texts": texts} for kind in kinds]
    for kind, answer in zip(kinds, in_node(jobs, tmp_path), strict=True):
        for text, ids in zip(texts, answer["texts"], strict=True):
            try:
                assert ids == kind.encode(text), text
            except DataError:
                assert isinstance(ids, str), f"{text!r} has no tokens"
                assert ids.endswith("leave it out.")


@needs_node
def test_a_committee_votes_by_its_likeliest_texts(random_source: Callable[..., Source], tmp_path: Path) -> None:
    source = random_source(byte_tokenizer(), **SIZES)
    shifted = {name: weight.roll(1, 0) for name, weight in source.weights.items()}
    broken = {name: weight * torch.nan for name, weight in source.weights.items()}
    voters = [replace(source, weights=weights) for weights in (shifted, source.weights, broken, source.weights)]
    job = {"model": model_json(source, "float32", None, voters), "prompt": PROMPT, "count": 20}
    [answer] = in_node([job | {"seed": 0, "temperature": 1, "topK": 0, "topP": 1}], tmp_path)
    texts = [language_model(voter).generate(PROMPT, 20, temperature=0, precision="float32") for voter in voters[:2]]
    assert [(PROMPT + vote["text"], vote["count"]) for vote in answer["votes"]] == [(texts[1], 2), (texts[0], 1)]


@needs_node
def test_the_distributions_of_a_grammar_are_exact(random_source: Callable[..., Source], tmp_path: Path) -> None:
    datas: list[dict[str, Any]] = [
        {"type": "rhm", "v": 8, "m": 3, "s": 2, "L": 3},
        {"type": "rhm", "v": 5, "m": 2, "s": 3, "L": 2},
        {"type": "rlm", "v": 6, "L": 3, "beta": 1.5},
    ]
    jobs, expected = [], []
    for data in datas:
        corpus: Any = RHMConfig if data["type"] == "rhm" else RLMConfig
        rules = corpus(**data).grammar()
        [sequence] = rules.sample(1).tolist()
        prefixes = [sequence[:length] for length in range(rules.T + 1)]
        source = random_source(number_tokenizer(rules.v), **SIZES)
        job = {"model": model_json(source, "int8", grammar_table(data)), "prefixes": prefixes, "prompt": "", "count": 3}
        jobs.append(job | {"seed": 0, "temperature": 1, "topK": 0, "topP": 1})
        expected.append(rules.next_token_distributions(torch.tensor([sequence]))[0].tolist())
    for answer, rows in zip(in_node(jobs, tmp_path), expected, strict=True):
        assert answer["exact"][:-1] == [pytest.approx(row, abs=1e-6) for row in rows]
        assert answer["exact"][-1] == [], "nothing follows a whole sequence"
        [first, *_] = answer["steps"]
        assert first["exact"][0]["probability"] == pytest.approx(max(rows[0]), abs=1e-6)


def test_a_grammar_too_large_for_a_page_or_damaged_is_left_out() -> None:
    assert grammar_table({"type": "rlm", "v": 129}) is None
    assert grammar_table({"type": "rhm", "v": 16, "m": 4, "s": 2, "L": 40}) is None
    assert grammar_table({"type": "rhm", "v": "many"}) is None
    assert grammar_table({"type": "text"}) is None
    assert grammar_table(None) is None


@needs_node
@pytest.mark.parametrize("weights", ["float16", "int8"])
def test_rounded_weights_write_what_a_model_of_these_weights_writes(
    random_source: Callable[..., Source], tmp_path: Path, weights: browser.Weights
) -> None:
    source = random_source(byte_tokenizer(), **{**SIZES, **SHAPES["nanochat"]})
    job = {"model": model_json(source, weights), "prompt": PROMPT, "count": 60, "seed": 0, "temperature": 0}
    rounded = {}
    for name, weight in source.weights.items():
        whole, scale = in_int8(weight) if weight.dim() == 2 else (weight, weight)
        rounded[name] = weight.half().float() if weights == "float16" else whole * scale[:, None]
    lm = language_model(Source("rounded", source.config, rounded, source.tokenizer, None, None, {}))
    [answer] = in_node([job], tmp_path)
    assert PROMPT + written(answer) == lm.generate(PROMPT, 60, temperature=0, precision="float32")


def test_the_size_is_known_before_the_weights_are_packed(random_source: Callable[..., Source]) -> None:
    source = random_source(byte_tokenizer(), **{**SIZES, **SHAPES["gpt2"]})
    for weights in browser.WEIGHTS:
        tensors = json.loads(model_json(source, weights))["tensors"].values()
        assert stored_bytes(source, weights) == sum(len(t["data"]) + len(t.get("scale", "")) for t in tensors)


def test_what_a_page_cannot_compute_is_refused_in_one_line(random_source: Callable[..., Source]) -> None:
    bpe = bpe_tokenizer(["some text"], 300)
    spaced, added, undecoded = (Tokenizer.from_json(bpe.to_json()) for _ in range(3))
    spaced.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    added.backend.add_tokens(["<script>"])
    undecoded.backend.decoder = None
    source = random_source(byte_tokenizer(), **{**SIZES, "vocab_size": 301})
    small = random_source(byte_tokenizer(), **SIZES)
    scalar = replace(source, config=source.config.model_copy(update={"scalar": True}))
    coupled = replace(source, config=source.config.model_copy(update={"position": "coupled"}))
    for refused, reason in (
        (scalar, "this is a reward model"),
        (coupled, "a page cannot compute model.position=coupled; write the report without it"),
        (replace(source, tokenizer=spaced), "its rule of splitting text into words has no name there"),
        (replace(source, tokenizer=added), "it adds the token '<script>', which is not special"),
        (replace(small, tokenizer=bpe), "its numbers reach 26., and the model has 257 tokens"),
        (replace(source, tokenizer=undecoded), "its decoder is not ByteLevel"),
    ):
        with pytest.raises(PresetError, match=reason):
            model_json(refused, "float32")


def test_every_setting_of_a_model_is_computed_or_refused() -> None:
    """A new setting belongs to `READ` and to network.js, or is refused by `check`, or changes no model that is made."""
    by_weights = {"tie_embeddings", "token_shift", "bias", "n_inner"}
    by_sizes = {"n_kv_head", "head_size", "vocab_size"}
    of_training = {"family", "dropout", "init_scale", "zero_init"}
    refused = {"scalar", "coupled", "coupled_starts", "coupled_offset", "coupled_tokens", "coupled_start_tokens"}
    refused |= {"coupled_ends", "coupled_end_tokens"}
    accounted = {*browser.READ} | by_weights | by_sizes | of_training | refused
    assert accounted == set(ModelConfig.model_fields)


def test_no_text_of_a_model_ends_its_data_block(random_source: Callable[..., Source]) -> None:
    tokenizer = character_tokenizer(["</script><!--<script>&é"])
    assert "<" not in model_json(random_source(tokenizer, **SIZES), "int8")
