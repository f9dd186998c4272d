"""Learning from scored texts: weighted imitation, and preferences against a frozen reference.

1. A saved run, or `base_steps` of plain imitation of all texts, is the policy to begin from, and the reference.
2. `train.steps` steps of one algorithm: `rwr` and `awr` imitate texts by weights that follow from rewards
   (`train/objectives/weighting.py`), `filter` imitates the best ones, and batches hold no others; `dpo` and `kto`
   compare with the reference (`train/objectives/preference.py`).
3. On held-out texts the objective, the plain loss and KL(policy ‖ reference) are measured; the best model is that of
   the lowest objective among those within `kl_cap`, and training ends where the KL exceeds it.

Prompts and padding are never scored. Rewards are whitened or ranked by the training texts; weights have mean 1, so
learning rates are comparable with those of other methods. AWR's baseline V is a ridge regression on the reference's
state at the end of the prompt, cross-fitted by prompt (`train/objectives/value_baseline.py`).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from nanogrove.data.batch import Batch
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.errors import PresetError
from nanogrove.evaluate import auxiliary
from nanogrove.evaluate.divergence import divergence
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.evaluate.pairs import held_out_pairs
from nanogrove.evaluate.reward import RewardConfig, distribution
from nanogrove.evaluate.samples import FINAL_SAMPLES, reward_of_samples
from nanogrove.methods.contract import Method, MethodConfig, Trained
from nanogrove.methods.warm_start import (
    Kept,
    beside_reference,
    check_not_ended,
    pretrained,
    reference_model,
    saved_weights,
)
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.paths import OnDisk
from nanogrove.record.events import Event, Values, note, phase
from nanogrove.train.loop import fit
from nanogrove.train.objective import Objective, count_scored, next_token
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.objectives.preference import dpo, kto, kto_batch
from nanogrove.train.objectives.value_baseline import cross_fitted
from nanogrove.train.objectives.weighting import (
    Scaling,
    balance,
    best_fraction,
    effective_sample_size,
    exponential,
    scaled,
    wanted_above,
)
from nanogrove.train.plan import Plan, Span
from nanogrove.train.state import TrainState

OBJECTIVES = {  # what each algorithm minimises, and its unit
    "rwr": ("weighted NLL", "nats per token"),
    "awr": ("weighted NLL", "nats per token"),
    "filter": ("NLL of the best texts", "nats per token"),
    "dpo": ("DPO loss", "nats per pair"),
    "kto": ("KTO loss", ""),
}


class Config(MethodConfig):
    """`train.steps` are those of the algorithm; those of the base come before. One micro-batch per step."""

    name: Literal["offline_rl"] = "offline_rl"
    algorithm: Literal["rwr", "awr", "filter", "dpo", "kto"] = Field(
        "rwr", description="how rewards or preferences weigh the loss"
    )
    base: Annotated[str | None, OnDisk()] = Field(
        None, description="one model to begin from, as train.init takes them; base_steps when left out"
    )
    base_steps: int = Field(0, ge=0, description="steps of imitating all texts first; none after a saved base")
    scale: Scaling = Field("whiten", description="scaling of rewards, by those of the training texts")
    beta: float = Field(0.5, gt=0, description="temperature of rewards; of dpo and kto, of Δ")
    clip: float = Field(20.0, ge=1, description="awr: largest exp((r − V)/β)")
    fraction: float = Field(0.25, gt=0, le=1, description="filter: share of the texts to imitate, the best ones")
    threshold: float | None = Field(
        None, description="kto: rewards above are wanted; when left out the median, or next lower"
    )
    wanted: float | None = Field(
        None, gt=0, description="kto: weight of a wanted text; balances the sides when left out"
    )
    unwanted: float | None = Field(
        None, gt=0, description="kto: weight of an unwanted text; balances the sides when left out"
    )
    length_normalised: bool = Field(False, description="dpo: Δ per token, so that longer texts gain nothing by it")
    nll_weight: float = Field(
        0.0,
        ge=0,
        description="dpo: weight of the chosen texts' NLL per token, which holds them up",
    )
    reward: RewardConfig | None = Field(
        None,
        description="what scores samples, from which nothing learns; python-defs has a rule of its own",
    )
    kl_cap: float | None = Field(
        None, gt=0, description="KL from the reference, nats per token, above which training ends"
    )


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and of the algorithm."""
    return (0 if config.base is not None else config.base_steps) + budget


