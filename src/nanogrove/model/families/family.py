"""What a family of models is: settings of a `GPT`, and how `transformers` names and stores such a model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

Value = bool | int | float | str | list[str] | None  # of JSON
Table = dict[str, tuple[Value, ...]]
Keys = dict[str, tuple[str, *tuple[Value, ...]]]  # of config.json: our setting, then the default if there is one


def table(text: str) -> Table:
    """Entries `name=value|value`, with as many values as there are, in JSON or plain words."""
    entries = (entry.split("=") for entry in text.split())
    return {name: tuple(map(_value, values.split("|"))) if values else () for name, values in entries}


def keys(text: str) -> Keys:
    """Entries `name=setting` or `name=setting|value`, the value in JSON or a plain word."""
    entries = ((name, *rest.split("|")) for name, rest in (entry.split("=") for entry in text.split()))
    return {name: (setting, *map(_value, default)) for name, setting, *default in entries}


def names(text: str) -> dict[str, tuple[str, ...]]:
    """Entries `name=word|word`, all of them words."""
    return {name: tuple(words.split("|")) for name, words in (entry.split("=") for entry in text.split())}


def _value(word: str) -> Value:
    try:
        value: Value = json.loads(word)
    except ValueError:
        return word
    return value


def as_it_is(name: str, tensor: Tensor, head_size: int) -> Tensor:
    """The layout of a family that stores tensors as a `GPT` does."""
    return tensor


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """How `transformers` names and stores a model.

    Args:
        architecture: The class in its config.json.
        has: Our settings, and the values it can express; any value of a setting not named.
        keys: Its keys in config.json, and our setting; then what a key left out means, if it may be left out.
        fixed: Its further keys, and the values that mean what we do; its default first.
        ignored: Keys of its own that change no logits.
        repeated: Such keys that are written all the same, as other readers ask for them, each with our setting.
        modules: Our modules, and what they are called there; a fused one has several names.
        layout: From (its name of a tensor, the tensor, head size) to the tensor in its layout, and back: one step.
        biased: Whether every map and norm has a bias there; a model without gets zeros.
        full_attention: Whether its config.json may list, layer by layer, that attention is full.
    """

    architecture: str
    has: Table
    keys: Keys
    fixed: Table
    modules: dict[str, tuple[str, ...]]
    ignored: str = ""
    repeated: tuple[tuple[str, str], ...] = ()
    layout: Callable[[str, Tensor, int], Tensor] = as_it_is
    biased: bool = False
    full_attention: bool = False

    @property
    def rotary(self) -> bool:
        """Whether it has rotary positions, and the keys that go with them."""
        return self.has["position"] == ("rotary",)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Args:
        settings: What `ModelConfig` takes for settings that are not named beside `family`; None for a family of
            `transformers` alone, whose models are those of another family here.
        exchange: How `transformers` names and stores such a model; None where it has no such family.
        imported_as: The `family` of a model that is read from `transformers`; its own name if left out.
    """

    settings: Mapping[str, bool | float | str] | None = None
    exchange: Exchange | None = None
    imported_as: str | None = None
