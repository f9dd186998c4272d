"""The public surface, frozen: what is added or taken away here is a decision, and belongs in the changelog."""

import inspect
import re

import typer

import nanogrove
from nanogrove import errors
from nanogrove.cli.main import app
from nanogrove.record import events

NAMES = [
    "LanguageModel",
    "NanogroveError",
    "compare",
    "export",
    "from_transformers",
    "load",
    "report",
    "run",
    "score",
    "to_transformers",
]
SIGNATURES = {
    "load": ["path", "device"],
    "run": ["preset", "out", "overrides", "resume", "allow_code", "extend"],
    "compare": ["preset", "arms", "out", "seeds", "equal", "tune", "engine", "allow_code", "settings"],
    "score": ["run", "split", "calibrate"],
    "report": ["run", "with_model", "large"],
    "export": ["run", "to", "out", "dtype", "license", "overwrite"],
    "to_transformers": ["run", "out"],
    "from_transformers": ["folder"],
}
VERBS = {
    "train": {"preset", "overrides", "out", "resume", "schedule", "allow_code", "dry_run"},
    "explore": {"path", "out", "train_it"},
    "ui": {"folder", "port"},
    "lineage": {"run", "out"},
    "generate": {
        "run",
        "prompt",
        "tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "no_repeat_ngram",
        "stop",
        "seed",
        "precision",
        "calibrated",
        "confidence",
        "reward",
        "beta",
        "best_of",
        "chat",
        "speculative",
        "lookahead",
        "prompts",
        "as_json",
    },
    "chat": {
        "runs",
        "tokens",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "repetition_penalty",
        "seed",
        "precision",
        "system",
    },
    "evaluate": {"run", "split", "calibrate", "allow_code"},
    "export": {"run", "to", "dtype", "out", "license_name", "overwrite"},
    "report": {"run", "with_model", "weights", "yes"},
    "runs": {"folder", "as_json"},
    "compare": {
        "study",
        "overrides",
        "arm",
        "leave_one_out",
        "seeds",
        "equal",
        "tune",
        "measure",
        "margin",
        "until_decided",
        "cap",
        "out",
        "engine",
        "workers",
        "address",
        "prepare",
        "index",
        "allow_code",
    },
    "regret": {"settings", "out", "workers"},
    "serve": {"runs", "host", "port", "rows", "queue", "max_tokens", "precision"},
    "presets": {"name"},
    "settings": {"key", "as_json"},
}
# written; note and stop are for the one who watches
KINDS = {"reward", "rewards", "generation", "start", "eval", "step", "sample", "end", "data", "exact", "round", "alarm"}
KINDS |= {"sources", "auxiliary", "resume", "phase", "student"}


def test_the_names() -> None:
    assert nanogrove.__all__ == NAMES
    assert dir(nanogrove) == NAMES
    for name in NAMES:
        assert getattr(nanogrove, name).__doc__, name


def test_the_signatures() -> None:
    for name, parameters in SIGNATURES.items():
        assert list(inspect.signature(getattr(nanogrove, name)).parameters) == parameters


def test_no_other_name() -> None:
    assert not hasattr(nanogrove, "Trainer")


def test_the_verbs_and_their_options() -> None:
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert set(commands) == set(VERBS)
    for name, command in commands.items():
        assert {parameter.name for parameter in command.params} - {"help"} == VERBS[name]
        assert command.help, name


def test_the_kinds_of_events_are_documented() -> None:
    table = re.findall(r"^\| (\w+) +\|", events.__doc__ or "", re.MULTILINE)
    assert set(table) - {"kind"} == KINDS


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"^[├└│─ ]*(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    classes = [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)]
    assert drawn == classes
    assert all(issubclass(getattr(errors, name), errors.NanogroveError) for name in classes)
