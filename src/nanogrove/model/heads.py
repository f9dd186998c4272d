"""Heads that look further than the next token: they read a GPT's final states and teach it while it trains.

    value    how hard the text ahead will be, one number
    step     dynamics: the state after one more token, predicted from the state before it and that token's embedding
    span     a query for the text that follows, and a key of such a text
    ahead    multi-token prediction: for each further offset a state that the shared output map reads
    policy   such a state for the policy
    recall   from a model's rolling memory the tokens of the segment after which it was written

All read h_t, which has seen the tokens up to t and none that follow, so no head sees what it predicts; what each one
learns is in `nanogrove.train.objectives.auxiliary`. They are a module of their own: without them the GPT is what it is,
with them too.

Sources: MuZero (Schrittwieser 2020), whose latent dynamics halve the gradient at each step; EfficientZero (Ye 2021),
from which the cosine of a projected and predicted state comes; SimSiam (Chen & He 2021); CPC (van den Oord 2018);
multi-token prediction (Gloeckle 2024); a memory's reconstruction, from it alone and at all positions at once, is after
the Compressive Transformer's (Rae 2020) and the in-context autoencoder (Ge 2023). Here the maps `down` begin at zero,
so dynamics begin as a copy of the last state and predictions further ahead as that of the next token; the value begins
at ln V, a uniform guess; queries and keys begin in different halves of the space where they are compared, so the
contrast begins at chance, ln B. Shapes are named in `layers.py`.
"""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from nanogrove.model.config import ModelConfig
from nanogrove.model.elementwise import at_least_float32, gelu
from nanogrove.model.layers import Embedding, Linear, Norm
from nanogrove.settings import Settings, Width

Weight = Field(0.05, ge=0, description="weight of this loss; the next token's is 1")


class AuxiliaryConfig(Settings):
    """Which heads train beside the next token, their weights in the loss, and their sizes; all are off by default."""

    enable_policy: bool = Field(False, description="a policy taught by one step of lookahead; needs value and dynamics")
    enable_value: bool = Field(False, description="how hard the next tokens will be")
    enable_dynamics: bool = Field(False, description="the states after the next tokens, imagined")
    enable_span_contrastive: bool = Field(False, description="tell the text that follows from that of other rows")
    enable_multi_token: bool = Field(False, description="predict tokens after the next one")
    enable_memory: bool = Field(False, description="reconstruct a segment from the memory; needs model.memory_tokens")
    policy_kl_weight: float = Weight
    value_weight: float = Weight
    dynamics_weight: float = Weight
    span_contrastive_weight: float = Weight
    multi_token_weight: float = Weight
    memory_weight: float = Weight
    memory_every: int = Field(4, ge=1, description="every k-th token of a segment is reconstructed")
    policy_target: Literal["value", "search"] = Field(
        "value", description="what improves it: values of imagined next states, or of the likeliest texts after these"
    )
    policy_candidates: int = Field(4, ge=2, description="likeliest tokens that are tried in imagination")
    policy_beta: float = Field(1.0, gt=0, description="how much a nat of value counts")
    policy_every: int = Field(4, ge=1, description="it learns at every k-th position, others from step to step")
    value_horizon: int = Field(8, ge=1, description="tokens whose mean NLL is the value")
    value_discount: float = Field(1.0, gt=0, le=1, description="weight of each token against the one before")
    dynamics_rollouts: int = Field(2, ge=1, le=3, description="steps imagined in a row")
    span_mask_fraction: float = Field(0.15, gt=0, lt=1, description="share of a sequence that a span covers")
    span_contrastive_temperature: float = Field(0.07, gt=0, description="divides the similarities of spans")
    span_l2_normalize: bool = Field(True, description="compare directions; else scaled products")
    span_size: Width = Field(128, ge=2, description="width in which spans are compared")
    multi_token_count: int = Field(2, ge=2, le=1000, description="tokens predicted per position, the next one included")
    project_size: Width | None = Field(None, description="width in which states are compared; n_embd if left out")
    inner_size: Width | None = Field(None, description="width inside the heads; n_embd if left out")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.enable_policy and not (self.enable_value and self.enable_dynamics):
            raise ValueError(
                "enable_policy learns from values of imagined states, as its own predictions would teach it nothing; "
                "set enable_value and enable_dynamics too"
            )
        return self

    @property
    def enabled(self) -> bool:
        """Whether there is any head."""
        return any(getattr(self, name) for name in type(self).model_fields if name.startswith("enable_"))

    def span_length(self, tokens: int) -> int:
        """How many of a sequence's tokens a span covers."""
        return max(round(self.span_mask_fraction * tokens), 1)

    def refuse(self, tokens: int) -> None:
        """Raises ValueError for a head that looks further than sequences of so many `tokens` reach."""
        horizon, rollouts = self.value_horizon, self.dynamics_rollouts
        if self.enable_value and horizon + (rollouts if self.enable_policy else 0) > tokens:
            raise ValueError(f"auxiliary.value_horizon {horizon} reaches beyond a sequence of {tokens} tokens")
        if self.enable_dynamics and rollouts >= tokens:
            raise ValueError(f"auxiliary.dynamics_rollouts {rollouts} reach beyond a sequence of {tokens} tokens")
        if self.enable_multi_token and self.multi_token_count > tokens:
            raise ValueError(
                f"auxiliary.multi_token_count {self.multi_token_count} reaches beyond a sequence of {tokens} tokens"
            )
        if self.enable_span_contrastive and self.span_length(tokens) >= tokens:
            raise ValueError(
                f"auxiliary.span_mask_fraction {self.span_mask_fraction:g} leaves no token ahead of the span in a "
                f"sequence of {tokens}"
            )


