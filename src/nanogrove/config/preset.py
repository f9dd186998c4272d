"""A preset: everything about a run, in sections whose settings classes stand beside what they configure.

The settings of `method` and of `data` are those of the method and of the kind of data that they name.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from nanogrove.config.problems import nearest_key
from nanogrove.corpora import CORPORA
from nanogrove.data.corpus import CorpusConfig
from nanogrove.data.splits import Split
from nanogrove.decoding.sampling import Sampling
from nanogrove.json_difference import differences, shown
from nanogrove.methods import METHODS, load_method
from nanogrove.methods.contract import MethodConfig
from nanogrove.model.config import ModelConfig
from nanogrove.model.heads import AuxiliaryConfig
from nanogrove.settings import Settings, cut
from nanogrove.train.autotune import AUTO
from nanogrove.train.loop import TrainConfig
from nanogrove.train.optim.optimizer import OptimizerConfig
from nanogrove.train.optim.schedule import ScheduleConfig


class EvaluateConfig(Settings):
    """When to score the model on validation text, and on how much of it."""

    every: int = Field(250, ge=1, description="steps between two evaluations")
    early: bool = Field(False, description="also after step 1, 2, 4, 8, …")
    tokens: int | None = Field(
        100_000, ge=1, description="evenly spread tokens that are scored; null for the whole split"
    )
    patience: int | None = Field(
        None, ge=1, description="evaluations without a better score after which the run ends; null: none"
    )
    final: Split | None = Field(None, description="the split that is scored when the run ends; null: the method's")


class SampleConfig(Sampling):
    """When to sample, from which prompts, and how."""

    every: int = Field(500, ge=1, description="steps between two samples")
    prompts: list[str] = Field([""], description="what samples continue; an empty prompt starts a document")
    tokens: int = Field(200, ge=0, description="tokens of a sample; 0 samples nothing")
    top_p: float | None = Field(0.95, gt=0, le=1, description="keep the fewest tokens whose probabilities reach p")


class SaveConfig(Settings):
    """When to save."""

    every: int = Field(250, ge=1, description="steps between two saves")
    snapshots: bool = Field(False, description="also keep step-1, step-2, step-4, step-8, …")


class TrackConfig(Settings):
    """Which other programs get the events."""

    trackers: list[Literal["wandb", "tensorboard", "trackio"]] = Field([], description="libraries that get the events")
    project: str = Field("nanogrove", description="name of the project in the tracker")
    name: str | None = Field(None, description="name of the run in the tracker; the run folder's when left out")


def data_type(value: object) -> str | None:
    """The type of a `data` section, or of its settings; text where it names none."""
    kind = value.get("type", "text") if isinstance(value, Mapping) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


def _method_name(value: Mapping[str, str] | MethodConfig) -> str:
    return value.name if isinstance(value, MethodConfig) else value["name"]


def named(value: object) -> object:
    """A `method` section that is the name of a method alone, as the section that holds the name."""
    return {"name": value} if isinstance(value, str) else value


def _known(value: object) -> object:
    """A `method` section that names a method. Raises ValueError for any other."""
    value = named(value)
    if isinstance(value, MethodConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be the name of a method, or a section with its name")
    name = value.get("name")
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"no method is called {cut(repr(name))}{nearest_key(cut(str(name)), METHODS)}")
    return value


def _union(
    configs: Mapping[str, type[BaseModel]], name_of: Callable[..., str | None], refusal: str
) -> GetPydanticSchema:
    """Settings of one of several classes, of which `name_of` finds the name in a section; else `refusal`."""

    def schema(_: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return tagged_union_schema(
            {name: handler.generate_schema(config) for name, config in configs.items()},
            name_of,
            custom_error_type="unknown_name",
            custom_error_message=refusal,
        )

    return GetPydanticSchema(schema)


DATA = _union(
    {name: kind.Config for name, kind in CORPORA.items()},
    data_type,
    f"data is a JSON object whose type is one of {', '.join(CORPORA)}",
)
METHOD = _union(
    {name: load_method(name).Config for name in METHODS}, _method_name, f"method is one of {', '.join(METHODS)}"
)


class Preset(Settings):
    """Everything needed to run, and to run again."""

    model_config = ConfigDict(validate_default=True)

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run folder in runs/")
    description: str = Field("", description="one line, shown by `nanogrove presets`")
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of weights, batches, dropout and samples")
    method: Annotated[MethodConfig, METHOD, BeforeValidator(_known)] = Field(
        {"name": "pretrain"}, validate_default=True
    )
    data: Annotated[CorpusConfig, DATA]
    model: ModelConfig = ModelConfig()
    auxiliary: AuxiliaryConfig = AuxiliaryConfig()
    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    sample: SampleConfig = SampleConfig()
    save: SaveConfig = SaveConfig()
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        name, method, given = self.method.name, load_method(self.method.name), self.train.budgets
        counts = " and ".join(f"method.{setting}" for setting in method.counted_by)
        listed = " and ".join(given) + (" is set" if len(given) == 1 else " are set") if given else "no budget is set"
        if not method.needs_budget:
            if given:
                raise ValueError(f"train: {listed}, and method {name} counts its own steps; leave it out, set {counts}")
            return self
        if len(given) != 1:
            raise ValueError(f"train: {listed}; {'keep' if given else 'set'} one of steps, tokens, epochs and minutes")
        if self.train.minutes is not None and method.num_steps(self.method, 1) == method.num_steps(self.method, 0):
            raise ValueError(
                f"train.minutes: with method.base, method {name} counts its own steps; set {counts}, and "
                "train.steps=1 instead of minutes"
            )
        return self

    @model_validator(mode="after")
    def _check_init(self) -> Self:
        if self.train.init and self.method.model_dump().get("base"):
            raise ValueError("train.init and method.base both name weights to begin with; give one of them")
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        train = self.train
        if train.lora.rank and not load_method(self.method.name).adapters:
            raise ValueError(f"train.lora: method {self.method.name} trains all weights; leave train.lora out")
        if train.lora.rank and (len(train.sources) != 1 or train.init_noise):
            raise ValueError("train: lora adapts one set of weights; set init to one source, without init_noise")
        return self

    @model_validator(mode="after")
    def _check_auxiliary(self) -> Self:
        method = load_method(self.method.name)
        if self.auxiliary.enabled and not method.trains_heads(self.method):
            raise ValueError(
                f"auxiliary: {self.method.name} does not learn from the NLL of each token, which heads need; "
                "leave enable_… out"
            )
        if self.auxiliary.enable_memory and not self.model.memory_tokens:
            raise ValueError("auxiliary.enable_memory reconstructs from a memory; set model.memory_tokens too")
        if self.model.memory_tokens and not method.memory:
            able = " or ".join(name for name in METHODS if load_method(name).memory)
            raise ValueError(f"model.memory_tokens goes with method {able}, and this is {self.method.name}")
        self.auxiliary.refuse(self.model.block_size)
        return self


def difference(stored: Mapping[str, object], asked: Mapping[str, object]) -> str | None:
    """The first key in which a preset asked for differs from a stored one, as a clause, or None.

    What the run resolves does not count, such as a vocabulary of null, a precision of `auto` or the commit of a source
    of the hub; nor do name and description.
    """
    left_open: dict[str, object] = {"model.vocab_size": None, **{f"train.{key}": "auto" for key in AUTO}}
    for path, was, now in differences(dict(stored), dict(asked)):
        commit = path.endswith(".revision") and now is None
        resolved = path in left_open and now == left_open[path]
        if not commit and not resolved and path not in ("name", "description"):
            return f"{path} is {shown(was)} there and {shown(now)} here"
    return None
