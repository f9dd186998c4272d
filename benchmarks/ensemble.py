"""Ensembles: what eight members gain over the best single model where text is short, and what a student keeps of it.

    python benchmarks/ensemble.py text --text FILE                  # cuts the text, once
    python benchmarks/ensemble.py compare students longer grammars report --text FILE --out FOLDER --jobs 16

Stages, in the order given; each goes on where it was stopped, and what is finished is only read:

- `compare` writes the study `FOLDER/ensemble.json` and runs it by `nanogrove compare`: a single model and an ensemble
  of eight at equal data, each tuned over learning rate × weight decay × steps on seeds that the comparison does not
  use, then both on paired seeds, which decide on the test split.
- `students` distils a single model from the ensemble of each seed, as `method.distill_steps` does. It has as many
  steps as a member. Its share of the data is chosen on validation, by students of the ensembles of the tuning seeds,
  or of the first one where nothing was tuned. `compare` cannot do this: a student is not an arm but follows from one,
  and what is asked is the share that it keeps of another gain. So it is judged here, by the same test and interval.
- `longer` trains the single model of the settings that the study took for two and four times as many steps, each at two
  weight decays: whether the grid ended too early for it, on validation.
- `grammars` trains ensembles on samples of Random Language Models, and ranks positions by disagreement and by entropy
  against the exact error.
- `report` prints all figures of `FOLDER/results.json`, which every stage writes anew.

The text is 150 pieces of 2,500 characters of the modules of Python's own library, drawn once: 300,000 tokens of
training, a tenth for validation and a tenth for the test. Models have 2 layers of 64 and a context of 64; one thread
each. Member 0 of an ensemble is the single model of the same settings and seed, bit for bit.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIECES, PIECE_CHARACTERS = 150, 2_500
MEMBERS, SEEDS, BATCH = 8, 7, 32
RATES, DECAYS, STEPS = (0.003, 0.006, 0.012), (0.1, 0.5), (440, 880, 1760)
SHARES = (0.1, 0.5)  # of the data, in what a student learns
LONGER = (2, 4)
PLAIN = {"precision": "float32", "threads": 1, "accumulation": 1, "compile": False}
GRAMMARS, GRAMMAR_STEPS = 8, (300, 1200)
Figures = dict[str, Any]


@dataclass(frozen=True)
class Where:
    """What stages work on: the folder of runs and results, the file of the text, and how runs are trained."""

    out: Path
    text: Path
    jobs: int
    device: str
    seeds: int
    tuning_seeds: int
    rates: list[float]
    decays: list[float]
    steps: list[int]
    shares: list[float]


def write_text(path: Path) -> None:
    """Writes pieces of the library's modules, in an order drawn once."""
    modules = sorted(Path(os.__file__).parent.glob("*.py"))
    text = "".join(module.read_text("utf-8", errors="ignore") for module in modules)
    starts = range(0, len(text) - PIECE_CHARACTERS + 1, PIECE_CHARACTERS)
    chosen = random.Random(0).sample(starts, PIECES)
    path.write_text("".join(text[start : start + PIECE_CHARACTERS] for start in chosen), "utf-8")


def single(where: Where) -> Figures:
    """The preset of a single model."""
    return {
        "name": "single",
        "data": {"sources": str(where.text.absolute()), "tokenizer": "char", "validation": 0.1, "test": 0.1},
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64},
        "train": {"steps": 440, "batch_size": BATCH, "device": where.device, **PLAIN},
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
        "schedule": {"name": "wsd", "warmup": 20, "decay": 0.5, "final": 0.0},
        "evaluate": {"every": 220, "tokens": None, "final": "test"},
        "sample": {"tokens": 0},
        "save": {"every": 110},
    }


def together() -> list[str]:
    """The overrides of an ensemble."""
    return ["method.name=ensemble", f"method.members={MEMBERS}"]


def study(where: Where) -> Figures:
    """The study of a single model and an ensemble, as `nanogrove compare` reads it."""
    return {
        "name": "ensemble",
        "preset": single(where),
        "arms": [{"name": "single"}, {"name": "ensemble", "overrides": together()}],
        "seeds": where.seeds,
        "equal": "data",
        "tune": {
            "optimizer.lr": where.rates,
            "optimizer.weight_decay": where.decays,
            "train.steps": where.steps,
        },
        "tune_seeds": where.tuning_seeds,
    }


