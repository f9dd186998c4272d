"""GPT-2 (Radford 2019): layernorm, gelu, learned positions; `transformers` has biases in every map and norm."""

import re

from torch import Tensor

from nanogrove.model.families.family import Exchange, Family, keys, names, table


def _transposed(name: str, tensor: Tensor, head_size: int) -> Tensor:
    """Its Conv1D stores weights transposed."""
    return tensor.mT if re.search(r"\.c_\w+\.weight$", name) else tensor


_EXCHANGE = Exchange(
    architecture="GPT2LMHeadModel",
    has=table("""norm=layernorm mlp=gelu position=learned n_kv_head= n_embd= head_size=null qk_norm=false
        embed_norm=false logit_softcap=null token_shift=false"""),
    keys=keys("""
        vocab_size=vocab_size n_positions=block_size n_layer=n_layer n_head=n_head n_embd=n_embd n_inner=n_inner|null
        layer_norm_epsilon=norm_eps|1e-5 tie_word_embeddings=tie_embeddings|true
        embd_pdrop=dropout|0.1 attn_pdrop=dropout|0.1 resid_pdrop=dropout|0.1"""),
    fixed=table("""
        activation_function=gelu_new|gelu_pytorch_tanh scale_attn_weights=true scale_attn_by_inverse_layer_idx=false
        reorder_and_upcast_attn=false add_cross_attention=false is_encoder_decoder=false"""),
    ignored="""n_ctx nanogrove_bias summary_type summary_use_proj summary_activation summary_proj_to_labels
        summary_first_dropout""",
    repeated=(("n_ctx", "block_size"),),
    modules=names("""
        embed=transformer.wte
        position=transformer.wpe
        blocks.*.attention_norm=transformer.h.*.ln_1
        blocks.*.attention.qkv=transformer.h.*.attn.c_attn
        blocks.*.attention.out=transformer.h.*.attn.c_proj
        blocks.*.mlp_norm=transformer.h.*.ln_2
        blocks.*.mlp.up=transformer.h.*.mlp.c_fc
        blocks.*.mlp.down=transformer.h.*.mlp.c_proj
        norm=transformer.ln_f
        head=lm_head"""),
    layout=_transposed,
    biased=True,
)

GPT2 = Family(
    settings={
        "norm": "layernorm",
        "mlp": "gelu",
        "position": "learned",
        "qk_norm": False,
        "bias": True,
        "tie_embeddings": True,
    },
    exchange=_EXCHANGE,
)
