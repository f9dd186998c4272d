"""A preset's parts, built: data prepared, and all settled that it leaves open. Nothing random, nothing trained."""

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch

from nanogrove.corpora import make_corpus
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.methods import METHODS, load_method
from nanogrove.runs.rehearsal import rehearse
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.model.heads import Heads
from nanogrove.config.preset import Preset
from nanogrove.train.autotune import AUTO, Work, activation_bytes, auto_precision, reason_for, resolve_auto
from nanogrove.train.checkpoint import Checkpoint
from nanogrove.train.parallel.ranks import ALONE, Ranks
from nanogrove.train.loop import Plan
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.optim.rules import RULES, moments_per_weight
from nanogrove.train.precision import Precision, pick_device
from nanogrove.train.optim.schedule import schedule
from nanogrove.train.state import TrainState


@dataclass(frozen=True)
class Parts:
    """What a preset describes, built."""

    preset: Preset  # resolved, no `auto` left that would change a result
    corpus: Corpus
    model: ModelConfig
    plan: Plan
    device: torch.device
    precision_reason: str
    budget: dict[str, float] = field(default_factory=dict)  # minutes that became steps, and the times of a step

    def new_state(self) -> TrainState:
        """The state of step 0: a function of the preset and its seed."""
        preset = self.preset
        population = load_method(preset.method.name).num_members(preset.method)
        seeds = [derived_seed(preset.seed, "member", member) for member in range(population or 1)]
        model = GPT(self.model, population).initialize(*seeds)
        heads = None
        if preset.auxiliary.enabled:
            heads = Heads(preset.auxiliary, self.model, population)
            heads = heads.initialize(*(derived_seed(seed, "heads") for seed in seeds)).to(self.device)
        precision = torch.bfloat16 if self.plan.precision == "bfloat16" else torch.float32
        optimizer = make_optimizer(model, preset.optimizer, precision, heads)
        return TrainState(model.to(self.device), optimizer, heads=heads)


