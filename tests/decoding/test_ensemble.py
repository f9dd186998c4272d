"""An ensemble writes what its mean probabilities say, against members that read the whole text for each token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nanogrove.decoding.ensemble import averaged
from nanogrove.decoding.loop import decode
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import Sampler
from nanogrove.decoding.strategies import one_by_one, strategy_for
from nanogrove.errors import PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack

PROMPTS = [[1, 2, 3], [4], [0, 5, 6, 1, 2, 0, 3], [2, 2]]
STOP = 3


def make(dtype: torch.dtype, population: int | None = 3, **settings: Any) -> GPT:
    config = ModelConfig(vocab_size=11, n_layer=2, n_head=2, n_embd=16, init_scale=12.0, **settings)
    return GPT(config, population).initialize(*range(population or 1)).to(dtype).eval()


@torch.no_grad()
def expected(members: GPT, prompt: list[int], new: int) -> list[int]:
    """The likeliest tokens by mean probabilities, each member reading all of the text again and again."""
    alone = []
    for member in range(3):
        alone.append(GPT(members.config).to(members.embed.weight.dtype).eval())
        alone[-1].load_state_dict(unstack(members.state_dict(), member))
    ids = list(prompt)
    while len(ids) < len(prompt) + new:
        mean = torch.stack([model(torch.tensor([ids]))[0, -1].softmax(-1) for model in alone]).mean(0)
        ids.append(int(mean.argmax()))
        if ids[-1] == STOP:
            break
    return ids[len(prompt) :]


def written(members: GPT, sampler: Sampler, new: int) -> list[list[int]]:
    tokens, lengths = pad(PROMPTS)
    rows: Tensor = decode(averaged(members), tokens, lengths, new_tokens=new, sampler=sampler, stop=[STOP])
    return [[token for token in row if token >= 0] for row in rows.tolist()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # the latter with packed weights and a program
@pytest.mark.parametrize("settings", [{"family": "gpt2"}, {"family": "llama", "n_kv_head": 1}], ids=["gpt2", "llama"])
def test_the_tokens_are_those_of_mean_probabilities(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    members = make(dtype, block_size=32, **settings)
    assert written(members, Sampler(temperature=0.0), 20) == [expected(members, prompt, 20) for prompt in PROMPTS]


def test_a_full_context_is_read_again_by_all_members() -> None:
    members = make(torch.float64, block_size=8)
    single = make(torch.float64, None, block_size=8)
    same = GPT(members.config, 3).double().eval()
    same.load_state_dict({name: tensor.expand(3, *tensor.shape) for name, tensor in single.state_dict().items()})
    tokens, lengths = pad(PROMPTS)
    drawn = [
        decode(strategy, tokens, lengths, new_tokens=25, sampler=Sampler((), 1.0, torch.Generator().manual_seed(5)))
        for strategy in (one_by_one(same), one_by_one(single))
    ]
    assert torch.equal(*drawn), "three equal members write what one of them writes"
    assert len(written(members, Sampler(temperature=0.0), 25)) == len(PROMPTS)


def test_an_ensemble_goes_with_no_other_strategy() -> None:
    with pytest.raises(PresetError, match=r"lookahead: an ensemble has no heads for it .* plainly only; leave it out"):
        strategy_for(make(torch.float32, block_size=8), None, {"lookahead": 4}, steered=False)
