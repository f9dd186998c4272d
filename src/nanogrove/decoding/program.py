"""Decoding steps of a model as a program of the C library, where its weights are packed for it."""

from torch import Tensor

from nanogrove.model.cache import Cache
from nanogrove.model.gpt import GPT, Block
from nanogrove.model.layers import Linear, Norm, leading
from nanogrove.native.library import Activation
from nanogrove.native.operators import WIDE
from nanogrove.native.program import Program


class OneToken:
    """Reads one token of each of some rows at a time, in one call of the library."""

    def __init__(self, model: GPT, rows: int) -> None:
        config = model.config
        self.program = Program(model.population or 1, rows // (model.population or 1))
        x = self.program.embed(model.embed.weight, None if model.shift is None else model.shift.weight)
        if model.position is not None:
            self.program.place(x, model.position.weight)
        if model.embed_norm is not None:
            x = _norm(self.program, model.embed_norm, x)
        for layer, block in enumerate(model.blocks):
            _block(self.program, block, x, layer, model.rotary)  # type: ignore[arg-type]
        states = _norm(self.program, model.norm, x)[:, : config.n_embd]
        self.states = states.view(*leading(model.population), -1, 1, config.n_embd)

    def read(self, token: Tensor, cache: Cache) -> Tensor:
        """The states `[*P, B, 1, C]` after `token [R]`, which follows what the cache holds and is added to it."""
        self.program.run(token, cache.last, cache.lengths, (cache.keys, cache.values))
        cache.advance(token[:, None])
        return self.states


def one_token(model: GPT, rows: int) -> OneToken | None:
    """For `rows` rows in all; None where a model's steps cannot be a program, or its weights are not in panels.

    Nor is there one where a module has a hook, which is to see what passes through it.
    """
    config, modules = model.config, list(model.modules())
    odd = any(width % WIDE for width in (config.n_embd, config.head_width, config.inner_size))
    unpacked = any(module.panels is None for module in modules if isinstance(module, Linear))
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    by_text = config.mark is not None or config.position == "coupled"  # attention or positions depend on tokens
    return None if by_text or odd or unpacked or hooked else OneToken(model, rows)


def _block(program: Program, block: Block, x: Tensor, layer: int, rotary: Tensor | None) -> None:
    """Writes down what a block adds to `x`."""
    a, mlp = block.attention, block.mlp
    heads = _map(program, a.qkv, _norm(program, block.attention_norm, x))
    if a.q_norm is not None and a.k_norm is not None:
        _norm(program, a.q_norm, heads, range(a.n_head))
        _norm(program, a.k_norm, heads, range(a.n_head, a.n_head + a.n_kv_head))
    y = program.attend(heads, a.n_head, a.n_kv_head, a.head_size, layer, rotary)
    _map(program, a.out, y, onto=x)
    activation: Activation = "linear" if mlp.kind == "swiglu" else mlp.kind
    inner = _map(program, mlp.up, _norm(program, block.mlp_norm, x), activation)
    if mlp.kind == "swiglu":
        inner = program.gate(inner, mlp.up.parts[0])
    _map(program, mlp.down, inner, onto=x)


def _map(
    program: Program, linear: Linear, x: Tensor, activation: Activation = "linear", onto: Tensor | None = None
) -> Tensor:
    assert linear.panels is not None
    return program.product(x, linear.panels, linear.bias, activation, onto)


def _norm(program: Program, norm: Norm, x: Tensor, parts: range | None = None) -> Tensor:
    return program.norm(x, norm.weight, norm.bias, size=norm.size, eps=norm.eps, centred=norm.centred, parts=parts)
