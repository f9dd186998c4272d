"""What the CPU can do with bfloat16, by asking it and its operators, never by timing them.

Two questions, since either may be yes where the other is no. *Products*: does the CPU multiply bfloat16 by instructions
of its own? Without them torch emulates, at a tenth to a hundredth of float32's speed. *Packing*: does oneDNN take
weights in a format? It refuses bfloat16 on x86-64 without AVX-512, and the only reliable test is to try the operators
once on a tiny product.
"""

from functools import cache

import torch


@cache
def bfloat16_missing() -> str | None:
    """Why bfloat16 products are not for this CPU, None where it has instructions for them.

    Every x86-64 CPU with AMX has those of AVX-512 too, so that one question answers for both. oneDNN is asked as well,
    which hears of limits such as `ATEN_CPU_CAPABILITY`. On other architectures nothing was tried, so nothing is taken.
    """
    if not torch.cpu._is_avx512_bf16_supported():
        return "this CPU has no bfloat16 products"
    if packing_missing(torch.bfloat16):
        return packing_missing(torch.bfloat16)
    return None if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "oneDNN uses no bfloat16 products here"


@cache
def packing_missing(dtype: torch.dtype) -> str | None:
    """Why oneDNN's packed weights of `dtype` are not usable on this CPU, None where a tiny product of them is right."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this build of torch has no oneDNN"
    ones = torch.ones(2, 2, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(ones, 2)
        product = torch.ops.mkldnn._linear_pointwise(ones, packed, ones[0], "none", [], "")
    except (RuntimeError, AttributeError) as error:  # the latter where another torch has no such operator
        return f"oneDNN packs no {str(dtype).removeprefix('torch.')} weights here ({str(error).splitlines()[0]})"
    return None if bool((product == 3).all()) else f"oneDNN multiplies packed {dtype} weights wrongly here"
