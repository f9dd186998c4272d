"""The loss of a model on held-out text."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nanogrove.data.batch import Batch, Corpus
from nanogrove.model.gpt import GPT


class Score(NamedTuple):
    """`loss [*P]` in nats a token, the mean over `tokens` scored ones."""

    loss: Tensor
    tokens: int


@torch.inference_mode()
def mean_nll(model: GPT, batches: Iterable[Batch]) -> Score:
    """The mean NLL over all scored tokens of `batches`, in float32, sums in float64, without dropout."""
    was_training = model.training
    model.eval()
    device = model.embed.weight.device
    total = torch.zeros(() if model.population is None else (model.population,), dtype=torch.float64)
    tokens = 0
    for batch in batches:
        shown = batch.to(device).expand(model.population)
        nll = model(shown.tokens, shown.targets) * (shown.weight != 0)
        total += nll.double().sum((-2, -1)).cpu()
        tokens += int((batch.weight != 0).sum())
    model.train(was_training)
    return Score(total / max(tokens, 1), tokens)


def evaluate_split(model: GPT, corpus: Corpus, split: str, limit: int | None = None) -> dict[str, Any]:
    """Loss and bits per byte on a split, or on about `limit` tokens of it, as values of an `eval` event."""
    score = mean_nll(model, corpus.windows(split, limit))
    bits = score.loss / (math.log(2) * corpus.bytes_per_token(split))
    return {"split": split, "loss": score.loss.tolist(), "bits_per_byte": bits.tolist(), "tokens": score.tokens}
