"""The command line: `nanogrove train | explore | generate | evaluate | report | presets`, or `nanogrove` alone.

Nothing here imports torch until a verb needs it. Errors are one line on standard error and exit code 2; `--debug`,
anywhere, shows the trace. A run stopped by Ctrl-C or SIGTERM exits with 128 plus the signal's number.
"""

import importlib.resources
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape

from nanogrove.errors import DataError, NanogroveError, PresetError, RunError

app = typer.Typer(
    add_completion=False,
    help="A laboratory for small language models.",
    epilog="`nanogrove` alone, on a terminal, offers the presets. --debug shows the trace of an error.",
    pretty_exceptions_enable=False,
)
console = Console()
DEFAULT = "quickstart"

Run = Annotated[Path, typer.Argument(help="A run folder, such as runs/quickstart.")]


@app.callback(invoke_without_command=True)
def offer(context: typer.Context) -> None:
    """A laboratory for small language models."""
    if context.invoked_subcommand:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(context.get_help())
        return
    names = _print_presets(numbered=True)
    answer = console.input(f"Train which? Enter takes [bold]{DEFAULT}[/]: ").strip() or DEFAULT
    name = names[int(answer) - 1] if answer.isdecimal() and 0 < int(answer) <= len(names) else answer
    train(name, [], _new_run(name))


def _new_run(preset: str) -> Path:
    """A run folder of a preset's name that is not there yet."""
    out, count = Path("runs") / Path(preset).stem, 1
    while out.exists():
        count += 1
        out = Path("runs") / f"{Path(preset).stem}-{count}"
    return out


@app.command()
def presets() -> None:
    """List the presets that come with nanogrove."""
    _print_presets(numbered=False)


def _print_presets(numbered: bool) -> list[str]:
    folder = importlib.resources.files("nanogrove") / "presets"
    found = {f.name.removesuffix(".json"): json.loads(f.read_text())["description"] for f in folder.iterdir()}
    names = sorted(found, key=lambda name: (name != DEFAULT, name))
    for number, name in enumerate(names, start=1):
        label = f"{number:>3}  " if numbered else ""
        console.print(f"{label}[bold]{escape(name):<16}[/] {escape(found[name])}", highlight=False)
    return names


@app.command()
def train(
    preset: Annotated[str, typer.Argument(help="A preset's name, a JSON file, or with --resume a run folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as train.steps=500 data.sources=my.txt.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME of the preset when left out.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run functions the preset names as module:function.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would take; train nothing.")] = False,
) -> None:
    """Train a preset in a run folder."""
    from nanogrove.cli.render import show
    from nanogrove.config.preset import read_preset_file, replaced_budget, resolve
    from nanogrove.record.folder import read_preset
    from nanogrove.runs import train as lab
    from nanogrove.runs.setup import estimate
    from nanogrove.train.parallel.ranks import Ranks

    values = None
    if resume and Path(preset).is_dir():
        values, out = read_preset(Path(preset)), out or Path(preset)
        if values is None:
            raise RunError(f"{preset}: no run here; start one with `nanogrove train PRESET --out {preset}`")
    values = read_preset_file(preset) if values is None else values
    chosen = resolve(values, overrides or [])
    replaced = replaced_budget(values, chosen)
    if dry_run:
        _print_estimate(estimate(chosen, allow_code), replaced)
        return
    out = out or Path("runs") / chosen.name
    shown = console if Ranks.from_environment().first else Console(quiet=True)
    stopped = show(lab.train(chosen, out, resume, allow_code), shown, out, replaced)
    if stopped is not None:
        raise typer.Exit(128 + stopped)