def compare(where: Where) -> None:
    """Runs the study by the verb."""
    import typer

    from nanogrove.cli.verbs.compare import compare as verb

    file = where.out / "ensemble.json"
    file.write_text(json.dumps(study(where), indent=1) + "\n", "utf-8")
    try:
        verb(str(file), out=where.out / "study", workers=where.jobs)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)


def ensembles(out: Path, tuning: bool) -> dict[int, Path]:
    """The folders of the study's finished ensembles by seed: of its comparison, or of the trial that was chosen."""
    plan = json.loads((out / "study" / "plan.json").read_text("utf-8"))
    trial = plan["chosen"].get("ensemble")
    root = out / "study" / ("runs/ensemble" if not tuning else f"tune/ensemble/{trial}")
    folders = {int(folder.name.partition("-")[2]): folder for folder in root.glob("seed-*")}
    return {seed: folder for seed, folder in sorted(folders.items()) if end_of(folder)}


def end_of(folder: Path) -> Figures | None:
    """The `end` event of a run; None where it is not finished."""
    record = folder / "events.jsonl"
    lines = record.read_text("utf-8").splitlines() if record.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    return last if last.get("kind") == "end" else None


def distilled(folder: Path, steps: int, share: float, split: str, out: Path) -> None:
    """Trains a student of the ensemble in a run folder, as a run would that goes on from there; writes its figures."""
    from nanogrove.config.overrides import resolve
    from nanogrove.evaluate.loss import mean_nll
    from nanogrove.runs.setup import build
    from nanogrove.train.checkpoint import load_latest

    stored = json.loads((folder / "preset.json").read_text("utf-8"))
    preset = resolve(stored, [f"method.distill_steps={steps}", f"method.data_share={share}"])
    setup = build(preset)
    state, (checkpoint, _) = setup.new_state(), load_latest(folder / "checkpoints")
    if checkpoint is None:
        raise SystemExit(f"{folder}: its checkpoint is gone; run the stage compare anew in another --out")
    checkpoint.restore(state)
    best, weights, student = float("inf"), {}, None
    for event in setup.method.run(state, setup.corpus, setup.plan, preset.method):
        if event.kind == "student" and event.values["best"]:
            assert state.student is not None
            best, student = event.values["loss"], state.student.scored
            weights = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    assert student is not None
    student.load_state_dict(weights)
    loss = best if split == "validation" else mean_nll(student, setup.corpus.eval_batches(split)).loss.item()
    figures = {"seed": preset.seed, "steps": steps, "data_share": share, "split": split, "loss": loss}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures), "utf-8")


def students(where: Where) -> None:
    """Chooses a student's share of the data on tuning seeds, and distils one, of as many steps, from each ensemble."""
    root, trials = where.out / "students", list[tuple[Path, int, float, str, Path]]()
    trained_on = ensembles(where.out, tuning=True) or dict(list(ensembles(where.out, tuning=False).items())[:1])
    for seed, folder in trained_on.items() if len(where.shares) > 1 else ():
        for share in where.shares:
            file = root / "tune" / f"seed{seed}-share{share}.json"
            trials.append((folder, steps_of(folder), share, "validation", file))
    at_once(distilled, [trial for trial in trials if not trial[-1].exists()], where.jobs)
    losses: dict[float, list[float]] = {}
    for _, _, share, _, file in trials:
        losses.setdefault(share, []).append(json.loads(file.read_text("utf-8"))["loss"])
    best = min(losses, key=lambda share: statistics.mean(losses[share]), default=where.shares[0])
    left = []
    for seed, folder in ensembles(where.out, tuning=False).items():
        file = root / f"seed{seed}.json"
        left += [(folder, steps_of(folder), best, "test", file)] * (not file.exists())
    at_once(distilled, left, where.jobs)


def steps_of(folder: Path) -> int:
    """The steps of a run."""
    return int(json.loads((folder / "preset.json").read_text("utf-8"))["train"]["steps"])


def trained(given: Figures, overrides: Iterable[str], folder: Path) -> None:
    """Trains a run, which goes on where it was stopped."""
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.train import train

    for event in train(resolve(given, list(overrides)), folder, resume=folder.exists(), report=False):
        if event.kind == "stop":
            raise SystemExit(128 + int(event.values["signal"]))


def longer(where: Where) -> None:
    """Trains the single model of the comparison's settings for longer."""
    runs = where.out / "study" / "runs" / "single"
    stored = json.loads((runs / "seed-0" / "preset.json").read_text("utf-8"))
    left = []
    for factor in LONGER:
        for decay in DECAYS:
            steps = factor * stored["train"]["steps"]
            overrides = [f"train.steps={steps}", f"optimizer.weight_decay={decay}", "evaluate.final=validation"]
            folder = where.out / "longer" / f"steps{steps}-decay{decay}"
            left += [(stored, overrides, folder)] * (end_of(folder) is None)
    at_once(trained, left, where.jobs)


