"""Objectives of on-policy policy gradients on groups of samples of one prompt: RLOO and GRPO.

    RLOO   r′ = r − β Σ_t log(π_old/π_ref)                  the reward of a sample, less a penalty on its tokens
           A  = r′ − mean of r′ over the others of its group          REINFORCE with a leave-one-out baseline
           −min(ρA, clip(ρ)A), mean over samples                      ρ = Π_t π/π_old, of the whole sample
           Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740, eq. 8

    GRPO   A  = (r − mean of its group) / (deviation of its group + 1e-4)
           −min(ρA, clip(ρ)A) + β ρ k, mean over tokens               ρ = π/π_old, of each token
           k  = π_ref/π − log(π_ref/π) − 1, which is not negative and has the mean KL(π ‖ π_ref)
           Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4

clip(ρ) lies between 1 − ε and 1 + ε′ (Schulman et al. 2017, arXiv 1707.06347; two bounds: Yu et al. 2025, arXiv
2503.14476). π_old is the policy that wrote the samples. Where it is the one that is trained, ρ is 1, and the gradient
of either is that of −A log π: REINFORCE (Williams 1992).

The mean over tokens is one of three. `dapo` takes all tokens of the batch alike (arXiv 2503.14476); `grpo` the mean of
each sample first, so that a token of a short one counts more; `dr_grpo` divides by the most tokens that samples could
have (Liu et al. 2025, arXiv 2503.20783), which also asks for advantages that are not divided by a deviation. Each is a
weight of tokens, so that micro-batches add up to the batch.

The factor ρ before k gives the penalty the gradient of KL(π ‖ π_ref) (DeepSeek-AI 2025, arXiv 2512.02556); without it,
`corrected=False`, the penalty is that of arXiv 2402.03300.

All of it is as `trl` 1.16 computes it, to which tests compare losses and gradients. Deviations: `bnpo` of `trl` is
`dapo` here, since they differ by micro-batches alone; advantages are computed in 64 bits; a sample that nothing scores
does not exist.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.model.elementwise import at_least_float32
from nanogrove.model.layers import total
from nanogrove.train.objective import Loss, Objective, count_scored

Algorithm = Literal["rloo", "grpo"]
Scale = Literal["group", "batch", "none"]
Aggregation = Literal["dapo", "grpo", "dr_grpo"]
EPSILON = 1e-4  # added to a deviation


def advantages(rewards: Tensor, samples: int, algorithm: Algorithm, scale: Scale) -> Tensor:
    """The advantages `[B]` of `rewards [B]`, float64, of which each `samples` in turn are a group.

    Args:
        rewards: of a single model's samples; of RLOO less the penalty of the KL.
        samples: of each prompt, 2 or more.
        algorithm: whether a sample is compared with the others of its group, or with all of them.
        scale: the deviation that advantages are divided by: of the rewards of a group, or of the batch. RLOO knows the
            batch alone, whose advantages it also centres.
    """
    groups = rewards.view(-1, samples)
    if algorithm == "rloo":
        others = (groups.sum(1, keepdim=True) - groups) / (samples - 1)
        gained = (groups - others).flatten()
        return gained if scale == "none" else (gained - gained.mean()) / (gained.std() + EPSILON)
    gained = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        gained = gained / (groups.std(1, keepdim=True) + EPSILON)
    elif scale == "batch":
        gained = gained / (rewards.std() + EPSILON)
    return gained.flatten()


def share_of_samples(mask: Tensor) -> Tensor:
    """The weight `[*P, B]` with which Σ over samples over the number of scored tokens is a mean over samples.

    `mask [*P, B, T]` is that of the whole batch.
    """
    return (mask.sum((-2, -1)) / mask.shape[-2])[..., None].expand(mask.shape[:-1])


def mean_of_samples(figures: Tensor, batch: Batch) -> Tensor:
    """The mean `[*P]` of one figure of each sample, `[*P, B]`; that of a micro-batch is its part of the whole mean."""
    return (batch.extra["share"] * figures).sum(-1) / count_scored(batch)


def token_weights(mask: Tensor, aggregation: Aggregation, longest: int) -> Tensor:
    """The weight `[*P, B, T]` of tokens with which Σ over them over their number is a mean of this kind.

    `mask [*P, B, T]` is that of the whole batch, `longest` the most tokens that a sample could have.
    """
    if aggregation == "dapo":
        return torch.ones_like(mask, dtype=torch.float32)
    lengths = mask.sum(-1).clamp(min=1)
    if aggregation == "dr_grpo":
        lengths = torch.full_like(lengths, longest)
    return (share_of_samples(mask) / lengths)[..., None].expand(mask.shape)


def log_probs(model: nn.Module, batch: Batch, temperature: float) -> Tensor:
    """The log-probabilities `[*P, B, T]` of the targets at a temperature.

    At 1 the logits of all positions need not exist at once.
    """
    if temperature == 1:
        nll: Tensor = model(batch.tokens, batch.targets)
        return -nll
    logits = at_least_float32(model(batch.tokens)) / temperature
    nll = F.cross_entropy(logits.flatten(0, -2), batch.targets.flatten(), reduction="none")
    return -nll.view(batch.targets.shape)


@dataclass(frozen=True)
class PolicyGradient:
    """What the loss of a batch of samples depends on beside them.

    Args:
        algorithm: RLOO or GRPO.
        low: ε, how far below 1 a ratio counts.
        high: ε′, how far above.
        beta: weight of the KL in the loss of GRPO; RLOO has it in its rewards.
        corrected: whether the KL of a token is multiplied by its ratio.
        temperature: of sampling.
    """

    algorithm: Algorithm
    low: float = 0.2
    high: float = 0.2
    beta: float = 0.0
    corrected: bool = True
    temperature: float = 1.0

    def objective(self) -> Objective:
        """The loss of samples.

        Batches have the `advantage [*P, B]` of each, its `share [*P, B]` as `share_of_samples` gives it, and, where the
        policy may have changed since, the `old [*P, B, T]` log-probabilities; `reference [*P, B, T]` has those of the
        reference where the KL is asked for. Weights are those of `token_weights`.
        """
        return self._loss

    def _loss(self, model: nn.Module, batch: Batch) -> Loss:
        now, count = log_probs(model, batch, self.temperature), count_scored(batch)
        gained = batch.extra["advantage"]
        change = (now - batch.extra.get("old", now.detach())) * batch.mask
        parts: dict[str, Tensor] = {}
        if self.algorithm == "rloo":
            ratio = change.sum(-1).exp()
            loss = mean_of_samples(self._surrogate(ratio, gained), batch)
            clipped = mean_of_samples(self._clipped(ratio, gained), batch)
            if self.beta:
                parts["kl"] = total((now.detach() - batch.extra["reference"]) * batch.mask) / count
        else:
            ratio, gained = change.exp(), gained[..., None]
            each = self._surrogate(ratio, gained)
            if self.beta:
                away = (batch.extra["reference"] - now) * batch.mask
                kl = away.exp() - away - 1
                parts["kl"] = total(kl.detach()) / count
                each = each + self.beta * (kl * ratio if self.corrected else kl)
            loss = total(batch.mask * batch.weight * each) / count
            clipped = total(batch.mask * self._clipped(ratio, gained)) / count
        parts |= {"entropy": total((-now * batch.mask).detach()) / count, "clipped": clipped}
        return Loss(loss, parts)

    def _surrogate(self, ratio: Tensor, gained: Tensor) -> Tensor:
        return -torch.minimum(ratio * gained, ratio.clamp(1 - self.low, 1 + self.high) * gained)

    def _clipped(self, ratio: Tensor, gained: Tensor) -> Tensor:
        """1 where the ratio is past the bound on the side to which the advantage pushes it, else 0."""
        past = ((ratio < 1 - self.low) & (gained < 0)) | ((ratio > 1 + self.high) & (gained > 0))
        return past.to(ratio.dtype)
