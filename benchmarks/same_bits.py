"""Whether two checkouts of nanogrove leave the same bits: records, presets, checkpoints, and what the commands print.

python benchmarks/same_bits.py BEFORE AFTER [CASE ...] [--keep FOLDER]

Every preset, and the cases of same_bits.json that reach what no preset does, run at a tiny size once with each
checkout, on files that this script writes. One line a case says `equal` or names the first difference; the exit code is
1 where there is one. Compared are the events without `time`, versions and machine, preset.json, the checkpoints tensor
by tensor, and what the commands after a run print. A case that is resumed continues the run that BEFORE left, from its
oldest checkpoint. With --keep the results of BEFORE stay in that folder and are read from it next time.

This script does not import nanogrove, so the two checkouts may be laid out differently. Each command is a process of
its own, forked after the imports of the libraries alone.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import itertools
import json
import os
import random
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Reads requests, one JSON object a line: {"argv": [...], "ranks": [environment, ...]}, and answers each with one line:
# a list of [exit code, stdout, stderr], one for each rank.
SERVER = """
import importlib.util, json, os, runpy, sys, tempfile, traceback
import numpy, plotly.io, pydantic, rich.console, safetensors.torch, tokenizers, torch, torch._dynamo, typer

def run(argv, environment, files):
    os.environ.update(environment)
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    sys.argv = ["nanogrove", *argv]
    code = 0
    try:
        runpy.run_module("nanogrove", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

print(json.dumps(importlib.util.find_spec("nanogrove").origin), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    running = []
    for environment in request["ranks"]:
        files = [tempfile.TemporaryFile("w+") for _ in range(2)]
        child = os.fork()
        if child == 0:
            run(request["argv"], environment, files)
        running.append((child, files))
    answers = []
    for child, files in running:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in files:
            file.seek(0)
        answers.append([code, *(file.read() for file in files)])
    print(json.dumps(answers), flush=True)
"""
FIXED = {"COLUMNS": "100", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", "TERM": "dumb"}
LISTED = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
TINY = LISTED["tiny"]
HUB = {  # the data sets of the hub that presets read, and the columns they take
    "wikimedia/wikipedia": ("20231101.en", ["text"]),
    "Skylion007/openwebtext": ("default", ["text"]),
    "roneneldan/TinyStories": ("default", ["text"]),
    "sentence-transformers/natural-questions": ("default", ["query", "answer"]),
}
GAMES = {"Name": "Wii Sports", "Platform": "Wii", "Year": 2006, "Genre": "Sports", "Publisher": "a", "Global_Sales": 82}
WORDS = ["the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "old", "return", "self"]
CLOCK = re.compile(r"^time .*\n", re.MULTILINE)  # what `explore` expects a run to take
PASSING = {  # what may differ, by file: clocks, versions, how long the record is, and the prose of a preset
    "events.jsonl": frozenset({"time", "versions", "machine"}),
    "preset.json": frozenset({"description"}),
    "state.json": frozenset({"seconds", "decode", "trained", "position", "nanogrove", "checksum"}),
}


@dataclass(frozen=True)
class Case:
    """A preset with settings of its own, and the commands that follow its run; RUN stands for the run's folder."""

    name: str
    preset: str | None = None  # None is no run, commands only
    settings: dict[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    resumed: bool = False  # also from the oldest checkpoint that BEFORE left
    ranks: int = 1
    needs: Sequence[str] = ()  # cases whose runs this one reads


def write_data(folder: Path) -> None:
    """The files that cases read, the same in each folder, of a fixed age as well."""
    rng = random.Random(0)

    def sentences(count: int) -> str:
        lines = (" ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 12))).capitalize() for _ in range(count))
        return "".join(f"{line}{rng.choice(['.', '.', '?', ' — é!'])}\n" for line in lines)

    answers = {n: {"chosen": "ab", "rejected": "ab" * (n % 5 + 2)} for n in range(200)}
    rows = [{"prompt": f"{n}", "text": "ab" * (n % 7 + 1), "reward": -n % 7, **answers[n]} for n in range(200)]
    (folder / "text.txt").write_text(sentences(500), "utf-8")
    (folder / "other.txt").write_text(sentences(300).replace("sun", "star"), "utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "folder").mkdir()
    (folder / "games").mkdir()
    for name in ("my_text", "folder/inner"):
        (folder / name).mkdir()
        for part in "ab":
            (folder / name / f"{part}.txt").write_text(sentences(200), "utf-8")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["number", "text"], *([n, sentences(2)] for n in range(200))])
    with (folder / "games" / "vgsales.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([list(GAMES), *[list(GAMES.values())] * 300])
    for name, (config, columns) in HUB.items():
        (folder / name).mkdir(parents=True)
        lines = [{column: f"{column} {n}: {sentences(1)}, not too short" for column in columns} for n in range(99)]
        (folder / name / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        configs = [{"config_name": config, "data_files": "rows.jsonl"}]
        (folder / name / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    for path in folder.rglob("*"):
        os.utime(path, (10**9, 10**9))


def overrides(case: Case, preset: dict[str, Any]) -> list[str]:
    """What makes a case's preset tiny, then the settings of the case."""
    method = {**preset.get("method", {"name": "pretrain"}), **case.settings.get("method", {})}["name"]
    settings = {**TINY["any"], **TINY["data"][preset["data"].get("type", "text")]}
    sources = preset["data"].get("sources", [None])
    if sources[0] in ("my_text", "natural-questions", "wikipedia"):
        del settings["data.sources"]  # the folders of those names
    if case.name == "games-csv":
        settings["data.sources"] = [{**sources[0], "local": "games"}]
    if preset.get("sample", {}).get("tokens") == 0:
        settings.pop("sample.tokens", None)
    whole = {key: value for key, value in case.settings.items() if key == "method"}  # before its keys are set
    settings |= {**whole, **TINY["method"].get(method, {}), **case.settings}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


class Checkout:
    """Runs the commands of one checkout in a working folder, whose data it writes; a context, as its server lives."""

    def __init__(self, checkout: Path, work: Path) -> None:
        self.work = work.resolve()
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        write_data(self.work)
        here = {"PYTHONPATH": str(checkout.resolve() / "src"), "NANOGROVE_CACHE": str(self.work / "cache")}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env={**os.environ, **FIXED, **here, "HF_HOME": str(self.work / "hub")},
        )
        origin = Path(self._answer())
        if checkout.resolve() not in origin.resolve().parents:
            sys.exit(f"error: {origin} would run in place of {checkout}")

    def _answer(self) -> Any:
        assert self.server.stdout is not None
        return json.loads(self.server.stdout.readline() or sys.exit("error: the process that runs commands is gone"))

    def __enter__(self) -> "Checkout":
        return self

    def __exit__(self, *error: object) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()

    def command(self, argv: Sequence[str], ranks: int = 1) -> list[tuple[int, str, str]]:
        """Exit code, output and errors of a command, for each of its ranks."""
        assert self.server.stdin is not None
        environments: list[dict[str, str]] = [{}]
        if ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
            environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
        self.server.stdin.write(json.dumps({"argv": list(argv), "ranks": environments}) + "\n")
        self.server.stdin.flush()
        return [(code, *(text.replace(str(self.work), ".") for text in texts)) for code, *texts in self._answer()]

    def results(self, case: Case, preset: dict[str, Any] | None, origin: Path) -> dict[str, str]:
        """All that a case left, by name; a run is resumed from the one below `origin`."""
        run = f"runs/{case.name}"
        outcome_parts: dict[str, str] = {}
        if preset is not None:
            settings = overrides(case, preset)
            outcome = self.command(["train", case.preset or "", *settings, "--out", run], case.ranks)
            if any(code for code, _, _ in outcome):
                return {"train": "".join(f"exit code {code}\n{output}{errors}" for code, output, errors in outcome)}
            outcome_parts |= contents(self.work / run)
        for line in case.commands:
            code, output, errors = self.command([run if word == "RUN" else word for word in shlex.split(line)])[0]
            outcome_parts |= {
                f"`{line}` exit code": str(code),
                f"`{line}`": CLOCK.sub("", output),
                f"`{line}` errors": errors,
            }
        for path in sorted(self.work.glob("out-*.json")):
            outcome_parts[path.name] = path.read_text("utf-8")
            path.unlink()
        if case.resumed:
            again = f"{run}-resumed"
            shutil.copytree(origin / run, self.work / again)
            saves = self.work / again / "checkpoints"
            newest = [saves / name for name in ("current", "prev", "prev2") if (saves / name).exists()]
            for save in newest[:-1]:
                shutil.rmtree(save)
            outcome = self.command(["train", again, "--resume"], case.ranks)
            if any(code for code, _, _ in outcome):
                return {**outcome_parts, "resume": repr(outcome)}
            outcome_parts |= {f"resumed {name}": text for name, text in contents(self.work / again).items()}
        return outcome_parts


def contents(run: Path) -> dict[str, str]:
    """What a run folder holds, by file, and in it by event, tensor or whole; the report, which tells times, is not."""
    parts: dict[str, str] = {}
    files = (path for path in run.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: (path.name != "events.jsonl", path)):  # where a run differs first
        name = str(path.relative_to(run))
        if name in ("report.html", ".lock"):
            continue
        passing = PASSING.get(path.name, frozenset())
        if path.suffix == ".safetensors":
            parts |= {f"{name}: {part}": digest for part, digest in tensors(path.read_bytes())}
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            for number, line in enumerate(lines, 1):
                parts[f"{name} {number} ({line.get('kind')} of step {line.get('step')})"] = lasting(line, passing)
        elif path.suffix == ".json":
            parts[name] = lasting(json.loads(path.read_text("utf-8")), passing)
        else:
            parts[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return parts


def tensors(data: bytes) -> Iterator[tuple[str, str]]:
    """Names and digests of the tensors of a safetensors file, and of what else its header says."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    yield "header", json.dumps(header.pop("__metadata__", {}), sort_keys=True)
    for name, entry in sorted(header.items()):
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        yield name, f"{entry['dtype']} {entry['shape']} {hashlib.sha256(data[begin:end]).hexdigest()}"


def lasting(value: dict[str, Any], passing: frozenset[str]) -> str:
    """An object of JSON less the keys that pass with a run, wherever they stand in it, the others in order."""

    def kept(each: Any) -> Any:
        if isinstance(each, dict):
            return {key: kept(inner) for key, inner in each.items() if key not in passing}
        return [kept(inner) for inner in each] if isinstance(each, list) else each

    return json.dumps(kept(value), sort_keys=True, ensure_ascii=False)


def difference(before: dict[str, str], after: dict[str, str]) -> str | None:
    """The first thing of `before` that `after` has not, or has otherwise; None where both are equal."""
    for name, old in before.items():
        if name not in after:
            return f"{name}: gone"
        if old != after[name]:
            return f"{name}: {where(parsed(old), parsed(after[name]))}"
    return next((f"{name}: new" for name in after if name not in before), None)


def parsed(text: str) -> Any:
    """The value of JSON, or the text where it is not."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def where(old: Any, new: Any) -> str:
    """Where two values of JSON differ first, by key and number, or by line."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*old, *new] if old.get(key, "absent") != new.get(key, "absent"))
        return f"{key} {where(old.get(key, 'absent'), new.get(key, 'absent'))}"
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        number = next(number for number, (one, other) in enumerate(zip(old, new, strict=True)) if one != other)
        return f"{number} {where(old[number], new[number])}"
    if isinstance(old, str) and isinstance(new, str):
        lines = itertools.zip_longest(old.splitlines(), new.splitlines())
        old, new = next(((one, other) for one, other in lines if one != other), (old, new))
    return f"{old!r:.300} became {new!r:.300}"


def digest_of(checkout: Path) -> str:
    """What results depend on: the code of a checkout, this script, and the libraries."""
    script_files = [Path(__file__), Path(__file__).with_suffix(".json")]
    files = [*script_files, *sorted(path for path in (checkout / "src").rglob("*") if path.suffix in (".py", ".json"))]
    versions = [importlib.metadata.version(name) for name in ("torch", "numpy", "tokenizers", "safetensors", "rich")]
    digest = hashlib.sha256(repr((sys.version, versions)).encode())
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def chosen(cases: dict[str, Case], names: Sequence[str]) -> list[Case]:
    """The cases of these names, all where there are none, each after those it needs."""
    for name in names:
        if name not in cases:
            sys.exit(f"error: no case is called {name!r}; there are {', '.join(cases)}")
    order: dict[str, Case] = {}

    def add(name: str) -> None:
        for needed in cases[name].needs:
            add(needed)
        order.setdefault(name, cases[name])

    for name in names or cases:
        add(name)
    return list(order.values())


def read_presets(checkout: Path) -> dict[str, dict[str, Any]]:
    """The presets that come with a checkout, wherever they lie in it."""
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted((checkout / "src").rglob("presets/*.json"))
    }


def all_cases(presets: Iterable[str]) -> dict[str, Case]:
    """Every preset as a case, then the cases of same_bits.json, by name."""
    particular = {entry["name"]: entry for entry in LISTED["presets"]}
    entries = [{"name": name, "preset": name, **particular.get(name, {})} for name in presets]
    return {entry["name"]: Case(**entry) for entry in [*entries, *LISTED["cases"]]}


def before_results(
    checkout: Path, cases: Sequence[Case], presets: dict[str, dict[str, Any]], folder: Path
) -> dict[str, dict[str, str]]:
    """The results of the first checkout, those of an earlier time where code and libraries are the same."""
    kept, mark = folder / "results.json", digest_of(checkout)
    stored = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    if stored.get("of") == mark and all(case.name in stored["results"] for case in cases):
        return dict(stored["results"])
    known: dict[str, dict[str, str]] = {}
    with Checkout(checkout, folder / "work") as runner:
        for number, case in enumerate(cases, 1):
            preset = presets[case.preset] if case.preset else None
            known[case.name] = runner.results(case, preset, runner.work)
            failed = {"train", "resume"} & known[case.name].keys()
            print(f"before: {case.name}, {number} of {len(cases)}{' fails' if failed else ''}", file=sys.stderr)
    part = kept.with_suffix(".part")
    part.write_text(json.dumps({"of": mark, "results": known}, indent=1, ensure_ascii=False), "utf-8")
    part.replace(kept)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout, such as a worktree of the commit before")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="presets and other cases; all when left out")
    parser.add_argument("--keep", type=Path, help="a folder for the results of BEFORE, which then runs once")
    options = parser.parse_args()
    presets = read_presets(options.before)
    if not presets:
        sys.exit(f"error: {options.before}: no presets below src; name a checkout of nanogrove")
    cases = chosen(all_cases(presets), options.cases)
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "before"
        before = before_results(options.before, cases, presets, folder)
        with Checkout(options.after, Path(temporary) / "after") as runner:
            for case in cases:
                after = runner.results(case, presets[case.preset] if case.preset else None, folder / "work")
                first = difference(before[case.name], after)
                if first is None and (failed := {"train", "resume"} & after.keys()):
                    first = f"fails: {after[failed.pop()]}"
                wrong += first is not None
                print(f"{case.name:<28}{'equal' if first is None else first}", flush=True)
    print(f"{wrong} of {len(cases)} cases differ" if wrong else f"all {len(cases)} cases are equal")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
