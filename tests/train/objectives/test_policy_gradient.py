"""RLOO and GRPO as the library `trl` computes them on the same samples, and as their equations say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.data.batch import Batch
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import export_model, to_transformers
from nanogrove.train.objectives.policy_gradient import (
    PolicyGradient,
    advantages,
    log_probs,
    share_of_samples,
    token_weights,
)

pytestmark = pytest.mark.filterwarnings(  # trl sets one and reads the other itself
    "ignore:`(is_)?gradient_checkpointing` is deprecated and will be removed in v6:FutureWarning"
)
END = "<|endoftext|>"
GROUP = 3
PROMPTS = ["ab", "cdb"]
TEXTS = ["ab", "c", "dda", "b", "abcd", "ca"]
CUT = {2, 4}  # samples that do not end
REWARDS = [1.0, 0.0, 0.5, 2.0, 2.0, -1.0]
LONGEST = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[GPT], Callable[[int], Any], Any]:
    """A policy, that of the samples and a reference; what makes each anew for `transformers`; the tokenizer."""
    pytest.importorskip("trl")
    from tokenizers import Tokenizer as Backend
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    folder, tokenizer = tmp_path_factory.mktemp("models"), character_tokenizer(["abcd"])
    config = ModelConfig(family="llama", n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=tokenizer.vocab_size)
    ours = []
    for number, far in enumerate((0.3, 0.06, 0.1)):  # so near that some ratios are clipped, and some are not
        model = GPT(config).initialize(0)
        start, noise = (torch.Generator().manual_seed(seed) for seed in (0, number))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=start))
                if number:
                    parameter.add_(far * torch.randn(parameter.shape, generator=noise))
        export_model(model.state_dict(), config, folder / str(number))
        ours.append(model)
    backend = Backend.from_str(tokenizer.to_json())

    def theirs(number: int) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / str(number), dtype=torch.float32)

    return ours, theirs, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


def samples(tokenizer: Any) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of each prompt, once for each of its samples, and of the samples."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS for _ in range(GROUP)]
    ends = [[] if n in CUT else [tokenizer.eos_token_id] for n in range(len(TEXTS))]
    return prompts, [tokenizer(text)["input_ids"] + end for text, end in zip(TEXTS, ends, strict=True)]


def batch_of(tokenizer: Any) -> Batch:
    """The samples as rows, padded on the right."""
    rows = [(len(p), p + t) for p, t in zip(*samples(tokenizer), strict=True)]
    width = max(len(row) for _, row in rows)
    tokens = torch.tensor([row + [tokenizer.eos_token_id] * (width - len(row)) for _, row in rows])
    target = torch.arange(1, width)
    start, stop = (torch.tensor(each)[:, None] for each in ([s for s, _ in rows], [len(row) for _, row in rows]))
    return Batch.uniform(tokens[:, :-1], tokens[:, 1:], (target >= start) & (target < stop))


def trainer_of(kind: str, models: Any, folder: Path, **settings: Any) -> Any:
    """A trainer of `trl` whose samples are ours."""
    import trl
    from datasets import Dataset

    _, theirs, tokenizer = models
    config, trainer = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    given = trainer(
        theirs(1),  # that of the samples; its weights are those of the policy later
        lambda completions, **_: REWARDS,
        config(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            report_to="none",
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=len(TEXTS),
            num_generations=GROUP,
            num_iterations=2,
            max_completion_length=LONGEST,
            **settings,
        ),
        Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=tokenizer,
    )
    if settings.get("beta"):
        given.ref_model.load_state_dict(theirs(2).state_dict())
    given.current_gradient_accumulation_steps = 1  # as a step of training sets it
    _, written = samples(tokenizer)
    given._generate_single_turn = lambda *_: written if kind == "RLOO" else (written, None)
    return given


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [  # algorithm; our settings; theirs
    ("rloo", {}, {"beta": 0.0}),
    ("rloo", {"beta": 0.7, "high": 0.05, "low": 0.1}, {"beta": 0.7, "epsilon": 0.1, "epsilon_high": 0.05}),
    ("rloo", {"beta": 0.2, "scale": "batch"}, {"beta": 0.2, "normalize_advantages": True}),
    ("grpo", {"aggregation": "dapo"}, {"loss_type": "dapo"}),
    (
        "grpo",
        {"aggregation": "dapo", "low": 0.05, "high": 0.02},
        {"loss_type": "bnpo", "epsilon": 0.05, "epsilon_high": 0.02},
    ),
    ("grpo", {"aggregation": "grpo", "beta": 0.3}, {"loss_type": "grpo", "beta": 0.3}),
    (
        "grpo",
        {"aggregation": "dr_grpo", "scale": "none", "beta": 0.3, "corrected": False},
        {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.3, "use_bias_correction_kl": False},
    ),
    (
        "grpo",
        {"scale": "batch", "temperature": 0.7, "beta": 0.3},
        {"scale_rewards": "batch", "temperature": 0.7, "beta": 0.3},
    ),
]


@pytest.mark.parametrize(("algorithm", "settings", "theirs"), CASES)
def test_losses_and_gradients_are_those_of_trl(
    algorithm: Any, settings: dict[str, Any], theirs: dict[str, Any], models: Any, tmp_path: Path
) -> None:
    """To 1e-5, gradients by the largest entry of each, on samples that an earlier policy wrote."""
    (policy, writer, reference), make, tokenizer = models
    chosen = {"scale": "group" if algorithm == "grpo" else "none", "aggregation": "dapo", **settings}
    scale, aggregation = chosen.pop("scale"), chosen.pop("aggregation")
    loss, batch = PolicyGradient(algorithm, **chosen), batch_of(tokenizer)
    with torch.no_grad():
        old, of_reference = (log_probs(m, batch, loss.temperature) * batch.mask for m in (writer, reference))
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    if algorithm == "rloo":
        rewards = rewards - loss.beta * (old - of_reference).sum(-1)
    gained = advantages(rewards, GROUP, algorithm, scale).float()
    extra = {"advantage": gained, "share": share_of_samples(batch.mask), "old": old, "reference": of_reference}
    weighed = Batch(
        batch.tokens, batch.targets, batch.mask, token_weights(batch.mask, aggregation, LONGEST), batch.source, extra
    )
    trainer = trainer_of(algorithm.upper(), models, tmp_path, **theirs)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(GROUP)])
    torch.testing.assert_close(inputs["advantages"], gained, atol=1e-5, rtol=0)
    trainer.model.load_state_dict(make(0).state_dict())
    wanted = trainer.compute_loss(trainer.model, inputs)
    wanted.backward()
    policy.zero_grad()
    found = loss.objective()(policy, weighed)
    found.total.backward()
    assert found.total.item() == pytest.approx(wanted.item(), abs=1e-5)
    gradients = to_transformers({n: p.grad for n, p in policy.named_parameters() if p.grad is not None}, policy.config)
    for name, parameter in trainer.model.named_parameters():
        largest = parameter.grad.abs().max()
        assert largest > 1e-5, name
        torch.testing.assert_close(gradients[name] / largest, parameter.grad / largest, atol=1e-5, rtol=0)
    logged = trainer._metrics["train"]
    assert found.parts["clipped"].item() == pytest.approx(logged["clip_ratio/region_mean"][-1], abs=1e-5)
    if algorithm == "grpo" and loss.beta and loss.corrected is False:
        assert found.parts["kl"].item() == pytest.approx(logged["kl"][-1], abs=1e-5)
