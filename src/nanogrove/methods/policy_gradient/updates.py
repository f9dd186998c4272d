"""The steps of policy gradients: batches of samples, and what is measured."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rng import derived_seed
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.errors import PresetError
from nanogrove.evaluate.accuracy import with_error
from nanogrove.evaluate.divergence import divergences
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.evaluate.reward import Reward
from nanogrove.evaluate.samples import FINAL_SAMPLES, SAMPLES
from nanogrove.methods.contract import Method, Trained
from nanogrove.methods.policy_gradient.config import Config, num_steps, phases
from nanogrove.methods.policy_gradient.kept import (
    Kept,
    Rollout,
    check_kept,
    kept_rollout,
    reference_weights,
    tensors_of,
)
from nanogrove.methods.policy_gradient.samples import draw, prompts_of, rewards
from nanogrove.methods.warm_start import frozen, keep_reference, pretrained, saved_weights
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Event, Values, phase
from nanogrove.synthetic.corpus import GrammarCorpus
from nanogrove.synthetic.examples import TaskCorpus
from nanogrove.train.loop import fit
from nanogrove.train.objective import Loss, next_token
from nanogrove.train.objectives.policy_gradient import (
    advantages,
    log_probs,
    mean_of_samples,
    share_of_samples,
    token_weights,
)
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

FIGURES = ("reward", "no_signal", "length")  # of each sample, whose means go to the record
OBJECTIVES = {"grpo": "GRPO loss", "rloo": "RLOO loss"}


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError or CheckpointError for a reward or a base that cannot be loaded, or sizes that do not fit."""
    if config.reward is not None:
        config.reward.find(allow_code)
    elif not (corpus.has_answers and corpus.answers_end_rows):
        raise PresetError(
            "method.reward: this data has no answers that are right or wrong; say what scores a sample, as in "
            """'method.reward={"length": 40}', or set data.type=task"""
        )
    if corpus.batch_size % config.samples:
        fitting = -(-corpus.batch_size // config.samples) * config.samples
        raise PresetError(
            f"train.batch_size={corpus.batch_size} is not a multiple of method.samples={config.samples}, which are "
            f"the samples of one prompt; set train.batch_size={fitting}"
        )
    if config.prompt is not None and config.prompt > corpus.length:
        raise PresetError(f"method.prompt={config.prompt} is longer than a row of the data, {corpus.length} tokens")
    size = (config.prompt or 1) + (config.tokens or 1) - 1  # the last token is never read
    if size > model.block_size:
        raise PresetError(
            f"method.prompt and method.tokens ask for {size + 1} tokens, and model.block_size={model.block_size} holds "
            f"{model.block_size + 1} with the last; lower method.tokens, or set model.block_size={size}"
        )
    if config.base is not None:
        saved_weights(config.base, corpus, model)


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events, and `eval` before those that `plan.evaluates` names, and before the first sample."""
    base, updates = phases(config, plan.steps)
    yield from pretrained(state, corpus, plan, config.base, base.end)
    learner = Learner(state, corpus, plan, config)
    if state.step == base.end:
        yield phase("samples", base.end, OBJECTIVES[config.algorithm], "", "")
        yield learner.evaluation(before=True)
    for event in learner.steps(plan.phase(*updates[1:])):
        if plan.evaluates(event.step):
            yield learner.evaluation()
        yield event


def rehearse(state: TrainState, corpus: Corpus, plan: Plan, config: Config, further: bool) -> Iterator[Event]:
    """Yields the events of the base, or of updates by samples."""
    if further:
        return fit(state, corpus.batch, next_token, plan)
    state.step = num_steps(config, 0)
    return Learner(state, corpus, plan, config).steps(plan)


class Learner:
    """A policy, its reference, and the samples of the step."""

    def __init__(self, state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> None:
        self.state, self.corpus, self.plan, self.config = state, corpus, plan, config
        self.begin = num_steps(config, 0)
        self.reward: Reward | None = None if config.reward is None else config.reward.find(plan.allow_code)
        keep_reference(state)
        self.reference = frozen(state.model, reference_weights(state.method_tensors))
        self.loss = config.loss()
        self.prepared: tuple[int, Batch] | None = None  # the step of the newest samples, and their batch

    def steps(self, plan: Plan) -> Iterator[Event]:
        """Yields a `step` event per update, to the end of the plan."""
        yield from fit(self.state, self.batch, self.objective, replace(plan, max_loss=torch.inf))

    def objective(self, model: nn.Module, batch: Batch) -> Loss:
        """The loss of samples, with the means of their figures."""
        loss = self.loss.objective()(model, batch)
        return Loss(loss.total, {name: mean_of_samples(batch.extra[name], batch) for name in FIGURES} | loss.parts)

    def batch(self, step: int) -> Batch:
        """The batch of a step: new samples, or those of the updates before on the same ones."""
        first = step - (step - self.begin) % self.config.iterations
        if self.prepared is None or self.prepared[0] != first:
            rollout = self.rollout(step) if step == first else self.kept()
            self.prepared = first, self.batch_of(rollout)
            if self.config.iterations > 1:
                self.state.method_tensors = reference_weights(self.state.method_tensors) | tensors_of(rollout)
        return self.prepared[1]

    def kept(self) -> Rollout:
        """The samples that a checkpoint held."""
        device = self.state.model.embed.weight.device
        return kept_rollout({name: tensor.to(device) for name, tensor in self.state.method_tensors.items()})

    def seeds(self, purpose: str, *index: int) -> list[int]:
        """A seed for the stream of each member."""
        return [derived_seed(self.plan.seed, purpose, *index, p) for p in range(self.state.model.population or 1)]

    def rollout(self, step: int) -> Rollout:
        """New samples after the first rows of the batch of a step, their rewards, and their log-probabilities."""
        config, model = self.config, self.state.model
        rows = self.corpus.batch(step).rows(0, self.corpus.batch_size // config.samples)
        prompts = prompts_of(rows, config, self.corpus)
        samples = draw(model, prompts, config, self.corpus, config.samples, self.seeds("policy gradient", step))
        reward = rewards(samples, prompts, self.reward, self.corpus).to(samples.tokens.device)
        return Rollout(samples, reward, self.scored(model, samples.batch()) if config.keeps_old else None)

    def scored(self, model: GPT, batch: Batch) -> Tensor:
        """The log-probabilities `[*P, B, W]` of samples by a model, 0 where nothing was written."""
        with torch.no_grad(), evaluating(model):
            micros = batch.split(self.plan.accumulation)
            known = torch.cat([log_probs(model, micro, self.config.temperature) for micro in micros], -2)
        return known * batch.mask

    def batch_of(self, rollout: Rollout) -> Batch:
        """What the objective reads of samples."""
        config, batch = self.config, rollout.samples.batch()
        lengths = batch.mask.sum(-1)
        extra = {"share": share_of_samples(batch.mask), "length": lengths.float(), "reward": rollout.reward.float()}
        penalised = rollout.reward
        if config.beta:
            extra["reference"] = self.scored(self.reference, batch)
        if rollout.old is not None:
            extra["old"] = rollout.old
            if config.beta and config.algorithm == "rloo":
                penalised = penalised - config.beta * (rollout.old - extra["reference"]).sum(-1).double()
        compared = partial(advantages, samples=config.samples, algorithm=config.algorithm, scale=config.scaling)
        by_member = penalised.view(-1, penalised.shape[-1])
        extra["advantage"] = torch.stack([compared(each) for each in by_member]).view_as(penalised).float()
        groups = rollout.reward.view(*rollout.reward.shape[:-1], -1, config.samples)
        equal = (groups == groups[..., :1]).all(-1, keepdim=True)
        extra["no_signal"] = equal.expand_as(groups).flatten(-2).float()
        weights = token_weights(batch.mask, config.aggregation, config.tokens or self.corpus.length)
        return replace(batch, weight=weights, extra=extra)

    def evaluation(self, before: bool = False) -> Event:
        """The event `eval`: loss, exact match where there are answers, KL and, with a reward, that of samples."""
        state, corpus, limit = self.state, self.corpus, self.plan.evaluate_tokens
        values = evaluate_split(state.scored, corpus, "validation", limit)
        kl = divergences(state.scored, self.reference, corpus.eval_batches("validation", limit))
        values["kl"] = kl if state.model.population else kl[0]
        score = values.get("exact_match")
        if self.reward is not None:
            figures = reward_of(state.scored, corpus, self.config, self.reward, "validation", self.plan.seed, SAMPLES)
            if before:
                state.method_state |= {f"reward_before{n.removeprefix('reward')}": v for n, v in figures.items()}
            values |= {**figures, **state.method_state}
            score = figures["reward"]
        score = [-each for each in score] if isinstance(score, list) else -cast(float, score)
        return state.eval_event({**values, "score": score})


def reward_of(model: GPT, corpus: Corpus, config: Config, reward: Reward, split: str, seed: int, count: int) -> Values:
    """The mean reward of a sample after each of about `count` prompts of a split, with its standard error.

    All models draw from the same random numbers, so that what training changed is not lost among them.
    """
    limit, written = count * corpus.length, []
    for number, rows in enumerate(corpus.eval_batches(split, limit)):
        prompts = prompts_of(rows, config, corpus)
        seeds = [derived_seed(seed, f"samples of {split}", number, p) for p in range(model.population or 1)]
        written.append(rewards(draw(model, prompts, config, corpus, 1, seeds), prompts, reward, corpus))
    return with_error("reward", torch.cat(written, -1), corpus.documents(split, limit))


def evaluate(trained: Trained[Config], corpus: Corpus, split: str, limit: int | None) -> Values:
    """The loss on a split, exact match where there are answers, and next to the reference the KL and the rewards."""
    config, kept = trained.config, reference_weights(trained.kept())
    values, reference = evaluate_split(trained.model, corpus, split, limit), None
    unmeasured = [] if config.reward is None else config.reward.unmeasured(trained.allow_code)
    if not kept:
        unmeasured.append("no checkpoint holds the reference; nothing is compared with it")
    elif config.members is not None:
        unmeasured.append("each member has a reference of its own; nothing is compared with it")
    else:
        reference = frozen(trained.model, kept)
        (values["kl"],) = divergences(trained.model, reference, corpus.eval_batches(split, limit))
    if config.reward is not None and not config.reward.unmeasured(trained.allow_code):
        reward = config.reward.find(trained.allow_code)
        for name, model in {"reward": trained.model, "reward_before": reference}.items():
            if model is not None:
                figures = reward_of(model, corpus, config, reward, split, trained.seed, FINAL_SAMPLES)
                values |= {f"{name}{figure.removeprefix('reward')}": value for figure, value in figures.items()}
    return {**values, "unmeasured": unmeasured} if unmeasured else values


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    num_members=lambda config: config.members,
    copies=lambda config: config.members or 1,
    num_steps=num_steps,
    counted_by=("base_steps",),
    phases=phases,
    rehearse=rehearse,
    corpora=(TaskCorpus, GrammarCorpus, RewardedCorpus, TextCorpus),
    needs="writes after prompts of text; of conversations take data.type=rewarded, set data.type to that or to task",
    check=check,
    Kept=Kept,
    check_kept=check_kept,
    evaluate=evaluate,
    final_split="test",
)
