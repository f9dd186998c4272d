"""What all classes of settings share: how strict they are, and why they refuse a value, in words without pydantic's."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails

SHOWN_CHARACTERS = 60  # of a value in a message, at most


# Sizes of any model there is, whose products are far below 2^63, so that a model can be laid out to be counted.
MAX_WIDTH = 1_000_000
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Length = Annotated[int, Field(ge=1, le=100_000_000)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]  # of what a run has done


class Settings(BaseModel):
    """Base of all settings: no unknown key, no number that is NaN or infinite, and no change once they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_SECTION = "a section, which is a JSON object"
_LISTED = "an object whose type is one of {expected_tags}"
WANTED: dict[str, str] = {  # by the type of pydantic's error, whose context fills the braces
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    "int_parsing_size": "a smaller number",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    "string_unicode": "UTF-8 text",
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "dict_type": "a JSON object",
    **dict.fromkeys(("model_type", "model_attributes_type", "dataclass_type"), _SECTION),
    **dict.fromkeys(("union_tag_invalid", "union_tag_not_found"), _LISTED),
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "too_short": "{min_length} or more entries long",
    "too_long": "{max_length} entries long at most",
    "string_too_short": "{min_length} or more characters long",
    "string_too_long": "{max_length} characters long at most",
    "string_pattern_mismatch": "text of the pattern {pattern}",
    "literal_error": "{expected}",
}


def reason(problems: Sequence[ErrorDetails]) -> str:
    """Why a value is refused, with the value where it is short; the problems are those of one value.

    A value that may be of several types has a problem for each.
    """
    first = problems[0]
    if first["type"] == "missing":
        return "is missing"
    wanted = [
        WANTED[problem["type"]].format_map(_Context(problem.get("ctx", {})))
        for problem in problems
        if problem["type"] in WANTED and problem["loc"][: len(first["loc"]) - 1] == first["loc"][:-1]
    ]
    if first["type"] not in WANTED:
        return first["msg"].removeprefix("Value error, ") + _given(first)
    separator = ", or " if any(" or " in alternative for alternative in wanted) else " or "
    return f"must be {separator.join(dict.fromkeys(wanted))}" + _given(first)


class _Context(dict[str, object]):
    """The context of an error; a name that it lacks stands for the types of sources and the like."""

    def __getitem__(self, name: str) -> object:
        value = super().__getitem__(name)
        return f"{value:.15g}" if isinstance(value, float) else value

    def __missing__(self, name: str) -> str:
        return "those that `nanogrove settings` lists"


def _given(problem: ErrorDetails) -> str:
    given: object = problem.get("ctx", {}).get("tag", problem["input"])
    return "" if isinstance(given, (Mapping, list, BaseModel)) else f", and {shown(given)} was given"


def shown(value: object) -> str:
    """A value for a message: text in quotes, else its JSON, cut where it is long."""
    return cut(repr(value) if isinstance(value, str) else json.dumps(value, default=lambda value: "something else"))


def cut(text: str) -> str:
    """A text for a message, cut where it is long."""
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