def phases(config: Config, steps: int) -> list[Span]:
    """The base, of no steps after a saved one, and the algorithm."""
    begin = num_steps(config, 0)
    return [Span("base", 0, begin), Span(config.algorithm, begin, steps)]


def check(config: Config, corpus: RewardedCorpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError or CheckpointError for data or a base that do not fit the algorithm."""
    pairs = corpus.size == 2
    if pairs != (config.algorithm == "dpo"):
        needs = "preferences" if config.algorithm == "dpo" else "rewarded"
        raise PresetError(f"method.algorithm={config.algorithm} needs data.type={needs}")
    if config.algorithm in ("dpo", "kto") and corpus.batch_size < 2:
        raise PresetError(f"method.algorithm={config.algorithm} compares texts; set train.batch_size to 2 or more")
    if config.algorithm in ("dpo", "kto") and config.base is None and not config.base_steps:
        raise PresetError(
            f"method.algorithm={config.algorithm} needs a policy to begin from; set method.base or method.base_steps"
        )
    if config.algorithm == "kto":
        _check_sides(config, corpus)
    if config.reward is not None:
        config.reward.find(allow_code)
    if config.base is not None:
        saved_weights(config.base, corpus, model)


def _check_sides(config: Config, corpus: RewardedCorpus) -> None:
    """Raises PresetError where no training text would be wanted, or none unwanted."""
    rewards = corpus.rewards[corpus.row_indices("train")]
    low, high = float(rewards.min()), float(rewards.max())
    if low == high:
        raise PresetError(
            f"{corpus.config.path}: all training texts have the reward {low!r}; method.algorithm=kto learns from "
            "wanted and unwanted texts, so give texts of different rewards, or take method.algorithm=rwr"
        )
    if config.threshold is not None and not low <= config.threshold < high:
        side = "unwanted" if config.threshold < low else "wanted"
        raise PresetError(
            f"method.threshold={config.threshold!r}: no training text is {side}; their rewards go from {low!r} to "
            f"{high!r}, so set it to at least {low!r} and less than {high!r}, or leave it out"
        )


def run(state: TrainState, corpus: RewardedCorpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events, `eval` before those that `plan.evaluates` names, and `rewards` once."""
    base, algorithm = phases(config, plan.steps)
    begin = base.end
    yield from pretrained(state, corpus, plan, config.base, begin)
    reference = reference_model(state)
    learner = _Learner(state, corpus, plan, config, reference)
    if state.step == begin:
        yield phase(config.algorithm, begin, *OBJECTIVES[config.algorithm], "score")
        if config.algorithm != "dpo" and config.reward is None and corpus.config.known_reward is None:
            yield note("the reward of samples is not measured; method.reward says what scores a text")
        yield learner.described()
    rest = replace(plan.phase(*algorithm[1:]), accumulation=1, max_loss=torch.inf)
    if state.method_state.get("ended"):
        return
    objective = learner.objective if state.heads is None else objective_of(state, rest)
    for event in fit(state, learner.batch, objective, rest):
        if plan.evaluates(event.step):
            yield learner.evaluation()
            yield from auxiliary.evaluate_heads(state, corpus, learner.batch, rest)
        yield event
        if state.method_state.get("ended"):
            return


def rehearse(state: TrainState, corpus: RewardedCorpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields the events of imitating all texts, or of the algorithm from its first step on."""
    if further:
        return fit(state, corpus.batch, objective_of(state, plan), plan)
    state.step = num_steps(config, 0)
    return run(state, corpus, plan, config)


class _Learner:
    """One algorithm on one corpus: its objective, its batches, and its losses on held-out texts."""

    def __init__(self, state: TrainState, corpus: RewardedCorpus, plan: Plan, config: Config, reference: GPT) -> None:
        self.state, self.corpus, self.plan, self.config, self.reference = state, corpus, plan, config, reference
        self.train = corpus.row_indices("train")
        known = corpus.rewards[self.train]
        self.scaled = scaled(corpus.rewards, config.scale, known)
        self.imitated = {split: self._imitated(split) for split in ("train", "validation")}  # rows
        self.figures: Values = distribution(known)  # of the training rows, for the record
        self.weights = self._weights()  # [N], of all rows; the training rows have mean 1
        self.wanted = self._wanted() if config.algorithm == "kto" else np.ones(len(self.weights), dtype=bool)  # [N]
        self.objective = self._objective()

    def _imitated(self, split: str) -> np.ndarray:
        """The rows of a split that are learned from: all, or for `filter` the best ones."""
        rows = self.corpus.row_indices(split)
        if self.config.algorithm != "filter":
            return rows
        best: np.ndarray = rows[best_fraction(self.corpus.rewards[rows], self.config.fraction)]
        return best

    def _weights(self) -> np.ndarray:
        config, rewards, train = self.config, self.scaled, self.train
        if config.algorithm == "rwr":
            return exponential(rewards, config.beta, None, rewards[train])
        if config.algorithm == "awr":
            baseline = cross_fitted(self._features(), rewards, self.corpus.prompts, train, self.plan.seed)
            self.figures["value_r2"] = baseline.r2
            advantages = rewards - baseline.values
            return exponential(advantages, config.beta, config.clip, advantages[train])
        return np.ones(len(rewards))

    def _wanted(self) -> np.ndarray:
        """Which rows are wanted, `[N]`; their numbers and weights go to the record."""
        config, rewards = self.config, self.corpus.rewards
        threshold = wanted_above(rewards[self.train]) if config.threshold is None else config.threshold
        wanted = int((rewards[self.train] > threshold).sum())
        unwanted = len(self.train) - wanted
        weights = balance(wanted, unwanted, (config.wanted, config.unwanted))
        self.figures |= {"threshold": threshold, "wanted": wanted, "unwanted": unwanted}
        self.figures |= dict(zip(("wanted_weight", "unwanted_weight"), weights, strict=True))
        above: np.ndarray = rewards > threshold
        return above

    def _objective(self) -> Objective:
        if self.config.algorithm == "dpo":
            return dpo(self.reference, self.config.beta, self.config.length_normalised, self.config.nll_weight)
        if self.config.algorithm == "kto":
            weights = self.figures["wanted_weight"], self.figures["unwanted_weight"]
            return kto(self.reference, self.config.beta, *weights)
        return next_token

    @torch.inference_mode()
    def _features(self) -> np.ndarray:
        """The reference's states at the last token of each prompt, `[N, C]`."""
        corpus, device = self.corpus, self.reference.embed.weight.device
        features = []
        for rows in torch.split(torch.arange(len(corpus.tokens)), 256):
            states = self.reference.hidden(corpus.tokens[rows, :-1].to(device))
            features.append(
                states[torch.arange(len(rows)), corpus.start[rows].clamp(max=states.shape[1]) - 1].double().cpu()
            )
        return torch.cat(features).numpy()

    def batch(self, step: int) -> Batch:
        """Batch number `step` of the algorithm."""
        return self.batch_of(self.corpus.batch_rows(step, self.imitated["train"]))

    def batch_of(self, rows: np.ndarray) -> Batch:
        """Rows with their weights; for kto, followed by mismatched ones."""
        batch = self.corpus.batch_of(rows, torch.from_numpy(self.weights[rows]))
        if self.config.algorithm != "kto":
            return batch
        return kto_batch(batch, torch.from_numpy(self.wanted[rows]), self.corpus.mismatched(rows))

    def described(self) -> Event:
        """The event `rewards`: their distribution, and figures such as the effective sample size."""
        figures = dict(self.figures)
        if self.config.algorithm in ("rwr", "awr", "filter"):
            figures["effective_sample_size"] = effective_sample_size(self.weights[self.imitated["train"]])
        if self.config.algorithm == "dpo":  # where the log-probabilities of held-out pairs begin
            figures |= {name: part for name, part in self.measured(self.reference)[1].items() if "log_prob" in name}
        before = self.reward_of_samples("reward_before", self.reference)
        self.state.method_state |= before
        figures |= before
        return Event("rewards", self.state.step, figures)

    def reward_of_samples(self, name: str, model: GPT) -> Values:
        """The reward of samples after held-out prompts as the figure `name`, where there is one."""
        plan = self.plan
        return reward_of_samples(name, model, self.corpus, self.config.reward, "validation", plan.seed, plan.allow_code)

    @torch.inference_mode()
    def measured(self, model: GPT) -> tuple[float, Values]:
        """The objective of a model in evaluation mode on all held-out texts that count, and the objective's parts."""
        config = self.config
        if config.algorithm == "dpo":
            normalised, anchor = config.length_normalised, config.nll_weight
            return held_out_pairs(model, self.reference, self.corpus, "validation", config.beta, normalised, anchor)
        rows, device = self.imitated["validation"], model.embed.weight.device
        size = max(self.corpus.batch_size // 2 * 2, 2)
        losses, parts, counts = [], [], []
        for first in range(0, len(rows), size):
            batch = self.batch_of(rows[first : first + size]).to(device)
            loss = self.objective(model, batch)
            losses.append(float(loss.total))
            parts.append({name: float(part) for name, part in loss.parts.items()})
            counts.append(int(count_scored(batch)) if self.objective is next_token else len(rows[first : first + size]))
        mean = partial(np.average, weights=counts)  # by what each is a mean over
        return float(mean(losses)), {name: float(mean([part[name] for part in parts])) for name in parts[0]}

    @torch.inference_mode()
    def evaluation(self) -> Event:
        """The event `eval`: objective, plain loss and KL on held-out texts; above `kl_cap` no score, and the end."""
        state, corpus, config = self.state, self.corpus, self.config
        values = evaluate_split(state.scored, corpus, "validation", self.plan.evaluate_tokens)
        values["kl"] = divergence(
            state.scored, self.reference, corpus.eval_batches("validation", self.plan.evaluate_tokens)
        )
        with evaluating(state.scored):
            score, parts = self.measured(state.scored)
        values |= {**parts, **self.reward_of_samples("reward", state.scored)}
        values |= {name: figure for name, figure in state.method_state.items() if name.startswith("reward_before")}
        if config.kl_cap is not None and values["kl"] > config.kl_cap:
            state.method_state["ended"] = f"KL {values['kl']:.3f} exceeds method.kl_cap={config.kl_cap:g}"
            values["ended"], score = state.method_state["ended"], float("inf")
        return state.eval_event({**values, "score": score})


def evaluate(trained: Trained[Config], corpus: RewardedCorpus, split: str, limit: int | None) -> Values:
    """The loss on a split and, next to the reference, the KL, figures of pairs and the reward of samples."""
    config, allow_code = trained.config, trained.allow_code
    values, reference = beside_reference(trained, corpus, split, limit)
    if reference is not None and config.algorithm == "dpo":
        values |= held_out_pairs(trained.model, reference, corpus, split, config.beta, config.length_normalised)[1]
    if config.reward is not None and (unmeasured := config.reward.unmeasured(allow_code)):
        return {**values, "unmeasured": [*values.get("unmeasured", ()), *unmeasured]}
    for name, model in {"reward": trained.model, "reward_before": reference}.items():
        if model is not None:
            values |= reward_of_samples(
                name, model, corpus, config.reward, split, trained.seed, allow_code, FINAL_SAMPLES
            )
    return values


METHOD = Method[Config, RewardedCorpus](
    Config=Config,
    run=run,
    trains_heads=lambda config: config.algorithm not in ("dpo", "kto"),  # not where texts are compared, pair by pair
    num_steps=num_steps,
    counted_by=("base_steps",),
    phases=phases,
    check_longer=check_not_ended,
    rehearse=rehearse,
    corpora=(RewardedCorpus,),
    needs="learns from scored texts; set data.type to rewarded or preferences",
    check=check,
    Kept=Kept,
    evaluate=evaluate,
    final_split="test",
)
