"""AdamW (Loshchilov & Hutter 2019), as torch computes it; weight decay is decoupled from the gradient."""

import torch

from nanogrove.train.optim.update_rule import Numbers, UpdateRule, UpdateSettings, elementwise


def kernel(numbers: Numbers, settings: UpdateSettings) -> None:
    """Torch's fused kernel, without the checks and groupings before it, which take longer than a small update."""
    first, second = numbers.moments
    torch._fused_adamw_(
        numbers.weights,
        numbers.gradients,
        first,
        second,
        [],
        numbers.steps,
        lr=numbers.lr,
        beta1=settings.betas[0],
        beta2=settings.betas[1],
        weight_decay=numbers.weight_decay,
        eps=settings.eps,
        amsgrad=False,
        maximize=False,
    )


ADAMW = UpdateRule(moments=("exp_avg", "exp_avg_sq"), update=elementwise(kernel), counts_steps=True)
