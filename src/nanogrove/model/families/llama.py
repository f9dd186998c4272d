"""Llama (Touvron 2023): rmsnorm, swiglu, rotary positions; in `transformers` q, k, v apart, and gate and up apart.

There a hidden size that is not a multiple of the heads is refused, whatever the size of a head; in Qwen3 it is not.
"""

from nanogrove.model.families.family import Exchange, Family, keys, names, table

LAYER = "model.layers.*"
LLAMA_EXCHANGE = Exchange(
    architecture="LlamaForCausalLM",
    has=table("""norm=rmsnorm mlp=swiglu position=rotary n_embd= qk_norm=false embed_norm=false
        logit_softcap=null token_shift=false"""),
    keys=keys("""
        vocab_size=vocab_size max_position_embeddings=block_size num_hidden_layers=n_layer hidden_size=n_embd
        intermediate_size=n_inner num_attention_heads=n_head num_key_value_heads=n_kv_head|null
        head_dim=head_size|null rms_norm_eps=norm_eps|1e-6 tie_word_embeddings=tie_embeddings|false
        attention_dropout=dropout|0.0 attention_bias=bias|false mlp_bias=bias|false"""),
    fixed=table("hidden_act=silu|swish pretraining_tp=1 is_encoder_decoder=false"),
    modules=names(f"""
        embed=model.embed_tokens
        blocks.*.attention_norm={LAYER}.input_layernorm
        blocks.*.attention.qkv={LAYER}.self_attn.q_proj|{LAYER}.self_attn.k_proj|{LAYER}.self_attn.v_proj
        blocks.*.attention.q_norm={LAYER}.self_attn.q_norm
        blocks.*.attention.k_norm={LAYER}.self_attn.k_norm
        blocks.*.attention.out={LAYER}.self_attn.o_proj
        blocks.*.mlp_norm={LAYER}.post_attention_layernorm
        blocks.*.mlp.up={LAYER}.mlp.gate_proj|{LAYER}.mlp.up_proj
        blocks.*.mlp.down={LAYER}.mlp.down_proj
        norm=model.norm
        head=lm_head"""),
)
LLAMA = Family(
    settings={
        "norm": "rmsnorm",
        "mlp": "swiglu",
        "position": "rotary",
        "qk_norm": False,
        "bias": False,
        "tie_embeddings": False,
    },
    exchange=LLAMA_EXCHANGE,
)