def grammars(where: Where) -> None:
    """Trains ensembles on samples of Random Language Models, whose exact distributions are known."""
    left = []
    for number in range(GRAMMARS):
        data = {"type": "rlm", "v": 16, "L": 5, "beta": 2.0, "training_set": 2000, "held_out": 1000, "targets": "all"}
        given = {**single(where), "data": {**data, "seed_rules": number, "seed_samples": number}, "seed": number}
        given["model"] = {**given["model"], "block_size": 32}
        for steps in GRAMMAR_STEPS:
            settings = ("optimizer.lr=0.005", f"train.steps={steps}", "evaluate.final=test")
            folder = where.out / "grammars" / f"rules{number}-steps{steps}"
            left += [(given, (*together(), *settings), folder)] * (end_of(folder) is None)
    at_once(trained, left, where.jobs)


def at_once(work: Callable[..., None], tasks: Sequence[tuple[Any, ...]], jobs: int) -> None:
    """Does tasks in so many processes, one thread each; where one fails or a signal comes, all are ended."""
    with multiprocessing.get_context("spawn").Pool(max(min(jobs, len(tasks)), 1), one_thread) as pool:
        waited = [pool.apply_async(work, task) for task in tasks]
        for number, each in enumerate(waited, 1):
            each.get()
            print(f"{work.__name__}: {number} of {len(waited)}", flush=True)


def one_thread() -> None:
    """Has torch compute on one thread."""
    import torch

    torch.set_num_threads(1)


def gather(out: Path) -> Figures:
    """All figures that are there, written to `results.json`: what a run ended with, and the verdict of the study."""
    from nanogrove.studies.compare import collected
    from nanogrove.studies.folder import read_plan
    from nanogrove.studies.judge import judge, lines
    from nanogrove.studies.settings import read_settings

    figures: Figures = {"students": [], "student_trials": [], "grammars": {}, "longer": {}}
    plan = read_plan(out / "study")
    if plan is not None:
        asked = read_settings(plan.study, "plan.json")
        results = collected(asked, plan, out / "study")
        figures["lines"] = list(lines(judge(asked, plan, results, asked.seeds)))
        figures["trials"], figures["chosen"], figures["machine"] = asked.trials, plan.chosen, plan.machine
        figures["runs"] = [{**each.model_dump(), **lists_of(out / "study" / each.folder)} for each in results.values()]
    for name, pattern in (("students", "seed*.json"), ("student_trials", "tune/*.json")):
        figures[name] = [json.loads(path.read_text("utf-8")) for path in sorted((out / "students").glob(pattern))]
    for name in ("grammars", "longer"):
        ends = {path.name: end_of(path) for path in sorted((out / name).glob("*"))}
        figures[name] = {key: {**end, "kl": None} for key, end in ends.items() if end}
    (out / "results.json").write_text(json.dumps(figures) + "\n", "utf-8")
    return figures


def lists_of(folder: Path) -> Figures:
    """The figures of an ensemble that are lists."""
    end = end_of(folder) or {}
    return {name: end[name] for name in ("member_losses", "losses_by_count") if name in end}


def interval(values: Sequence[float]) -> str:
    """The mean of paired differences, its t interval of 95 %, and the p value of the exact sign-flip test."""
    from nanogrove.studies.statistics import sign_flip, t_interval

    low, high = t_interval(values, 0.05)
    pairs = f"{len(values)} pairs, p = {sign_flip(values):.3f}"
    return f"{statistics.mean(values):.4f} (95 % interval {low:.4f} to {high:.4f}, {pairs})"


