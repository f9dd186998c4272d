"""Held-out pairs: figures and their errors, pair by pair; `trl` agrees in tests/train/objectives/test_preference.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nanogrove import waits
from nanogrove.corpora import make_corpus
from nanogrove.data.rewarded import PreferencesConfig, RewardedCorpus
from nanogrove.evaluate.pairs import held_out_pairs
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.train.objectives.preference import dpo
from nanogrove.waits import current_progress, waiting


@pytest.mark.parametrize("normalised", [False, True])
def test_figures_are_those_of_every_pair_by_itself(
    normalised: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve pairs after six prompts in batches of four rows; a batch for each pair gives the same."""
    monkeypatch.setattr(waits, "_under_way", list[waits.Progress]())  # without what an earlier test left unfinished
    rows = [{"prompt": f"{n // 2:02}", "chosen": "ab" * (n % 3 + 1), "rejected": "cb" * (n % 4 + 1)} for n in range(40)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = make_corpus(PreferencesConfig(type="preferences", path=str(path), validation=0.3), 16, 4, 0)
    assert isinstance(corpus, RewardedCorpus)
    config = ModelConfig(vocab_size=corpus.tokenizer.vocab_size, block_size=16, n_layer=1, n_head=2, n_embd=16)
    model, reference = (GPT(config).initialize(seed).eval() for seed in (0, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
    with waiting("scoring all") as outer:
        score, figures = held_out_pairs(model, reference, corpus, "validation", 0.5, normalised)
        assert current_progress() is outer, "no wait is left over"
    objective, pairs = dpo(reference, 0.5, normalised), corpus.row_indices("validation").reshape(-1, 2)
    assert len(pairs) == 12
    with torch.no_grad():
        losses = [objective(model, corpus.batch_of(pair)) for pair in pairs]
    margins = np.array([float(loss.parts["margin"]) for loss in losses])
    assert score == pytest.approx(np.mean([float(loss.total) for loss in losses]), rel=1e-5)
    for name in losses[0].parts:
        assert figures[name] == pytest.approx(np.mean([float(loss.parts[name]) for loss in losses]), rel=1e-5)
    prompts = np.array([corpus.prompts[first] for first, _ in pairs])
    for name, samples in (("margin", margins), ("in_order", (margins > 0).astype(float))):
        sums = np.array([(samples - samples.mean())[prompts == prompt].sum() for prompt in set(prompts)])
        error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(samples)
        assert figures[f"{name}_error"] == pytest.approx(error, rel=1e-4)
    assert 0 < figures["in_order"] < 1
