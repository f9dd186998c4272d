"""A trained model with its tokenizer, ready to write text: what `nanogrove.load` returns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import ValidationError

from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.model.decode import Sampling, generate, pad
from nanogrove.model.gpt import GPT, unstack
from nanogrove.train.auto import Decoding, fastest_decoding
from nanogrove.train.checkpoint import Checkpoint, load_best, load_checkpoint, load_weights


class LanguageModel:
    """A model and its tokenizer."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @overload
    def generate(
        self, prompt: str = "", tokens: int = 100, *, seed: int = 0, precision: Decoding = "auto", **sampling: Any
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        **sampling: Any,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        **sampling: Any,
    ) -> str | list[str]:
        """Prompt plus continuation: a string for one prompt, a list for a list, decoded as one batch.

        A text ends at the end-of-text token or after `tokens` new tokens; an empty prompt starts a document.
        `sampling` takes the settings of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty,
        no_repeat_ngram. `precision` is that of matrix products, `auto` the one measured to be the faster on this
        machine; equal seeds give equal texts in equal precision. Raises PresetError for a setting out of range and
        DataError for a prompt the vocabulary cannot express.
        """
        try:
            settings = Sampling(**sampling)
        except ValidationError as error:
            problem = error.errors()[0]
            raise PresetError(f"{problem['loc'][0]}: {problem['msg'].lower()}") from None
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        encoded = [self.tokenizer.encode(text) or [self.tokenizer.end] for text in prompts]
        device = self.model.embed.weight.device
        rows, lengths = pad(encoded, device)
        new = generate(
            self.model,
            rows,
            lengths,
            new_tokens=tokens,
            transforms=settings.transforms(),
            greedy=settings.temperature == 0,
            stop=[self.tokenizer.end],
            generator=torch.Generator(device).manual_seed(seed),
            dtype=torch.bfloat16 if self.precision(precision) == "bfloat16" else torch.float32,
        )
        texts = [
            text + self.tokenizer.decode([token for token in row if token >= 0])
            for text, row in zip(prompts, new.tolist(), strict=True)
        ]
        return texts[0] if isinstance(prompt, str) else texts

    def precision(self, asked: Decoding = "auto") -> Decoding:
        """The format `generate` multiplies in when `asked` is given."""
        return fastest_decoding(self.model) if asked == "auto" else asked


def from_checkpoint(checkpoint: Checkpoint, device: str | torch.device = "cpu") -> LanguageModel:
    """The model a checkpoint holds."""
    weights = checkpoint.model
    if weights.get("embed.weight", torch.empty(0)).dim() == 3:  # a population that was never scored: its first member
        weights = unstack(weights, 0)
    model = GPT(checkpoint.config)
    load_weights(model, weights, checkpoint.folder)
    return LanguageModel(model.to(device), checkpoint.tokenizer)


def read_checkpoint(path: Path) -> Checkpoint:
    """The best checkpoint of a run folder, or the checkpoint that `path` itself is.

    Raises CheckpointError when there is none, or it is damaged, or a link.
    """
    if (path / "state.json").exists():
        return load_checkpoint(path)
    root = path / "checkpoints"
    if not root.is_dir() or root.is_symlink():
        raise CheckpointError(f"{path}: neither a run nor a checkpoint; give a folder such as runs/NAME")
    return load_best(root)


def load(path: str | Path, device: str | torch.device = "cpu") -> LanguageModel:
    """The best model of a run folder, or that of a checkpoint folder. No code in either is ever run.

    Raises CheckpointError, in one line, when there is none or it is damaged.
    """
    return from_checkpoint(read_checkpoint(Path(path)), device)
