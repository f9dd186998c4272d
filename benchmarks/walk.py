"""The way of a batch of text through the package: every function of a 6-step run, in the order of first calls.

python benchmarks/walk.py [--way]

Prints how many functions and files of the package such a run enters, and how often two first calls in a row lie in
different files: of the whole command, and of training alone, which is all from the first call of the method to the
report. --way prints the functions too, those of one file in a row on one line. A first run, which is not counted,
prepares the data. What runs while a module is imported is not counted, and of a lambda, a comprehension or a
generator expression only the file is, since a reader finds it inside of a function. Python 3.12 and later run
comprehensions without a call and count fewer.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

PRESET = {
    "name": "walk",
    "data": {"sources": "text.txt", "tokenizer": "char"},
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"steps": 6, "batch_size": 4, "device": "cpu"},
    "evaluate": {"every": 3, "tokens": 200},
    "sample": {"every": 3, "tokens": 12},
    "save": {"every": 3},
}


class Call(NamedTuple):
    """A function by its file, below the package, its qualified name, and its line."""

    file: str
    name: str
    line: int

    @property
    def anonymous(self) -> bool:
        """Whether this is a lambda, a comprehension or a generator expression."""
        return self.name.endswith(">")


@contextlib.contextmanager
def recorded_calls(package: Path) -> Iterator[list[Call]]:
    """Lists the calls of the functions of a package inside of the context, each call in a row of equal ones once."""
    calls: list[Call] = []
    folder = f"{package.resolve()}{os.sep}"
    modules: list[CodeType] = []  # being imported; `__main__` is not, as all runs in it

    def profile(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(folder):
            return
        if code.co_name == "<module>":
            if code.co_filename.endswith("__main__.py"):
                return
            if event == "call":
                modules.append(code)
            elif event == "return":
                modules.pop()
        elif event == "call" and not modules:
            call = Call(code.co_filename.removeprefix(folder), code.co_qualname, code.co_firstlineno)
            if calls[-1:] != [call]:
                calls.append(call)

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def first_calls(calls: Sequence[Call]) -> list[Call]:
    """The functions in the order in which they are first called."""
    return list(dict.fromkeys(calls))


def training(calls: Sequence[Call]) -> Sequence[Call]:
    """The calls of training: from the first of the method to the report."""
    start = next(n for n, call in enumerate(calls) if call.file.startswith("methods") and call.name == "run")
    end = next(n for n, call in enumerate(calls) if call.name.endswith("write_report"))
    return calls[start:end]


def counted(way: Sequence[Call]) -> tuple[int, int, int]:
    """Functions, files, and changes of file of a way."""
    changes = sum(call.file != following.file for call, following in itertools.pairwise(way))
    return sum(not call.anonymous for call in way), len({call.file for call in way}), changes


def lines(way: Sequence[Call]) -> Iterator[str]:
    """The named functions of a way, those of one file in a row on one line."""
    named = [call for call in way if not call.anonymous]
    for file, calls in itertools.groupby(named, lambda call: call.file):
        yield f"{file}: {', '.join(call.name for call in calls)}"


def six_steps(package: Path) -> list[Call]:
    """The calls of a run of `PRESET` through the command line."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["NANOGROVE_CACHE"] = str(Path(folder) / "cache")
        Path("text.txt").write_text("Sphinx of black quartz, judge my vow. Pack my box, too.\n" * 300)
        Path("preset.json").write_text(json.dumps(PRESET))
        command = ["train", "preset.json", "--out"]
        subprocess.run([sys.executable, "-m", "nanogrove", *command, "first"], check=True, stdout=subprocess.DEVNULL)
        sys.argv = ["nanogrove", *command, "second"]
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), recorded_calls(package) as calls:
            try:
                runpy.run_module("nanogrove", run_name="__main__", alter_sys=True)
            except SystemExit as end:
                if end.code:
                    raise
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", action="store_true", help="print the functions, in the order of first calls")
    options = parser.parse_args()
    spec = importlib.util.find_spec("nanogrove")
    if spec is None or spec.origin is None:
        sys.exit("error: nanogrove is not installed")
    calls = six_steps(Path(spec.origin).parent)
    ways = {"the whole command": first_calls(calls), "training": first_calls(training(calls))}
    for name, way in ways.items():
        if options.way:
            print(f"\n{name}\n" + "\n".join(lines(way)))
    for name, way in ways.items():
        functions, files, changes = counted(way)
        print(f"{name}: {functions} functions in {files} files, {changes} changes of file")


if __name__ == "__main__":
    main()
