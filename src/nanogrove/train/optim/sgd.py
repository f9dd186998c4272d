"""Stochastic gradient descent with momentum, as torch computes it; weight decay joins the gradient."""

import torch

from nanogrove.train.optim.update_rule import Numbers, UpdateRule, UpdateSettings, elementwise


def kernel(numbers: Numbers, settings: UpdateSettings) -> None:
    """Torch's fused kernel, without the checks and groupings before it, which take longer than a small update."""
    (momenta,) = numbers.moments
    torch._fused_sgd_(
        numbers.weights,
        numbers.gradients,
        momenta if settings.momentum else [],
        weight_decay=numbers.weight_decay,
        momentum=settings.momentum,
        lr=numbers.lr,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


SGD = UpdateRule(moments=("momentum_buffer",), update=elementwise(kernel))
