"""Self-alignment: a model generates texts, a reward scores them, and the best of them train the model, in rounds.

1. `train.steps` of pretraining, or a saved run, is the model to begin from, and the reference.
2. In each round texts are sampled after prompts from the training data and scored, and the best share is kept, in the
   run folder too. Then `steps_per_round` steps train on batches of which a share `replay` is training data, which
   preserves what the model knew, and the rest kept texts of this round; their prompts are not scored, and the end mark
   is where the model generated it, not where a text was cut at `tokens`.
3. After the round fresh samples, of the same prompts each time, and the held-out data are scored, and
   KL(policy ‖ reference) is measured on the latter. Above `kl_cap` the rounds end; the best model is the one with the
   highest reward within it.

This is reward-ranked fine-tuning (Dong et al. 2023, arXiv 2304.06767) with replay of the original data.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal, NotRequired

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed, random
from nanogrove.errors import PresetError
from nanogrove.evaluate import auxiliary
from nanogrove.evaluate.accuracy import with_error
from nanogrove.evaluate.divergence import divergence
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.evaluate.reward import RewardConfig
from nanogrove.evaluate.samples import Sample, sample
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
from nanogrove.paths import OnDisk
from nanogrove.record.events import Event, Values, phase
from nanogrove.record.measures import REWARD
from nanogrove.train.loop import fit
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.plan import Plan, Span
from nanogrove.train.state import TrainState

RECORDED_TEXTS = 6  # fresh texts of each round


class Config(MethodConfig):
    """`train.steps` are those of the base; each of `rounds` adds `steps_per_round`."""

    name: Literal["align"] = "align"
    reward: RewardConfig = Field(description="what scores a text")
    base: Annotated[str | None, OnDisk()] = Field(
        None, description="one model to begin from, as train.init takes them, instead of base training"
    )
    rounds: int = Field(5, ge=1, description="rounds of sampling, scoring and training")
    steps_per_round: int = Field(30, ge=1, description="optimizer steps per round")
    texts: int = Field(256, ge=2, description="texts generated and scored per round")
    prompt: int = Field(8, ge=1, description="tokens of training text that each text begins with")
    tokens: int = Field(48, ge=1, description="tokens generated after the prompt, at most")
    temperature: float = Field(1.0, gt=0, description="sampling temperature")
    keep: float = Field(0.25, gt=0, le=1, description="share of the texts to train on, the best ones")
    replay: float = Field(0.5, ge=0, lt=1, description="share of a batch that is training data")
    rate: float = Field(0.3, gt=0, description="learning rates of a round over those of the base")
    kl_cap: float | None = Field(
        0.2, gt=0, description="KL from the reference, nats per token, above which the rounds end"
    )


class KeptRow(TypedDict):
    """A kept text as the run folder holds it; rows of older runs lack `ended`."""

    prompt: str
    text: str
    ended: NotRequired[bool]
    reward: float


def kept_count(config: Config) -> int:
    """How many texts of a round are kept."""
    return max(round(config.keep * config.texts), 1)


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and those of the rounds."""
    return (0 if config.base is not None else budget) + config.rounds * config.steps_per_round


def round_span(config: Config, steps: int, number: int) -> Span:
    """The steps of a round, counted from 0, of a run of so many steps."""
    start = steps - (config.rounds - number) * config.steps_per_round
    return Span(f"round {number + 1}", start, start + config.steps_per_round, config.rate)


