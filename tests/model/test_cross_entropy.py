"""The loss of a token against torch, for one model and for members that differ in label smoothing."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.model import gpt
from nanogrove.model.config import ModelConfig
from nanogrove.model.cross_entropy import cross_entropy
from nanogrove.model.gpt import GPT

SHARES = [0.0, 0.1, 0.1, 0.3]


def logits_and_targets() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 6, 13, generator=generator), torch.randint(13, (4, 6), generator=generator)


def test_each_member_has_the_bits_of_torch_alone() -> None:
    logits, targets = logits_and_targets()
    logits.requires_grad_()
    losses = cross_entropy(logits, targets, SHARES)
    (together,) = torch.autograd.grad(losses.sum(), [logits])
    for p, share in enumerate(SHARES):
        alone = logits[p].detach().requires_grad_()
        loss = F.cross_entropy(alone, targets[p], reduction="none", label_smoothing=share)
        (gradient,) = torch.autograd.grad(loss.sum(), [alone])
        assert torch.equal(losses[p], loss)
        assert torch.equal(together[p], gradient)


def test_smoothing_mixes_the_nll_with_the_mean_over_the_vocabulary() -> None:
    logits, targets = logits_and_targets()
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(cross_entropy(logits, targets, 0.3), 0.7 * nll - 0.3 * log_p.mean(-1))


def test_a_model_smooths_alike_whole_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GPT(ModelConfig(vocab_size=13, block_size=6, n_layer=1, n_head=2, n_embd=16), 4).initialize(0, 1, 2, 3)
    tokens = logits_and_targets()[1][:, None]
    whole = model(tokens, tokens, SHARES)
    monkeypatch.setattr(gpt, "MAX_LOGITS_PER_CHUNK", 13 * 6 * 2)  # two members at once
    torch.testing.assert_close(model(tokens, tokens, SHARES), whole)
    monkeypatch.setattr(gpt, "MAX_LOGITS_PER_CHUNK", 13 * 4)  # two thirds of a member
    torch.testing.assert_close(model(tokens, tokens, SHARES), whole)


def test_initial_weights_are_scaled() -> None:
    config = ModelConfig(vocab_size=13, block_size=6, n_layer=1, n_head=2, n_embd=16)
    plain, scaled = (GPT(c).initialize(5) for c in (config, config.model_copy(update={"init_scale": 2.0})))
    for name, parameter in scaled.named_parameters():
        drawn = name.endswith("weight") and "norm" not in name
        assert torch.equal(parameter, plain.get_parameter(name) * (2.0 if drawn else 1.0)), name
