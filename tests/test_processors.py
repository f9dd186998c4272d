"""CPUs that pack no weights, or none in bfloat16: every way to decode works there, and says so.

The operators are made to raise as they do on such a CPU, whatever the one that runs the tests can do.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogrove
from nanogrove.decoding.loop import MIN_TOKENS_TO_PACK
from nanogrove.decoding.plain import generate
from nanogrove.errors import PresetError
from nanogrove.model import processor
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Linear
from nanogrove.model.packing import packed_weights
from nanogrove.native import library
from nanogrove.train import precision as formats

REFUSED = "mkldnn_reorder_linear_weight: bf16 path needs the cpu support avx512bw"
Raising = Callable[[str], None]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Raising]:
    """Makes this CPU one that packs no weights in `bfloat16`, or none at all."""
    pack, multiply = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise

    def make(lacking: str) -> None:
        def refuse(function: Callable[..., torch.Tensor], weight: int) -> Callable[..., torch.Tensor]:
            def call(*arguments: Any) -> torch.Tensor:
                if lacking == "any format" or arguments[weight].dtype == torch.bfloat16:
                    raise RuntimeError(REFUSED)
                return function(*arguments)

            return call

        monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse(pack, 0))
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuse(multiply, 1))
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        monkeypatch.setattr(library, "missing", lambda: "no compiler")
        forget()

    yield make
    monkeypatch.undo()
    forget()


def forget() -> None:
    """Has the CPU asked anew."""
    processor.bfloat16_missing.cache_clear()
    processor.packing_missing.cache_clear()


LACKING = pytest.mark.parametrize("lacking", ["bfloat16", "any format"])


@LACKING
def test_an_operator_that_raises_is_a_no(without: Raising, lacking: str) -> None:
    without(lacking)
    assert REFUSED in (processor.packing_missing(torch.bfloat16) or "")
    assert processor.bfloat16_missing() is not None
    assert (processor.packing_missing(torch.float32) is None) == (lacking == "bfloat16")


def test_an_operator_that_multiplies_only_raises_is_a_no_too(monkeypatch: pytest.MonkeyPatch, without: Raising) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", fail)
    forget()
    assert "no kernel" in (processor.packing_missing(torch.float32) or "")


def test_an_operator_that_is_not_there_is_a_no(monkeypatch: pytest.MonkeyPatch, without: Raising) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", property())
    forget()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert processor.packing_missing(torch.float32) == "this build of torch has no oneDNN"


@LACKING
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_bfloat16_products_without_its_operators_round_as_defined(
    without: Raising, lacking: str, activation: str
) -> None:
    """Operands rounded to bfloat16, sums exact, results rounded to bfloat16: the reference computes sums in float64."""
    without(lacking)
    map_ = Linear(48, (40,), bias=True)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in map_.parameters():
            parameter.normal_(generator=draw)
    x = torch.randn(5, 48, generator=draw)
    with torch.inference_mode(), packed_weights(map_, 5, torch.bfloat16):
        product = map_.gelu(x) if activation == "gelu" else map_(x)
    rounded, weight, bias = (t.detach().bfloat16().double() for t in (x, map_.weight, map_.bias))
    exact = rounded @ weight.T + bias
    exact = torch.nn.functional.gelu(exact, approximate="tanh") if activation == "gelu" else exact
    assert torch.equal(product, product.bfloat16().float()), "the result is not rounded"
    torch.testing.assert_close(product.double(), exact, rtol=2**-8, atol=1e-5)  # half a unit of bfloat16 is 2^-9


@LACKING
def test_decoding_in_float32_writes_the_same_text(without: Raising, lacking: str) -> None:
    model = GPT(ModelConfig(vocab_size=31, block_size=16, n_layer=2, n_head=2, n_embd=32)).initialize(0)
    prompt = torch.tensor([[1, 2, 3]])
    packed = generate(model, prompt, new_tokens=2 * MIN_TOKENS_TO_PACK, greedy=True)
    without(lacking)
    assert torch.equal(generate(model, prompt, new_tokens=2 * MIN_TOKENS_TO_PACK, greedy=True), packed)


@LACKING
def test_auto_decodes_in_float32_and_says_why(without: Raising, lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(lacking)
    monkeypatch.setattr(formats, "BFLOAT16_PARAMETERS", 0)
    model = GPT(ModelConfig(vocab_size=31, block_size=16, n_layer=2, n_head=2, n_embd=32)).initialize(0)
    choice = formats.decoding(model)
    assert choice.format == "float32"
    assert "bfloat16" in choice.reason
    assert ("plain order" in choice.reason) == (lacking == "any format")
    asked = formats.decoding(model, "bfloat16")
    assert asked.format == "bfloat16"
    assert "multiplied in float32" in asked.reason


def test_bfloat16_is_refused_where_nothing_would_be_rounded() -> None:
    config = ModelConfig(vocab_size=31, block_size=16, n_layer=1, n_head=2, n_embd=16)
    for model, message in (
        (GPT(config, 2).initialize(0, 1), "an ensemble decodes in float32 alone"),
        (GPT(config).initialize(0).double(), "only a single model in float32"),
    ):
        assert formats.decoding(model).format == "float32"
        with pytest.raises(PresetError, match=f"precision bfloat16: {message}"):
            formats.decoding(model, "bfloat16")


@LACKING
@pytest.mark.parametrize(
    "precision", ["auto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "bfloat16"))]
)
def test_a_run_trains_samples_generates_and_calibrates(
    command: Any, tiny: Any, tmp_path: Path, without: Raising, lacking: str, precision: formats.Decoding
) -> None:
    without(lacking)
    heads = {"enable_value": True, "enable_dynamics": True, "enable_multi_token": True}
    preset = tiny(
        train={"steps": 6, "precision": precision},
        auxiliary=heads,
        sample={"every": 2, "tokens": MIN_TOKENS_TO_PACK},
        data={"test": 0.2},
        model={"family": "nanochat", "dropout": 0.0},
    )
    (tmp_path / "tiny.json").write_text(json.dumps(preset))
    run = tmp_path / "run"
    trained = command("train", tmp_path / "tiny.json", "--out", run)
    assert trained.code == 0, trained.err
    start = json.loads((run / "events.jsonl").read_text("utf-8").splitlines()[0])
    assert start["precision"] == start["decoding"] == ("bfloat16" if precision == "bfloat16" else "float32")
    asks = "the preset asks for it; auto takes float32, since "
    assert start["precision_reason"].startswith(asks) == (precision == "bfloat16")
    assert ("oneDNN" in start["decoding_reason"]) == (precision == "bfloat16" or lacking == "any format")
    for more in ([], ["--confidence"], ["--speculative"], ["--lookahead", 2]):
        written = command("generate", run, "the", "--tokens", MIN_TOKENS_TO_PACK, "--precision", precision, *more)
        assert written.code == 0, written.err
        as_asked = precision == "float32" and lacking != "any format"  # then there is nothing to say
        assert (f"decoded in {start['decoding']}: " in written.err) != as_asked
    assert command("evaluate", run, "--calibrate").code == 0
    lm = nanogrove.load(run)
    best = lm.best_of(2, ["the"], MIN_TOKENS_TO_PACK, reward=lambda texts: [0.0] * len(texts), precision=precision)
    steered = lm.generate("the", MIN_TOKENS_TO_PACK, reward=lambda texts: [0.0] * len(texts), precision=precision)
    assert all(text.startswith("the") for text in (*best, steered))


@LACKING
def test_a_committee_labels(command: Any, tmp_path: Path, without: Raising, lacking: str) -> None:
    without(lacking)
    small = ["model.n_layer=1", "model.n_embd=16", "model.n_head=2", "train.steps=2", "train.batch_size=4"]
    small += ["data.held_out=5", "method.si_rounds=1", "method.si_iter=2", "method.examples=8", "sample.every=1"]
    done = command("train", "self-improve-quick", "--out", tmp_path / "run", *small, "method.threshold=0.0")
    assert done.code == 0, done.err
