"""The world of a seed: its base model, all texts with their probabilities and rewards, and the optimum.

A base is trained on texts of the grammar; its own distribution μ is the reference of all methods. Data of offline
methods are drawn from μ itself, with its probabilities, so that they lack nothing but what a sample lacks. For pairs
the better text is chosen as Bradley and Terry (1952) have it, with probability σ(r − r'), so that the optimum of DPO
exists: its log-ratios are rewards over β.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogrove.atomic import make_folder, write_file
from nanogrove.data.rng import random
from nanogrove.evaluate.regret import Optimum, optimum, text_log_probs, text_rewards, texts
from nanogrove.evaluate.reward import Reward
from nanogrove.studies.regret.settings import RegretSettings
from nanogrove.synthetic.corpus import number_tokenizer
from nanogrove.synthetic.rlm import RandomLanguageModel
from nanogrove.train.checkpoint import load_best, load_checkpoint, model_of

BASE_TEXTS = 1 << 14  # of the grammar, on which bases are trained
BASE_BATCH = 128
DATA = Path("data")  # of a study
TOKENIZER, GRAMMAR = DATA / "tokenizer.json", DATA / "grammar.jsonl"


@dataclass(frozen=True)
class World:
    """What is exact about a seed. N texts, as `evaluate.regret.texts` lists them.

    study     the folder of the study
    base      that of the base, a run
    reference [N] log-probabilities of μ
    rewards   [N]
    """

    settings: RegretSettings
    study: Path
    seed: int
    reference: Tensor
    rewards: Tensor

    @property
    def base(self) -> Path:
        """The run folder of the base."""
        return self.study / base_folder(self.seed)

    @cached_property
    def optimum(self) -> Optimum:
        """π* and J*."""
        return optimum(self.reference, self.rewards, self.settings.beta)

    @property
    def scored_file(self) -> Path:
        """Texts of μ with their rewards."""
        return self.study / DATA / f"seed-{self.seed}-scored.jsonl"

    @property
    def pairs_file(self) -> Path:
        """Pairs of texts of μ, the chosen one named."""
        return self.study / DATA / f"seed-{self.seed}-pairs.jsonl"

    def distribution(self, checkpoint: Path) -> Tensor:
        """The log-probabilities `[N]` of the model of a checkpoint."""
        return text_log_probs(model_of(load_checkpoint(checkpoint)), self.settings.v, self.settings.length)


def base_folder(seed: int) -> Path:
    """The run folder of a base, relative to that of the study."""
    return Path("runs") / "base" / f"seed-{seed}"


def common_preset(settings: RegretSettings) -> dict[str, Any]:
    """What all runs of a study share: the model, one thread, and snapshots after steps 1, 2, 4, …"""
    sizes = {name: getattr(settings, name) for name in ("n_layer", "n_head", "n_embd")}
    return {
        "model": {"family": "llama", **sizes, "block_size": settings.length + 1},
        "evaluate": {"every": 1 << 30, "tokens": 256, "final": "validation"},
        "sample": {"tokens": 0},
        "save": {"every": 64, "snapshots": True},
    }


def train_section(steps: int, batch_size: int) -> dict[str, Any]:
    """The section `train` of a preset, with all that its bits depend on."""
    pinned = {"threads": 1, "compile": False, "precision": "float32", "device": "cpu"}
    return {"steps": steps, "batch_size": batch_size, **pinned}


def base_preset(settings: RegretSettings, study: Path) -> dict[str, Any]:
    """The preset of a base, but for its seed."""
    return {
        **common_preset(settings),
        "data": rewarded_data(study, study / GRAMMAR) | {"validation": 0.05},
        "train": train_section(settings.base_steps, BASE_BATCH),
        "optimizer": {"name": "adamw", "lr": 0.003, "weight_decay": 0.0},
        "schedule": {"name": "cosine", "warmup": min(20, settings.base_steps), "final": 0.0},
        "save": {"every": 64},
    }


def rewarded_data(study: Path, file: Path, kind: str = "rewarded") -> dict[str, Any]:
    """The section `data` of a preset that reads one of the files; one text is held out, the least that can be."""
    tokenizer = str((study / TOKENIZER).absolute())
    return {"type": kind, "path": str(file.absolute()), "tokenizer": tokenizer, "validation": 1e-9, "test": 0.0}


def grammar_data(settings: RegretSettings) -> dict[str, Any]:
    """The section `data` of a preset that trains by what it samples itself."""
    rules = {"beta": settings.grammar_beta, "seed_rules": settings.seed_rules}
    return {"type": "rlm", "v": settings.v, "L": settings.L, **rules, "targets": "all", "held_out": 16}


def grammar_of(settings: RegretSettings) -> RandomLanguageModel:
    """The grammar of a study."""
    return RandomLanguageModel(settings.v, settings.L, settings.grammar_beta, settings.seed_rules)


def written(text: tuple[int, ...] | list[int]) -> str:
    """A text as the tokenizer and rewards read it."""
    return " ".join(map(str, text))


def write_grammar(settings: RegretSettings, study: Path) -> None:
    """Writes the tokenizer and the texts on which bases are trained."""
    make_folder(study / DATA)
    write_file(study / TOKENIZER, number_tokenizer(settings.v).to_json().encode())
    rows = [{"text": written(text), "reward": 0.0} for text in grammar_of(settings).sample(BASE_TEXTS).tolist()]
    _write_rows(study / GRAMMAR, rows)


def open_world(settings: RegretSettings, study: Path, seed: int, reward: Reward) -> World:
    """The world of a seed whose base is trained."""
    model = model_of(load_best(study / base_folder(seed) / "checkpoints"))
    reference = text_log_probs(model, settings.v, settings.length)
    return World(settings, study, seed, reference, text_rewards(reward, settings.v, settings.length))


def write_data(world: World) -> None:
    """Writes what offline methods learn from: as many texts as a run has scored, and half as many pairs."""
    listed = [written(text) for text in texts(world.settings.v, world.settings.length)]
    probabilities = world.reference.exp().numpy()
    probabilities = probabilities / probabilities.sum()
    generator, rewards = random(world.seed, "regret"), world.rewards.numpy()
    drawn = generator.choice(len(listed), size=world.settings.scored, p=probabilities)
    _write_rows(world.scored_file, [{"text": listed[n], "reward": float(rewards[n])} for n in drawn])
    first, second = generator.choice(len(listed), size=(2, world.settings.scored // 2), p=probabilities)
    wins = generator.random(len(first)) < 1 / (1 + np.exp(rewards[second] - rewards[first]))
    chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
    sides = zip(chosen, rejected, strict=True)
    pairs = [{"prompt": "", "chosen": listed[one], "rejected": listed[other]} for one, other in sides]
    _write_rows(world.pairs_file, pairs)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def short_mass(world: World) -> float:
    """The probability under μ of texts that end before T tokens."""
    whole = world.settings.v**world.settings.length
    return float(world.reference[:-whole].exp().sum())


def excess_of_base(world: World) -> float:
    """KL(grammar ‖ μ), nats per text."""
    settings = world.settings
    whole = torch.cartesian_prod(*[torch.arange(settings.v)] * settings.length)
    truth = grammar_of(settings).next_token_log_probs(whole).sum(1)
    ours = world.reference[-len(whole) :]
    return float((truth.exp() * (truth - ours)).masked_fill(truth == -torch.inf, 0.0).sum())