def report(figures: Figures) -> None:
    """Prints figures, those of the test split in nats per token."""
    runs = figures.get("runs", [])
    for arm in ("single", "ensemble"):
        tried = [each for each in runs if each["arm"] == arm and each["trial"] is not None]
        for number, overrides in enumerate(figures.get("trials", []) if tried else ()):
            losses = [each["figures"].get("loss") for each in tried if each["trial"] == number]
            taken = " (taken)" if figures["chosen"].get(arm) == number else ""
            print(f"trial of {arm}, {' '.join(overrides)}: {losses} on validation{taken}")
    print(*figures.get("lines", []), sep="\n")
    ends = {(each["arm"], each["seed"]): each for each in runs if each["trial"] is None}
    alone, both = ({seed: each for (name, seed), each in ends.items() if name == arm} for arm in ("single", "ensemble"))
    paired = sorted(alone.keys() & both.keys())
    if len(paired) > 1:
        by_arm = {
            arm: [each[seed]["figures"]["loss"] for seed in paired]
            for arm, each in (("single", alone), ("ensemble", both))
        }
        print({arm: round(statistics.mean(each), 4) for arm, each in by_arm.items()})
        logits = [alone[seed]["figures"]["loss"] - both[seed]["figures"]["mean_logits_loss"] for seed in paired]
        print("gain of the mean of logits:", interval(logits))
        members = [both[seed]["figures"]["member_loss"] - both[seed]["figures"]["loss"] for seed in paired]
        print("gain over the mean of its members:", interval(members))
        counted = zip(*(both[seed]["losses_by_count"] for seed in paired), strict=True)
        print("by number of members:", [round(statistics.mean(each), 4) for each in counted])
        print(
            "seconds of training:",
            {
                arm: round(statistics.mean(each[seed]["seconds"] for seed in paired), 1)
                for arm, each in (("single", alone), ("ensemble", both))
            },
        )
    for each in figures["student_trials"]:
        print(f"trial of a student: {each}")
    pupils = {each["seed"]: each["loss"] for each in figures["students"]}
    known = [seed for seed in paired if seed in pupils]
    if len(known) > 1:
        gains = [
            (
                alone[seed]["figures"]["loss"] - both[seed]["figures"]["loss"],
                alone[seed]["figures"]["loss"] - pupils[seed],
            )
            for seed in known
        ]
        print("gain of students:", interval([kept for _, kept in gains]))
        print("that less half of the ensemble's:", interval([kept - gain / 2 for gain, kept in gains]))
        print("share kept, of means:", sum(kept for _, kept in gains) / sum(gain for gain, _ in gains))
    for name, end in figures["longer"].items():
        print(f"single model, {name}: {end['loss']:.4f} on validation, best at step {end['best_step']}")
    for steps in GRAMMAR_STEPS:
        ranks = [end for name, end in figures["grammars"].items() if name.endswith(f"-steps{steps}")]
        if len(ranks) > 1:
            for name in ("entropy_rank", "disagreement_rank", "excess"):
                print(f"grammars, {steps} steps, {name}:", [round(end[name], 3) for end in ranks])
            apart = [end["entropy_rank"] - end["disagreement_rank"] for end in ranks]
            print(f"grammars, {steps} steps, entropy less disagreement:", interval(apart))
            print("gain over the mean of members:", interval([end["member_loss"] - end["loss"] for end in ranks]))
            print(
                "mean of logits less mean of probabilities:",
                interval([end["mean_logits_loss"] - end["loss"] for end in ranks]),
            )


def numbers(text: str) -> list[float]:
    """Numbers from `NUMBER,NUMBER`."""
    return list(map(float, text.split(",")))


STAGES = {"compare": compare, "students": students, "longer": longer, "grammars": grammars}


def main() -> None:
    """Runs stages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("stages", nargs="+", choices=["text", *STAGES, "report"])
    parser.add_argument("--text", type=Path, required=True, help="the file of the text")
    parser.add_argument("--out", type=Path, default=Path("build/ensemble"), help="the folder of runs and results")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread each")
    parser.add_argument("--device", default="cpu", help="on which runs are trained")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of the comparison")
    parser.add_argument("--tuning-seeds", type=int, default=1, help="of each trial")
    parser.add_argument("--rates", type=numbers, default=RATES, help="that are tried; of one value each, none is")
    parser.add_argument("--decays", type=numbers, default=DECAYS, help="that are tried")
    parser.add_argument("--steps", type=numbers, default=STEPS, help="that are tried")
    parser.add_argument("--shares", type=numbers, default=SHARES, help="of the data that students try")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.stages == ["text"]:
        write_text(options.text)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    tried = [list(map(float, each)) for each in (options.rates, options.decays, options.shares)]
    seeds = options.seeds, options.tuning_seeds
    where = Where(
        *(options.out, options.text, options.jobs, options.device, *seeds, *tried[:2]),
        steps=list(map(int, options.steps)),
        shares=tried[2],
    )
    for stage in options.stages:
        if stage == "report":
            report(gather(options.out))
            continue
        try:
            STAGES[stage](where)
        finally:
            gather(options.out)


if __name__ == "__main__":
    main()
