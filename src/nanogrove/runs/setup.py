"""A preset becomes a `Setup`: its data is prepared and all defaults are resolved; nothing is trained yet.

`build` is a list of steps: functions that each check or resolve one thing, from their arguments alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import cast

import torch

from nanogrove.config.preset import Preset
from nanogrove.corpora import MakeCorpus, make_corpus, with_tokenizer
from nanogrove.data.corpus import Corpus
from nanogrove.data.rng import derived_seed
from nanogrove.data.splits import Split
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.methods import METHODS, AnyMethod, load_method
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads
from nanogrove.model.storage import storage_of
from nanogrove.paths import with_absolute_paths
from nanogrove.runs.memory import check_memory
from nanogrove.runs.model_on_data import resolve_model
from nanogrove.runs.rehearsal import rehearse
from nanogrove.train.autotune import AUTO, Work, auto_precision, reason_for, resolve_auto
from nanogrove.train.average import Average
from nanogrove.train.checkpoint import Checkpoint
from nanogrove.train.initial import Initial, adopted, check_vocabulary, fit_of, read_initial, take
from nanogrove.train.loop import TrainConfig
from nanogrove.train.lora import Adapter
from nanogrove.train.optim.optimizer import make_optimizer
from nanogrove.train.optim.rules import RULES
from nanogrove.train.optim.schedule import schedule
from nanogrove.train.parallel.layout import REPLICATED, Layout
from nanogrove.train.parallel.members import ByMember
from nanogrove.train.parallel.ranks import ALONE, Ranks
from nanogrove.train.plan import Plan
from nanogrove.train.precision import Precision, Weights, pick_device
from nanogrove.train.state import TrainState


@dataclass(frozen=True)
class Setup:
    """All that a run needs besides its folder."""

    preset: Preset  # resolved, as preset.json holds it: no `auto` is left that would change a result
    method: AnyMethod
    corpus: Corpus
    model_on_data: ModelConfig  # preset.model with the document mark of this data's tokenizer, as checkpoints hold it
    plan: Plan
    device: torch.device  # computes a step
    whole_device: torch.device  # holds, scores and samples the whole state: `device`, or the CPU where that is sharded
    precision_reason: str
    budget: dict[str, float] = field(default_factory=dict)  # minutes that became steps, and the times of a step
    initial: tuple[Initial, ...] = ()  # what a new run begins with: one for all members, or one for each
    whole: tuple[str, ...] = ()  # modules that are trained whole beside adapters, since something of them is new

    @property
    def population(self) -> int | None:
        """How many models are trained at once; None for a single one."""
        return self.method.num_members(self.preset.method)

    @property
    def final_split(self) -> Split:
        """The split that is scored when the run ends."""
        return self.preset.evaluate.final or self.method.final_split

    @property
    def sample_precision(self) -> Weights:
        """The format in which samples are drawn: that of training, where a model decodes in it."""
        rounded = self.plan.precision == "bfloat16" and self.whole_device.type == "cpu"
        return "bfloat16" if rounded else "float32"

    def new_state(self) -> TrainState:
        """The state of step 0: a function of the preset and its seed."""
        preset, population = self.preset, self.population
        seeds = [derived_seed(preset.seed, "member", member) for member in range(population or 1)]
        model = GPT(self.model_on_data, population).initialize(*seeds)
        if self.initial:
            take(model, self.initial, preset.train.init_noise, seeds)
        heads = None
        if preset.auxiliary.enabled:
            heads = Heads(preset.auxiliary, self.model_on_data, population)
            heads = heads.initialize(*(derived_seed(seed, "heads") for seed in seeds)).to(self.whole_device)
        model, adapter = model.to(self.whole_device), None
        if preset.train.lora.rank:
            adapter = Adapter(model, preset.train.lora, preset.train.sources[0], self.whole).initialize(seeds)
        precision = torch.bfloat16 if self.plan.precision == "bfloat16" else torch.float32
        trained = None if adapter is None else adapter.named_modules()
        optimizer = make_optimizer(model, preset.optimizer, precision, heads, trained)
        state = TrainState(model, optimizer, heads=heads, adapter=adapter)
        if preset.train.average.enabled:
            state.average = Average.of(state.modules, preset.train.average)
        return state


def build(
    preset: Preset,
    checkpoint: Checkpoint | None = None,
    allow_code: bool = False,
    ranks: Ranks = ALONE,
    make: MakeCorpus = make_corpus,
) -> Setup:
    """Prepares the data and resolves what the preset leaves open: vocabulary, steps, precision.

    A new run resolves its paths too, so that it can be resumed from another folder. Raises PresetError for settings
    and DataError for data that cannot be used, CheckpointError when the data or its vocabulary is not what `checkpoint`
    was trained on.

    Args:
        preset: of the run.
        checkpoint: that it goes on from; None for a new run.
        allow_code: whether functions that the preset names may be imported and run.
        ranks: the processes that train together.
        make: makes the corpus.
    """
    initial: tuple[Initial, ...] = ()
    if checkpoint is None:
        preset = with_absolute_paths(preset)
        initial = tuple(map(read_initial, preset.train.sources))
        preset = adopt(preset, initial)
    method, train = load_method(preset.method.name), preset.train
    check_parallel(preset, method, ranks)
    device = pick_device(train.device)
    check_sharding(preset, method, ranks)
    check_memory(preset, method, preset.model, 1, device, ranks)
    corpus = ranks.local_rank0_first(lambda: make(preset.data, preset.model.block_size, train.batch_size, preset.seed))
    check_same_data(checkpoint, corpus)
    for each in initial:
        check_vocabulary(each, corpus.tokenizer)
    check_model(preset, method, corpus)
    rows = max((each.config.vocab_size or 0 for each in initial), default=0)
    model, model_on_data = resolve_model(preset.model, corpus, rows)
    steps = resolve_steps(train, corpus)
    check_memory(preset, method, model, corpus.length, device, ranks)
    check_method(preset, method, corpus, model_on_data, allow_code, new=checkpoint is None)
    whole = trained_whole(preset, model_on_data, initial, checkpoint)
    resolved = preset.model_copy(update={"model": model, "data": corpus.config})

    def runtime(preset: Preset, steps: int) -> Setup:
        total = method.num_steps(preset.method, steps)
        setup = resolve_runtime(preset, method, corpus, model_on_data, device, total, allow_code, ranks)
        return replace(setup, initial=initial, whole=whole)

    return runtime(resolved, steps) if train.minutes is None else fill_minutes(train.minutes, resolved, runtime)


def adopt(preset: Preset, initial: Sequence[Initial]) -> Preset:
    """The preset with the model and the tokenizer of the weights that it begins with.

    Raises PresetError where they are of several kinds of models, or not as many as members.
    """
    if not initial:
        return preset
    members = load_method(preset.method.name).num_members(preset.method) or 1
    if len(initial) not in (1, members):
        raise PresetError(f"train.init: {len(initial)} sources for {members} models; give one for all, or one for each")
    models = [adopted(preset.model, each) for each in initial]
    for each, model in zip(initial, models, strict=True):
        if model != models[0]:
            raise PresetError(f"train.init: {each.source} is another kind of model than {initial[0].source}")
    data = with_tokenizer(preset.data, initial[0].tokenizer_file)
    return preset.model_copy(update={"model": models[0], "data": data})


def trained_whole(
    preset: Preset, model: ModelConfig, initial: Sequence[Initial], checkpoint: Checkpoint | None
) -> tuple[str, ...]:
    """The modules that are trained whole beside adapters: of which a weight, or rows of it, are in no source.

    Raises CheckpointError where a checkpoint names one that the model lacks.
    """
    if not preset.train.lora.rank:
        return ()
    if checkpoint is None:
        new = [name.rpartition(".")[0] for each in initial for name in fit_of(each, model).new]
        return tuple(dict.fromkeys(new))
    named = checkpoint.state.get("trained_whole")
    known = storage_of(model).parts
    if not isinstance(named, list) or not all(isinstance(path, str) and path in known for path in named):
        raise CheckpointError(f"{checkpoint.folder / 'state.json'}: damaged, trained_whole is no list of modules")
    return tuple(named)


def check_parallel(preset: Preset, method: AnyMethod, ranks: Ranks) -> None:
    """Raises PresetError where the method cannot keep so many ranks busy."""
    name, rows, members = preset.method.name, preset.train.batch_size, method.num_members(preset.method) or 1
    if ranks.world > 1 and method.ranks_share == "nothing":
        raise PresetError(f"method {name} trains in one process; start it without torchrun")
    if ranks.world > 1 and method.ranks_share == "members" and preset.train.lora.rank:
        raise PresetError("train.lora: adapters of a population train in one process; start it without torchrun")
    if method.ranks_share == "members" and ranks.world > members:
        raise PresetError(f"{members} members are fewer than the {ranks.world} ranks; start {members} at most")
    if method.ranks_share == "batch" and ranks.world > rows:
        raise PresetError(
            f"train.batch_size={rows} is fewer sequences than the {ranks.world} ranks; raise it, or start "
            f"{rows} ranks at most"
        )


def check_sharding(preset: Preset, method: AnyMethod, ranks: Ranks) -> None:
    """Raises PresetError where `train.shard` is set and weights cannot be sharded."""
    if not preset.train.shard:
        return
    able = " or ".join(name for name in METHODS if load_method(name).sharding)
    optimizer = preset.optimizer.name
    reasons = {
        "there is one rank; start several with torchrun": ranks.world == 1,
        f"it goes with method {able} alone": not method.sharding,
        f"{optimizer} needs whole matrices; set optimizer.name=adamw": RULES[optimizer].whole_matrices,
        "auxiliary heads cannot be sharded; leave enable_… out": preset.auxiliary.enabled,
        "a memory cannot be sharded; set model.memory_tokens=0": bool(preset.model.memory_tokens),
        "set train.compile=false": preset.train.compile is True,
        "adapters cannot be sharded; set train.lora.rank=0": bool(preset.train.lora.rank),
    }
    for reason, holds in reasons.items():
        if holds:
            raise PresetError(f"train.shard: {reason}")


def check_same_data(checkpoint: Checkpoint | None, corpus: Corpus) -> None:
    """Raises CheckpointError where the data of a resumed run is not what its checkpoint was trained on."""
    if checkpoint is None:
        return
    if checkpoint.tokenizer.to_json() != corpus.tokenizer.to_json():
        raise CheckpointError(f"{checkpoint.folder}: has another vocabulary than the data; use the data of this run")
    if checkpoint.state.get("data") != corpus.describe()["fingerprint"]:
        raise CheckpointError(f"{checkpoint.folder}: the data has changed since; bring it back, or start anew")


def check_model(preset: Preset, method: AnyMethod, corpus: Corpus) -> None:
    """Raises PresetError where the model is not of the kind that the method trains, or heads or adapters do not fit."""
    rank, width = preset.train.lora.rank, preset.model.n_embd
    if rank > width:
        raise PresetError(f"train.lora.rank={rank}: is above the width of the model; set {width} or less")
    scalar = method.output == "scalar"
    if preset.model.scalar != scalar:
        raise PresetError(
            f"method {preset.method.name} needs model.scalar={str(scalar).lower()}; only a reward model is scalar"
        )
    try:
        preset.auxiliary.refuse(corpus.length)
    except ValueError as error:
        raise PresetError(f"{error}, of which this data has no longer ones") from None


def resolve_steps(train: TrainConfig, corpus: Corpus) -> int:
    """The training steps of the budget of `train`; 0 where it names none, or minutes.

    Raises PresetError for epochs of data that never ends.
    """
    if train.epochs is None:
        return train.steps or -(-(train.tokens or 0) // (train.batch_size * corpus.length))
    if corpus.windows_per_epoch is None:
        raise PresetError(
            "train.epochs: this data never ends or is still being read; set train.steps, train.tokens or train.minutes "
            "instead"
        )
    return max(round(train.epochs * corpus.windows_per_epoch / train.batch_size), 1)


def check_method(
    preset: Preset, method: AnyMethod, corpus: Corpus, model: ModelConfig, allow_code: bool, *, new: bool
) -> None:
    """Raises PresetError where the method cannot learn from the data, and whatever its checks of a `new` run raise."""
    name, split = preset.method.name, preset.evaluate.final or method.final_split
    if split not in corpus.splits:
        who = f"method {name}" if preset.evaluate.final is None else "evaluate.final: the run"
        raise PresetError(f"{who} ends on the {split} split, which is empty; set data.{split}")
    if method.corpora and not isinstance(corpus, method.corpora):
        raise PresetError(f"method {name} {method.needs}")
    if new:
        method.check(preset.method, corpus, model, allow_code)
        method.check_scored(preset.method, corpus, preset.evaluate.tokens)


def resolve_runtime(
    preset: Preset,
    method: AnyMethod,
    corpus: Corpus,
    model: ModelConfig,
    device: torch.device,
    steps: int,
    allow_code: bool,
    ranks: Ranks,
) -> Setup:
    """The setup of a run of `steps` steps, with what the preset leaves to `auto` chosen; sets this process's threads.

    Args:
        preset: all of it resolved but `auto`.
        method: the preset's.
        corpus: its data, ready.
        model: the model on this data.
        device: computes a step.
        steps: all of the run, those too that the method adds.
        allow_code: whether functions that the preset names may be imported and run.
        ranks: the processes that train together.
    """
    train, members = preset.train, method.num_members(preset.method)
    rows = -(-train.batch_size // ranks.world) if method.ranks_share == "batch" else train.batch_size
    work = Work(model, members or 1, rows)
    train = resolve_train(train, work, steps, device, ranks)
    if train.threads != "auto":
        torch.set_num_threads(train.threads)
    plan = Plan(
        seed=preset.seed,
        steps=steps,
        lr_factor=schedule(preset.schedule, steps),
        average=train.average,
        average_from=train.average.begins(0, steps),
        schedule=partial(schedule, preset.schedule),
        accumulation=cast(int, train.accumulation),
        clip=train.clip,
        precision=cast(Precision, train.precision),
        compile=train.compile is True,
        max_loss=torch.tensor(float(model.vocab_size or 0)).log().item() + train.divergence,
        evaluate_every=preset.evaluate.every,
        evaluate_early=preset.evaluate.early,
        evaluate_tokens=preset.evaluate.tokens,
        allow_code=allow_code,
        ranks=ranks,
        layout=_layout(train.shard, members, device, ranks),
        sharded=train.shard,
    )
    return Setup(
        preset=preset.model_copy(update={"train": train}),
        method=method,
        corpus=corpus,
        model_on_data=model,
        plan=plan,
        device=device,
        whole_device=torch.device("cpu") if train.shard else device,
        precision_reason=reason_for(plan.precision, auto_precision(work.flops, device)),
    )


def with_budget(setup: Setup, preset: Preset) -> Setup:
    """The setup of the same run under another preset of it, of which only the budget and the schedule differ."""
    steps = setup.method.num_steps(preset.method, resolve_steps(preset.train, setup.corpus))
    factor = partial(schedule, preset.schedule)
    begins = setup.plan.average.begins(0, steps)
    plan = replace(setup.plan, steps=steps, lr_factor=factor(steps), schedule=factor, average_from=begins)
    return replace(setup, preset=preset, plan=plan)


def resolve_train(train: TrainConfig, work: Work, steps: int, device: torch.device, ranks: Ranks) -> TrainConfig:
    """The settings of `train`, with what is left to `auto` chosen for `steps` steps of `work`, alike on all ranks."""
    open_keys = [key for key in AUTO if getattr(train, key) == "auto"]
    if not open_keys:
        return train
    choices = ranks.broadcast_from_main(lambda: asdict(resolve_auto(work, steps, device)))
    if ranks.world > 1:
        choices["threads"] = min(choices["threads"], ranks.threads)
    choices["compile"] = choices["compile"] and not train.shard
    return train.model_copy(update={key: choices[key] for key in open_keys})


def _layout(shard: bool, members: int | None, device: torch.device, ranks: Ranks) -> Layout:
    """How the state of a run lies over its ranks."""
    if shard:
        from nanogrove.train.parallel.sharding import Sharding  # which imports the compiler, and takes seconds

        return Sharding(ranks, device)
    return REPLICATED if ranks.world == 1 or members is None else ByMember(ranks)


def fill_minutes(minutes: float, preset: Preset, runtime: Callable[[Preset, int], Setup]) -> Setup:
    """The setup of as many steps as fit in `minutes`, by timing a few of them.

    `runtime` gives the setup of a preset and a number of steps.
    """
    setup = runtime(preset, 1)
    for _ in range(2):  # again where so many steps are worth compiling for
        rehearsal = rehearse(minutes, preset.method, setup.corpus, setup.plan, setup.new_state)
        budget = {"steps": rehearsal.steps, "minutes": None, "compile": preset.train.compile}
        train = setup.preset.train.model_copy(update=budget)
        before, setup = setup, runtime(setup.preset.model_copy(update={"train": train}), rehearsal.steps)
        if setup.plan.compile == before.plan.compile:
            break
    return replace(setup, budget=rehearsal.times)
