"""The settings of policy gradients."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nanogrove.evaluate.reward import RewardConfig
from nanogrove.methods.contract import MethodConfig
from nanogrove.paths import OnDisk
from nanogrove.train.objectives.policy_gradient import Aggregation, Algorithm, PolicyGradient, Scale
from nanogrove.train.plan import Span


class Config(MethodConfig):
    """`train.steps` are updates by samples, `train.batch_size` the samples of each; steps of the base come before."""

    name: Literal["policy_gradient"] = "policy_gradient"
    algorithm: Algorithm = Field("grpo", description="rloo or grpo: what a sample is compared with, and how")
    base: Annotated[str | None, OnDisk()] = Field(
        None, description="one model to begin from, as train.init takes them; base_steps when left out"
    )
    base_steps: int = Field(0, ge=0, description="steps on the data's own texts first; none after a saved base")
    members: int | None = Field(None, ge=1, le=10_000, description="models trained at once, each from its own seed")
    reward: RewardConfig | None = Field(
        None, description="what scores a sample; when left out 1 for the data's own answer, and 0 for any other text"
    )
    samples: int = Field(8, ge=2, description="samples of each prompt, which are compared with each other")
    prompt: int | None = Field(
        None, ge=1, description="tokens of the data that a sample begins with; null: all before the first scored one"
    )
    tokens: int | None = Field(
        None, ge=1, description="tokens of a sample, at most; null: as many as a row of the data has room for"
    )
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    rate: float = Field(1.0, gt=0, description="learning rates of updates by samples over those of the base")
    iterations: int = Field(1, ge=1, description="updates on the same samples")
    epsilon: float = Field(0.2, gt=0, lt=1, description="how far below 1 the ratio of probabilities counts")
    epsilon_high: float | None = Field(None, gt=0, description="how far above 1 it counts; as epsilon when left out")
    beta: float = Field(0.0, ge=0, description="weight of the KL from the reference; 0 does without it")
    kl_corrected: bool = Field(True, description="grpo: whether a token's KL is multiplied by its ratio, as trl does")
    scale: Scale | None = Field(
        None, description="deviation that advantages are divided by; when left out group for grpo, none for rloo"
    )
    aggregation: Aggregation = Field("dapo", description="grpo: how tokens are averaged, by the names of trl")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.algorithm == "rloo" and self.scale == "group":
            raise ValueError("scale=group divides by the deviation of a group, as grpo does; take batch or none")
        return self

    @property
    def scaling(self) -> Scale:
        """The deviation that advantages are divided by."""
        return self.scale or ("group" if self.algorithm == "grpo" else "none")

    @property
    def keeps_old(self) -> bool:
        """Whether the log-probabilities at sampling are needed: for several updates, or in the reward of RLOO."""
        return self.iterations > 1 or (self.algorithm == "rloo" and self.beta > 0)

    def loss(self) -> PolicyGradient:
        """The loss that these settings ask for."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return PolicyGradient(self.algorithm, self.epsilon, high, self.beta, self.kl_corrected, self.temperature)


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and updates by samples."""
    return (0 if config.base is not None else config.base_steps) + budget


def phases(config: Config, steps: int) -> list[Span]:
    """The base, of no steps after a saved one, and the updates by samples."""
    begin = num_steps(config, 0)
    return [Span("base", 0, begin), Span("samples", begin, steps, config.rate)]
