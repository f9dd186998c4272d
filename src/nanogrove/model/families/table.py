"""The table of families: a new one is a file beside this one and a line in `FAMILIES`."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError

from nanogrove.model.families.family import Exchange, Family
from nanogrove.model.families.gpt2 import GPT2
from nanogrove.model.families.llama import LLAMA
from nanogrove.model.families.nanochat import NANOCHAT
from nanogrove.model.families.qwen3 import QWEN3

FAMILIES: Mapping[str, Family] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen3": QWEN3,
    "nanochat": NANOCHAT,
}
SETTINGS = {name: family.settings for name, family in FAMILIES.items() if family.settings is not None}
EXCHANGES: Mapping[str, Exchange] = {
    name: family.exchange for name, family in FAMILIES.items() if family.exchange is not None
}


def _known_family(name: object) -> object:
    """The name of a family. Raises pydantic's error for a value that is not one of a few."""
    if name not in tuple(SETTINGS):
        *others, last = map(repr, SETTINGS)
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})
    return name


FamilyName = Annotated[str, BeforeValidator(_known_family)]
