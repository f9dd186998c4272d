"""The one model: a decoder-only transformer whose variants are settings, not classes.

Blocks are pre-norm: x + attention(norm(x)), then x + mlp(norm(x)). The families of `families/table.py` bundle the
settings of well-known models; any single setting can be changed beside them. Shapes are named in `layers.py`.
"""

from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nanogrove.model.attention import Attention, rotary_table
from nanogrove.model.cache import Cache, Placement, first_placement
from nanogrove.model.config import ModelConfig
from nanogrove.model.coupled import CoupledIds
from nanogrove.model.cross_entropy import Smoothing, cross_entropy, smoothing_of
from nanogrove.model.elementwise import Dropout, at_least_float32
from nanogrove.model.layers import MLP, Embedding, Linear, Norm, TokenShift, leading, linear
from nanogrove.model.memory import Memory

MAX_LOGITS_PER_CHUNK = 1 << 25  # 128 MB in float32


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
