"""Words that a verb does not take are answered in one line with the option, or the setting, that was meant."""

from collections.abc import Callable
from typing import Any

import pytest

from nanogrove.config.overrides import resolve

WRITE = "a setting is given as KEY=VALUE: write "


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--steps 20", WRITE + "train.steps=20"),
        ("--steps=20", WRITE + "train.steps=20"),
        ("-steps 20", WRITE + "train.steps=20"),
        ("--stpes 20", WRITE + "train.steps=20"),
        ("--train.steps 20", WRITE + "train.steps=20"),
        ("--lr 0.1", WRITE + "optimizer.lr=0.1"),
        ("--learning_rate 0.1", WRITE + "optimizer.lr=0.1"),
        ("--epochs 2", WRITE + "train.epochs=2"),
        ("--batch-size 2", WRITE + "train.batch_size=2"),
        ("--batch_size=2", WRITE + "train.batch_size=2"),
        ("--seed 1", WRITE + "seed=1"),
        ("--device cpu", WRITE + "train.device=cpu"),
        ("--drpout 0.1", WRITE + "model.dropout=0.1"),
        ("--tokens 9", WRITE + "train.tokens=9"),
        ("--optimizer sgd", WRITE + "optimizer.name=sgd"),
        ("--data my.txt", WRITE + "data.sources=my.txt"),
        ("--compile", WRITE + "train.compile=true"),
        ("--no-compile train.steps=3", WRITE + "train.compile=false"),
        ("--lr", WRITE + "optimizer.lr=VALUE"),
        ("--every 5", WRITE + "evaluate.every=5, sample.every=5 or save.every=5"),
        ("--output x", "did you mean --out?"),
        ("--dry", "did you mean --dry-run?"),
        ("--resum", "did you mean --resume?"),
        (
            "--xyzzy",
            "`nanogrove settings` lists them; options are --out, --schedule, --resume, --allow-code, --dry-run, --help",
        ),
    ],
)
def test_what_was_meant(command: Callable[..., Any], given: str, meant: str) -> None:
    for arguments in (["quickstart", *given.split()], [*given.split(), "quickstart"]):
        if arguments[-1] == "quickstart" and given in ("--lr",):
            continue  # the preset would be its value
        line = command("train", *arguments).error()
        assert line.startswith(f"error: no such option: {given.split()[0].partition('=')[0]}; ")
        assert line.endswith(meant)
        if meant.startswith(WRITE) and "VALUE" not in meant.removeprefix(WRITE) and " or " not in meant:
            base = {"data": {"sources": "my.txt"}, "train": {"steps": 10}}
            resolve(base, [meant.removeprefix(WRITE)])  # it is a setting


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("presets --foo", "no such option: --foo; options of `nanogrove presets` are --help"),
        ("generate run --precison float32", "no such option: --precison; did you mean --precision?"),
        ("generate run --lr 3", "no such option: --lr; options of `nanogrove generate` are --tokens, --temperature, "),
        ("presets a b", "`nanogrove presets` does not take 'b'; see `nanogrove presets --help`"),
        ("generate", "run is missing; see `nanogrove generate --help`"),
        ("explore notes.txt --out", "--out needs a value; see `nanogrove explore --help`"),
        ("explore notes.txt --train=3", "--train takes no value; write --train alone"),
        ("generate run --tokens abc", "--tokens: "),
        ("generate run --precision half", "--precision: "),
        ("generate run --stop --foo --bar", "no such option: --bar; "),
        ("report -- --run", "--run: no run is here"),
        ("train quickstart train.steps=\udcff", "train.steps=\\xff: must be UTF-8 text, and "),
    ],
)
def test_words_that_a_verb_does_not_take(command: Callable[..., Any], given: str, line: str) -> None:
    assert command(*given.split()).error().startswith(f"error: {line}")