def _print_estimate(figures: dict[str, Any], replaced: str | None) -> None:
    from nanogrove.cli.render import described_minutes
    from nanogrove.cli.text import printable

    members = f", {figures['members']} members" if figures["members"] != 1 else ""
    print(f"parameters  {figures['parameters']:,}{members}")
    passes = f", {figures['epochs']:.2f} epochs" if figures["epochs"] else ""
    print(f"tokens      {figures['tokens']:,} in {figures['steps']:,} steps{passes}")
    instead = f"in place of {printable(replaced)}" if replaced else ""
    if budget := " ".join(filter(None, (described_minutes(figures["budget"]), instead))):
        print(f"budget      {figures['steps']:,} steps {budget}")
    print(f"memory      about {figures['memory_bytes'] / 1e6:,.0f} MB of weights, moments and activations")
    print(f"FLOPs       {figures['flops']:.3g}, in {figures['precision']} on {figures['device']}")


@app.command()
def explore(
    path: Annotated[str, typer.Argument(help="A file, a folder, or a pattern such as 'logs/*.txt'.")],
    out: Annotated[Path | None, typer.Option(help="The preset to write; NAME.json of the path when left out.")] = None,
    train_it: Annotated[bool, typer.Option("--train", help="Train the preset at once, below runs/.")] = False,
) -> None:
    """Look at text, CSV, JSON lines, Parquet or PDF, and write a preset that trains on it."""
    if out is not None and out.exists():
        raise RunError(f"{out}: is there already; name another file")
    from nanogrove.cli.exploration import described, proposed
    from nanogrove.explore.findings import explore as look
    from nanogrove.explore.proposal import propose, seconds, write_preset

    found = look(path)
    width = min(console.width, 100)
    for line in described(found, width):
        print(line)
    proposal = propose(found)
    if proposal is None:
        raise DataError(
            f"{path}: too little to train on, with {found.chosen_tokens.count:,} tokens; nothing is written"
        )
    sys.stdout.flush()  # what follows takes seconds
    took = seconds(proposal, found.chosen_tokens.vocabulary)
    written = write_preset(proposal, path, out)
    for line in proposed(proposal, took, str(written), width):
        print(line)
    if train_it:
        train(str(written), [], _new_run(str(written)))
    else:
        print(f"train it with `nanogrove train {shlex.quote(str(written))}`")


@app.command()
def generate(
    run: Run,
    prompt: Annotated[list[str] | None, typer.Argument(help="One or more prompts; none starts a document.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="New tokens a prompt.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Keep the k most likely tokens; 20 where a reward steers.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the fewest tokens that reach this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens of this share of the likeliest.")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1, words already seen are less likely.")] = 1.0,
    no_repeat_ngram: Annotated[int | None, typer.Option(min=1, help="Never write an n-gram twice.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 0,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Of products; auto takes bfloat16 where the CPU multiplies it."),
    ] = "auto",
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Multiply the temperature by that of evaluate --calibrate.")
    ] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Print the probability of each new token, and their mean in log.")
    ] = False,
    reward: Annotated[Path | None, typer.Option(help="The run of a reward model, to steer by or to choose.")] = None,
    beta: Annotated[float | None, typer.Option(help="What a reward of 1 adds to a logit; 5 when left out.")] = None,
    best_of: Annotated[
        int | None, typer.Option(help="Write so many texts a prompt; print that of most reward.")
    ] = None,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="Draft with multi-token heads; the same texts in fewer steps.")
    ] = False,
    lookahead: Annotated[
        int | None, typer.Option(help="Search with value and dynamics heads, so many model calls a token.")
    ] = None,
) -> None:
    """Continue prompts with a run's best model."""
    if reward is None and (beta is not None or best_of is not None):
        raise PresetError(f"--{'best-of' if beta is None else 'beta'} needs a reward; name a run with --reward")
    if best_of is not None and (beta is not None or confidence):
        raise PresetError(f"--best-of goes without --{'confidence' if beta is None else 'beta'}; leave one of them out")
    if (speculative or lookahead is not None) and (confidence or best_of is not None):
        way, other = "speculative" if speculative else "lookahead", "confidence" if confidence else "best-of"
        raise PresetError(f"--{way} goes without --{other}; leave one out")
    from nanogrove.cli.text import printable
    from nanogrove.language_model import BETA, load

    lm = load(run)
    write: Any = lm.continuations if confidence else partial(lm.generate, speculative=speculative, lookahead=lookahead)
    if best_of is not None:
        write = partial(lm.best_of, best_of)
    steer = {} if best_of is not None else {"beta": BETA if beta is None else beta}
    written = write(
        prompt or [""],
        tokens,
        reward=reward,
        **steer,
        seed=seed,
        precision=precision,
        calibrated=calibrated,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
    )
    for each in written:
        print(printable(each if isinstance(each, str) else each.text))
        if not isinstance(each, str):
            for token, probability in zip(each.tokens, each.probabilities, strict=True):
                print(f"{probability:.4f}  {printable(repr(token))}")
            print(f"mean log-probability {each.mean_log_probability:.4f} nats a token of {len(each.tokens)} new tokens")
    choice = lm.precision(precision)
    if precision == "auto" or ";" in choice.reason:  # not what was asked for, or not in the way one would think
        print(f"decoded in {choice.format}: {choice.reason}", file=sys.stderr)


