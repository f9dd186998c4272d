"""The settings of a regret study: a grammar, a reward, what is trained and for how long."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from nanogrove.errors import StudyError, nearest
from nanogrove.evaluate.regret import MAX_TEXTS, text_count
from nanogrove.evaluate.reward import RewardConfig
from nanogrove.settings import Settings, cut, reason

Name = Literal["rloo", "grpo", "dpo", "kto", "rwr", "awr", "filter", "es"]  # of methods, in the order of the page
TERMS = {"0": 1.0, "1": 0.5, "2": 0.25, "5": -0.5, "7": -1.0}
GROUP = 8  # texts of a group of the policy gradient, of which a step has a whole number
Rate = Annotated[float, Field(gt=0, le=1)]


class RegretSettings(Settings):
    """What a regret study asks. All methods share its seeds, the base of each, and the number of scored texts."""

    v: int = Field(8, ge=2, le=1000, description="symbols of the grammar")
    L: int = Field(2, ge=1, le=10, description="depth of its trees: texts have 2^L tokens at most")
    grammar_beta: float = Field(1.0, ge=0, description="inverse temperature of its rules")
    seed_rules: int = Field(12345, ge=0, description="seed of its rules")
    reward: RewardConfig = Field(RewardConfig(terms=TERMS), description="what scores a text, symbols between spaces")
    beta: float = Field(0.25, gt=0, description="what a nat of KL costs, in units of the reward")
    methods: list[Name] = Field(list(get_args(Name)), min_length=1, description="what is trained")
    rates: list[Rate] = Field(
        [0.0003, 0.001, 0.003, 0.01], min_length=1, max_length=20, description="learning rates that each method tries"
    )
    seeds: int = Field(8, ge=1, le=1000, description="seeds of the figures, from 0 up")
    tune_seeds: int = Field(1, ge=1, le=100, description="seeds of the trials of rates, which no figure uses")
    steps: int = Field(128, ge=1, le=1 << 20, description="steps of each run, a power of two")
    texts: int = Field(128, ge=GROUP, le=1 << 16, description=f"scored texts per step, a multiple of {GROUP}")
    base_steps: int = Field(256, ge=1, description="steps of the base on texts of the grammar")
    n_layer: int = Field(2, ge=1, le=100, description="layers of the model")
    n_head: int = Field(2, ge=1, le=100, description="its heads of attention")
    n_embd: int = Field(32, ge=4, le=10_000, description="its width")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.steps & (self.steps - 1):
            raise ValueError(f"steps {self.steps} is not a power of two; take {1 << self.steps.bit_length() - 1}")
        if self.texts % GROUP:
            raise ValueError(f"texts {self.texts} is not a multiple of {GROUP}; take {self.texts // GROUP * GROUP}")
        if text_count(self.v, self.length) > MAX_TEXTS:
            raise ValueError(
                f"v {self.v} and L {self.L} make over {self.v}^{self.length} texts, and {MAX_TEXTS:,} can be "
                "enumerated; take fewer symbols or a lower tree"
            )
        if self.reward.function is not None:
            raise ValueError("reward.function is Python code, which a regret study does not run; take terms or pattern")
        for name in ("methods", "rates"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: one of them is given twice")
        return self

    @property
    def length(self) -> int:
        """T, the most tokens of a text."""
        return 1 << self.L

    @property
    def scored(self) -> int:
        """Texts that a run has scored at its end."""
        return self.steps * self.texts


def read_settings(overrides: Sequence[str]) -> RegretSettings:
    """The settings from `KEY=VALUE`, values in JSON or as bare text. Raises StudyError, in one line, for any other."""
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals:
            raise StudyError(f"{cut(override)!r} is not KEY=VALUE, as in seeds=4")
        if key not in RegretSettings.model_fields:
            known = nearest(key, RegretSettings.model_fields)
            raise StudyError(f"unknown key {cut(key)}; {known or 'keys are ' + ', '.join(RegretSettings.model_fields)}")
        values[key] = text.strip()
        with suppress(ValueError, RecursionError):
            values[key] = json.loads(text)
        if key in ("methods", "rates") and not isinstance(values[key], list):  # rwr,dpo as well as ["rwr", "dpo"]
            values[key] = [each.strip() for each in text.split(",")]
    return checked(values)


def checked(values: object, where: str = "") -> RegretSettings:
    """The settings from their JSON. Raises StudyError, which begins with `where`, for any that are wrong."""
    try:
        return RegretSettings.model_validate(values)
    except ValidationError as error:
        problems = error.errors()
        key = ".".join(map(str, problems[0]["loc"]))
        raise StudyError(f"{where}{f'{cut(key)} ' if key else ''}{reason(problems)}") from None
