"""The C kernels against float64 of the plain formulas, their bits, and what they leave to torch."""

from collections.abc import Callable, Iterator
from typing import Literal
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from nanogrove.model.attention import rotary_table, rotate
from nanogrove.model.elementwise import Dropout, gelu
from nanogrove.model.layers import MLP, MLPKind, Norm
from nanogrove.native import library
from nanogrove.native import operators as native

pytestmark = pytest.mark.skipif(library.missing() is not None, reason=library.missing() or "")
HEADS = {"one": (1, 1), "several": (4, 4), "grouped": (6, 2), "multi-query": (3, 1)}


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor | None, dy: Tensor | None = None) -> list[Tensor]:
    """The result and the gradients of all inputs."""
    leaves = [None if each is None else each.detach().requires_grad_() for each in inputs]
    y = function(*leaves)
    y.backward(normal(*y.shape, seed=99).to(y.dtype) if dy is None else dy)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None and leaf.grad is not None)]


def close(actual: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=tolerance * float(other.abs().max()), rtol=0)


def doubled(inputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [None if each is None else each.double() for each in inputs]


def same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


def plain_attention(qkv: Tensor, keys: int, rotation: Tensor | None) -> Tensor:
    q, k, v = qkv.transpose(1, 2).split((qkv.shape[2] - 2 * keys, keys, keys), 1)
    if rotation is not None:
        q, k = rotate(q, rotation), rotate(k, rotation)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def operators(seed: int, rows: int) -> dict[str, list[Tensor]]:
    """Results and gradients of each operator, large enough for several threads."""
    x, qkv = normal(rows, 40, 256, seed=seed), normal(rows, 40, 8, 32, seed=seed)
    dy = normal(rows, 40, 256, seed=seed + 1)
    table = rotary_table(40, 32, 100.0)
    return {
        "gelu": with_gradients(native.gelu, x, dy=dy),
        "attention": with_gradients(
            lambda qkv: native.attention(qkv, 2, table), qkv, dy=dy[..., :128].view(rows, 40, 4, 32)
        ),
    }


@pytest.mark.parametrize("size", [8, 24, 8200])
def test_gelu_is_that_of_float64(size: int) -> None:
    x = torch.cat([normal(2, size) * 4, torch.tensor([-12.0, -6.0, -0.0, 0.0, 1e-8, 6.0, 40.0, -40.0]).repeat(2, 1)], 1)
    close(with_gradients(native.gelu, x), with_gradients(lambda x: F.gelu(x, approximate="tanh"), x.double()), 1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("heads", HEADS)
def test_attention_is_that_of_float64(heads: str, rotary: bool, tokens: int) -> None:
    queries, keys = HEADS[heads]
    qkv = normal(2, tokens, queries + 2 * keys, 16)
    rotation = rotary_table(tokens, 16, 100.0) if rotary else None
    close(
        with_gradients(lambda x: native.attention(x, keys, rotation), qkv),
        with_gradients(lambda x: plain_attention(x, keys, rotation), qkv.double()),
    )


@pytest.mark.parametrize("size", [8, 24, 40, 64, 96, 128])
def test_attention_takes_every_size_of_heads(size: int) -> None:
    qkv, rotation = normal(1, 21, 4, size) * 2, rotary_table(21, size, 100.0)
    close(
        with_gradients(lambda x: native.attention(x, 1, rotation), qkv),
        with_gradients(lambda x: plain_attention(x, 1, rotation), qkv.double()),
    )


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    torch.set_num_threads(1)
    expected = operators(seed=3, rows=40)
    torch.set_num_threads(threads)
    for _ in range(3):
        actual = operators(seed=3, rows=40)
        assert [name for name in expected if not same(actual[name], expected[name])] == []


def test_each_thread_computes_in_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms, room = [], native._room

    def kept(shape: library.Heads) -> Tensor:
        rooms.append(room(shape))
        return rooms[-1]

    monkeypatch.setattr(native, "_room", kept)
    torch.set_num_threads(3)
    with_gradients(lambda x: native.attention(x, 2, None), normal(9, 40, 8, 32))
    assert [each.view(3, -1).any(1).tolist() for each in rooms] == [[True] * 3] * 2  # forward and backward


def test_bits_do_not_depend_on_other_rows() -> None:
    several = operators(seed=3, rows=5)
    x, qkv, dy = normal(5, 40, 256, seed=3), normal(5, 40, 8, 32, seed=3), normal(5, 40, 256, seed=4)
    table = rotary_table(40, 32, 100.0)
    for row in (0, 4):
        one = slice(row, row + 1)
        heads = with_gradients(
            lambda t: native.attention(t, 2, table), qkv[one], dy=dy[one, :, :128].view(1, 40, 4, 32)
        )
        assert same(heads, [each[one] for each in several["attention"]])
        assert same(with_gradients(native.gelu, x[one], dy=dy[one]), [each[one] for each in several["gelu"]])


def test_inputs_and_gradients_need_not_be_contiguous() -> None:
    wide, table = normal(6, 2, 16, 3), rotary_table(7, 16, 100.0).transpose(0, 1).contiguous().transpose(0, 1)
    cases: list[tuple[Callable[..., Tensor], list[Tensor], Tensor]] = [
        (native.gelu, [wide[..., 0]], normal(24, 2, 16)[::4]),
        (native.gelu, [wide[..., 0]], torch.ones(()).expand(6, 2, 16)),  # as that of a sum is
        (lambda x: native.attention(x, 1, table), [normal(2, 3, 7, 16).transpose(1, 2)], normal(2, 7, 1, 32)[..., ::2]),
    ]
    for function, inputs, dy in cases:
        expected = with_gradients(function, *(each.contiguous() for each in inputs), dy=dy.contiguous())
        assert same(with_gradients(function, *inputs, dy=dy), expected)
    rotated = native.attention(cases[-1][1][0], 1, table.contiguous())
    assert torch.equal(native.attention(cases[-1][1][0], 1, table), rotated)


def test_nothing_is_computed_of_nothing() -> None:
    assert [each.shape for each in with_gradients(native.gelu, torch.empty(0, 16))] == [(0, 16)] * 2
    for shape in ((0, 5, 3, 8), (2, 0, 3, 8)):
        y, dqkv = with_gradients(lambda x: native.attention(x, 1, None), torch.empty(shape))
        assert (y.shape, dqkv.shape) == ((*shape[:2], 1, 8), shape)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1], ids=hex)