class ResidualMLP(nn.Module):
    """A state from a state: norm(x + down(gelu(up(x) + condition)))."""

    def __init__(self, model: ModelConfig, inner: int, population: int | None) -> None:
        super().__init__()
        self.up = Linear(model.n_embd, (inner,), True, population)
        self.down = Linear(inner, (model.n_embd,), True, population, residual=True)
        self.norm = Norm(model.norm, model.n_embd, model.bias, model.norm_eps, population)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """`x [*P, …, C]` to the same; `condition [*P, …, inner]` is what it depends on besides, such as an action."""
        inner = self.up(x) if condition is None else self.up(x) + condition
        return self.norm(x + self.down(gelu(inner)))  # type: ignore[no-any-return]


class ValueHead(nn.Module):
    """One number for each state."""

    def __init__(self, model: ModelConfig, inner: int, population: int | None) -> None:
        super().__init__()
        self.up = Linear(model.n_embd, (inner,), True, population)
        self.head = Linear(inner, (1,), True, population)

    def forward(self, x: Tensor) -> Tensor:
        """`[*P, …, C]` to `[*P, …]`, in at least float32."""
        return at_least_float32(self.head(self.up.gelu(x))[..., 0])


class MemoryDecoder(nn.Module):
    """States for the tokens of a segment: each position attends, with one head, to the memory written after it."""

    def __init__(self, model: ModelConfig, inner: int, population: int | None) -> None:
        super().__init__()
        self.place = Embedding(model.memory_segment, model.n_embd, population)
        self.key = Linear(model.n_embd, (model.n_embd,), False, population)
        self.content = Linear(model.n_embd, (model.n_embd,), False, population)
        self.bend = ResidualMLP(model, inner, population)

    def forward(self, memories: Tensor, positions: Tensor) -> Tensor:
        """`memories [*P, B, n, m, C]` to states `[*P, B, n, K, C]` for the `positions [K]` of each segment."""
        axes = memories.shape[:-4]
        queries = self.place(positions.expand(*axes, len(positions)))[..., None, None, :, :]
        scores = queries @ self.key(memories).mT / memories.shape[-1] ** 0.5
        return self.bend(queries + scores.softmax(-1) @ self.content(memories))  # type: ignore[no-any-return]


