"""Exchange with `transformers`, against the real library: logits, gradients, greedy text, refusals."""

import copy
import json
import random
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    NanoChatConfig,
    Qwen3Config,
)

from nanogrove.errors import CheckpointError, DataError, PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import export_model, family_of, import_model, to_transformers
from nanogrove.model.members import stack

KINDS = ("gpt2", "llama", "qwen3", "nanochat")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a test of folders reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def random_config(kind: str, seed: int, **changes: Any) -> ModelConfig:
    rng = random.Random(f"{kind} {seed}")
    n_kv_head = rng.choice((1, 2, 3))
    n_head = n_kv_head * rng.choice((1, 2, 3)) if kind != "gpt2" else rng.choice((1, 3, 4))
    drawn: dict[str, Any] = {
        "family": "llama" if kind == "qwen3" else kind,
        "vocab_size": rng.randint(40, 90),
        "block_size": rng.randint(32, 48),
        "n_layer": rng.choice((1, 2, 3)),
        "n_head": n_head,
        "n_kv_head": None if kind == "gpt2" else n_kv_head,
        "n_embd": n_head * rng.choice((4, 8, 16)),
        "n_inner": rng.choice((None, rng.randint(10, 99))),
        "norm_eps": rng.choice((1e-6, 1e-3, 1e-2)),
        "rope_theta": rng.choice((100.0, 10000.0, 123456.7)),
        "tie_embeddings": rng.random() < 0.5,
        "bias": rng.random() < 0.5 and kind in ("gpt2", "llama"),
        "dropout": rng.choice((0.0, 0.2)),
        "head_size": rng.choice((4, 6, 20)) if kind != "gpt2" and seed % 2 else None,
    }
    if kind == "qwen3":
        drawn["qk_norm"] = True
    if kind == "nanochat":
        drawn["logit_softcap"] = rng.choice((None, 2.0, 15.0))
    return ModelConfig(**(drawn | changes))


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter, scales and biases too, so that no two of them could change places unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2:
            parameter.copy_(drawn * max(parameter.shape) ** -0.5)
        else:
            parameter.copy_(0.3 * drawn + (1.0 if name.endswith("weight") else 0.0))


def random_model(config: ModelConfig, seed: int) -> GPT:
    model = GPT(config).eval()
    randomise(model, seed)
    return model


def random_tokens(config: ModelConfig, seed: int, length: int = 24) -> Tensor:
    return torch.randint(config.vocab_size or 0, (3, length), generator=torch.Generator().manual_seed(seed))


def settings_that_matter(config: ModelConfig) -> dict[str, Any]:
    computed = {"n_inner": config.inner_size, "n_kv_head": config.kv_heads, "head_size": config.head_width}
    idle = {"rope_theta": None} if config.position != "rotary" else {}
    return config.model_dump(exclude={"family", "zero_init"}) | computed | idle


def gradients(model: torch.nn.Module, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_agree_and_the_way_back_is_exact(kind: str, seed: int, tmp_path: Path) -> None:
    config = random_config(kind, seed)
    model = random_model(config, seed)
    assert export_model(model.state_dict(), config, tmp_path / "out") == family_of(config) == kind
    attention = ("eager", "sdpa")[seed % 2]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation=attention)
    tokens, targets = random_tokens(config, 1), random_tokens(config, 2)
    ours_logits, their_logits = model(tokens), theirs(tokens).logits
    assert 0.2 < ours_logits.std() < 5
    torch.testing.assert_close(ours_logits, their_logits, atol=1e-5, rtol=0)

    ours_gradients = to_transformers(gradients(model, ours_logits, targets), config)
    their_gradients = gradients(theirs, their_logits, targets)
    assert ours_gradients.keys() == their_gradients.keys()
    for name, ours in ours_gradients.items():
        if name.endswith(".bias") and not config.bias:
            continue  # GPT-2 has biases where this model has none, so none of ours to compare
        scale = ours.abs().max()
        assert scale > 1e-4, name
        torch.testing.assert_close(ours / scale, their_gradients[name] / scale, atol=1e-5, rtol=0)

    theirs.save_pretrained(tmp_path / "back")
    for folder in ("out", "back"):
        config_back, state = import_model(tmp_path / folder)
        assert settings_that_matter(config_back) == settings_that_matter(config)
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_the_same(kind: str, tmp_path: Path) -> None:
    config = random_config(kind, 7, block_size=48)
    model = random_model(config, 7)
    export_model(model.state_dict(), config, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = prompt = random_tokens(config, 3, length=5)
    for _ in range(20):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), dim=1)
    generated = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
    assert generated.tolist() == tokens.tolist()
    assert len(set(tokens[:, 5:].flatten().tolist())) > 3


