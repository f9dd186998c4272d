"""Ensembles: what eight members gain over the best single model where text is short, and what a student keeps of it.

    python benchmarks/ensemble.py tune --out FOLDER            # single models and pairs of them, by rate and decay
    python benchmarks/ensemble.py seeds --out FOLDER [--seeds 0,1]    # ensembles and students, a run for each seed
    python benchmarks/ensemble.py singles --out FOLDER         # the best single model on the same seeds
    python benchmarks/ensemble.py settings --out FOLDER        # dropout, SwiGLU, an average of weights and a chain
    python benchmarks/ensemble.py time --out FOLDER            # eight as one program against eight by themselves
    python benchmarks/ensemble.py grammar --out FOLDER         # disagreement and entropy against the exact error
    python benchmarks/ensemble.py report --out FOLDER          # all figures of what is there

Text is the first 375,000 characters of the modules of Python's own library, in the order of their names: 300,000 tokens
of training, a tenth for validation and a tenth for the test. Models have 2 layers of 64 and a context of 64, and see
the text three times. Every stage goes on where it was stopped, and what is finished is only read. One thread each.

Member 0 of an ensemble is the single model of the same seed, bit for bit: same weights, same batches.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CHARACTERS, EPOCHS, MEMBERS, SEEDS, TUNING_SEEDS = 375_000, 3, 8, range(6), (100, 101)
LR, DECAY = 0.01, 0.1  # of the ensembles, and of single models where the grid finds nothing better
GRID = [(lr, decay) for lr in (0.005, 0.01, 0.02) for decay in (0.1, 1.0)]
STEPS, BATCH = 440, 32
TIMED_STEPS = 8
PLAIN = {"device": "cpu", "precision": "float32", "threads": 1, "accumulation": 1, "compile": False}
SETTINGS: dict[str, tuple[str, ...]] = {
    "dropout .1": ("model.dropout=0.1",),
    "SwiGLU": ("model.mlp=swiglu",),
    "average, half-life 40": ("train.average.half_life=40",),
    "tail, the last quarter": ("train.average.tail=0.25",),
    "chain": ("method.chain=true",),
}


def text_file(out: Path) -> Path:
    """The text, written once."""
    path = out / "library.txt"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        modules = sorted(Path(os.__file__).parent.glob("*.py"))
        text = "".join(module.read_text("utf-8", errors="ignore") for module in modules)
        path.write_text(text[:CHARACTERS], "utf-8")
    return path


def preset(out: Path, seed: int, lr: float = LR, decay: float = DECAY, **sections: Any) -> dict[str, Any]:
    """The preset of a single model."""
    given: dict[str, Any] = {
        "seed": seed,
        "data": {"sources": str(text_file(out)), "tokenizer": "char", "validation": 0.1, "test": 0.1},
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
        "train": {"steps": STEPS, "batch_size": BATCH, **PLAIN},
        "optimizer": {"name": "adamw", "lr": lr, "weight_decay": decay},
        "schedule": {"name": "wsd", "warmup": 20, "decay": 0.5, "final": 0.0},
        "evaluate": {"every": 220, "tokens": None, "final": "test"},
        "sample": {"tokens": 0},
        "save": {"every": 40},
    }
    return {**given, **sections}


def trained(given: dict[str, Any], folder: Path, *overrides: str) -> dict[str, Any]:
    """The `end` event of a run, which goes on where it was stopped."""
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.train import train

    for _ in train(resolve(given, overrides), folder, resume=folder.exists(), report=False):
        pass
    return end_of(folder) or {}


def end_of(folder: Path) -> dict[str, Any] | None:
    """The `end` event of a run; None where it is not finished."""
    record = folder / "events.jsonl"
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    return last if last.get("kind") == "end" else None


def single_runs(out: Path, runs: Iterable[tuple[float, float, int]]) -> None:
    """Trains single models of (rate, decay, seed) as one program."""
    from nanogrove.config.overrides import resolve
    from nanogrove.studies.stack import train_together

    given = [(resolve(preset(out, seed, lr, decay)), single_folder(out, lr, decay, seed)) for lr, decay, seed in runs]
    for _ in train_together(given):
        pass


def single_folder(out: Path, lr: float, decay: float, seed: int) -> Path:
    """The folder of a single model."""
    return out / "single" / f"lr{lr:g}-decay{decay:g}-seed{seed}"


def tune(out: Path) -> None:
    """Trains two single models at each point of the grid."""
    single_runs(out, [(lr, decay, seed) for lr, decay in GRID for seed in TUNING_SEEDS])


def tuned(out: Path) -> list[tuple[float, float, float, float]]:
    """(rate, decay, mean validation loss of single models, that of pairs) of each point of the grid that is there."""
    from nanogrove.config.overrides import resolve
    from nanogrove.corpora import make_corpus
    from nanogrove.evaluate.ensemble import ensemble_losses
    from nanogrove.language_model import load
    from nanogrove.model.gpt import GPT
    from nanogrove.model.members import stack

    shown = resolve(preset(out, 0))
    corpus, figures = make_corpus(shown.data, 64, BATCH, 0), []
    for lr, decay in GRID:
        folders = [single_folder(out, lr, decay, seed) for seed in TUNING_SEEDS]
        if all(end_of(folder) for folder in folders):
            models = [load(folder).model for folder in folders]
            pair = GPT(models[0].config, len(models))
            pair.load_state_dict(stack([model.state_dict() for model in models]))
            losses = ensemble_losses(pair, corpus.eval_batches("validation"))
            figures.append((lr, decay, float(losses.members.mean()), float(losses.by_count[-1])))
    return figures


def best_single(out: Path) -> tuple[float, float]:
    """The rate and the decay of the lowest mean validation loss of single models."""
    figures = tuned(out)
    return min(figures, key=lambda each: each[2])[:2] if figures else (LR, DECAY)


def seeds(out: Path, chosen: Iterable[int]) -> None:
    """Trains an ensemble and its student for each seed."""
    method = {"name": "ensemble", "members": MEMBERS, "distill_steps": STEPS}
    for seed in chosen:
        end = trained(preset(out, seed, method=method), out / "ensemble" / f"seed{seed}")
        print(seed, {name: end.get(name) for name in ("loss", "member_loss", "student_loss")}, flush=True)


def singles(out: Path) -> None:
    """Trains the best single model on the seeds of the ensembles."""
    lr, decay = best_single(out)
    single_runs(out, [(lr, decay, seed) for seed in SEEDS])


def settings(out: Path) -> None:
    """Trains an ensemble of seed 0 with each of `SETTINGS`, without a student."""
    for name, overrides in SETTINGS.items():
        method = {"name": "ensemble", "members": MEMBERS}
        trained(preset(out, 0, method=method), out / "settings" / name.replace(" ", "-"), *overrides)


def timing(out: Path) -> None:
    """Times steps of eight as one program and of one, in turn; CPU seconds, since other work disturbs the clock."""
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.setup import build

    rows = []
    method = {"name": "ensemble", "members": MEMBERS}
    setups = [build(resolve(preset(out, 0, method=method))), build(resolve(preset(out, 0)))]
    for _ in range(5):
        seconds = []
        for setup in setups:
            events = setup.method.run(setup.new_state(), setup.corpus, setup.plan, setup.preset.method)
            while next(events).kind != "step":
                pass
            cpu, clock = time.process_time(), time.perf_counter()
            for _ in range(TIMED_STEPS):
                next(events)
            seconds += [time.process_time() - cpu, time.perf_counter() - clock]
            events.close()
        rows.append([each / TIMED_STEPS for each in seconds])
    (out / "time.json").write_text(json.dumps(rows))


def grammar(out: Path) -> None:
    """Trains ensembles on samples of Random Language Models, whose exact distributions are known."""
    for seed in range(3):
        data = {"type": "rlm", "v": 16, "L": 5, "beta": 2.0, "seed_rules": seed, "training_set": 2000, "held_out": 500}
        given = preset(out, seed, lr=0.005, data=data, method={"name": "ensemble", "members": MEMBERS})
        given |= {"model": {**given["model"], "block_size": 32}, "train": {**given["train"], "steps": 300}}
        end = trained(given, out / "grammar" / f"rules{seed}")
        print(seed, {name: value for name, value in end.items() if isinstance(value, float)}, flush=True)


def interval(values: list[float]) -> str:
    """The mean of paired differences, its t interval of 95 %, and the p value of the exact sign-flip test."""
    from nanogrove.studies.statistics import sign_flip, t_interval

    if len(values) < 2:
        return f"{statistics.mean(values):.4f} (one pair)"
    low, high = t_interval(values, 0.05)
    pairs = f"{len(values)} pairs, p = {sign_flip(values):.3f}"
    return f"{statistics.mean(values):.4f} (95 % interval {low:.4f} to {high:.4f}, {pairs})"


def paired(out: Path) -> list[tuple[float, dict[str, Any]]]:
    """The test loss of the best single model and the `end` event of the ensemble, of each seed that has both."""
    lr, decay = best_single(out)
    pairs = []
    for seed in SEEDS:
        end, single = end_of(out / "ensemble" / f"seed{seed}"), end_of(single_folder(out, lr, decay, seed))
        if end and single:
            pairs.append((float(single["loss"]), end))
        elif end and (lr, decay) == (LR, DECAY):  # then member 0 is that model
            pairs.append((float(end["member_losses"][0]), end))
    return pairs


def report(out: Path) -> None:
    """Prints all figures that are there."""
    for lr, decay, lone, pair in tuned(out):
        print(f"grid: lr {lr:g}, weight decay {decay:g}: single {lone:.4f}, pair {pair:.4f} on validation")
    pairs = paired(out)
    if pairs:
        means = [statistics.mean(losses) for losses in ([a for a, _ in pairs], [e["loss"] for _, e in pairs])]
        print(f"single {means[0]:.4f}, ensemble {means[1]:.4f} on the test split")
        print("gain over the single model:", interval([alone - end["loss"] for alone, end in pairs]))
        print("gain of the student:", interval([alone - end["student_loss"] for alone, end in pairs]))
        print("share kept:", [(a - e["student_loss"]) / (a - e["loss"]) for a, e in pairs])
        print("of mean logits:", interval([alone - end["mean_logits_loss"] for alone, end in pairs]))
        columns = zip(*(end["losses_by_count"] for _, end in pairs), strict=True)
        print("by number of members:", [round(statistics.mean(column), 4) for column in columns])
    for name in SETTINGS:
        if end := end_of(out / "settings" / name.replace(" ", "-")):
            print(f"{name}: members {end['member_loss']:.4f}, ensemble {end['loss']:.4f}, on the test split")
    for seed in range(3):
        if end := end_of(out / "grammar" / f"rules{seed}"):
            print("grammar", seed, {key: end[key] for key in ("excess", "disagreement_rank", "entropy_rank")})
    if (out / "time.json").exists():
        rows = json.loads((out / "time.json").read_text())
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        together, together_clock, one, one_clock = medians
        print(f"CPU seconds per step: eight together {together:.3f}, eight times one {8 * one:.3f}")
        print(f"seconds of a clock: eight together {together_clock:.3f}, eight times one {8 * one_clock:.3f}")


def main() -> None:
    """Runs one stage."""
    stages: dict[str, Callable[[Path], None]] = {
        "tune": tune,
        "singles": singles,
        "settings": settings,
        "time": timing,
        "grammar": grammar,
        "report": report,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stage", choices=["seeds", *stages])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="of the stage seeds")
    options = parser.parse_args()
    if options.stage == "seeds":
        seeds(options.out, map(int, options.seeds.split(",")))
    else:
        stages[options.stage](options.out)


if __name__ == "__main__":
    main()
