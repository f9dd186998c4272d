"""Exact match: whether the likeliest tokens are an answer in full, which is what greedy decoding would write."""

import torch
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.evaluate.selection import standard_error
from nanogrove.model.ensemble import Ensemble
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Values


def wrong(model: GPT | Ensemble, batch: Batch) -> Tensor:
    """0 where every scored token of a sequence is the likeliest one, else 1; `[*P, B]`, float32."""
    logits: Tensor = model(batch.tokens)
    right = (logits.argmax(-1) == batch.targets) | ~batch.mask
    return 1 - right.all(-1).float()


@torch.inference_mode()
def answered(model: GPT | Ensemble, corpus: Corpus, split: str, limit: int | None, losses: Tensor) -> Values:
    """The share of a split's answers that are right, and its standard error, where documents are independent.

    A member whose `losses [*P, N]` are not all finite has neither: an argmax over NaN is a number all the same.
    """
    device = model.embed.weight.device
    with evaluating(model):
        batches = (batch.to(device).expand(model.population) for batch in corpus.eval_batches(split, limit))
        right = 1 - torch.cat([wrong(model, batch).double().cpu() for batch in batches], -1)
    right = right.masked_fill(~losses.isfinite().all(-1, keepdim=True), torch.nan)
    return with_error("exact_match", right, corpus.documents(split, limit))


def with_error(name: str, samples: Tensor, documents: Tensor) -> Values:
    """The mean of `samples [*P, N]` as the figure `name`, and its standard error; `documents [N]` are independent."""
    rows = samples.double().reshape(-1, samples.shape[-1])
    error = standard_error(rows, documents).reshape(samples.shape[:-1])
    return {name: samples.double().mean(-1).tolist(), f"{name}_error": error.tolist()}
