"""What may be asked of a model that writes: the options of every way to generate, each once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from nanogrove.decoding.sampling import Sampling, SamplingOptions
from nanogrove.errors import PresetError
from nanogrove.evaluate.reward import RewardModel
from nanogrove.settings import reason
from nanogrove.train.precision import Decoding

AnyReward = RewardModel | Callable[[Sequence[str]], Sequence[float]] | str | Path  # a path is that of a run
MAX_NEW_TOKENS = 10_000_000  # of a text
BETA = 5.0  # what a reward counts, in nats, when left out


class DrawOptions(SamplingOptions, total=False):
    """What every way to generate takes: the settings of `Sampling`, and what else decides the draw."""

    seed: int
    precision: Decoding
    calibrated: bool
    stop: str | Sequence[str]


class SteeredOptions(DrawOptions, total=False):
    """What plain decoding takes: a reward steers it too."""

    reward: AnyReward | None
    beta: float


class GenerationOptions(SteeredOptions, total=False):
    """What `LanguageModel.generate` takes; its docstring says what each option does."""

    speculative: bool
    lookahead: int | None


def checked_sampling(settings: Mapping[str, object]) -> Sampling:
    """The settings as `Sampling`. Raises PresetError, with its name and the reason, for one out of range or unknown."""
    try:
        return Sampling.model_validate(dict(settings))
    except ValidationError as error:
        problems = error.errors()
        if problems[0]["type"] == "extra_forbidden":
            known = ", ".join(Sampling.model_fields)
            raise PresetError(f"{problems[0]['loc'][0]}: not a setting of sampling; these are: {known}") from None
        raise PresetError(f"{problems[0]['loc'][0]}: {reason(problems)}") from None
