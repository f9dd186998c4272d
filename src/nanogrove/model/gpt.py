"""The one model: a decoder-only transformer whose variants are settings, not classes.

Blocks are pre-norm: x + attention(norm(x)), then x + mlp(norm(x)). The families of `families/table.py` bundle the
settings of well-known models; any single setting can be changed beside them. Shapes are named in `layers.py`.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogrove.model.attention import Attention, rotary_table
from nanogrove.model.cache import Cache, Placement, first_placement
from nanogrove.model.coupled import CoupledIds
from nanogrove.model.cross_entropy import Smoothing, cross_entropy, smoothing_of
from nanogrove.model.elementwise import Dropout, at_least_float32
from nanogrove.model.families.table import SETTINGS, FamilyName
from nanogrove.model.layers import MLP, Embedding, Linear, MLPKind, Norm, NormKind, TokenShift, leading, linear
from nanogrove.model.memory import Memory
from nanogrove.settings import MAX_WIDTH, Length, Settings, Width

MAX_LOGITS_PER_CHUNK = 1 << 25  # 128 MB in float32


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
    coupled: str = Field("0123456789", min_length=1, description="coupled positions: characters of which runs consist")
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


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: ModelConfig, dropout: Dropout, population: int | None) -> None:
        super().__init__()
        c = config
        self.attention_norm = Norm(c.norm, c.n_embd, c.bias, c.norm_eps, population)
        self.attention = Attention(
            c.n_embd,
            c.n_head,
            c.kv_heads,
            c.head_width,
            c.bias,
            dropout,
            (c.norm, c.norm_eps) if c.qk_norm else None,
            population,
        )
        self.mlp_norm = Norm(c.norm, c.n_embd, c.bias, c.norm_eps, population)
        self.mlp = MLP(c.mlp, c.n_embd, c.inner_size, c.bias, dropout, population)

    def forward(self, x: Tensor, rotary: Tensor | None, cache: Cache | None, layer: int, mask: Tensor | None) -> Tensor:
        """`[*P, B, T, C]` to the same."""
        x = x + self.attention(self.attention_norm(x), rotary, cache, layer, mask)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A decoder-only transformer, or `population` of them as one tensor program.

    Parameters are left unset; call `initialize` or load a state dict. Raises ValueError when the configuration
    names no vocabulary.
    """

    rotary: Tensor | None

    def __init__(self, config: ModelConfig, population: int | None = None) -> None:
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("a model needs vocab_size; it usually comes from the tokenizer")
        if config.within_documents and config.document_mark is None:
            raise ValueError("within_documents needs document_mark; it usually comes from the tokenizer")
        if config.position == "coupled" and config.coupled_tokens is None:
            raise ValueError("position=coupled needs coupled_tokens; they usually come from the tokenizer")
        self.config, self.population = config, population
        self.dropout = Dropout(config.dropout)
        self.embed = Embedding(config.vocab_size, config.n_embd, population)
        c, rotates = config, config.position == "rotary"
        self.position = self.coupled = None
        if config.position == "learned":
            self.position = Embedding(config.context, config.n_embd, population)
        elif config.position == "coupled":
            run, starts, ends = (t or () for t in (c.coupled_tokens, c.coupled_start_tokens, c.coupled_end_tokens))
            self.coupled = CoupledIds(config.vocab_size, run, starts, ends, c.coupled_offset)
            self.position = Embedding(config.context + config.coupled_offset + 1, config.n_embd, population)
        rotary = rotary_table(c.context, c.head_width, c.rope_theta) if rotates else None
        self.register_buffer("rotary", rotary, persistent=False)
        self.shift = TokenShift(config.n_embd, population) if config.token_shift else None
        self.memory = Memory(config.memory_tokens, config.n_embd, population) if config.memory_tokens else None
        self.embed_norm = None
        if config.embed_norm:
            self.embed_norm = Norm(config.norm, config.n_embd, config.bias, config.norm_eps, population)
        self.blocks = nn.ModuleList(Block(config, self.dropout, population) for _ in range(config.n_layer))
        self.norm = Norm(config.norm, config.n_embd, config.bias, config.norm_eps, population)
        self.head = None
        if config.scalar:
            self.head = Linear(config.n_embd, (1,), bias=True, population=population)
        elif not config.tie_embeddings:
            self.head = Linear(config.n_embd, (config.vocab_size,), bias=False, population=population)

    def hidden(
        self, tokens: Tensor, cache: Cache | None = None, lengths: Tensor | None = None, *, candidates: bool = False
    ) -> Tensor:
        """The final normalised states `[*P, B, T, C]` of `tokens [*P, B, T]`.

        With a cache, the tokens follow those already read and are added to it. A first read may be padded on the right,
        with the true `lengths [R]` given; the states of pads are to be ignored. `candidates` are T tokens that compete
        for the one position after those of a cache that is not empty: each sees what was read and itself, and none
        counts as read until `Cache.take` says which.
        Raises ValueError when the tokens reach past `block_size`.
        """
        if self.memory is not None:
            if cache is not None:
                raise ValueError("a model with a memory is decoded by `generate`, segment by segment")
            return self.remember(tokens)[0]
        reach = (cache.longest if cache else 0) + (1 if candidates else tokens.shape[-1])
        if reach > self.config.block_size:
            raise ValueError(f"{reach} tokens are more than block_size {self.config.block_size}")
        rows = tokens.flatten(0, -2)
        placement = self._place(rows, cache, candidates)
        states = self._trunk(self._embedded(tokens, placement.previous, candidates), placement, cache)
        if cache is not None and not candidates:
            cache.advance(rows, lengths)
        return states

    def remember(self, tokens: Tensor, write_last: bool = False) -> tuple[Tensor, Tensor]:
        """Reads `tokens [*P, B, T]` segment by segment: their states `[*P, B, T, C]`, and the memories in between.

        These are `[*P, B, n, m, C]`, one after each segment but the last, or with `write_last` after that one too.
        """
        assert self.memory is not None
        memory, size = self.memory.first(tokens.shape[-2]), self.config.memory_tokens
        states, memories = [], []
        segments = torch.split(self.embed(tokens), self.config.memory_segment, -2)
        for number, segment in enumerate(segments, 1):
            writes = write_last or number < len(segments)
            y = self.through(torch.cat([memory, segment, *([self.memory.inputs(memory)] if writes else [])], -2))
            states.append(y[..., size : size + segment.shape[-2], :])
            if writes:
                memory = y[..., -size:, :]
                memories.append(memory)
        return torch.cat(states, -2), torch.stack(memories, -3) if memories else tokens.new_empty(0)

    def through(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Final states `[*P, B, T, C]` of embedded inputs `x`, which follow those that the cache holds."""
        rows = torch.zeros(x[..., 0, 0].numel(), x.shape[-2], dtype=torch.int64, device=x.device)  # no marks here
        states = self._trunk(x, self._place(rows, cache), cache)
        if cache is not None:
            cache.advance(rows)
        return states

    def _place(self, rows: Tensor, cache: Cache | None, candidates: bool = False) -> Placement:
        """Where the tokens `rows [R, T]` stand: after those that were read, or at the beginning."""
        if cache is not None and cache.longest:
            return cache.place(rows, candidates)
        return first_placement(rows, self.config.mark, self.embed.weight, self.coupled)

    def _embedded(self, tokens: Tensor, previous: Tensor | None, candidates: bool) -> Tensor:
        """Embeddings `[*P, B, T, C]` of tokens, shifted where so configured; `previous [R]` precedes the first."""
        x: Tensor = self.embed(tokens)
        if self.shift is None:
            return x
        if previous is None:
            before = torch.zeros_like(x[..., :1, :])
        else:
            before = self.embed(previous.view(*tokens.shape[:-1], 1))
        shifted = before.expand_as(x) if candidates else torch.cat((before, x[..., :-1, :]), -2)
        first = None if self.config.mark is None else tokens == self.config.mark
        return self.shift(x, shifted, first)  # type: ignore[no-any-return]

    def _trunk(self, x: Tensor, placement: Placement, cache: Cache | None) -> Tensor:
        """Final normalised states `[*P, B, T, C]` of inputs `x`: positions, blocks, norm."""
        positions, each_row = placement.positions, placement.positions.dim() > 1
        if self.position is not None:
            shape = x.shape[:-1]
            index = positions.view(shape) if each_row else positions.expand(shape)
            if self.coupled is not None and placement.ids is not None:
                index = (placement.ids if cache is not None else self.coupled.with_offsets(placement.ids)).view(shape)
            x = x + self.position(index)
        x = self.dropout(x)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        rotary = None if self.rotary is None else self.rotary[:, positions]
        if rotary is not None and each_row:
            rotary = rotary[:, :, None]
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary, cache, layer, placement.mask)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores `[*P, …, V]` of the next token from states `[*P, …, C]`, softcapped if so configured."""
        return self._capped(self.embed.scores(hidden) if self.head is None else self.head(hidden))

    def _capped(self, scores: Tensor) -> Tensor:
        cap = self.config.logit_softcap
        return scores if cap is None else cap * torch.tanh(scores.float() / cap)

    def values(self, hidden: Tensor) -> Tensor:
        """The numbers `[*P, …]` of a scalar model from states `[*P, …, C]`, in at least float32."""
        assert self.head is not None
        return at_least_float32(self.head(hidden)[..., 0])

    def nll(self, hidden: Tensor, targets: Tensor, smoothing: Smoothing = 0.0) -> Tensor:
        """Negative log-likelihood in nats `[*P, B, T]` of `targets [*P, B, T]` after states `[*P, B, T, C]`.

        With label smoothing if asked for; see `cross_entropy`. In at least float32. Where the logits of all positions
        would be large they are computed chunk by chunk, and again for the backward pass, so that they never exist
        whole: positions of each member as in a single model, and as many members at once as fit.
        """
        axes = leading(self.population)
        rows, wanted = hidden.reshape(*axes, -1, hidden.shape[-1]), targets.reshape(*axes, -1)
        vocabulary, members = self.config.vocab_size or 1, self.population or 1
        chunk = max(MAX_LOGITS_PER_CHUNK // vocabulary, 1)
        together = max(MAX_LOGITS_PER_CHUNK // (vocabulary * min(chunk, rows.shape[-2])), 1)
        if self.population is None or together >= members:
            return self._nll(rows, wanted, chunk, smoothing).view(targets.shape)
        weight = self.embed.weight if self.head is None else self.head.weight
        groups = zip(*(torch.split(tensor, together) for tensor in (rows, wanted, weight)), strict=True)
        smooth = [smoothing_of(smoothing, n, n + together) for n in range(0, members, together)]
        losses = [self._nll(h, t, chunk, s, w) for s, (h, t, w) in zip(smooth, groups, strict=True)]
        return torch.cat(losses).view(targets.shape)

    def _nll(
        self, rows: Tensor, targets: Tensor, chunk: int, smoothing: Smoothing, weight: Tensor | None = None
    ) -> Tensor:
        """The NLL `[*P, N]` of `targets [*P, N]` after `rows [*P, N, C]`, `chunk` of the N at a time.

        `weight [P, V, C]` is the output map of these members where they are not all.
        """
        if chunk >= rows.shape[-2] and weight is None:
            return self._chunk_nll(rows, targets, smoothing)
        chunks = [
            checkpoint(self._chunk_nll, h, t, smoothing, weight, use_reentrant=False)
            if torch.is_grad_enabled()
            else self._chunk_nll(h, t, smoothing, weight)
            for h, t in zip(torch.split(rows, chunk, -2), torch.split(targets, chunk, -1), strict=True)
        ]
        return torch.cat(chunks, -1)

    def _chunk_nll(self, rows: Tensor, targets: Tensor, smoothing: Smoothing, weight: Tensor | None = None) -> Tensor:
        logits = at_least_float32(self.logits(rows) if weight is None else self._capped(linear(rows, weight)))
        return cross_entropy(logits, targets, smoothing)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, smoothing: Smoothing = 0.0) -> Tensor:
        """Logits `[*P, B, T, V]` of `tokens [*P, B, T]`, or with `targets`, their NLL `[*P, B, T]`, as `nll` gives it.

        A scalar model returns its numbers `[*P, B, T]`; that at t has seen the tokens up to t, itself included.
        """
        hidden = self.hidden(tokens)
        if self.config.scalar:
            return self.values(hidden)
        return self.logits(hidden) if targets is None else self.nll(hidden, targets, smoothing)

    def cache(self, batch: int, size: int | None = None) -> Cache:
        """An empty cache for `batch` sequences of `size` tokens per member; all that attention reaches if left out."""
        c = self.config
        rows = batch * (self.population or 1)
        like = self.embed.weight
        return Cache(c.n_layer, rows, c.kv_heads, size or c.context, c.head_width, like, c.mark, self.coupled)

    @torch.no_grad()
    def initialize(self, *seeds: int) -> Self:
        """Draws all weights, member p from `seeds[p]` alone: as a single model of that seed would be drawn.

        Normal with deviation .02 times `init_scale`; maps into the residual stream divided by √(2·n_layer) (Radford
        2019), or zero, and an untied head zero too, with `zero_init`. Biases and token shift 0, scales 1. Raises
        ValueError on a wrong number of seeds.
        """
        members = self.population or 1
        if len(seeds) != members:
            raise ValueError(f"{members} members need {members} seeds, and {len(seeds)} were given")
        for p, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for name, module in self.named_modules():
                for kind, parameter in module.named_parameters(recurse=False):
                    member = parameter if self.population is None else parameter[p]
                    if kind == "bias" or isinstance(module, TokenShift):
                        member.zero_()
                    elif isinstance(module, Norm):
                        member.fill_(1.0)
                    else:
                        std = 0.02 * self.config.init_scale
                        if isinstance(module, Linear) and module.residual:
                            std = 0.0 if self.config.zero_init else std / (2 * self.config.n_layer) ** 0.5
                        elif name == "head" and self.config.zero_init:
                            std = 0.0
                        drawn = torch.randn(member.shape, generator=generator, dtype=torch.float32)
                        member.copy_(drawn * std)
        return self

    def parameter_count(self) -> int:
        """Parameters of one member."""
        return sum(p.numel() for p in self.parameters()) // (self.population or 1)

    def flops_per_token(self, tokens: int) -> int:
        """Floating-point operations a trained token costs one member, forward and backward, at context `tokens`.

        6 for each weight of a matrix product and 12·n_layer·H·D·tokens for attention (Chowdhery 2022, app. B). With a
        memory attention reaches through one segment, and what is read and written is computed beside its tokens.
        """
        c = self.config
        matrices = sum(m.weight.numel() for m in self.modules() if isinstance(m, Linear))
        if self.head is None:
            matrices += self.embed.weight.numel()
        each = 6 * matrices // (self.population or 1) + 12 * c.n_layer * c.attention_width * min(tokens, c.context)
        return each * c.context // c.memory_segment if c.memory_tokens else each
