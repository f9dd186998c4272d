"""DPO and KTO as the library `trl` computes them, losses and gradients, on the same rows by the same models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend

from nanogrove.corpora import make_corpus
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import export_model, to_transformers
from nanogrove.train.objective import Loss
from nanogrove.train.objectives.preference import dpo, kto, kto_batch

pytestmark = pytest.mark.filterwarnings(  # trl sets one and reads the other itself
    "ignore:`(is_)?gradient_checkpointing` is deprecated and will be removed in v6:FutureWarning"
)
END = "<|endoftext|>"
PROMPTS = ["ab", "cab", "", "a", "ddcb", "bb"]  # an empty one is an end mark, which trl has to be told


def texts(seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    return ["".join(generator.choice(list("abcd"), size=1 + n)) for n in range(len(PROMPTS))]


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def models(corpus: RewardedCorpus, folder: Path) -> tuple[list[GPT], list[Any], Any]:
    """A policy and a reference of ours, the same two of `transformers`, and the tokenizer."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    size = corpus.tokenizer.vocab_size
    config = ModelConfig(family="llama", n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=size)
    ours = [GPT(config).initialize(seed) for seed in (0, 1)]
    with torch.no_grad():  # far enough apart that every ratio counts
        for model, seed in zip(ours, (2, 3), strict=True):
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    theirs = []
    for name, model in zip(("policy", "reference"), ours, strict=True):
        export_model(model.state_dict(), config, folder / name)
        theirs.append(AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32))
    backend = Backend.from_str(corpus.tokenizer.to_json())
    return ours, theirs, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    plain = {"output_dir": str(folder / "trl"), "use_cpu": True, "report_to": "none", "bf16": False}
    return {**plain, "per_device_train_batch_size": len(PROMPTS), "gradient_checkpointing": False, **more}


def told(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{**row, "prompt": row["prompt"] or END} for row in rows])


def agree(found: Loss, policy: GPT, trainer: Any) -> None:
    """To 1e-5, the loss and its gradient by each parameter, the latter as a share of its largest entry."""
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(PROMPTS))])
    wanted = trainer.compute_loss(trainer.model, batch)
    assert found.total.item() == pytest.approx(wanted.item(), abs=1e-5)
    found.total.backward()
    wanted.backward()
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    ours = to_transformers(gradients, policy.config)
    theirs = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = gradient.abs().max()
        assert scale > 1e-4, name
        torch.testing.assert_close(ours[name] / scale, gradient / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("beta", "normalised", "anchor", "theirs"),
    [
        (0.1, False, 0.0, {}),
        (0.7, False, 0.0, {}),
        (0.7, True, 0.0, {"loss_type": ["sigmoid_norm"]}),
        (0.7, False, 0.3, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]}),
        (0.7, True, 0.3, {"loss_type": ["sigmoid_norm", "sft"], "loss_weights": [1.0, 0.3]}),
    ],
)
def test_dpo_is_that_of_trl(
    beta: float, normalised: bool, anchor: float, theirs: dict[str, Any], tmp_path: Path
) -> None:
    """Also of rows longer than the context."""
    from trl import DPOConfig, DPOTrainer

    rows = [
        {"prompt": prompt, "chosen": chosen, "rejected": f"{rejected}d"}
        for prompt, chosen, rejected in zip(PROMPTS, texts(0), texts(1), strict=True)
    ]
    path = written(tmp_path / "pairs.jsonl", rows)
    corpus = make_corpus(PreferencesConfig(type="preferences", path=path), 8, 2 * len(rows), 0)
    assert isinstance(corpus, RewardedCorpus)
    assert corpus.cut == 3
    (policy, reference), (their_policy, their_reference), tokenizer = models(corpus, tmp_path)
    found = dpo(reference, beta, normalised, anchor)(policy, corpus.batch_of(np.arange(2 * len(rows))))
    trainer = DPOTrainer(
        their_policy,
        their_reference,
        DPOConfig(**settings(tmp_path, beta=beta, max_length=9, **theirs)),
        train_dataset=told(rows),
        processing_class=tokenizer,
    )
    agree(found, policy, trainer)
    assert abs(found.total.item() - np.log(2)) > 0.01
    for side in ("chosen", "rejected"):
        logged = trainer._metrics["eval"][f"logps/{side}"][-1]
        assert found.parts[f"{side}_log_prob"].item() == pytest.approx(logged, abs=1e-4)
    for ours, name in () if normalised else (("in_order", "accuracies"), ("margin", "margins")):  # theirs are of texts
        logged = trainer._metrics["eval"][f"rewards/{name}"][-1]
        assert found.parts[ours].item() == pytest.approx(logged, abs=1e-4)


@pytest.mark.parametrize(
    ("beta", "good", "bad", "turned"), [(0.1, 1.0, 1.0, 1), (0.5, 1.5, 0.7, 1), (0.5, 1.5, 0.7, -1)]
)
def test_kto_is_that_of_trl(beta: float, good: float, bad: float, turned: int, tmp_path: Path) -> None:
    """Of two models either is the policy: with one the mean ratio of mismatched rows is negative, and z is 0."""
    from trl import KTOConfig, KTOTrainer

    wanted = [True, False, True, True, False, False]
    rows: list[dict[str, Any]] = [
        {"prompt": prompt, "completion": text, "label": label}
        for prompt, text, label in zip(PROMPTS, texts(0), wanted, strict=True)
    ]
    scored = [{"prompt": row["prompt"], "text": row["completion"], "reward": float(row["label"])} for row in rows]
    path = written(tmp_path / "scored.jsonl", scored)
    corpus = make_corpus(RewardedConfig(type="rewarded", path=path, prompt="prompt"), 16, len(rows), 0)
    assert isinstance(corpus, RewardedCorpus)
    ours, theirs, tokenizer = models(corpus, tmp_path)
    policy, reference = ours[::turned]
    their_policy, their_reference = theirs[::turned]
    order = np.arange(len(rows))
    batch = kto_batch(corpus.batch_of(order), torch.tensor(wanted), corpus.mismatched(order))
    found = kto(reference, beta, good, bad)(policy, batch)
    backwards = rows[::-1]  # they pair a prompt with the text before, we with the text after
    trainer = KTOTrainer(
        their_policy,
        their_reference,
        KTOConfig(**settings(tmp_path, beta=beta, desirable_weight=good, undesirable_weight=bad)),
        train_dataset=told(backwards),
        processing_class=tokenizer,
    )
    agree(found, policy, trainer)
    assert (found.parts["z"].item() > 0.05) == (turned < 0)
