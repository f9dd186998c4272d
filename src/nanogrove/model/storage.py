"""How a model's family of `transformers` names and lays out its weights, module by module; see `families/`."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogrove.errors import PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.families.table import EXCHANGES
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import family_of
from nanogrove.model.layers import Linear

NO_WEIGHT = {"within_documents": False, "document_mark": None, "scalar": False, "memory_tokens": 0}  # depends on these


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a module's weight, which the family stores under a `name`."""

    name: str
    start: int
    stop: int

    def rows(self, weight: Tensor) -> Tensor:
        """These rows of a tensor `[*P, n_out, n_in]`, as a view."""
        return weight[..., self.start : self.stop, :]


@dataclass(frozen=True)
class Storage:
    """How a model is stored.

    Args:
        parts: of each module that has weights, by its name.
        family: of `transformers`; None where none expresses the model, which is stored as it is here.
        head_size: width of an attention head.
    """

    parts: dict[str, tuple[Part, ...]]
    family: str | None
    head_size: int

    def layout(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of one model, of that name in the family, in the family's layout; and back, by the same step."""
        return tensor if self.family is None else EXCHANGES[self.family].layout(name, tensor, self.head_size)


def storage_of(config: ModelConfig) -> Storage:
    """How the model of `config` is stored."""
    try:
        family = family_of(config.model_copy(update=NO_WEIGHT))
    except PresetError:
        family = None
    names = {} if family is None else EXCHANGES[family].modules
    with torch.device("meta"):
        model = GPT(config)
    parts = {}
    for path, rows in ((name.rpartition(".")[0], len(weight)) for name, weight in model.named_parameters()):
        layer, module = "".join(re.findall(r"\d+", path)), model.get_submodule(path)
        stored = [name.replace("*", layer) for name in names.get(re.sub(r"\d+", "*", path), (path,))]
        sizes = module.parts if isinstance(module, Linear) and len(stored) > 1 else (rows,)
        stops = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        parts[path] = tuple(Part(name, b - size, b) for name, size, b in zip(stored, sizes, stops, strict=True))
    return Storage(parts, family, config.head_width)
