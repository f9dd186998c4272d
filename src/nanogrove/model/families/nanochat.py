"""NanoChat (Karpathy 2025): rmsnorm without scales, squared ReLU, rotary positions, normalised q, k and embeddings.

In `transformers` it turns a pair (x1, x2) by minus the angle that `attention.rotate` turns it by. To turn (x2, x1)
backwards is to turn (x1, x2) forwards and swap, and one swap in both q and k leaves their products alone. So the two
halves of each head's rows of q and k change places. It normalises after turning and we before: without a scale that is
the same. Its settings do not name `head_dim`, which its attention reads all the same.
"""

import re
from dataclasses import replace

from torch import Tensor

from nanogrove.model.families.family import Family, keys, names, table
from nanogrove.model.families.llama import LAYER, LLAMA_EXCHANGE


def _halves_swapped(name: str, tensor: Tensor, head_size: int) -> Tensor:
    """The halves of each head's rows of q and k change places."""
    if not re.search(r"\.[qk]_proj\.", name):
        return tensor
    halves = tensor.reshape(-1, 2, head_size // 2, *tensor.shape[1:])
    return halves.flip(1).reshape(tensor.shape)


_EXCHANGE = replace(
    LLAMA_EXCHANGE,
    architecture="NanoChatForCausalLM",
    has=table(
        "norm=rmsnorm-unscaled mlp=relu2 position=rotary qk_norm=true embed_norm=true bias=false token_shift=false"
    ),
    keys={key: row for key, row in LLAMA_EXCHANGE.keys.items() if row[0] != "bias"}
    | keys("final_logit_softcapping=logit_softcap|15.0"),
    fixed=table("hidden_act=relu2 attention_bias=false is_encoder_decoder=false"),
    modules=LLAMA_EXCHANGE.modules | names(f"blocks.*.mlp.up={LAYER}.mlp.fc1 blocks.*.mlp.down={LAYER}.mlp.fc2"),
    layout=_halves_swapped,
)
NANOCHAT = Family(
    settings={
        "norm": "rmsnorm-unscaled",
        "mlp": "relu2",
        "position": "rotary",
        "qk_norm": True,
        "bias": False,
        "tie_embeddings": False,
        "embed_norm": True,
        "logit_softcap": 15.0,
        "zero_init": True,
    },
    exchange=_EXCHANGE,
)
