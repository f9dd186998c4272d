"""Self-alignment: a model writes, a reward scores, the best of what it wrote trains it, again and again.

1. `train.steps` of pretraining, or a saved run, is the model to begin from, and the reference.
2. Each round: texts are sampled behind prompts from the training data, scored, and the best share is kept, in the run
   folder too. Then `steps_per_round` steps on batches of which a share `replay` are training data as ever, which holds
   on to what the model knew, and the rest kept texts of this round; of those the prompts are not scored, and the end
   mark is where the model wrote it, not where a text was cut at `tokens`.
3. Behind it fresh samples, of the same prompts each time, and the held-out data are scored, and KL(policy ‖ reference)
   is measured on the latter. Past `kl_cap` the rounds end; the best model is the one of the highest reward within it.

This is reward-ranked fine-tuning (Dong et al. 2023, arXiv 2304.06767) with replay of the original data.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed, random
from nanogrove.decoding import plain as decoding
from nanogrove.decoding.sampling import temperature
from nanogrove.errors import PresetError
from nanogrove.evaluate import auxiliary
from nanogrove.evaluate.divergence import divergence
from nanogrove.evaluate.loss import evaluate_split
from nanogrove.evaluate.reward import RewardConfig
from nanogrove.methods.contract import Method, MethodConfig
from nanogrove.methods.warm_start import pretrained, reference_model, saved_weights
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.record.events import Event
from nanogrove.record.measures import REWARD
from nanogrove.train.loop import fit
from nanogrove.train.objectives.auxiliary import objective_of
from nanogrove.train.plan import Plan
from nanogrove.train.state import TrainState

SHOWN = 6  # fresh texts of each round in the record


class Config(MethodConfig):
    """`train.steps` are those of the base; each of `rounds` adds `steps_per_round`."""

    name: Literal["align"] = "align"
    reward: RewardConfig = Field(description="what is wanted of a text")
    base: str | None = Field(None, description="a saved run or checkpoint of one model, instead of base training")
    rounds: int = Field(5, ge=1, description="of sampling, scoring and training")
    steps_per_round: int = Field(30, ge=1, description="optimizer steps of a round")
    texts: int = Field(256, ge=2, description="written and scored a round")
    prompt: int = Field(8, ge=1, description="tokens of training text each begins with")
    tokens: int = Field(48, ge=1, description="to write behind it, at most")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False, description="of the sampled texts")
    keep: float = Field(0.25, gt=0, le=1, description="share of the texts to train on, the best")
    replay: float = Field(0.5, ge=0, lt=1, description="share of a batch that is training data as ever")
    rate: float = Field(0.3, gt=0, allow_inf_nan=False, description="rates of a round over those of the base")
    kl_cap: float | None = Field(0.2, gt=0, description="nats a token from the reference at which the rounds end")


def num_steps(config: Config, budget: int) -> int:
    """Steps of the base, none after a saved one, and those of the rounds."""
    return (0 if config.base is not None else budget) + config.rounds * config.steps_per_round


def check(config: Config, corpus: Corpus, model: ModelConfig, allow_code: bool) -> None:
    """Raises PresetError or CheckpointError for a reward or a base that cannot be had, and for texts too long."""
    config.reward.find(allow_code)
    size = config.prompt + config.tokens
    if size > min(corpus.length, model.block_size):
        raise PresetError(
            f"method.prompt + method.tokens is {size}, and a batch holds {min(corpus.length, model.block_size)}"
        )
    if config.base is not None:
        saved_weights(config.base, corpus, model)


def run(state: TrainState, corpus: Corpus, plan: Plan, config: Config) -> Iterator[Event]:
    """Yields `step` events; of a round `data` ahead of the first, `eval` and `rewards` ahead of the last."""
    reward = config.reward.find(plan.allow_code)
    begin = plan.steps - config.rounds * config.steps_per_round
    yield from pretrained(state, corpus, plan, config.base, begin)
    reference = reference_model(state)
    if state.step == begin:
        yield _rewarded(state, 0, *_fresh(state.model, corpus, config, plan, "before"))
    while state.step < plan.steps and not state.method_state.get("ended"):
        number, past = divmod(state.step - begin, config.steps_per_round)
        start, name = state.step - past, f"round-{number + 1}"
        if not past:
            samples = written(state.model, corpus, config, plan.seed, name)
            scores = reward([sample.text for sample in samples])
            best = sorted(range(len(samples)), key=lambda place: -scores[place])
            chosen = best[: max(round(config.keep * len(samples)), 1)]
            rows = [{**samples[n]._asdict(), "reward": scores[n]} for n in chosen]
            state.round = number + 1
            yield Event("data", state.step, {"name": name, "rows": rows, "count": len(rows)})
        else:
            rows = plan.rows.read_rows(name)
            for row in rows:  # one that does not say is of an older run; an end mark takes one of the `tokens`
                row.setdefault("ended", len(corpus.tokenizer.encode(row["text"])) < config.tokens)
        mixed = Mixed(corpus, rows, config.replay, plan.seed, number)
        phase = plan.phase(start, start + config.steps_per_round, config.rate)
        for event in fit(state, mixed.batch, objective_of(state, plan), phase):
            if event.step == phase.steps:
                yield from _judged(state, corpus, plan, config, reference, name)
                yield from auxiliary.evaluate_heads(state, corpus, mixed.batch, plan)
            yield event


class Sample(NamedTuple):
    """What a model wrote after a prompt, and whether it wrote the end mark too, or was cut at `tokens`."""

    prompt: str
    text: str
    ended: bool


def written(
    model: GPT, corpus: Corpus, config: Config, seed: int, purpose: str, prompts: str | None = None
) -> list[Sample]:
    """What the model writes after `texts` prompts from training data, drawn by purpose or by `prompts`."""
    generator = random(seed, "align", *(prompts or purpose).encode())
    starts: list[Tensor] = []
    while sum(map(len, starts)) < config.texts:
        starts.append(corpus.batch(int(generator.integers(1 << 40))).tokens[:, : config.prompt])
    tokens = torch.cat(starts)[: config.texts].to(model.embed.weight.device)
    with torch.inference_mode():
        new = decoding.generate(
            model,
            tokens,
            new_tokens=config.tokens,
            transforms=[] if config.temperature == 1 else [temperature(config.temperature)],
            stop=[corpus.tokenizer.end],
            generator=torch.Generator(tokens.device).manual_seed(derived_seed(seed, "align", *purpose.encode())),
        )
    decode, end = corpus.tokenizer.decode, corpus.tokenizer.end
    return [
        Sample(decode(prompt), decode([token for token in text if token not in (-1, end)]), end in text)
        for prompt, text in zip(tokens.tolist(), new.tolist(), strict=True)
    ]


class Mixed:
    """Batches of kept texts and of training data, functions of (seed, round, step)."""

    def __init__(self, corpus: Corpus, rows: list[dict[str, Any]], replay: float, seed: int, number: int) -> None:
        self.corpus, self.replay, self.seed, self.number = corpus, replay, seed, number
        encode, end = corpus.tokenizer.encode_batch, corpus.tokenizer.end
        prompts, texts = encode([row["prompt"] for row in rows]), encode([row["text"] for row in rows])
        width = corpus.length + 1
        self.tokens = torch.full((len(rows), width), end)
        self.mask = torch.zeros(len(rows), width - 1, dtype=torch.bool)
        for place, (row, prompt, text) in enumerate(zip(rows, prompts, texts, strict=True)):
            whole = torch.tensor([*prompt, *text, *([end] if row["ended"] else [])])[:width]
            self.tokens[place, : len(whole)] = whole
            self.mask[place, max(len(prompt) - 1, 0) : len(whole) - 1] = True

    def batch(self, step: int) -> Batch:
        """Batch number `step`: its last rows are kept texts, drawn evenly, as `extra["kept"] [B]` says."""
        batch = self.corpus.batch(step)
        count = len(batch.tokens) - round(self.replay * len(batch.tokens))
        drawn = torch.from_numpy(random(self.seed, "kept", self.number, step).integers(len(self.tokens), size=count))
        kept, old = self.tokens[drawn], len(batch.tokens) - count
        return Batch.uniform(
            torch.cat([batch.tokens[:old], kept[:, :-1]]),
            torch.cat([batch.targets[:old], kept[:, 1:]]),
            torch.cat([batch.mask[:old], self.mask[drawn]]),
            torch.cat([batch.source[:old], torch.zeros(count, dtype=torch.int64)]),
            {"kept": torch.arange(len(batch.tokens)) >= old},
        )


def _fresh(model: GPT, corpus: Corpus, config: Config, plan: Plan, purpose: str) -> tuple[list[Sample], list[float]]:
    """What the model writes after prompts that are the same in every round, and its rewards."""
    samples = written(model, corpus, config, plan.seed, purpose, prompts="judged")
    return samples, config.reward.find(plan.allow_code)([sample.text for sample in samples])


def _judged(
    state: TrainState, corpus: Corpus, plan: Plan, config: Config, reference: GPT, name: str
) -> Iterator[Event]:
    """How the model writes and what it still knows behind a round."""
    samples, scores = _fresh(state.model, corpus, config, plan, f"{name} after")
    values = evaluate_split(state.model, corpus, "validation", plan.evaluate_tokens)
    values["kl"] = divergence(state.model, reference, corpus.eval_batches("validation", plan.evaluate_tokens))
    score = REWARD.cost(sum(scores) / len(scores))
    if config.kl_cap is not None and values["kl"] > config.kl_cap:
        state.method_state["ended"] = values["ended"] = f"KL {values['kl']:.3f} exceeds method.kl_cap={config.kl_cap:g}"
        score = torch.inf
    yield _rewarded(state, state.round, samples, scores)
    yield state.eval_event({**values, "score": score})


def _rewarded(state: TrainState, number: int, samples: list[Sample], scores: list[float]) -> Event:
    """Mean and standard error of the rewards of fresh texts, and the first few of these."""
    known = torch.tensor(scores, dtype=torch.float64)
    error = float(known.std() / len(scores) ** 0.5)
    shown = [
        {"prompt": sample.prompt, "text": sample.text, "reward": score}
        for sample, score in zip(samples[:SHOWN], scores[:SHOWN], strict=True)
    ]
    return Event("reward", state.step, {"round": number, "mean": float(known.mean()), "error": error, "texts": shown})


METHOD = Method[Config, Corpus](
    Config=Config,
    run=run,
    trains_heads=lambda config: True,
    num_steps=num_steps,
    counted_by=("rounds", "steps_per_round"),
    check=check,
    final_split="test",
)