BASE: dict[str, Any] = {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 1}
WIDTHS: dict[str, Any] = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
THEIR_CONFIGS = {
    "gpt2": GPT2Config(**BASE, n_positions=40, n_embd=24, n_layer=2, n_head=3),
    "gpt2, untied": GPT2Config(**BASE, n_positions=40, n_embd=24, n_layer=2, n_head=3, tie_word_embeddings=False),
    "llama": LlamaConfig(**BASE, **WIDTHS, num_key_value_heads=2, rope_parameters={"rope_theta": 500.0}),
    "llama, biases": LlamaConfig(**BASE, **WIDTHS, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**BASE, **WIDTHS, num_key_value_heads=2, head_dim=6, rms_norm_eps=1e-3),
    "nanochat": NanoChatConfig(**BASE, **WIDTHS, num_key_value_heads=2, rope_theta=77.0),  # type: ignore[call-arg]
    "llama, wide heads": LlamaConfig(**BASE, **WIDTHS, num_key_value_heads=2, head_dim=10),
    "qwen3, tied, 4 heads in 26": Qwen3Config(
        **BASE, **WIDTHS | {"hidden_size": 26}, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True
    ),
    "nanochat, narrow heads": NanoChatConfig(**BASE, **WIDTHS, head_dim=4),  # type: ignore[call-arg]
}


def their_model(name: str) -> Any:
    """A model that transformers makes. It gets a config of its own, since saving a model writes its dtype into it."""
    return AutoModelForCausalLM.from_config(copy.deepcopy(THEIR_CONFIGS[name]))


@pytest.mark.parametrize("name", THEIR_CONFIGS)
def test_models_that_transformers_made_compute_the_same_here(name: str, tmp_path: Path) -> None:
    theirs = their_model(name).eval()
    randomise(theirs, 5)
    theirs.save_pretrained(tmp_path)
    config, state = import_model(tmp_path)
    model = GPT(config).eval()
    model.load_state_dict(state)
    tokens = random_tokens(config, 4)
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "llama, wide heads", "qwen3, tied, 4 heads in 26", "nanochat, narrow heads"])
def test_shards_in_bfloat16_are_read_as_they_are_and_computed_in_float32(name: str, tmp_path: Path) -> None:
    made = their_model(name)
    randomise(made, 5)
    made.bfloat16().save_pretrained(tmp_path / "shards", max_shard_size="6KB")
    assert len([*(tmp_path / "shards").glob("model-*-of-*.safetensors")]) > 2
    config, state = import_model(tmp_path / "shards")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    model = GPT(config).eval()
    model.load_state_dict(state)
    tokens, targets = random_tokens(config, 4), random_tokens(config, 5)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "shards", dtype=torch.float32)
    torch.testing.assert_close(model(tokens), theirs(tokens).logits, atol=1e-5, rtol=0)
    model(tokens, targets).mean().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype == torch.float32 for p in model.parameters())

    export_model(state, config, tmp_path / "out")
    ours, stored = load_file(tmp_path / "out" / "model.safetensors"), made.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in ours.items())
    again = import_model(tmp_path / "out")
    assert settings_that_matter(again[0]) == settings_that_matter(config)
    assert all(torch.equal(again[1][name], tensor) for name, tensor in state.items())


def test_keys_that_published_models_have_besides(tmp_path: Path) -> None:
    config = random_config("llama", 0)
    export_model(random_model(config, 0).state_dict(), config, tmp_path / "smollm")
    change_json(tmp_path / "smollm", is_llama_config=True, rope_interleaved=False)
    assert settings_that_matter(import_model(tmp_path / "smollm")[0]) == settings_that_matter(config)
    change_json(tmp_path / "smollm", rope_interleaved=True)
    refused(tmp_path / "smollm", "rope_interleaved=true is not supported; only false is")