def test_a_nan_stays_in_its_row_and_comes_out_of_it(bits: int) -> None:
    nan = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    x = normal(3, 16)
    x[1, 3:4].copy_(nan)
    assert native.gelu(x).isnan().nonzero().tolist() == [[1, 3]]
    qkv = normal(3, 20, 3, 8)
    qkv[1, 17, 1].copy_(nan.expand(8))
    y, dqkv = with_gradients(lambda x: native.attention(x, 1, None), qkv)
    assert y.isnan().flatten(2).any(-1).nonzero().tolist() == [[1, 17], [1, 18], [1, 19]]
    assert dqkv.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_infinities_flow_as_in_torch() -> None:
    x = torch.tensor([[torch.inf, 2.0, 1e4, -1e4, 3e38, -100.0, -20.0, 1.0]])
    y, slope = with_gradients(native.gelu, x, dy=torch.ones(1, 8))
    torch.testing.assert_close(y, F.gelu(x, approximate="tanh"), atol=1e-6, rtol=1e-6)
    assert slope[0, 1:4].isfinite().all()
    qkv = normal(1, 20, 3, 8)
    qkv[0, :, 0], qkv[0, :, 1] = 20.0, torch.linspace(-400, 400, 20)[:, None]  # scores in the ten thousands
    close([native.attention(qkv, 1, None)], [plain_attention(qkv.double(), 1, None)])


def test_values_are_the_same_without_gradients() -> None:
    x, qkv = normal(4, 16), normal(2, 9, 5, 8)
    expected = [native.gelu(x), native.attention(qkv, 1, None)]
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            actual = [native.gelu(x), native.attention(qkv, 1, None)]
        assert same(actual, expected)
        assert not any(each.requires_grad for each in actual)


@pytest.mark.parametrize("way", ["checkpoint", "hooks"])
def test_a_rotation_that_is_freed_in_between_is_not_read(way: str) -> None:
    def attention(qkv: Tensor) -> Tensor:
        return native.attention(qkv, 1, rotary_table(200, 64, 100.0))

    qkv = normal(1, 200, 3, 64)
    expected = with_gradients(attention, qkv)
    leaf = qkv.clone().requires_grad_()
    if way == "checkpoint":
        y = checkpoint(attention, leaf, use_reentrant=False)
    else:
        with saved_tensors_hooks(Tensor.clone, Tensor.clone):
            y = attention(leaf)
    taken = [torch.full((2, 200, 64), torch.nan) for _ in range(4)]  # the memory that was freed
    y.backward(normal(*y.shape, seed=99))
    assert same([y, gradient(leaf)], expected)
    del taken


