"""An ensemble computes the mean of its members' probabilities, whatever is asked of it."""

import torch
import torch.nn.functional as F

from nanogrove.model import ensemble
from nanogrove.model.config import ModelConfig
from nanogrove.model.ensemble import Ensemble, part
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack

CONFIG = ModelConfig(vocab_size=13, block_size=12, n_layer=2, n_head=2, n_embd=16, init_scale=8.0)


def members(count: int = 3) -> GPT:
    return GPT(CONFIG, count).initialize(*range(count)).double().eval()


def alone(population: GPT, member: int) -> GPT:
    model = GPT(CONFIG).double().eval()
    model.load_state_dict(unstack(population.state_dict(), member))
    return model


@torch.no_grad()
def test_probabilities_are_averaged_and_not_logits(monkeypatch) -> None:
    population, tokens = members(), torch.randint(0, 13, (5, 9), generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 13, (5, 9), generator=torch.Generator().manual_seed(1))
    logits = torch.stack([alone(population, member)(tokens) for member in range(3)])
    expected = F.softmax(logits, -1).mean(0)
    together = Ensemble(population)
    torch.testing.assert_close(together(tokens).exp(), expected, atol=1e-12, rtol=0)
    nll = -expected.gather(-1, targets[..., None])[..., 0].log()
    torch.testing.assert_close(together(tokens, targets), nll, atol=1e-12, rtol=0)
    assert (F.softmax(logits.mean(0), -1) - expected).abs().max() > 0.01, "the two averages would look alike"
    monkeypatch.setattr(ensemble, "MAX_LOGITS_PER_CHUNK", 3 * 9 * 13 * 2)  # two rows at a time
    torch.testing.assert_close(together(tokens).exp(), expected, atol=1e-12, rtol=0)


def test_a_part_is_a_copy_of_consecutive_members() -> None:
    population = members()
    last = part(population, slice(1, 3))
    assert last.population == 2
    for ours, theirs in zip(last.parameters(), population.parameters(), strict=True):
        assert torch.equal(ours, theirs[1:].float() if ours.dtype == torch.float32 else theirs[1:])
        assert not ours.requires_grad
