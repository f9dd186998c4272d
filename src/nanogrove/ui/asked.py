"""What a page asks one model to write, or two side by side: the options of `generate`, each checked."""

from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from nanogrove.data.chat.conversations import Message
from nanogrove.decoding.sampling import Sampling
from nanogrove.errors import PresetError
from nanogrove.evaluate.reward import Reward, RewardConfig
from nanogrove.generation import BETA
from nanogrove.settings import Settings, reason, shown
from nanogrove.ui.searching import pattern_reward

MAX_TOKENS = 5_000  # of a text; each has an element in the page
MAX_CHARACTERS, MAX_TERMS, LENGTH_DIGITS = 10_000, 200, 9  # of a reward
Precision = Literal["auto", "float32", "bfloat16", "int8"]
INNER = ("sampling.", "steering.")  # of names of fields, which the page does not show


class Side(Settings):
    """A run that writes: its name in addresses, and the conversation that it answers, where it is to chat."""

    run: str
    messages: list[Message] | None = None


class Steering(Settings):
    """A reward that steers a text: one that comes with nanogrove, or a reward model that is a run here.

    Args:
        kind: which of them.
        of: words with their weights, as in `good, bad=-1`; a regular expression; a number of characters; or the name of
            a run in addresses.
        beta: what a reward of 1 adds to a logit.
    """

    kind: Literal["terms", "pattern", "length", "run"]
    of: str = Field(max_length=MAX_CHARACTERS)
    beta: float = Field(BETA, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.of.strip():
            raise ValueError(f"the {self.kind} of the reward is empty; fill it in, or choose no reward")
        if self.kind != "run":
            self.reward()
        return self

    def reward(self) -> Reward:
        """The function of a reward that comes with nanogrove. Raises ValueError where `of` does not say one."""
        settings: dict[str, object] = {"pattern": self.of}
        if self.kind == "terms":
            settings = {"terms": _terms(self.of)}
        elif self.kind == "length":
            if not self.of.strip().isdecimal() or len(self.of.strip()) > LENGTH_DIGITS:
                raise ValueError(f"the length of the reward is {shown(self.of)}; give a whole number of characters")
            settings = {"length": int(self.of)}
        try:
            config = RewardConfig.model_validate(settings)
        except ValidationError as error:
            raise ValueError(reason(error.errors())) from None
        return pattern_reward(self.of) if self.kind == "pattern" else config.find(allow_code=False)


class Asked(Settings):
    """What a page asks for: one run or two, what they continue, and how."""

    sides: list[Side] = Field(min_length=1, max_length=2)
    prompt: str = ""
    tokens: int = Field(ge=1, le=MAX_TOKENS)
    seed: int = Field(ge=0, lt=1 << 63)
    stop: list[str] = Field(default_factory=list)
    precision: Precision = "auto"
    calibrated: bool = False
    speculative: bool = False
    lookahead: int | None = None
    sampling: Sampling = Sampling()
    steering: Steering | None = None


def asked_of(body: bytes) -> Asked:
    """What the body of a request asks for. Raises PresetError, which names the first field that is wrong."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors()
        place = ".".join(map(str, problems[0]["loc"])) or "the request"
        for outer in INNER:
            place = place.removeprefix(outer)
        raise PresetError(f"{place}: {reason(problems[:1])}") from None


def _terms(text: str) -> dict[str, float]:
    """Words and their weights, 1 where none is given. Raises ValueError for a weight that is not a finite number."""
    terms = dict[str, float]()
    for part in text.split(","):
        word, equals, weight = part.rpartition("=")
        name = (word if equals else weight).strip()
        try:
            number = float(weight) if equals else 1.0
        except ValueError:
            number = float("nan")
        if not name or not abs(number) < float("inf"):
            raise ValueError(f"{shown(part.strip())} is not a word with a weight; write them as in good, bad=-1")
        terms[name] = number
    if len(terms) > MAX_TERMS:
        raise ValueError(f"{len(terms):,} words are given, and {MAX_TERMS} can be at most")
    return terms
