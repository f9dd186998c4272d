"""Qwen3 (Yang 2025) as `transformers` has it: a Llama with normalised q and k, and no bias."""

from dataclasses import replace

from nanogrove.model.families.family import Family, keys, table
from nanogrove.model.families.llama import LLAMA_EXCHANGE

_EXCHANGE = replace(
    LLAMA_EXCHANGE,
    architecture="Qwen3ForCausalLM",
    has={name: values for name, values in LLAMA_EXCHANGE.has.items() if name != "n_embd"}
    | table("qk_norm=true bias=false"),
    keys={key: row for key, row in LLAMA_EXCHANGE.keys.items() if row[0] != "bias"}
    | keys("num_key_value_heads=n_kv_head|32 head_dim=head_size|128"),
    fixed=table("hidden_act=silu|swish attention_bias=false use_sliding_window=false is_encoder_decoder=false"),
    ignored="sliding_window max_window_layers",  # idle without use_sliding_window
    full_attention=True,
)
QWEN3 = Family(exchange=_EXCHANGE, imported_as="llama")