def phases(config: Config, steps: int) -> Iterator[Span]:
    """The base, of no steps after a saved one, and each round."""
    yield Span("base", 0, round_span(config, steps, 0).start)
    yield from (round_span(config, steps, number) for number in range(config.rounds))


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError or CheckpointError for a reward or a base that cannot be loaded, and for texts too long."""
    config.reward.find(allow_code)
    size = config.prompt + config.tokens
    if size > min(corpus.length, model.block_size):
        raise PresetError(
            f"method.prompt + method.tokens is {size}, and a batch holds {min(corpus.length, model.block_size)}"
        )
    if config.base is not None:
        saved_weights(config.base, corpus, model)


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events; `data` before the first of a round, `reward` and `eval` before the last."""
    reward = config.reward.find(plan.allow_code)
    begin = round_span(config, plan.steps, 0).start
    yield from pretrained(state, corpus, plan, config.base, begin)
    reference = reference_model(state)
    if state.step == begin:
        yield phase("rounds", begin, "NLL of kept texts and of training data")
        before = _reward_event(state, 0, *_fresh_samples(state.model, corpus, config, plan, "before"))
        state.method_state |= {"reward_before": before.values["mean"], "reward_before_error": before.values["error"]}
        yield before
    while state.step < plan.steps and not state.method_state.get("ended"):
        number, past = divmod(state.step - begin, config.steps_per_round)
        name = f"round-{number + 1}"
        if not past:
            samples = generate_texts(state.model, corpus, config, plan.seed, name)
            scores = reward([sample.text for sample in samples])
            best = sorted(range(len(samples)), key=lambda number: -scores[number])
            chosen = best[: kept_count(config)]
            rows = [_kept_row(samples[n], scores[n]) for n in chosen]
            state.round = number + 1
            yield Event("data", state.step, {"name": name, "rows": rows, "count": len(rows)})
        else:
            rows = plan.rows.read_rows(name, KeptRow, partial(check_row, corpus), kept_count(config))
            for row in rows:  # rows of older runs lack the key; an end mark takes one of the `tokens`
                row.setdefault("ended", len(corpus.tokenizer.encode(row["text"])) < config.tokens)
        mixed = Mixed(corpus, rows, config.replay, plan.seed, number)
        this_round = plan.phase(*round_span(config, plan.steps, number)[1:])
        for event in fit(state, mixed.batch, objective_of(state, plan), this_round):
            if event.step == this_round.steps:
                yield from _evaluation(state, corpus, plan, config, reference, name)
                yield from auxiliary.evaluate_heads(state, corpus, mixed.batch, plan)
            yield event


def generate_texts(
    model: GPT, corpus: Corpus, config: Config, seed: int, purpose: str, prompts: str | None = None
) -> list[Sample]:
    """Generates a text after each of `texts` prompts from the training data.

    Args:
        model: a single model.
        corpus: what prompts are drawn from.
        config: how many texts, how long and at what temperature.
        seed: of the run.
        purpose: names the random stream of the tokens.
        prompts: names that of the prompts; `purpose` when left out.
    """
    generator = random(seed, "align", *(prompts or purpose).encode())
    starts: list[Tensor] = []
    while sum(map(len, starts)) < config.texts:
        starts.append(corpus.batch(int(generator.integers(1 << 40))).tokens[:, : config.prompt])
    tokens = torch.cat(starts)[: config.texts]
    return sample(
        model,
        corpus.tokenizer,
        tokens,
        new_tokens=config.tokens,
        temperature=config.temperature,
        seed=derived_seed(seed, "align", *purpose.encode()),
    )


def _kept_row(sample: Sample, reward: float) -> KeptRow:
    return {"prompt": sample.prompt, "text": sample.text, "ended": sample.ended, "reward": reward}


def check_row(corpus: Corpus, row: KeptRow) -> None:
    """Raises DataError where a row that was read back holds what the tokenizer cannot express."""
    corpus.tokenizer.encode_batch([row["prompt"], row["text"]])


class Mixed:
    """Batches of kept texts and of training data, functions of (seed, round, step)."""

    def __init__(self, corpus: Corpus, rows: list[KeptRow], replay: float, seed: int, number: int) -> None:
        self.corpus, self.replay, self.seed, self.number = corpus, replay, seed, number
        encode, end = corpus.tokenizer.encode_batch, corpus.tokenizer.end
        prompts, texts = encode([row["prompt"] for row in rows]), encode([row["text"] for row in rows])
        width = corpus.length + 1
        self.tokens = torch.full((len(rows), width), end)
        self.mask = torch.zeros(len(rows), width - 1, dtype=torch.bool)
        for index, (row, prompt, text) in enumerate(zip(rows, prompts, texts, strict=True)):
            whole = torch.tensor([*prompt, *text, *([end] if row["ended"] else [])])[:width]
            self.tokens[index, : len(whole)] = whole
            self.mask[index, max(len(prompt) - 1, 0) : len(whole) - 1] = True

    def batch(self, step: int) -> Batch:
        """Batch number `step`: its last rows are kept texts, drawn uniformly; `extra["kept"] [B]` marks them."""
        batch = self.corpus.batch(step)
        count = len(batch.tokens) - round(self.replay * len(batch.tokens))
        chosen = torch.from_numpy(random(self.seed, "kept", self.number, step).integers(len(self.tokens), size=count))
        kept, old = self.tokens[chosen], len(batch.tokens) - count
        return Batch.uniform(
            torch.cat([batch.tokens[:old], kept[:, :-1]]),
            torch.cat([batch.targets[:old], kept[:, 1:]]),
            torch.cat([batch.mask[:old], self.mask[chosen]]),
            torch.cat([batch.source[:old], torch.zeros(count, dtype=torch.int64)]),
            {"kept": torch.arange(len(batch.tokens)) >= old},
        )


