"""The number format in which a model decodes."""

import pytest

from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train import precision as formats

MODEL = ModelConfig(vocab_size=31, block_size=12, n_layer=2, n_head=2, n_embd=16)


@pytest.mark.parametrize("missing", [None, "this CPU has no bfloat16 products"])
@pytest.mark.parametrize("limit", [0, 10**9])
def test_decoding_takes_bfloat16_where_it_is_and_the_model_is_large(
    missing: str | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "BFLOAT16_PARAMETERS", limit)
    monkeypatch.setattr(formats, "bfloat16_missing", lambda: missing)
    choice = formats.decoding(GPT(MODEL).initialize(0))
    assert choice.format == ("bfloat16" if missing is None and limit == 0 else "float32")
    assert formats.decoding(GPT(MODEL).initialize(0), "float32").format == "float32"