def test_gpt2_as_it_was_published(tmp_path: Path) -> None:
    """Without the prefix of the model with a head, with masks among the tensors, and with few settings named."""
    theirs = GPT2Model(GPT2Config(vocab_size=61, n_positions=40, n_embd=24, n_layer=2, n_head=3)).eval()
    randomise(theirs, 5)
    tensors = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    tensors |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 40, 40).tril() for layer in range(2)}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    named = {"model_type": "gpt2", "vocab_size": 61, "n_positions": 40, "n_ctx": 40}
    named |= {"n_embd": 24, "n_layer": 2, "n_head": 3, "task_specific_params": {"text-generation": {}}}
    (tmp_path / "config.json").write_text(json.dumps(named))
    config, state = import_model(tmp_path)
    assert config.dropout == 0.1  # transformers' default
    model = GPT(config).eval()
    model.load_state_dict(state)
    tokens = random_tokens(config, 4)
    reference = theirs(tokens).last_hidden_state @ theirs.wte.weight.T
    torch.testing.assert_close(model(tokens), reference, atol=1e-5, rtol=0)


def test_settings_of_older_llama_folders(tmp_path: Path) -> None:
    config = random_config("llama", 1, rope_theta=321.0, bias=False, head_size=None)
    export_model(random_model(config, 1).state_dict(), config, tmp_path / "out")
    assert import_model(tmp_path / "out")[0].head_size is None  # though head_dim stands there
    change_json(tmp_path / "out", rope_parameters=None, rope_scaling=None, head_dim=None, torch_dtype="float32")
    assert settings_that_matter(import_model(tmp_path / "out")[0]) == settings_that_matter(config)


