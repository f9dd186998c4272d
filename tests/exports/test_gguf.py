"""GGUF files, read by llama.cpp itself: token ids, log-probabilities, greedy text, chat templates, rounded weights.

llama.cpp reads GELU from a table in float16, so the reference of GPT-2's shape does so too.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from nanogrove.data.chat.template import PLAIN, spelled_tokens
from nanogrove.data.tokenizer import Tokenizer, bpe_tokenizer, byte_tokenizer, character_tokenizer
from nanogrove.errors import PresetError
from nanogrove.exports.contract import Dtype
from nanogrove.exports.source import Source
from nanogrove.model import layers
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT

pytest.importorskip("gguf", reason="needs pip install 'nanogrove[export]'")
from nanogrove.exports.gguf import file_name, stored_as, write

AWKWARD = [
    "A run folder holds",
    "  `train.batch_size` = 16\n\n    and “more” × 3 – naïve",
    "def f(x):\n\treturn x*2  # don't we'll 1234567",
    "\0\0\x7f\x80",
    "<|endoftext|><|end|>",
    "   ",
    "\n \n\t\r\n x",
    "a'S b'Ll  'tis ٣١ ²³ ½",
    "e\u0301 \u200b\u00a0\u3000x \ufeff",
    "🙂👩‍👩‍👧 漢字 \U000e0100 ǅ ͠ ⅷ",
    "x" * 300,
    "",
]
TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "char": lambda: character_tokenizer(AWKWARD),
    "byte": byte_tokenizer,
    "bpe": lambda: bpe_tokenizer([*AWKWARD, (Path(__file__)).read_text("utf-8")], 600),
}
SIZES: dict[str, Any] = {"block_size": 96, "n_layer": 2, "n_head": 4, "n_embd": 48, "init_scale": 5.0}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2", "bias": False},
    "gpt2, untied": {"family": "gpt2", "tie_embeddings": False, "n_inner": 50},
    "llama": {"family": "llama", "n_kv_head": 2, "rope_theta": 500.0},
    "llama, biases, wide heads": {"family": "llama", "bias": True, "head_size": 20},
    "qwen3": {
        "family": "llama",
        "qk_norm": True,
        "head_size": 8,
        "n_kv_head": 1,
        "norm_eps": 1e-3,
        "tie_embeddings": True,
    },
}


@pytest.fixture
def source(random_source: Callable[..., Source]) -> Callable[..., Source]:
    """Makes a random model of a shape of `SHAPES`."""

    def make(shape: str, tokenizer: Tokenizer, **changes: Any) -> Source:
        return random_source(tokenizer, **{**SIZES, **SHAPES[shape], **changes})

    return make


def model_of(source: Source) -> GPT:
    model = GPT(source.config).eval()
    model.load_state_dict(dict(source.weights))
    return model


def gelu_of_table(x: Tensor) -> Tensor:
    y = F.gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x.abs() < 10, y, x.relu())


@pytest.fixture
def their_gelu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "gelu", gelu_of_table)
    monkeypatch.setattr(layers.native, "takes_mlp", lambda *tensors: False)


Ask = Callable[[Source, Dtype, list[tuple[str, dict[str, Any]]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Writes a model in a dtype and asks llama.cpp."""
    pytest.importorskip("xllamacpp", reason="needs pip install 'nanogrove[bench]'")
    command = [sys.executable, str(Path(__file__).with_name("serve_gguf.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None

        def ask(source: Source, dtype: Dtype, posts: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
            folder = tmp_path_factory.mktemp("gguf")
            write(source, dtype, folder)
            path = folder / file_name(source, dtype)
            request = {"path": str(path), "context": source.config.block_size, "posts": posts}
            print(json.dumps(request), file=process.stdin, flush=True)
            answers: list[dict[str, Any]] = json.loads(process.stdout.readline())
            assert not [answer for answer in answers if "error" in answer]
            return answers

        try:
            yield ask
        finally:
            process.kill()


def tokenize(text: str) -> tuple[str, dict[str, Any]]:
    return "/tokenize", {"content": text, "add_special": False, "parse_special": False}


def complete(prompt: list[int], tokens: int, top: int) -> tuple[str, dict[str, Any]]:
    plain = {"temperature": 0, "samplers": ["temperature"], "cache_prompt": False, "return_tokens": True}
    return "/completion", {"prompt": prompt, "n_predict": tokens, "n_probs": top, **plain}


def log_probs(answer: dict[str, Any]) -> Tensor:
    first = answer["completion_probabilities"][0]["top_logprobs"]
    return torch.tensor([entry["logprob"] for entry in sorted(first, key=lambda entry: entry["id"])])


def greedy(model: GPT, prompt: list[int], tokens: int) -> list[int]:
    """New tokens, one by one without a cache."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def prompt_for(model: GPT, tokenizer: Tokenizer) -> list[int]:
    """A prompt after which half of a character does not come first, of which llama.cpp tells no probabilities."""
    ids = tokenizer.encode("naïve def the x")
    prompts = (ids[:n] for n in range(2, len(ids)))
    return next(prompt for prompt in prompts if tokenizer.decode(greedy(model, prompt, 1)).isascii())


PAIRS = [  # each shape and each vocabulary; the others are slow
    pytest.param(shape, kind, marks=() if kind == "byte" or shape == "llama" else pytest.mark.slow)
    for shape in SHAPES
    for kind in TOKENIZERS
]


@pytest.mark.parametrize(("shape", "kind"), PAIRS)
def test_llama_cpp_computes_the_same(source: Any, shape: str, kind: str, llama_cpp: Ask, their_gelu: None) -> None:
    exported = source(shape, TOKENIZERS[kind]())
    tokenizer, model, size = exported.tokenizer, model_of(exported), exported.config.vocab_size or 0
    prompt = prompt_for(model, tokenizer)
    asked = [*map(tokenize, AWKWARD), complete(prompt, 1, size), complete(prompt, 60, 0)]
    *ids, first, answer = llama_cpp(exported, "f32", asked)
    assert [each["tokens"] for each in ids] == list(map(tokenizer.encode, AWKWARD))
    with torch.inference_mode():
        expected = model(torch.tensor([prompt]))[0, -1].log_softmax(-1)
    assert expected.std() > 0.5, "a model of which all tokens are alike tests nothing"
    assert (log_probs(first) - expected).abs().max() < 1e-4
    written = greedy(model, prompt, 60)
    assert answer["tokens"] == written


@pytest.mark.parametrize(("dtype", "most"), [("f16", 0.02), ("q8_0", 0.2)])
def test_rounded_weights_lose_little(source: Any, dtype: Dtype, most: float, llama_cpp: Ask) -> None:
    exported = source("llama", byte_tokenizer(), n_embd=64, n_inner=80, init_scale=4.0)
    prompt = prompt_for(model_of(exported), exported.tokenizer)
    (answer,) = llama_cpp(exported, dtype, [complete(prompt, 1, 257)])
    with torch.inference_mode():
        expected = model_of(exported)(torch.tensor([prompt]))[0, -1].log_softmax(-1)
    assert 1e-6 < (log_probs(answer) - expected).abs().max() < most


def test_the_chat_template_goes_in_and_ends_an_answer(source: Any, llama_cpp: Ask) -> None:
    tokenizer = byte_tokenizer().for_chat(PLAIN, spelled_tokens(PLAIN))
    exported = source("llama", tokenizer)
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi <b>"}]
    rendered, props = llama_cpp(exported, "f32", [("/apply-template", {"messages": messages}), tokenize("<|end|>")])
    assert rendered["prompt"] == "<|system|>Be kind.<|end|><|user|>Hi <b><|end|><|assistant|>"
    assert props["tokens"] == tokenizer.encode("<|end|>"), "what a user spells is text"


def test_tokens_without_a_name_and_digits_apart(source: Any, llama_cpp: Ask) -> None:
    """A model with more tokens than its tokenizer, and the splitting rule of SmolLM."""
    backend = Backend(models.BPE())
    words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(words), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*AWKWARD, Path(__file__).read_text("utf-8")], trainer)
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    tokenizer = Tokenizer(backend)
    exported = source("llama", tokenizer, vocab_size=tokenizer.vocab_size + 7)
    texts = [text for text in AWKWARD if "½" not in text]  # of numbers that are no digits they disagree
    ids = llama_cpp(exported, "f32", list(map(tokenize, texts)))
    assert [each["tokens"] for each in ids] == list(map(tokenizer.encode, texts))


def words_between_spaces() -> Backend:
    backend = Backend(models.WordLevel({"a": 0, "bc": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def byte_pairs(change: Callable[[Backend], object]) -> Backend:
    backend = Backend.from_str(byte_tokenizer().to_json())
    change(backend)
    return backend


def with_rule(backend: Backend) -> None:
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated")


OTHERS: dict[str, tuple[Callable[[], Backend], str]] = {
    "words": (words_between_spaces, "it is of the kind WordLevel"),
    "a rule": (lambda: byte_pairs(with_rule), "its rule of splitting text into words has no name there"),
    "a normalizer": (
        lambda: byte_pairs(lambda backend: setattr(backend, "normalizer", normalizers.NFC())),
        "it changes text first, by NFC",
    ),
    "a prefix": (
        lambda: byte_pairs(lambda backend: setattr(backend.model, "continuing_subword_prefix", "##")),
        'its continuing_subword_prefix is "##"',
    ),
    "spaces first": (
        lambda: byte_pairs(lambda b: setattr(b, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))),
        "its rule of splitting text into words has no name there",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_vocabulary_that_llama_cpp_would_read_otherwise_is_refused(source: Any, case: str, tmp_path: Path) -> None:
    make, why = OTHERS[case]
    backend = make()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    with pytest.raises(PresetError) as caught:
        write(source("llama", Tokenizer(backend)), "f32", tmp_path)
    advice = "train with data.tokenizer=char, byte or bpe, or export this --to transformers or onnx"
    assert str(caught.value) == f"llama.cpp has no such tokenizer: {why}; {advice}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"family": "nanochat"},
            "this is a nanochat: no llama.cpp family has norm=rmsnorm-unscaled; the nearest, qwen3, needs norm=rmsnorm,"
            " mlp=swiglu, embed_norm=false, logit_softcap=null; or export it --to transformers",
        ),
        ({"position": "none"}, "no transformers family has position=none"),
        ({"scalar": True}, "this is a reward model"),
    ],
)
def test_a_shape_that_llama_cpp_has_not_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    config = ModelConfig(**{"vocab_size": tokenizer.vocab_size, "family": "llama", **changes})
    with pytest.raises(PresetError, match=message):
        write(Source("x", config, GPT(config).state_dict(), tokenizer, None, None, {}), "f32", tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_stored_as_what() -> None:
    assert stored_as("blk.0.ffn_up.weight", (8, 64), "q8_0") == "q8_0"
    assert stored_as("blk.0.ffn_up.weight", (8, 48), "q8_0") == "f16"
    assert stored_as("blk.0.ffn_up.weight", (8, 48), "f16") == "f16"
    assert {stored_as(name, (8,) * n, "q8_0") for name, n in (("position_embd.weight", 2), ("norm", 1))} == {"f32"}
