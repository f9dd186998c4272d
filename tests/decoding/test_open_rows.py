"""Rows that come and go: each text is the one that `generate` gives alone, whatever is decoded beside it."""

from typing import Any

import pytest
import torch

from nanogrove.decoding.open_rows import Draw, OpenRows, choose
from nanogrove.decoding.plain import generate
from nanogrove.decoding.reading import pad
from nanogrove.decoding.sampling import Sampling
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.packing import packed_weights
from nanogrove.native import library

CONTEXT, VOCABULARY = 16, 23
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "grouped": {"family": "llama", "n_kv_head": 2, "token_shift": True},
    "capped": {"family": "nanochat", "logit_softcap": 9.0},
    "documents": {"family": "llama", "within_documents": True, "document_mark": 3},
    "coupled": {"position": "coupled", "coupled_tokens": tuple(range(4, 20)), "coupled_start_tokens": (3,)},
}
SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=0.0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.3, top_p=0.9, repetition_penalty=1.2),
    Sampling(temperature=0.9, min_p=0.05, no_repeat_ngram=2),
]


def make(settings: dict[str, Any]) -> GPT:
    """A model with something to say: weights three times as large as at first."""
    sizes = {"vocab_size": VOCABULARY, "block_size": CONTEXT, "n_layer": 2, "n_head": 4, "n_embd": 32}
    model = GPT(ModelConfig(**{**sizes, "zero_init": False, **settings})).initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return model.eval()


def alone(model: GPT, prompt: list[int], count: int, settings: Sampling, seed: int) -> list[int]:
    """The new tokens of `generate`."""
    generator = torch.Generator().manual_seed(seed)
    tokens, lengths = pad([prompt])
    transforms, greedy = settings.transforms(), not settings.temperature
    written = generate(
        model, tokens, lengths, new_tokens=count, transforms=transforms, greedy=greedy, generator=generator
    )
    return list(written[0].tolist())


def together(model: GPT, prompts: list[list[int]], counts: list[int], room: int) -> list[list[int]]:
    """The new tokens of each prompt, admitted one after the other wherever there is room."""
    rows, waiting = OpenRows(model, room), list(range(len(prompts)))
    written: list[list[int]] = [[] for _ in prompts]
    active: list[int] = []
    draws = [Draw(SETTINGS[n % len(SETTINGS)], torch.Generator().manual_seed(n)) for n in range(len(prompts))]

    def add(tokens: list[int]) -> None:
        for number, token in zip(active, tokens, strict=True):
            written[number].append(token)

    while waiting or active:
        latest = [written[number][-1] for number in active]
        if active:
            latest = choose(rows.extend(latest), [draws[n] for n in active], rows.texts)
            add(latest)
        for row in reversed(range(len(active))):
            if len(written[active[row]]) == counts[active[row]]:
                rows.leave(row)
                last = active.pop()
                if row < len(active):
                    active[row] = last
        if waiting and len(active) < room:
            number = waiting.pop(0)
            logits = rows.admit(prompts[number])
            written[number] += choose(logits, [draws[number]], rows.texts[-1:])
            active.append(number)
    return written


@pytest.mark.parametrize(
    "variant",
    ["grouped", "coupled", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "capped", "documents"))],
)
def test_each_text_is_that_of_generate_far_past_the_context(variant: str) -> None:
    model = make(VARIANTS[variant])
    generator = torch.Generator().manual_seed(5)
    lengths = [3, 1, 9, 16, 30, 2, 4]
    prompts = [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    counts = [20, 45, 18, 16, 25, 16, 24]
    with torch.inference_mode(), packed_weights(model, 4):
        written = together(model, prompts, counts, room=4)
    for number, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        assert written[number] == alone(model, prompt, count, SETTINGS[number % len(SETTINGS)], number)


@pytest.mark.skipif(library.missing() is not None, reason=library.missing() or "")
def test_scores_of_a_row_are_the_same_bits_whatever_is_beside_it() -> None:
    model = make(VARIANTS["grouped"])
    text, other = [1, 5, 2, 8, 3], [4, 4, 9, 2, 7]
    with torch.inference_mode(), packed_weights(model, 4):
        first = OpenRows(model, 5)
        alone = [first.admit([7, 7]), *(first.extend([token]) for token in text)]
        second = OpenRows(model, 5)
        for prompt in ([2], [3, 3, 3], [1] * 9):
            second.admit(prompt)
        beside = [second.admit([7, 7])]
        second.leave(0)  # the row that is looked at takes its number
        beside += [second.extend([token, *[number] * 2])[:1].clone() for token, number in zip(text, other, strict=True)]
    assert all(torch.equal(*pair) for pair in zip(alone, beside, strict=True))