def test_a_head_that_repeats_the_embedding_counts_as_tied(tmp_path: Path) -> None:
    config = random_config("llama", 2, tie_embeddings=True)
    state = random_model(config, 2).state_dict()
    export_model(state, config, tmp_path / "out")
    change_tensors(tmp_path / "out", lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert import_model(tmp_path / "out")[1].keys() == state.keys()
    change_tensors(tmp_path / "out", lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings is true, but lm_head\.weight is not model\.embed"):
        import_model(tmp_path / "out")


def test_biases_that_gpt2_trained_meanwhile_are_kept(tmp_path: Path) -> None:
    config = random_config("gpt2", 3, bias=False)
    export_model(random_model(config, 3).state_dict(), config, tmp_path / "out")
    assert not import_model(tmp_path / "out")[0].bias
    change_tensors(tmp_path / "out", lambda t: t["transformer.ln_f.bias"].add_(0.5))
    config_back, state = import_model(tmp_path / "out")
    assert config_back.bias
    assert (state["norm.bias"] == 0.5).all()


def test_half_precision_stays_so(tmp_path: Path) -> None:
    config = random_config("nanochat", 1)
    state = random_model(config, 1).bfloat16().state_dict()
    export_model(state, config, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    back = import_model(tmp_path / "out")[1]
    assert all(torch.equal(back[name], tensor) and back[name].dtype == torch.bfloat16 for name, tensor in state.items())


# Tokenizers


def byte_pairs() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat and the dog saw the rain in the garden"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


def characters() -> Tokenizer:
    letters = "\n abcdefghijklmnopqrstuvwxyz's.0123456789"
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(dict.fromkeys(letters))}, unk_token=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    return tokenizer


@pytest.mark.parametrize("make", [byte_pairs, characters])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_goes_along(kind: str, make: Callable[[], Tokenizer], tmp_path: Path) -> None:
    tokenizer = make()
    end = tokenizer.token_to_id("<|endoftext|>")
    config = random_config(kind, 0, vocab_size=end + 1)
    state = random_model(config, 0).state_dict()
    assert end is not None
    export_model(state, config, tmp_path / "out", tokenizer.to_str(), ("<|endoftext|>", end))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the cat's garden  saw 12345\n\n  rain."
    assert theirs.encode(text) == tokenizer.encode(text).ids
    assert theirs.decode(theirs.encode(text)) == text
    assert (theirs.eos_token, theirs.eos_token_id) == ("<|endoftext|>", end)
    assert theirs.model_max_length == config.block_size
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == model.config.eos_token_id == end
    assert model.get_input_embeddings().padding_idx is None
    assert model.generate(max_new_tokens=2)[0, 0] == end  # without a prompt, a document begins


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config = random_config("llama", 0, vocab_size=50)
    state, small = random_model(config, 0).state_dict(), characters()
    cases: list[tuple[str, tuple[str, int] | None, str]] = [
        ("{}", None, "not a tokenizer.json"),
        (byte_pairs().to_str(), None, "and the model a vocab_size of 50"),
        (small.to_str(), ("<|endoftext|>", 3), "the tokenizer's id of '<|endoftext|>' is 40, not 3"),
    ]
    for text, end, message in cases:
        with pytest.raises(DataError, match=re.escape(message)):
            export_model(state, config, tmp_path / "out", text, end)
    assert not (tmp_path / "out").exists()


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "gpt2", "mlp": "relu2"}, "has norm=layernorm with mlp=relu2; the nearest, gpt2, needs mlp=gelu"),
        (
            {"family": "llama", "position": "none"},
            "has position=none; the nearest, llama, needs position=rotary",
        ),
        (
            {"family": "gpt2", "n_kv_head": 2},
            "has norm=layernorm with n_kv_head=2; the nearest, gpt2, needs n_kv_head=4",
        ),
        (
            {"family": "llama", "qk_norm": True, "bias": True},
            "has qk_norm=true with bias=true; the nearest, llama, needs qk_norm=false",
        ),
        (
            {"family": "nanochat", "token_shift": True},
            "has token_shift=true; the nearest, nanochat, needs token_shift=false",
        ),
        (
            {"family": "nanochat", "embed_norm": False},
            "has norm=rmsnorm-unscaled with embed_norm=false; the nearest, nanochat, needs embed_norm=true",
        ),
        (
            {"family": "llama", "logit_softcap": 15.0},
            "has norm=rmsnorm with logit_softcap=15.0; the nearest, llama, needs logit_softcap=null",
        ),
        (
            {"family": "gpt2", "head_size": 16},
            "has norm=layernorm with head_size=16; the nearest, gpt2, needs head_size=null",
        ),
        (
            {"family": "llama", "n_head": 5, "head_size": 16},
            "has qk_norm=false with n_embd=128; the nearest, llama, needs n_embd=130",
        ),
        (
            {"family": "nanochat", "bias": True, "mlp": "gelu"},
            "has norm=rmsnorm-unscaled with mlp=gelu; the nearest, nanochat, needs mlp=relu2, bias=false",
        ),
    ],
)
def test_settings_that_no_family_has(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=9, **changes)
    with pytest.raises(PresetError) as caught:
        family_of(config)
    assert str(caught.value) == f"no transformers family {message}"
    with pytest.raises(PresetError):
        export_model(GPT(config).state_dict(), config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exports_that_are_refused(tmp_path: Path) -> None:
    config = random_config("llama", 0)
    state = random_model(config, 0).state_dict()
    with pytest.raises(CheckpointError, match=r"the model to export: embed\.weight has the shape"):
        export_model(stack([state, state]), config, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"the model to export lacks norm\.weight, unlike"):
        export_model({n: t for n, t in state.items() if n != "norm.weight"}, config, tmp_path / "out")
    with pytest.raises(PresetError, match="vocab_size is not set"):
        export_model(state, config.model_copy(update={"vocab_size": None}), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One good folder of each family, to be copied and spoiled."""
    root = tmp_path_factory.mktemp("good")
    for kind in KINDS:
        config = random_config(kind, 0, n_layer=2, n_embd=48, n_head=6, bias=kind == "gpt2", tie_embeddings=False)
        export_model(random_model(config, 0).state_dict(), config, root / kind)
    return {kind: root / kind for kind in KINDS}


def change_json(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def spoiled(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "bad"))


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        import_model(folder)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"model_type": "mistral"}, "model_type=mistral is not supported; gpt2, llama"),
        ("llama", {"model_type": ["llama"]}, 'model_type=["llama"] is not supported'),
        ("llama", {"hidden_act": "gelu"}, "hidden_act=gelu is not supported; only silu or swish is"),
        ("llama", {"mlp_bias": True}, "attention_bias=false and mlp_bias=true must agree"),
        ("llama", {"head_dim": 4}, "and the settings make it ["),
        ("llama", {"head_dim": 7}, "rotary positions need an even head size, and head_size is 7"),
        ("llama", {"head_dim": 0}, "head_dim: must be 1 or more, and 0 was given"),
        ("llama", {"head_dim": 10**6}, "n_head 6 times head_size 1000000 is more than 1,000,000"),
        ("llama", {"head_dim": [8]}, "head_dim: must be a whole number"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "only plain ones are"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "only plain ones are"),
        ("llama", {"rope_parameters": {"rope_type": ["default"]}}, "only plain ones are"),
        ("llama", {"rope_parameters": {"rope_theta": -1}}, "rope_theta: must be above 0"),
        ("llama", {"sliding_window": 8}, "sliding_window=8 is not supported"),
        ("llama", {"quantization_config": {"bits": 4}}, 'quantization_config={"bits": 4} is not supported'),
        ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map="),
        ("llama", {"is_causal": False}, "is_causal=false is not supported"),
        ("llama", {"vocab_size": None}, "vocab_size is missing"),
        ("llama", {"vocab_size": "many"}, "vocab_size: must be a whole number"),
        ("llama", {"num_attention_heads": 5, "head_dim": None}, "n_embd 48 is not divisible by n_head 5"),
        (
            "llama",
            {"num_attention_heads": 10, "head_dim": 8},
            "hidden_size=48 is not a multiple of num_attention_heads=10",
        ),
        ("llama", {"num_hidden_layers": 1000}, "tensors are too few for 1000 layers"),
        ("llama", {"num_hidden_layers": 10**12}, "num_hidden_layers: must be 2000 or less"),
        ("llama", {"vocab_size": 10**30}, "vocab_size: must be 100000000 or less"),
        ("llama", {"vocab_size": 10**6}, "and the settings make it [1000000, 48]"),
        ("llama", {"tie_word_embeddings": True}, "tie_word_embeddings is true, but"),
        ("llama", {"num_hidden_layers": 1}, "has model.layers.1.input_layernorm.weight and 8 more, unlike"),
        ("llama", {"num_hidden_layers": 3}, "lacks model.layers.2.input_layernorm.weight and 8 more, unlike"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function=gelu is not supported; only gelu_new or"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=false is not supported; only true is"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=true is not"),
        ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=true is not supported"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=true is not supported"),
        ("gpt2", {"is_encoder_decoder": True}, "is_encoder_decoder=true is not supported"),
        ("gpt2", {"attn_pdrop": 0.7}, "attn_pdrop=0.7 must agree: nanogrove has one setting for them, dropout"),
        ("gpt2", {"rope_theta": 10000.0}, "rope_theta=10000.0 is not supported"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window=true is not supported"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, 'only ["full_attention"'),
        ("qwen3", {"attention_bias": True}, "attention_bias=true is not supported"),
        ("nanochat", {"hidden_act": "silu"}, "hidden_act=silu is not supported; only relu2 is"),
        ("nanochat", {"final_logit_softcapping": 0.0}, "final_logit_softcapping: must be above 0"),
    ],
)
def test_settings_that_are_refused(
    kind: str, changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = spoiled(folders[kind], tmp_path)
    import_model(folder)
    change_json(folder, **changes)
    refused(folder, message)


@pytest.mark.parametrize("key", ["vocab_size", "num_hidden_layers"])
def test_a_size_left_out_is_refused(key: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = spoiled(folders["llama"], tmp_path)
    content = json.loads((folder / "config.json").read_text())
    del content[key]
    (folder / "config.json").write_text(json.dumps(content))
    refused(folder, f"{key} is missing")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json: cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "model_type=null is not supported"),
        (lambda f: link(f / "config.json"), "config.json is a symbolic link"),
        (lambda f: link(f / "model.safetensors"), "model.safetensors is a symbolic link"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x09" * 99), "model.safetensors: cannot be read"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "weights are safetensors only"),
        (
            lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"),
            "model.safetensors.index.json: cannot be read",
        ),
        (lambda f: change_tensors(f, lambda t: t.pop("model.norm.weight")), "lacks model.norm.weight, unlike"),
        (lambda f: change_tensors(f, lambda t: t.update(x=torch.ones(1))), "has x, unlike its settings"),
        (
            lambda f: change_tensors(f, lambda t: t.update({"model.norm.weight": torch.ones(47)})),
            "model.norm.weight has the shape [47], and the settings make it [48]",
        ),
        (
            lambda f: change_tensors(f, lambda t: t.update({"model.norm.weight": torch.ones(48).to(torch.int8)})),
            "model.norm.weight holds torch.int8; quantised weights are not supported",
        ),
        (
            lambda f: change_tensors(
                f, lambda t: t.update({"model.norm.weight": torch.ones(48).to(torch.float8_e5m2)})
            ),
            "model.norm.weight holds torch.float8_e5m2; quantised weights are not supported",
        ),
    ],
)
def test_files_that_are_refused(
    spoil: Callable[[Path], Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = spoiled(folders["llama"], tmp_path)
    import_model(folder)
    spoil(folder)
    refused(folder, message)