def _fresh_samples(
    model: GPT, corpus: Corpus, config: Config, plan: Plan, purpose: str
) -> tuple[list[Sample], list[float]]:
    """Texts after prompts that are the same in every round, and their rewards."""
    samples = generate_texts(model, corpus, config, plan.seed, purpose, prompts="judged")
    return samples, config.reward.find(plan.allow_code)([sample.text for sample in samples])


def _evaluation(
    state: TrainState, corpus: Corpus, plan: Plan, config: Config, reference: GPT, name: str
) -> Iterator[Event]:
    """The rewards of fresh samples and the losses on held-out data after a round."""
    samples, scores = _fresh_samples(state.scored, corpus, config, plan, f"{name} after")
    values = evaluate_split(state.scored, corpus, "validation", plan.evaluate_tokens)
    values["kl"] = divergence(state.scored, reference, corpus.eval_batches("validation", plan.evaluate_tokens))
    reward = _reward_event(state, state.round, samples, scores)
    values |= {"reward": reward.values["mean"], "reward_error": reward.values["error"]}
    values |= {name: figure for name, figure in state.method_state.items() if name.startswith("reward_before")}
    score = REWARD.cost(sum(scores) / len(scores))
    if config.kl_cap is not None and values["kl"] > config.kl_cap:
        state.method_state["ended"] = values["ended"] = f"KL {values['kl']:.3f} exceeds method.kl_cap={config.kl_cap:g}"
        score = torch.inf
    yield reward
    yield state.eval_event({**values, "score": score})


def _reward_event(state: TrainState, number: int, samples: list[Sample], scores: list[float]) -> Event:
    """A `reward` event: mean and standard error of the rewards of fresh texts, and the first few of these."""
    known = torch.tensor(scores, dtype=torch.float64)
    error = float(known.std() / len(scores) ** 0.5)
    shown = [
        {"prompt": sample.prompt, "text": sample.text, "reward": score}
        for sample, score in zip(samples[:RECORDED_TEXTS], scores[:RECORDED_TEXTS], strict=True)
    ]
    return Event("reward", state.step, {"round": number, "mean": float(known.mean()), "error": error, "texts": shown})


def evaluate(trained: Trained[Config], corpus: Corpus, split: str, limit: int | None) -> Values:
    """The losses on a split, the reward of samples after its prompts, and the KL; both also before the first round."""
    config = trained.config
    values, reference = beside_reference(trained, corpus, split, limit)
    if unmeasured := config.reward.unmeasured(trained.allow_code):
        return {**values, "unmeasured": [*values.get("unmeasured", ()), *unmeasured]}
    amount = config.texts * corpus.length
    prompts = torch.cat([batch.tokens[:, : config.prompt] for batch in corpus.eval_batches(split, amount)])
    documents, reward = corpus.documents(split, amount), config.reward.find(trained.allow_code)
    for name, model in {"reward": trained.model, "reward_before": reference}.items():
        if model is None:
            continue
        samples = sample(
            model,
            corpus.tokenizer,
            prompts,
            new_tokens=config.tokens,
            temperature=config.temperature,
            seed=derived_seed(trained.seed, "align", *split.encode()),
        )
        values |= with_error(name, torch.tensor(reward([each.text for each in samples])), documents)
    return values


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    trains_heads=lambda config: True,
    num_steps=num_steps,
    counted_by=("rounds", "steps_per_round"),
    phases=phases,
    check_longer=check_not_ended,
    check=check,
    Kept=Kept,
    evaluate=evaluate,
    final_split="test",
)
