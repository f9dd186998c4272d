"""Settings that exclude each other: one that the command line gives takes the place of the preset's.

Where the command line gives both, both stay, and the preset is refused as one that holds both is.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nanogrove.methods import METHODS, load_method
from nanogrove.train.loop import BUDGETS


def _is_set(value: object) -> bool:
    return bool(value)


def _counts_its_steps(value: object) -> bool:
    name = value.get("name") if isinstance(value, Mapping) else value
    return isinstance(name, str) and name in METHODS and not load_method(name).needs_budget


@dataclass(frozen=True)
class Exclusion:
    """A setting beside which others do not apply.

    Args:
        given: the key that an override gives
        others: the keys that go back to their defaults
        where: of which values of `given` that holds
    """

    given: str
    others: tuple[str, ...]
    where: Callable[[object], bool] = _is_set


class Replaced(NamedTuple):
    """A setting of a preset that does not apply, and the key that was given in its place."""

    key: str
    value: object
    by: str


BUDGET_KEYS = tuple(f"train.{name}" for name in BUDGETS)
EXCLUSIONS = (
    Exclusion("method", BUDGET_KEYS, _counts_its_steps),
    *(Exclusion(key, tuple(other for other in BUDGET_KEYS if other != key)) for key in BUDGET_KEYS),
    Exclusion("data.sources", ("data.source_weights", "data.mix_strategy")),
    Exclusion("data.mix_strategy", ("data.source_weights",), lambda value: value != "weighted"),
    Exclusion("model.memory_tokens", ("model.within_documents", "model.token_shift")),
    Exclusion("model.within_documents", ("model.memory_tokens",)),
    Exclusion("model.token_shift", ("model.memory_tokens",)),
    Exclusion("method.noise", ("method.vary.noise",)),
    Exclusion("method.vary", ("method.noise",), lambda value: isinstance(value, Mapping) and "noise" in value),
)


def drop_excluded(raw: dict[str, Any], overridden: Collection[str]) -> Iterator[Replaced]:
    """Takes out of a preset's JSON what the `overridden` keys exclude, and yields it; what is null stays."""
    for exclusion in EXCLUSIONS:
        *_, value = _at(raw, exclusion.given)
        if not _gives(overridden, exclusion.given) or not exclusion.where(value):
            continue
        for key in exclusion.others:
            section, name, value = _at(raw, key)
            if section is not None and value and not _gives(overridden, key):
                del section[name]
                yield Replaced(key, value, exclusion.given)


def _gives(overridden: Collection[str], key: str) -> bool:
    """Whether one of the overridden keys is `key`, or a section that holds it."""
    return any(f"{key}.".startswith(f"{each}.") for each in overridden)


def _at(raw: dict[str, Any], key: str) -> tuple[dict[str, Any] | None, str, object]:
    """The section that holds a dotted key, the key's last part, and its value; no section where there is none."""
    *sections, name = key.split(".")
    at: object = raw
    for section in sections:
        at = at.get(section) if isinstance(at, dict) else None
    return (at, name, at[name]) if isinstance(at, dict) and name in at else (None, name, None)