def build(
    preset: Preset, checkpoint: Checkpoint | None = None, allow_code: bool = False, ranks: Ranks = ALONE
) -> Parts:
    """Prepares the data and settles what the preset leaves open: vocabulary, steps, precision.

    Raises PresetError and DataError for what cannot be, CheckpointError when the data or its vocabulary is not what
    `checkpoint` was trained on.
    """
    train, config = preset.train, preset.method
    method = load_method(config.name)
    members = method.num_members(config) or 1
    if ranks.world > 1 and method.ranks_share == "nothing":
        raise PresetError(f"method {config.name} trains in one process; start it without torchrun")
    if method.ranks_share == "members" and ranks.world > members:
        raise PresetError(f"{members} members are fewer than the {ranks.world} ranks; start {members} at most")
    if method.ranks_share == "batch" and ranks.world > train.batch_size:
        raise PresetError(
            f"train.batch_size={train.batch_size} is fewer sequences than the {ranks.world} ranks; raise it, or start "
            f"{train.batch_size} ranks at most"
        )
    device = pick_device(train.device)
    if train.shard:
        _refuse_pieces(preset, ranks)
    corpus: Corpus = ranks.in_turn(lambda: make_corpus(preset.data, preset.model.block_size, train.batch_size, preset.seed))
    if checkpoint is not None:
        if checkpoint.tokenizer.to_json() != corpus.tokenizer.to_json():
            raise CheckpointError(
                f"{checkpoint.folder}: has another vocabulary than the data; use the data of this run"
            )
        if checkpoint.state.get("data") != corpus.describe()["fingerprint"]:
            raise CheckpointError(f"{checkpoint.folder}: the data has changed since; bring it back, or start anew")
    scalar = method.output == "scalar"
    if preset.model.scalar != scalar:
        raise PresetError(
            f"method {config.name} needs model.scalar={str(scalar).lower()}; only a reward model is scalar"
        )
    try:
        preset.auxiliary.refuse(corpus.length)
    except ValueError as error:
        raise PresetError(f"{error}, of which this data has no longer ones") from None
    vocabulary = preset.model.vocab_size or corpus.tokenizer.vocab_size
    if vocabulary < corpus.tokenizer.vocab_size:
        raise PresetError(
            f"model.vocab_size={vocabulary} is smaller than the tokenizer's {corpus.tokenizer.vocab_size}; leave it out"
        )
    settings, end = preset.model.model_copy(update={"vocab_size": vocabulary}), corpus.tokenizer.end
    if settings.document_mark not in (None, end):
        raise PresetError(f"model.document_mark is not the end of text of the tokenizer, which is {end}; leave it out")
    if settings.within_documents and scalar:
        raise PresetError("model.within_documents: a reward model judges by the end mark, which would see itself alone")
    model = settings.model_copy(update={"document_mark": end if settings.within_documents else None})
    tokens_a_step = train.batch_size * corpus.length
    if train.epochs and corpus.windows_per_epoch is None:
        raise PresetError(
            "train.epochs: this data never ends or is still being read; set train.steps, train.tokens or train.minutes "
            "instead"
        )
    if train.epochs and corpus.windows_per_epoch:
        steps = max(round(train.epochs * corpus.windows_per_epoch / train.batch_size), 1)
    else:
        steps = train.steps or -(-(train.tokens or 0) // tokens_a_step)
    split = method.final_split
    if split not in corpus.splits:
        raise PresetError(f"method {config.name} ends on the {split} split, which is empty; set data.{split}")
    if method.corpora and not isinstance(corpus, method.corpora):
        raise PresetError(f"method {config.name} {method.needs}")
    if checkpoint is None:
        method.check(config, corpus, model, allow_code)
        method.check_scored(config, corpus, preset.evaluate.tokens)
    settled = partial(_settled, corpus, settings, model, device, allow_code, ranks)
    if train.minutes is None:
        return settled(preset, method.num_steps(config, steps))
    parts = settled(preset, method.num_steps(config, 1))
    for _ in range(2):  # again where so many steps are worth compiling for
        rehearsal = rehearse(train.minutes, config, corpus, parts.plan, parts.new_state)
        budget = {"steps": rehearsal.steps, "minutes": None, "compile": train.compile}
        again = parts.preset.model_copy(update={"train": parts.preset.train.model_copy(update=budget)})
        before, parts = parts, settled(again, method.num_steps(config, rehearsal.steps))
        if parts.plan.compile == before.plan.compile:
            break
    return replace(parts, budget=rehearsal.times)


def _settled(
    corpus: Corpus,
    settings: ModelConfig,
    model: ModelConfig,
    device: torch.device,
    allow_code: bool,
    ranks: Ranks,
    preset: Preset,
    steps: int,
) -> Parts:
    """The parts of a run of `steps` steps, with what the preset leaves to `auto` chosen.

    `settings` are those of the model in the resolved preset, and `model` those on this data.
    """
    train, vocabulary = preset.train, model.vocab_size or 0
    method = load_method(preset.method.name)
    rows = -(-train.batch_size // ranks.world) if method.ranks_share == "batch" else train.batch_size
    work = Work(model, method.num_members(preset.method) or 1, rows)
    if any(getattr(train, key) == "auto" for key in AUTO):
        found = ranks.told(lambda: asdict(resolve_auto(work, steps, device)))
        if ranks.world > 1:
            found["threads"] = min(found["threads"], ranks.threads)
        found["compile"] = found["compile"] and not train.shard
        chosen = {key: found[key] for key in AUTO if getattr(train, key) == "auto"}
        train = train.model_copy(update=chosen)
    if train.threads != "auto":
        torch.set_num_threads(train.threads)
    plan = Plan(
        seed=preset.seed,
        steps=steps,
        rate=schedule(preset.schedule, steps),
        schedule=partial(schedule, preset.schedule),
        accumulation=cast(int, train.accumulation),
        clip=train.clip,
        precision=cast(Precision, train.precision),
        compile=train.compile is True,
        divergence=torch.tensor(float(vocabulary)).log().item() + train.divergence,
        evaluate_every=preset.evaluate.every,
        evaluate_early=preset.evaluate.early,
        evaluate_tokens=preset.evaluate.tokens,
        allow_code=allow_code,
        ranks=ranks,
        shard=device if train.shard else None,
    )
    resolved = preset.model_copy(update={"model": settings, "train": train, "data": corpus.config})
    # In pieces on its device, the whole model lies on the processor.
    reason = reason_for(plan.precision, auto_precision(work.flops, device))
    return Parts(resolved, corpus, model, plan, torch.device("cpu") if train.shard else device, reason)


def _refuse_pieces(preset: Preset, ranks: Ranks) -> None:
    """Raises PresetError where weights cannot be cut in pieces."""
    able = " or ".join(name for name in METHODS if load_method(name).sharding)
    optimizer = preset.optimizer.name
    reasons = {
        "there is one rank; start several with torchrun": ranks.world == 1,
        f"it goes with method {able} alone": not load_method(preset.method.name).sharding,
        f"{optimizer} needs whole matrices; set optimizer.name=adamw": RULES[optimizer].whole_matrices,
        "auxiliary heads are not cut; leave enable_… out": preset.auxiliary.enabled,
        "a memory is not cut; set model.memory_tokens=0": bool(preset.model.memory_tokens),
        "set train.compile=false": preset.train.compile is True,
    }
    for reason, so in reasons.items():
        if so:
            raise PresetError(f"train.shard: {reason}")


def estimate(preset: Preset, allow_code: bool = False) -> dict[str, Any]:
    """What a run would take: parameters and tokens of one member; operations and bytes of memory of all members.

    Memory counts weights, those of auxiliary heads too, gradients, moments and, roughly, what one micro-batch keeps for
    its backward pass.
    """
    parts = build(preset, allow_code=allow_code)
    c, plan, train, corpus = parts.model, parts.plan, parts.preset.train, parts.corpus
    with torch.device("meta"):
        model = GPT(c)
        beside = Heads(preset.auxiliary, c).parameter_count()
    parameters = model.parameter_count()
    tokens = plan.steps * train.batch_size * corpus.length
    moments = moments_per_weight(preset.optimizer.name)
    members = load_method(preset.method.name).num_members(preset.method) or 1
    activations = activation_bytes(c, -(-train.batch_size // plan.accumulation))
    return {
        "parameters": parameters,
        "steps": plan.steps,
        "tokens": tokens,
        "epochs": corpus.windows_per_epoch and tokens / (corpus.windows_per_epoch * corpus.length),
        "members": members,
        "flops": members * tokens * model.flops_per_token(corpus.length),
        "memory_bytes": members * (4 * (parameters + beside) * (2 + moments) + activations),
        "precision": plan.precision,
        "device": str(parts.device),
        "data": corpus.describe(),
        "budget": parts.budget,
    }