class Heads(nn.Module):
    """The heads that a configuration enables, for one model or a population. Parameters are left unset."""

    def __init__(self, config: AuxiliaryConfig, model: ModelConfig, population: int | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary, self.population = config, model.vocab_size or 1, population
        width, inner = model.n_embd, config.inner_size or model.n_embd
        self.value = ValueHead(model, inner, population) if config.enable_value else None
        self.step = ResidualMLP(model, inner, population) if config.enable_dynamics else None
        self.token = self.project = self.predict = self.query = self.key = None
        if config.enable_dynamics:
            size = config.project_size or width
            self.token = Linear(width, (inner,), False, population)
            self.project = Linear(width, (size,), True, population)
            self.predict = Linear(size, (size,), True, population)
        if config.enable_span_contrastive:
            self.query = Linear(width, (config.span_size,), False, population)
            self.key = Linear(width, (config.span_size,), False, population)
        more_tokens = config.multi_token_count - 1 if config.enable_multi_token else 0
        self.ahead = nn.ModuleList(ResidualMLP(model, inner, population) for _ in range(more_tokens))
        self.policy = ResidualMLP(model, inner, population) if config.enable_policy else None
        self.recall = MemoryDecoder(model, inner, population) if config.enable_memory else None

    @torch.no_grad()
    def initialize(self, *seeds: int) -> Self:
        """Draws all weights, member p from `seeds[p]` alone: normal with deviation .02, `down` zero; value at ln V."""
        for p, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for module in self.modules():
                for kind, parameter in module.named_parameters(recurse=False):
                    member = parameter if self.population is None else parameter[p]
                    if isinstance(module, Norm):
                        member.fill_(float(kind == "weight"))
                    elif kind == "bias" or (isinstance(module, Linear) and module.residual):
                        member.zero_()
                    else:
                        member.copy_(torch.randn(member.shape, generator=generator, dtype=torch.float32) * 0.02)
        if self.query is not None and self.key is not None:
            middle = self.config.span_size // 2
            self.query.weight[..., middle:, :] = 0.0
            self.key.weight[..., :middle, :] = 0.0
        if self.value is not None and self.value.head.bias is not None:
            self.value.head.bias.fill_(math.log(self.vocabulary))
        return self

    def parameter_count(self) -> int:
        """Parameters of one member."""
        return sum(p.numel() for p in self.parameters()) // (self.population or 1)

    def action_embedding(self, embedded: Tensor) -> Tensor:
        """A token as the action of the dynamics, `[*P, …, inner]`, from its embedding `[*P, …, C]` of any length."""
        assert self.token is not None
        return self.token(F.rms_norm(embedded, embedded.shape[-1:]))  # type: ignore[no-any-return]

    def imagine(self, hidden: Tensor, embedded: Tensor) -> list[Tensor]:
        """States `[*P, B, T − k, C]` for k = 1, …: at t that after the tokens t + 1 … t + k, imagined from h_t.

        `hidden` and the tokens' `embedded` are `[*P, B, T, C]`. The gradient into each further step is halved.
        """
        assert self.step is not None
        actions, state, states = self.action_embedding(embedded), hidden, []
        for k in range(1, self.config.dynamics_rollouts + 1):
            state = self.step(state[..., :-1, :], actions[..., k:, :])
            states.append(state)
            state = scale_gradient(state, 0.5)
        return states

    def latent(self, imagined: Tensor) -> Tensor:
        """The guess `[*P, …, size]` of a true state's projection, from an imagined state `[*P, …, C]`."""
        assert self.project is not None
        assert self.predict is not None
        return self.predict(self.project(imagined))  # type: ignore[no-any-return]

    @torch.no_grad()
    def target(self, hidden: Tensor) -> Tensor:
        """The projection `[*P, …, size]` of true states, which teaches and is not taught."""
        assert self.project is not None
        return self.project(hidden)  # type: ignore[no-any-return]

    def span_scores(self, hidden: Tensor, start: int, length: int) -> Tensor:
        """How well the state before each row's span fits each row's span, over the temperature: `[*P, B, B]`.

        Spans are the `length` tokens from `start` on of `hidden [*P, B, T, C]`: at the same positions in all rows, so
        that no position tells them apart. A key is the mean state of a span and sends no gradient back into it.
        """
        assert self.query is not None
        assert self.key is not None
        query = self.query(hidden[..., start - 1, :])
        key = self.key(hidden[..., start : start + length, :].mean(-2).detach())
        query, key = at_least_float32(query), at_least_float32(key)
        if self.config.span_l2_normalize:
            query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        else:
            query = query / query.shape[-1] ** 0.5
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = query @ key.mT
        return scores / self.config.span_contrastive_temperature


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """`x` as it is, with its gradient times `scale`."""
    return scale * x + (1 - scale) * x.detach()
