"""The settings of the one model, and the sizes that follow from them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanogrove.model.families.table import SETTINGS, FamilyName
from nanogrove.model.layers import MLPKind, NormKind
from nanogrove.settings import MAX_WIDTH, Length, Settings, Width


class ModelConfig(Settings):
    """Settings of a `GPT`. What is left out comes from `family`, then from the defaults here (GPT-2's).

    With `within_documents` a token sees only its own document of those that its window holds: from the latest
    `document_mark` on, that one included, or from the window's beginning where there is none. Token shift keeps to it
    too. Positions keep running: a document's first token has its position in the window.

    With `position` "coupled" the position of a token is its place within a run of the `coupled` characters, and those
    of a training row are moved by a random offset: see `coupled.py`.

    Raises pydantic's ValidationError for an unknown key, a wrong type or sizes that do not fit each other.
    """

    family: FamilyName = Field(
        "gpt2", description="a bundle of settings, gpt2, llama or nanochat; each of them can be set by itself"
    )
    vocab_size: Length | None = Field(None, description="taken from the tokenizer when left out")
    block_size: Length = Field(256, description="longest context, in tokens")
    n_layer: int = Field(4, ge=1, le=2000, description="transformer blocks")
    n_head: Width = Field(4, description="attention heads of each block; divides n_embd, or set head_size")
    n_kv_head: Width | None = Field(None, description="key/value heads; n_head when left out")
    head_size: Width | None = Field(None, description="width of an attention head; n_embd / n_head when left out")
    n_embd: Width = Field(128, description="width of the residual stream")
    n_inner: Width | None = Field(None, description="width inside the MLP; 4 n_embd, or 8/3 of it for swiglu")
    norm: NormKind = Field("layernorm", description="normalization before each attention and MLP")
    norm_eps: float = Field(1e-5, gt=0, description="added to the variance in a normalization")
    mlp: MLPKind = Field("gelu", description="activation of the MLP")
    position: Literal["learned", "rotary", "none", "coupled"] = Field(
        "learned", description="how tokens know their positions; coupled: by their places within numbers"
    )
    coupled: str = Field("0123456789", description="coupled positions: characters of which runs consist")
    coupled_starts: str = Field("=", description="coupled positions: characters that start a run, as its first")
    coupled_ends: str = Field("", description="coupled positions: characters that end a run, as its last, + for sums")
    coupled_offset: int = Field(
        20, ge=0, le=1_000_000, description="coupled positions: largest random offset of a row's ids in training"
    )
    coupled_tokens: tuple[int, ...] | None = Field(None, description="tokens of which runs consist; from the tokenizer")
    coupled_start_tokens: tuple[int, ...] | None = Field(
        None, description="tokens that start a run; from the tokenizer"
    )
    coupled_end_tokens: tuple[int, ...] | None = Field(None, description="tokens that end a run; from the tokenizer")
    rope_theta: float = Field(10000.0, gt=0, description="base of the wavelengths of rotary positions")
    qk_norm: bool = Field(False, description="normalize queries and keys of each head")
    embed_norm: bool = Field(False, description="normalise embeddings before the first block")
    token_shift: bool = Field(False, description="add a learned share of the token before to each embedding")
    bias: bool = Field(True, description="linear maps and layer norms have a bias")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of activations set to 0 in training")
    tie_embeddings: bool = Field(True, description="the output map is the transposed embedding")
    logit_softcap: float | None = Field(None, gt=0, description="logits become c·tanh(logits / c)")
    init_scale: float = Field(1.0, gt=0, description="factor of the weights that are drawn at first")
    zero_init: bool = Field(False, description="maps into the residual stream, and an untied head, start at 0")
    scalar: bool = Field(False, description="one number per position instead of logits: a reward model")
    within_documents: bool = Field(False, description="attend to tokens of the same document only")
    document_mark: int | None = Field(None, ge=0, description="token that begins a document; from the tokenizer")
    memory_tokens: int = Field(0, ge=0, le=1_000_000, description="vectors carried between segments; 0 is no memory")
    memory_segment: Length = Field(64, description="tokens of a segment, where there is a memory")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_family(cls, values: object) -> object:
        if isinstance(values, dict):
            family = values.get("family", "gpt2")
            return {**(SETTINGS.get(family, {}) if isinstance(family, str) else {}), **values}
        return values

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.head_size is None and self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}")
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_head {self.n_head} is not divisible by n_kv_head {self.kv_heads}")
        if self.attention_width > MAX_WIDTH:
            raise ValueError(f"n_head {self.n_head} times head_size {self.head_size} is more than {MAX_WIDTH:,}")
        if self.position == "rotary" and self.head_width % 2:
            size = "n_embd / n_head" if self.head_size is None else "head_size"
            raise ValueError(f"rotary positions need an even head size, and {size} is {self.head_width}")
        if self.memory_tokens:
            if self.block_size % self.memory_segment:
                raise ValueError(
                    f"block_size {self.block_size} is not a whole number of segments of {self.memory_segment}"
                )
            for name in ("within_documents", "token_shift", "scalar"):
                if getattr(self, name):
                    raise ValueError(f"memory_tokens and {name} do not go together; leave one out")
            if self.position == "coupled":
                raise ValueError("memory_tokens and position=coupled do not go together; leave one out")
        for tokens in (self.coupled_tokens, self.coupled_start_tokens, self.coupled_end_tokens):
            if self.vocab_size is not None and not all(0 <= token < self.vocab_size for token in tokens or ()):
                raise ValueError(f"coupled positions name a token outside of the {self.vocab_size} of the vocabulary")
        return self

    @property
    def head_width(self) -> int:
        """Width of one attention head; n_embd / n_head unless `head_size` says otherwise."""
        return self.head_size or self.n_embd // self.n_head

    @property
    def attention_width(self) -> int:
        """Width of all query heads together; that of the residual stream unless `head_size` says otherwise."""
        return self.n_head * self.head_width

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; as many as query heads unless `n_kv_head` says fewer."""
        return self.n_kv_head or self.n_head

    @property
    def context(self) -> int:
        """Positions that attention reaches: the window, or with a memory a segment with what is read and written."""
        return self.memory_segment + 2 * self.memory_tokens if self.memory_tokens else self.block_size

    @property
    def mark(self) -> int | None:
        """The token that begins what attention sees, if there is one."""
        return self.document_mark if self.within_documents else None

    @property
    def inner_size(self) -> int:
        """Width inside the MLP; for swiglu two thirds of 4·n_embd, rounded up to a multiple of 8."""
        if self.n_inner:
            return self.n_inner
        return -(-8 * self.n_embd // 24) * 8 if self.mlp == "swiglu" else 4 * self.n_embd