def test_backward_twice_gives_twice_the_gradient() -> None:
    qkv = normal(2, 20, 3, 8).requires_grad_()
    y = native.attention(native.gelu(qkv), 1, rotary_table(20, 8, 100.0)).sum()
    y.backward(retain_graph=True)
    once = gradient(qkv).clone()
    y.backward()
    assert torch.equal(gradient(qkv), 2 * once)


def test_a_second_derivative_is_refused_and_had_in_float64() -> None:
    weights = normal(32, 16), None, normal(16, 32)
    kernels = gelu, lambda x: native.attention(x.view(1, 2, 3, 16), 1, None), lambda x: native.mlp(x, "gelu", *weights)
    for function in kernels:
        x = normal(6, 16).requires_grad_()
        with pytest.raises(RuntimeError, match=r"no second derivative; take it in float64, of `model.double\(\)`"):
            torch.autograd.grad(function(x).sum(), x, create_graph=True)
    assert torch.autograd.gradgradcheck(gelu, normal(6, 16, dtype=torch.float64).requires_grad_())


def test_the_default_format_and_device_are_not_those_of_the_room() -> None:
    qkv = normal(1, 40, 3, 16)
    expected = native.attention(qkv, 1, None)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            room = native._room(library.Heads(1, 40, 1, 1, 16, None, None, 1))
            assert torch.equal(native.attention(qkv, 1, None), expected)
        assert (room.dtype, room.device.type) == (torch.float32, "cpu")
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_the_kernels_do_not_take_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(4, 16)
    assert native.usable(x)
    assert not native.usable(x[:, :12])
    assert not any(native.usable(each) for each in (x.double(), x.bfloat16(), x.to("meta")))
    assert not native.usable(x, x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not native.usable(x)
    torch.testing.assert_close(torch.func.vmap(gelu)(x), gelu(x))
    monkeypatch.setattr(library, "missing", lambda: "off")
    assert not native.usable(x)


@pytest.mark.parametrize("size", [4, 12, 16])
def test_layers_compute_the_same_in_torch_s_way(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = Norm("layernorm", size, True, 1e-5, population=2), normal(2, 3, 5, size)
    with torch.no_grad():
        for n, parameter in enumerate(norm.parameters()):
            parameter.copy_(normal(2, size, seed=n))
    actual = [gelu(x), norm(x).detach()]
    monkeypatch.setattr(library, "missing", lambda: "off")
    expected = [gelu(x), norm(x).detach()]
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    assert size % 8 == 0 or same(actual, expected)


@pytest.mark.parametrize(("tokens", "heads"), [(16, "several"), (33, "grouped")])
def test_dropout_of_attention_is_that_of_the_softmax(tokens: int, heads: str) -> None:
    queries, keys = HEADS[heads]
    qkv = normal(2, tokens, queries + 2 * keys, 8)
    kept = F.dropout(native.scores_like(qkv, keys), 0.3)

    def plain(qkv: Tensor) -> Tensor:
        q, k, v = qkv.transpose(1, 2).split((queries, keys, keys), 1)
        k, v = (each.repeat_interleave(queries // keys, 1) for each in (k, v))
        scores = (q @ k.mT) * 8**-0.5 + torch.full((tokens, tokens), -torch.inf, dtype=qkv.dtype).triu(1)
        return ((scores.softmax(-1) * kept[..., :tokens]) @ v).transpose(1, 2)

    actual = with_gradients(lambda qkv: native.attention(qkv, keys, None, kept), qkv)
    close(actual, with_gradients(plain, qkv.double()))
    whole = with_gradients(lambda qkv: native.attention(qkv, keys, None, torch.ones_like(kept)), qkv)
    assert same(whole, with_gradients(lambda qkv: native.attention(qkv, keys), qkv))


LAYERS = [  # members, rows, width, inner, activation
    (None, 64, 16, 64, "gelu"),
    (None, 68, 16, 16, "relu2"),
    (2, 100, 32, 48, "gelu"),
    (3, 200, 48, 96, "relu2"),
]


def layer_of(members: int | None, rows: int, width: int, inner: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, up, bias and down."""
    leading = () if members is None else (members,)
    shapes = (rows // 2, 2, width), (inner, width), (inner,), (width, inner)
    x, up, bias, down = (normal(*leading, *shape, seed=n) for n, shape in enumerate(shapes))
    return x, up / width**0.5, bias, down / inner**0.5


def mlp_of(activation: Literal["gelu", "relu2"]) -> Callable[..., Tensor]:
    return lambda x, up, bias, down: native.mlp(x, activation, up, bias, down)


def plain_mlp(activation: str) -> Callable[..., Tensor]:
    def function(x: Tensor, up: Tensor, bias: Tensor | None, down: Tensor) -> Tensor:
        rows = x.flatten(-3, -2)
        inside = rows @ up.mT + (0 if bias is None else bias.unsqueeze(-2))
        inside = F.gelu(inside, approximate="tanh") if activation == "gelu" else F.relu(inside).square()
        return (inside @ down.mT).view_as(x)

    return function


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(("members", "rows", "width", "inner", "activation"), LAYERS)
def test_a_feed_forward_layer_is_that_of_float64(
    members: int | None, rows: int, width: int, inner: int, activation: Literal["gelu", "relu2"], bias: bool
) -> None:
    x, up, vector, down = layer_of(members, rows, width, inner)
    inputs = (x, up, vector if bias else None, down)
    assert native.takes_mlp(*inputs)
    close(with_gradients(mlp_of(activation), *inputs), with_gradients(plain_mlp(activation), *doubled(inputs)))


@pytest.mark.parametrize(("members", "rows", "width", "inner", "activation"), LAYERS)
def test_a_feed_forward_layer_has_the_bits_of_one_thread_and_of_one_member(
    members: int | None, rows: int, width: int, inner: int, activation: Literal["gelu", "relu2"]
) -> None:
    inputs, layer = layer_of(members, rows, width, inner), mlp_of(activation)
    torch.set_num_threads(1)
    expected = with_gradients(layer, *inputs)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        with patch.object(native, "SMALL", 1):
            assert same(with_gradients(layer, *inputs), expected)
    dy = normal(*inputs[0].shape, seed=99)
    for n in range(members or 0):
        alone = with_gradients(layer, *(each[n] for each in inputs), dy=dy[n])
        assert same(alone, [each[n] for each in expected])
    with torch.no_grad():
        assert same([layer(*inputs)], expected[:1])


def test_a_nan_stays_in_its_row_of_a_feed_forward_layer() -> None:
    x, up, bias, down = layer_of(None, 100, 16, 32)
    x[7, 1, 3] = torch.nan
    y, dx, *_ = with_gradients(mlp_of("gelu"), x, up, bias, down)
    for each in (y, dx):
        assert each.isnan().any(-1).nonzero().tolist() == [[7, 1]]


def test_gradients_of_a_feed_forward_layer_that_are_not_contiguous_and_come_twice() -> None:
    inputs = layer_of(2, 64, 16, 32)
    leaves = [each.clone().requires_grad_() for each in inputs]
    y, dy = mlp_of("gelu")(*leaves), normal(2, 32, 16, 2).mT
    y.backward(dy, retain_graph=True)
    once = [gradient(leaf).clone() for leaf in leaves]
    assert same(once, with_gradients(mlp_of("gelu"), *inputs, dy=dy.contiguous())[1:])
    y.backward(dy)
    assert same([gradient(leaf) for leaf in leaves], [2 * each for each in once])


def test_which_feed_forward_layers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, up, bias, down = layer_of(2, 64, 16, 32)
    assert native.takes_mlp(x, up, bias, down)
    assert not native.takes_mlp(x[:, :31], up, bias, down)  # too few rows
    assert not native.takes_mlp(x.repeat(1, 2, 1, 1)[:, :33], up, bias, down)  # 66, not a multiple of 4
    assert not native.takes_mlp(x, up[:, :24], bias, down)
    assert not native.takes_mlp(x[..., :8], up[..., :8], bias, down)
    assert not native.takes_mlp(x[:, :0], up, bias, down)
    assert not native.takes_mlp(x, up, bias.double(), down)
    monkeypatch.setattr(native, "MOST_WEIGHTS", 511)
    assert not native.takes_mlp(x, up, bias, down)


@pytest.mark.parametrize("kind", ["gelu", "relu2"])
def test_an_mlp_computes_the_same_in_torch_s_way(kind: MLPKind, monkeypatch: pytest.MonkeyPatch) -> None:
    mlp, x = MLP(kind, 16, 64, True, Dropout(0.0), population=2), normal(2, 8, 9, 16)
    with torch.no_grad():
        for n, parameter in enumerate(mlp.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=n))
    ours = with_gradients(mlp, x)
    monkeypatch.setattr(library, "missing", lambda: "off")
    torch.testing.assert_close(ours, with_gradients(mlp, x), atol=1e-4, rtol=1e-4)
