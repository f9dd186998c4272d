"""What self-improvement gains over training on base examples alone, what it withstands, and what its labels cost.

    python benchmarks/self_improvement.py accuracy self-improve-quick --seeds 0 1 2 --out FOLDER [KEY=VALUE …]
    python benchmarks/self_improvement.py avalanche --out FOLDER [KEY=VALUE …]
    python benchmarks/self_improvement.py collapse --out FOLDER [--cases copy …] [KEY=VALUE …]
    python benchmarks/self_improvement.py decoding FOLDER/seed-0

`accuracy` trains a preset for each seed and beside it the control, base examples only, for as many training tokens; it
prints exact match by difficulty of all voters. `avalanche` spoils a fifth of the answers and compares filters and vote
with none, guarded and not. `collapse` lets committees run into wrong labels of their own, and prints in which round
most labels are wrong, and in which the answers alone say so. `decoding` takes a finished run and answers prompts of its
hardest difficulty in a batch and one by one without a cache. Runs lie in FOLDER; one that is there goes on, or is only
read.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.evaluate import committee
from nanogrove.methods import self_improve
from nanogrove.model.gpt import GPT
from nanogrove.record.events import Event, read_events
from nanogrove.runs.setup import build
from nanogrove.runs.train import train
from nanogrove.synthetic.examples import TaskCorpus
from nanogrove.synthetic.tasks import examples
from nanogrove.train.checkpoint import load_latest

# Ways to a collapse: short bases, and labels that no filter, no vote and no guard stops.
OPEN = (
    "model.token_shift=false", "model.n_layer=2", "model.n_head=2", "model.n_embd=64", "train.batch_size=64",
    "method.vote=null", "method.length_margin=null", "method.guard=false", "method.gate=schedule",
    "method.si_rounds=9", "method.to=14", "method.si_iter=60", "method.examples=500", "data.held_out=50",
)  # fmt: skip
COUPLED = ("data.task=reversed-addition", "data.base=[1,4]", "model.position=coupled", "method.to=13")
ENDS = (*COUPLED, "model.coupled_ends=+", "model.qk_norm=true")
CASES: dict[str, tuple[str, ...]] = {
    "copy": ("train.steps=300",),
    "copy-longer-base": ("train.steps=500",),
    "copy-spoiled": ("train.steps=500", "method.inject=0.2"),
    "copy-voted": ("train.steps=200", "method.vote=0.67"),
    "reverse": ("data.task=reverse", "train.steps=500"),
    "addition": (*COUPLED, "train.steps=400"),
    "addition-voted": (*COUPLED, "train.steps=400", "method.vote=0.67"),
    "shift": ("model.token_shift=true", "train.steps=600"),
    "shift-voted": ("model.token_shift=true", "train.steps=600", "method.vote=0.67"),
    "shift-spoiled": ("model.token_shift=true", "train.steps=600", "method.inject=0.3"),
    "reverse-shift": ("data.task=reverse", "model.token_shift=true", "train.steps=600"),
    "reverse-shift-voted": ("data.task=reverse", "model.token_shift=true", "train.steps=600", "method.vote=0.67"),
    "addition-ends": (*ENDS, "train.steps=600"),
    "addition-one-layer": (*COUPLED, "model.coupled_ends=+", "model.n_layer=1", "train.steps=400"),
    # The rule was chosen on seeds 0 and 1 of the cases above. Those below try it, and other seeds of some above.
    "reverse-shift-longer": ("data.task=reverse", "model.token_shift=true", "train.steps=1000"),
    "shift-longer": ("model.token_shift=true", "train.steps=1000"),
    "addition-ends-voted": (*ENDS, "train.steps=600", "method.vote=0.67"),
    "addition-ends-short": (*ENDS, "train.steps=450"),
}
COLLAPSED = 0.5  # share of right labels below which a round has collapsed, and trust below which it is said to


def trained(preset: str, out: Path, *overrides: str) -> list[Event]:
    """The record of a run, made now where it is not there."""
    settings = ("sample.tokens=0", *overrides)
    for _ in train(resolve(read_preset_file(preset), list(settings)), out, resume=(out / "preset.json").exists()):
        pass
    return read_events(out / "events.jsonl")


def last(events: list[Event], kind: str) -> Event:
    return [event for event in events if event.kind == kind][-1]


def shown(event: Event) -> str:
    """Exact match of the median voter by difficulty, and in brackets that of the worst where it differs."""
    cells = []
    for difficulty, exact in zip(event.values["difficulties"], event.values["exact"], strict=True):
        middle, least = statistics.median(exact), min(exact)
        cells.append(f"{difficulty}: {middle:.3f}" + (f" ({least:.3f})" if least < middle else ""))
    return "  ".join(cells)


def accuracy(preset: str, seeds: list[int], out: Path, overrides: list[str]) -> None:
    for seed in seeds:
        events = trained(preset, out / f"seed-{seed}", f"seed={seed}", *overrides)
        surveys = [event for event in events if event.kind == "exact"]
        first, step = surveys[0].values, last(events, "step")
        seconds = sum(sum(event.time.values()) for event in events if event.kind == "round")
        base = next(event for event in events if event.kind == "step" and event.step == surveys[0].step)
        decode = sum(event.time.get("decode", 0.0) for event in events if event.kind == "round")
        print(f"seed {seed}: {(base.time['seconds'] + seconds) / 60:.1f} min, {step.values['tokens']:,} tokens a voter")
        print(f"  before round 1   {shown(surveys[0])}")
        hardest = first["difficulties"].index(first["frontier"])
        apart = [f"{d}: {1 - a:.3f}" for d, a in zip(first["difficulties"], first["agreement"], strict=True)]
        print(f"  voters differ on {'  '.join(apart[hardest : hardest + 4])}")
        print(f"  after the last   {shown(surveys[-1])}")
        labels = [
            f"{label['difficulty']}: {label['kept']:.3f} kept, {label['precision']:.4f} right, agreement "
            f"{label['agreement']:.3f}, {label['effective']:.1f} effective voters"
            for event in events
            if event.kind == "round"
            for label in event.values["labels"]
            if label["precision"] is not None
        ]
        print(f"  labels           {'; '.join(labels)}")
        print(f"  decoding takes {decode / seconds:.1%} of the rounds' time", flush=True)
        parts = build(resolve(read_preset_file(preset), overrides))
        config = parts.preset.method
        assert isinstance(config, self_improve.Config)
        a_step = parts.preset.train.batch_size * parts.corpus.length
        steps = round(step.values["tokens"] / a_step) - config.si_rounds * config.si_iter
        settings = (f"seed={seed}", *overrides, "method.labels=none", f"train.steps={steps}")
        control = last(trained(preset, out / f"seed-{seed}-control", *settings), "exact")
        print(f"  the control      {shown(control)}", flush=True)


def avalanche(out: Path, overrides: list[str]) -> None:
    settings = [*overrides, "model.token_shift=false"]  # a base that errs soon
    trained("self-improve-quick", out / "base", *settings, "train.steps=500", "method.si_rounds=0")
    settings += [f"method.base={out / 'base'}", "method.gate=schedule", "method.si_rounds=8", "method.si_iter=100"]
    settings += ["method.inject=0.2"]
    open_to_errors = ["method.vote=null", "method.length_margin=null"]
    for name, more in {
        "vote and filter": [],
        "neither, no guard": [*open_to_errors, "method.guard=false"],
        "neither, guarded": open_to_errors,
    }.items():
        events = trained("self-improve-quick", out / name.replace(" ", "-"), *settings, *more)
        print(name)
        for event in events:
            if event.kind == "round":
                for label in event.values["labels"]:
                    filters = {key: [f"{v:.3f}" for v in list(f.values())[1:]] for key, f in label["filters"].items()}
                    print(
                        f"  round {event.values['round']}, difficulty {label['difficulty']}: kept {label['kept']:.2f}, "
                        f"right {label['precision'] or 0:.3f}; precision and recall {filters}; "
                        f"{'kept' if event.values['accepted'] else 'undone'}"
                    )
            elif event.kind == "alarm":
                print(f"  alarm: {event.values['reason']}")
        undone = [event.values["round"] for event in events if event.kind == "alarm"]
        kept = [event for event in events if event.values.get("round") not in undone]
        print(f"  in the end {shown(last(kept, 'exact'))}", flush=True)


def collapse(out: Path, cases: list[str], seeds: list[int], overrides: list[str]) -> None:
    """Prints, for each case and seed, the first round that collapsed and the first that was said to.

    A round has collapsed when less than half of the labels it trains on are right. What is said of it is the trust in
    them, which is known before it trains and asks for no true answer (`evaluate/reliability.py`).
    """
    hits = []
    for name in cases:
        for seed in seeds:
            folder = out / f"{name}-{seed}"
            events = trained("self-improve-quick", folder, *OPEN, *CASES[name], f"seed={seed}", *overrides)
            rounds = [event.values for event in events if event.kind == "round"]
            labels = [each["labels"][0] for each in rounds if each["labels"]]
            right = [label["precision"] or 0.0 for label in labels]
            said = [label["trust"] or 0.0 for label in labels]
            when, told = first_below(right, COLLAPSED), first_below(said, COLLAPSED)
            if when is not None or told is not None:
                hits.append(when is not None and told is not None and abs(when - told) <= 1)
            print(f"{name}, seed {seed}: collapsed in round {when}, said of round {told}")
            for what, values in (("right", right), ("said ", said)):
                print(f"  {what} " + " ".join(f"{value:.2f}" for value in values), flush=True)
    print(f"right within one round in {sum(hits)} of {len(hits)}")


def first_below(values: list[float], bound: float) -> int | None:
    """The number of the first round, from 1, whose value is below the bound; None where there is none."""
    return next((number for number, value in enumerate(values, 1) if value < bound), None)


@torch.inference_mode()
def one_by_one(model: GPT, corpus: Any, prompts: list[str], difficulty: int) -> None:
    """Greedy answers of every voter to each prompt by itself, all of it read again for each token."""
    for prompt in prompts:
        tokens = corpus.prompts([prompt]).expand(model.population or 1, 1, len(prompt))
        for _ in range(corpus.task.longest(difficulty) - len(prompt) + 1):
            chosen = model(tokens)[..., -1:, :].argmax(-1)
            tokens = torch.cat((tokens, chosen), -1)
            if bool((tokens == corpus.tokenizer.end).any(-1).all()):
                break


def decoding(run: Path) -> None:
    events = read_events(run / "events.jsonl")
    preset = resolve(read_preset_file(str(run / "preset.json")))
    parts = build(preset)
    checkpoint, _ = load_latest(run / "checkpoints")
    assert checkpoint is not None
    assert isinstance(preset.method, self_improve.Config)
    assert isinstance(parts.corpus, TaskCorpus)
    model = GPT(parts.model_on_data, preset.method.voters).eval()
    model.load_state_dict(checkpoint.model)
    difficulty = last(events, "round").values["frontier"]
    prompts = [prompt for prompt, _ in examples(parts.corpus.task, difficulty, 0, "benchmark", range(1000))]
    rates = {}
    for name, work, count in (
        ("in a batch, cached", committee.decode, 1000),
        ("one by one, no cache", one_by_one, 30),
    ):
        work(model, parts.corpus, prompts[:2], difficulty)
        began = time.perf_counter()
        work(model, parts.corpus, prompts[:count], difficulty)
        rates[name] = count / (time.perf_counter() - began)
        print(f"{name}: {rates[name]:.1f} prompts of difficulty {difficulty} a second")
    fast, slow = rates.values()
    print(f"ratio {fast / slow:.1f}, asked >= 10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    accurate = verbs.add_parser("accuracy")
    accurate.add_argument("preset")
    accurate.add_argument("overrides", nargs="*")
    accurate.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    accurate.add_argument("--out", type=Path, required=True)
    rolling = verbs.add_parser("avalanche")
    rolling.add_argument("overrides", nargs="*")
    rolling.add_argument("--out", type=Path, required=True)
    collapsing = verbs.add_parser("collapse")
    collapsing.add_argument("overrides", nargs="*")
    collapsing.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    collapsing.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    collapsing.add_argument("--out", type=Path, required=True)
    verbs.add_parser("decoding").add_argument("run", type=Path)
    options = parser.parse_args()
    if options.verb == "accuracy":
        accuracy(options.preset, options.seeds, options.out, options.overrides)
    elif options.verb == "avalanche":
        avalanche(options.out, options.overrides)
    elif options.verb == "collapse":
        collapse(options.out, options.cases, options.seeds, options.overrides)
    else:
        decoding(options.run)


if __name__ == "__main__":
    main()