@app.command()
def evaluate(
    run: Run,
    split: Annotated[
        str | None, typer.Option(help="validation, test or train; if left out validation, of a grammar test.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on validation, keep it, and measure it on test.")
    ] = False,
) -> None:
    """Score a run's best model on the whole of a split."""
    if split not in (None, "validation", "test", "train"):
        raise PresetError(f"--split {split}: no such split; it is validation, test or train")
    from nanogrove.cli.render import described_calibration, described_held_out, described_score
    from nanogrove.runs import train as lab

    score = lab.evaluate(run, split, calibrate=calibrate)
    print(f"{score['split']} {described_score(score)}, on {score['tokens']:,} tokens; model of step {score['step']}")
    for position, divergence in zip(score.get("positions", []), score.get("kl", []), strict=True):
        print(f"position {position:>3}  KL(best || model) {divergence:.4f}")
    for line in described_held_out(score):
        print(line)
    for line in described_calibration(score["calibration"]) if calibrate else ():
        print(line)


@app.command()
def report(run: Run) -> None:
    """Write a run's report.html anew."""
    from nanogrove.reports.report import write_report

    print(write_report(run))


@app.command()
def lineage(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="Write the schedule as a preset for one model.")] = None,
) -> None:
    """Show the winner of an evolution, its ancestors, and the schedule it had."""
    from nanogrove.atomic import write_file
    from nanogrove.cli.text import printable
    from nanogrove.config.preset import resolve
    from nanogrove.record.lineage import genealogy, replay, winning_line
    from nanogrove.record.reading import read_run

    read = read_run(run)
    preset = resolve(read.preset).model_dump(mode="json")
    if preset["method"]["name"] != "evolve":
        raise RunError(f"{run}: is no evolution, so there is no line of descent; `nanogrove report` tells of it")
    line = winning_line(genealogy(read.of("generation")))
    made = replay(preset, line)
    for life in line:
        score = "none" if life.score is None else f"{life.score:.4f}"
        values = "  ".join(f"{name} {value:.4g}" for name, value in life.values.items())
        print(printable(f"generation {life.generation:>3}  member {life.member:>4}  score {score}  {values}"))
    if out is not None:
        if out.exists():
            raise RunError(f"{out}: is there already; name another file")
        write_file(out, (json.dumps(made, indent=1) + "\n").encode())
        print(f"{out}: train it with `nanogrove train {out}`")


def main() -> None:
    """Runs the command line and turns errors into one line and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except (NanogroveError, OSError) as error:  # of the latter, what a disk refused where no more can be said
        if debug:
            raise
        from nanogrove.cli.text import printable

        line = printable(" ".join(str(error).split("\n")))
        Console(stderr=True).print(f"[red]error[/]: {escape(line)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
