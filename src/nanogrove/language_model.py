"""A trained model with its tokenizer, ready to write text: what `nanogrove.load` returns."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import torch
from pydantic import ValidationError
from torch import Tensor

from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.evaluate.calibration import load_calibration
from nanogrove.model.decode import Sampling, Transform, generate, pad
from nanogrove.model.gpt import GPT, unstack
from nanogrove.train.auto import Decoding, fastest_decoding
from nanogrove.train.checkpoint import Checkpoint, load_best, load_checkpoint, load_weights


class Continuation(NamedTuple):
    """A text as `generate` writes it, and how sure its model was of each of the N new tokens.

    `tokens` are the new ones, one by one, an end of text included. `probabilities` are the model's own, at its
    calibrated temperature or 1, whatever was drawn from: cuts and the sampling temperature do not change them.
    """

    text: str
    tokens: list[str]
    probabilities: list[float]
    mean_log_probability: float  # nats a token


class LanguageModel:
    """A model and its tokenizer.

    `temperature` is what its logits are to be divided by for calibrated probabilities, 1.0 where it has not been
    calibrated, as `calibrated` tells.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, temperature: float | None = None) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.calibrated = temperature is not None
        self.temperature = 1.0 if temperature is None else temperature

    @overload
    def generate(
        self,
        prompt: str = "",
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        **sampling: Any,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: Sequence[str],
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        **sampling: Any,
    ) -> list[str]: ...

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        **sampling: Any,
    ) -> str | list[str]:
        """Prompt plus continuation: a string for one prompt, a list for a list, decoded as one batch.

        A text ends at the end-of-text token or after `tokens` new tokens; an empty prompt starts a document.
        `sampling` takes the settings of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty,
        no_repeat_ngram. With `calibrated` the temperature is multiplied by the model's own. `precision` is that of
        matrix products, `auto` the one measured to be the faster on this machine; equal seeds give equal texts in equal
        precision. Raises PresetError for a setting out of range, CheckpointError for a model that has not been
        calibrated and should be, and DataError for a prompt the vocabulary cannot express.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts, _ = self._written(prompts, tokens, seed, precision, calibrated, sampling)
        return texts[0] if isinstance(prompt, str) else texts

    def continuations(
        self,
        prompts: Sequence[str],
        tokens: int = 100,
        *,
        seed: int = 0,
        precision: Decoding = "auto",
        calibrated: bool = False,
        **sampling: Any,
    ) -> list[Continuation]:
        """The texts that `generate` writes for the same arguments, each with the confidence of its new tokens."""
        watch, log_probabilities = _watch(self.temperature if calibrated else 1.0)
        texts, new = self._written(prompts, tokens, seed, precision, calibrated, sampling, watch)
        found = []
        for text, row, scores in zip(texts, new.tolist(), log_probabilities(new), strict=True):
            written = [token for token in row if token >= 0]
            names = [
                END_OF_TEXT if token == self.tokenizer.end else self.tokenizer.decode([token]) for token in written
            ]
            own = scores[: len(written)]
            found.append(Continuation(text, names, own.exp().tolist(), float(own.mean())))
        return found

    def _written(
        self,
        prompts: Sequence[str],
        tokens: int,
        seed: int,
        precision: Decoding,
        calibrated: bool,
        sampling: dict[str, Any],
        *before: Transform,
    ) -> tuple[list[str], Tensor]:
        """Each prompt with its continuation, and the new tokens `[R, tokens]`, −1 behind the end of a text.

        `before` are transforms that see the logits as the model made them.
        """
        try:
            settings = Sampling(**sampling)
        except ValidationError as error:
            problem = error.errors()[0]
            raise PresetError(f"{problem['loc'][0]}: {problem['msg'].lower()}") from None
        if calibrated and not self.calibrated:
            raise CheckpointError(
                "this model has no temperature of its own yet; run `nanogrove evaluate RUN --calibrate` first"
            )
        if not prompts:
            return [], torch.empty(0, tokens, dtype=torch.int64)
        scale = self.temperature if calibrated else 1.0
        settings = settings.model_copy(update={"temperature": settings.temperature * scale})
        encoded = [self.tokenizer.encode(text) or [self.tokenizer.end] for text in prompts]
        device = self.model.embed.weight.device
        rows, lengths = pad(encoded, device)
        new = generate(
            self.model,
            rows,
            lengths,
            new_tokens=tokens,
            transforms=[*before, *settings.transforms()],
            greedy=settings.temperature == 0,
            stop=[self.tokenizer.end],
            generator=torch.Generator(device).manual_seed(seed),
            dtype=torch.bfloat16 if self.precision(precision) == "bfloat16" else torch.float32,
        )
        texts = [
            text + self.tokenizer.decode([token for token in row if token >= 0])
            for text, row in zip(prompts, new.tolist(), strict=True)
        ]
        return texts, new

    def precision(self, asked: Decoding = "auto") -> Decoding:
        """The format `generate` multiplies in when `asked` is given."""
        return fastest_decoding(self.model) if asked == "auto" else asked


def _watch(temperature: float) -> tuple[Transform, Callable[[Tensor], Tensor]]:
    """A transform that changes nothing, and a function from the tokens `[R, N]` written then to log-probabilities.

    Those `[R, n]` of the n steps decoding took, at `temperature`. A step's scores are kept until its token is known.
    """
    known: list[Tensor] = []
    latest = torch.empty(0)

    def transform(logits: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        nonlocal latest
        if len(latest):
            chosen = tokens.gather(1, lengths[:, None] - 1)
            known.append(latest.gather(1, chosen.clamp(min=0)))
        latest = (logits / temperature).log_softmax(-1)
        return logits

    def log_probabilities(new: Tensor) -> Tensor:
        if not len(new):
            return torch.empty(0, 0)
        last = latest.gather(1, new[:, len(known), None].clamp(min=0))
        return torch.cat([*known, last], 1)

    return transform, log_probabilities


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
    """The best model of a run folder, or that of a checkpoint folder, with its temperature where it was calibrated.

    No code in either is ever run. Raises CheckpointError, in one line, when there is none or it is damaged.
    """
    checkpoint = read_checkpoint(Path(path))
    lm, found = from_checkpoint(checkpoint, device), load_calibration(checkpoint)
    return lm if found is None else LanguageModel(lm.model, lm.tokenizer, found["temperature"])
