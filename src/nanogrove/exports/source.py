"""What is exported: one model with its vocabulary, and what is known of how it came about."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nanogrove.data.chat.encoding import answer_end
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import PresetError, RunError
from nanogrove.model.config import ModelConfig
from nanogrove.record.events import Values
from nanogrove.record.listing import listed
from nanogrove.record.reading import Run, read_run
from nanogrove.train.checkpoint import Checkpoint, model_of, read_checkpoint
from nanogrove.train.initial import is_for_transformers, read_transformers

LARGEST_F16 = 65504.0
LONGEST_NAME = 80  # characters


@dataclass(frozen=True)
class History:
    """What a run folder says of its model.

    Args:
        run: its record.
        data: the kind of its data.
        sources: what it read, by short names, without the folders that these lie in.
    """

    run: Run
    data: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A model to export.

    Args:
        name: what its files are called, letters, digits and `._-` alone.
        config: its settings.
        weights: by the names of a `GPT`, in float32, all finite.
        tokenizer: its vocabulary.
        answer_end: the token that ends an answer, where the vocabulary has a chat template.
        history: how it came about, where a run folder was given.
        state: what its checkpoint says of itself: `step`, `tokens` and more; nothing of a folder for transformers.
    """

    name: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    answer_end: int | None
    history: History | None
    state: Values

    def halved(self) -> dict[str, Tensor]:
        """The weights in float16. Raises PresetError for one beyond what that holds."""
        for name, weight in self.weights.items():
            if (largest := weight.abs().max().item()) > LARGEST_F16:
                raise PresetError(
                    f"--dtype f16: weight {name} has a number of size {largest:,.0f}, and f16 holds {LARGEST_F16:,.0f} "
                    "at most; export it --dtype f32"
                )
        return {name: weight.half() for name, weight in self.weights.items()}


def read_source(path: Path) -> Source:
    """The best model of a run folder, or that of a checkpoint, of a folder for `transformers`, or of an adapter.

    Raises CheckpointError where there is none, or it is damaged, and RunError for a run with a damaged record.
    """
    if is_for_transformers(path):
        initial = read_transformers(path)
        return _source(path, initial.config, initial.weights, initial.tokenizer, None, {})
    checkpoint = read_checkpoint(path)
    weights = model_of(checkpoint).state_dict()
    history = None if checkpoint.folder == path else _history(path, checkpoint)
    return _source(path, checkpoint.config, weights, checkpoint.tokenizer, history, checkpoint.state)


def _source(
    path: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    history: History | None,
    state: Values,
) -> Source:
    end = None if tokenizer.chat_template is None else answer_end(tokenizer)
    return Source(_name(path), config, weights, tokenizer, end, history, state)


def _history(run: Path, checkpoint: Checkpoint) -> History:
    try:
        record = read_run(run)
    except RunError as error:
        raise RunError(f"{error}; to export the model without its history, name {checkpoint.folder}") from None
    line = listed(run, run)
    return History(record, line.data or "", line.sources)


def _name(path: Path) -> str:
    """What files are called that come of a folder; a checkpoint within a run is called as its run is."""
    whole = path.resolve()
    within_run = whole.parent.name == "checkpoints" and whole.parent.parent.name
    name = whole.parent.parent.name if within_run else whole.name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:LONGEST_NAME] or "model"
