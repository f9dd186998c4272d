"""Whether two checkouts of nanogrove leave the same bits: records, presets, checkpoints, and what the commands print.

python benchmarks/same_bits.py BEFORE AFTER [CASE ...] [--keep FOLDER]

Every preset, and cases that reach what no preset does, run at a tiny size once with each checkout, on files that this
script writes. One line a case says `equal`, or names the first difference; the exit code is 1 where there is one.
Compared are all events less their `time` and less versions and machine, preset.json, and all files of all checkpoints:
tensor by tensor, JSON less times and version. With --keep the results of BEFORE stay in that folder, for the next time.

The package itself is not imported here, so that the two checkouts may be laid out differently. Each command is a
process of its own, forked behind the imports of the libraries alone.
"""

import argparse
import csv
import hashlib
import importlib.metadata
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
TINY: dict[str, Any] = {
    "train.steps": 3,
    "train.tokens": None,
    "train.batch_size": 4,
    "train.device": "cpu",
    "model.block_size": 32,
    "model.n_layer": 1,
    "model.n_embd": 16,
    "model.n_head": 2,
    "model.n_inner": None,
    "evaluate.every": 2,
    "evaluate.tokens": 200,
    "sample.every": 2,
    "save.every": 2,
}
TINY_DATA: dict[str, dict[str, Any]] = {
    "text": {"data.vocab_size": 300, "data.sources": "text.txt", "sample.tokens": 20},
    "rlm": {"data.v": 16, "data.held_out": 256},
    "rhm": {"data.v": 8, "data.training_set": 64, "data.held_out": 256},
    "task": {"data.base": [1, 2], "data.held_out": 2, "sample.tokens": 20, "model.block_size": 96},
    "rewarded": {"data.path": "rows.jsonl", "data.prompt": "prompt", "sample.prompts": ["1"], "sample.tokens": 20},
    "preferences": {"data.path": "rows.jsonl", "sample.prompts": ["1"], "sample.tokens": 20},
}
TINY_METHOD: dict[str, dict[str, Any]] = {
    "self_improve": {"method.si_rounds": 2, "method.si_iter": 2, "method.examples": 8, "method.to": 4},
    "evolve": {"train.steps": None, "method.generations": 3, "method.steps_per_generation": 2, "evaluate.tokens": 1000},
    "align": {
        "method.rounds": 2,
        "method.steps_per_round": 2,
        "method.prompt": 4,
        "method.tokens": 20,
        "method.texts": 16,
    },
    "offline_rl": {"method.base_steps": 2},
    "evolution_strategies": {"method.generations": 2, "method.population_size": 4, "method.at_once": 4},
}
HUB = {  # the data sets of the hub that presets read, and the columns they take
    "wikimedia/wikipedia": ("20231101.en", ["text"]),
    "Skylion007/openwebtext": ("default", ["text"]),
    "roneneldan/TinyStories": ("default", ["text"]),
    "sentence-transformers/natural-questions": ("default", ["query", "answer"]),
}
GAMES = {"Name": "Wii Sports", "Platform": "Wii", "Year": 2006, "Genre": "Sports", "Publisher": "a", "Global_Sales": 82}
WORDS = ["the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "waits", "old", "return", "self"]
VERBS = ("presets", "train", "explore", "generate", "evaluate", "report", "lineage")
CLOCK = re.compile(r"^time .*\n", re.MULTILINE)  # what `explore` expects a run to take
HEADS = {f"auxiliary.enable_{name}": True for name in ("policy", "value", "dynamics", "span_contrastive")}
VARY = {"lr": {"low": 1e-4, "high": 0.1, "factor": 1.5}, "dropout": {"values": [0.0, 0.1, 0.3]}}
BREED = {"method.significance": None, "method.noise": 0.01, "method.replaced": 0.25, "method.parents": 0.25}
FOLLOW = {"lr": [[0, 0.1], [2, 0.01]], "dropout": [[0, 0.0], [1, 0.2]]}
CHARACTERS = {"data.tokenizer": "char", "sample.prompts": ["A"]}
SOURCES = {"data.sources": ["text.txt", "other.txt", "rows.csv"]}
LONGER = {"train.steps": 6}
WRITE = "generate RUN The 'A moon river' --tokens 40"
PASSING = {  # what may differ between two runs of one code, by file: clocks, versions, and how long the record is
    "events.jsonl": frozenset({"time", "versions", "machine"}),
    "state.json": frozenset({"seconds", "decode", "trained", "position", "nanogrove", "checksum"}),
}


@dataclass(frozen=True)
class Case:
    """A preset with what makes it tiny and particular, and the commands that follow its run; RUN is its folder."""

    name: str
    preset: str | None = None  # None is no run, commands only
    settings: dict[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    resumed: bool = False  # also from the oldest checkpoint that BEFORE left
    ranks: int = 1
    needs: tuple[str, ...] = ()  # cases whose runs this one reads


PRESETS: dict[str, Case] = {  # what some presets need in addition; every preset is a case
    case.name: case
    for case in (
        Case("align-terms", settings={"method.kl_cap": None}, commands=("evaluate RUN",), resumed=True),
        Case("dpo", commands=("evaluate RUN", "evaluate RUN --split test"), resumed=True),
        Case("evolve", commands=("lineage RUN --out lineage.json", "evaluate RUN", WRITE), resumed=True),
        Case("evolve-es", settings=LONGER, resumed=True, commands=("evaluate RUN",)),
        Case("games-csv", settings={"data.split": "tail"}),
        Case("general", settings={"method.adaptive.interval": 300, **LONGER}),
        Case("muzero-general", settings={"method.adaptive.interval": 300, **LONGER}),
        Case("evolve-pbt", settings={"method.population_size": 8}, commands=("lineage RUN",)),
        Case("muzero-quick", settings=LONGER, resumed=True, commands=("evaluate RUN", WRITE, f"{WRITE} --lookahead 3")),
        Case("offline-rl", settings={"method.kl_cap": None}, resumed=True),
        Case(
            "quickstart",
            settings=LONGER,
            resumed=True,
            commands=(
                "evaluate RUN",
                "evaluate RUN --split test --calibrate",
                WRITE,
                f"{WRITE} --temperature 0",
                f"{WRITE} --top-k 5 --repetition-penalty 1.2 --no-repeat-ngram 3 --seed 3",
                f"{WRITE} --top-p 0.8 --min-p 0.01 --precision bfloat16",
                f"{WRITE} --confidence --calibrated",
            ),
        ),
        Case("reward-model", commands=("evaluate RUN",), resumed=True),
        Case("rhm", commands=("evaluate RUN",)),
        Case("self-improve-maze", settings={"data.options": {"nodes": 5}}),
        Case("self-improve-quick", commands=("evaluate RUN", "generate RUN 12= --tokens 8"), resumed=True),
    )
}
CASES = (
    Case("family-gpt2", "quickstart", {"model.family": "gpt2", "model.dropout": 0.1, "train.accumulation": 2}),
    Case(
        "family-llama",
        "quickstart",
        {"model.family": "llama", "model.n_head": 4, "model.n_kv_head": 2, "data.tokenizer": "byte"},
        (WRITE,),
    ),
    Case(
        "sgd-cosine",
        "quickstart",
        {"optimizer.name": "sgd", "schedule.name": "cosine", "train.clip": None, **CHARACTERS},
    ),
    Case(
        "within-documents",
        "quickstart",
        {**SOURCES, "model.within_documents": True, "model.token_shift": True, "data.drop_duplicates": True},
        (WRITE,),
    ),
    Case("bfloat16", "quickstart", {"train.precision": "bfloat16", "model.dropout": 0.1}, (WRITE,)),
    Case(
        "memory",
        "quickstart",
        {"model.memory_tokens": 2, "model.memory_segment": 8, "auxiliary.enable_memory": True, **LONGER},
        ("evaluate RUN", WRITE),
        resumed=True,
    ),
    Case(
        "heads-multi-token",
        "quickstart",
        {"auxiliary.enable_multi_token": True, "auxiliary.multi_token_count": 3},
        ("evaluate RUN", f"{WRITE} --speculative", f"{WRITE} --speculative --temperature 0"),
    ),
    Case(
        "heads-policy-search",
        "quickstart",
        {**HEADS, "auxiliary.policy_target": "search", "auxiliary.enable_multi_token": True, "model.dropout": 0.1},
        (f"{WRITE} --lookahead 2 --temperature 0", f"{WRITE} --speculative"),
    ),
    Case(
        "follow-points",
        "quickstart",
        {"method": {"name": "pretrain", "follow": FOLLOW}},
    ),
    Case("curriculum", "quickstart", {**LONGER, "method": {"name": "pretrain", "curriculum": {}}}, resumed=True),
    Case("mix-sequential", "quickstart", {**SOURCES, "data.mix_strategy": "sequential", "data.min_text_length": 20}),
    Case(
        "mix-weighted",
        "quickstart",
        {**SOURCES, "data.mix_strategy": "weighted", "data.source_weights": [3, 2, 1], **LONGER},
        ("evaluate RUN",),
        resumed=True,
    ),
    *(
        Case(
            f"adaptive-{strategy}",
            "quickstart",
            {
                **SOURCES,
                **LONGER,
                "method": {"name": "pretrain", "adaptive": {"strategy": strategy, **more}},
            },
            resumed=strategy in ("odm", "learning_progress"),
            needs=("mix-weighted",) if "reference" in more else (),
        )
        for strategy, more in {
            "loss": {"interval": 300},
            "learning_progress": {"interval": 300},
            "excess_loss": {"interval": 300, "reference": "runs/mix-weighted"},
            "odm": {"interval": 300},
        }.items()
    ),
    Case("rlm-all", "rlm-deep", {"data.targets": "last", "data.training_set": 40, "save.snapshots": True}),
    Case("evolve-tournament", "evolve", {**BREED, "method.selection": "tournament", "method.moments": "reset"}),
    Case("evolve-none", "evolve", {"method.selection": "none"}),
    *(
        Case(
            f"evolve-{crossover}",
            "evolve",
            {**BREED, "method.vary": VARY, "method.crossover": crossover, "model.dropout": 0.1, "model.n_layer": 2},
            ("lineage RUN",) if crossover == "layers" else (),
            resumed=crossover == "layers",
        )
        for crossover in ("layers", "interpolation", "spherical")
    ),
    Case("evolve-islands", "evolve", {**BREED, "method.islands": 2, "method.migrate_every": 1}),
    Case("evolve-significance", "evolve", {**BREED, **SOURCES, "method.significance": 0.4, "evaluate.tokens": None}),
    Case(
        "evolve-rewarded",
        "evolve",
        {**BREED, "method.fitness": {"length": 20}, "method.prompt": 4, "method.tokens": 8},
    ),
    Case("evolve-heads", "evolve", {**BREED, **HEADS, "auxiliary.enable_multi_token": True}),
    Case("evolve-grammar", "rhm", {"method": {"name": "evolve", "population_size": 4, "generations": 2}}),
    Case("strategies-loss", "evolve-es", {"method.fitness": "loss", "method.rank": 1, "method.shaping": "sign"}),
    Case(
        "strategies-base",
        "quickstart",
        {
            "method": {"name": "evolution_strategies", "base": "runs/quickstart", "generations": 2},
            "method.population_size": 4,
            "method.at_once": 2,
            "method.fitness": {"pattern": "sun"},
            "method.tokens": 8,
        },
        needs=("quickstart",),
    ),
    Case("self-improve-none", "self-improve-quick", {"method.labels": "none", "method.si_rate": 0.5}),
    Case(
        "self-improve-filters",
        "self-improve-quick",
        {
            "method.self_consistency": 2,
            "method.temperature": 1.0,
            "method.length_margin": 9,
            "method.vote": None,
            "method.inject": 0.2,
            "method.empty": "replay",
            "method.guard": False,
        },
    ),
    Case(
        "self-improve-agreement",
        "self-improve-copy",
        {
            "method.gate": "agreement",
            "method.confidence": -9.0,
            "method.reset_moments": False,
            "auxiliary.enable_multi_token": True,
        },
    ),
    Case(
        "self-improve-base",
        "self-improve-quick",
        {"method.base": "runs/self-improve-quick", "method.voters": 3},
        needs=("self-improve-quick",),
    ),
    Case(
        "align-base",
        "align-terms",
        {"method.reward": {"pattern": "s"}, "method.base": "runs/align-terms", "method.kl_cap": 0.001},
        needs=("align-terms",),
    ),
    Case("reward-bytes", "reward-model", {"data.tokenizer": "byte"}),
    Case(
        "align-by-model",
        "align-terms",
        {"method.reward": {"model": "runs/reward-bytes"}, "method.kl_cap": None, **HEADS},
        (
            f"{WRITE} --reward runs/reward-bytes",
            f"{WRITE} --reward runs/reward-bytes --best-of 3",
            f"{WRITE} --reward runs/reward-bytes --beta 2 --lookahead 2",
        ),
        needs=("reward-bytes",),
    ),
    Case("offline-rwr", "offline-rl", {"method.algorithm": "rwr", "method.scale": "none", **HEADS}),
    Case(
        "offline-filter", "offline-rl", {"method.algorithm": "filter", "method.fraction": 0.5, "method.base_steps": 0}
    ),
    Case("offline-kto", "offline-rl", {"method.algorithm": "kto", "method.kl_cap": None}, resumed=True),
    Case("dpo-length", "dpo", {"method.length_normalised": True, "method.nll_weight": 0.0}),
    Case("two-ranks", "quickstart", {"train.batch_size": 4, "model.dropout": 0.1}, ranks=2),
    Case("two-ranks-shard", "quickstart", {"train.shard": True, "optimizer.name": "adamw", "train.clip": 0.1}, ranks=2),
    Case("two-ranks-evolve", "evolve", {**BREED, "method.crossover": "layers"}, ranks=2),
    Case("two-ranks-self-improve", "self-improve-quick", {"method.voters": 2}, ranks=2),
    Case("two-ranks-reward", "reward-model", ranks=2),
    Case(
        "explore",
        commands=(
            "explore text.txt --out explored-text.json",
            "explore rows.csv --out explored-rows.json",
            "explore rows.jsonl --out explored-lines.json",
            "explore folder --out explored-folder.json",
        ),
    ),
    Case("dry-run", commands=("train quickstart --dry-run", "train dpo --dry-run", "train rhm --dry-run")),
    Case(
        "help",
        commands=(
            "",
            "presets",
            *(f"{verb} --help" for verb in VERBS),
        ),
    ),
    Case(
        "refusals",
        commands=(
            "train nowhere",
            "train quickstart train.stops=5",
            "train quickstart train.steps=many",
            "train quickstart data.sources=nowhere.txt --out runs/none",
            "train rhm train.minutes=1 train.tokens=5 --dry-run",
            "train evolve method.elites=9",
            "generate nowhere",
            "evaluate runs/quickstart --split all",
            "generate runs/quickstart --speculative",
            "generate runs/quickstart --best-of 2",
            "lineage runs/quickstart",
        ),
        needs=("quickstart",),
    ),
)


def write_data(folder: Path) -> None:
    """The files that cases read, the same in each folder, of a fixed age as well."""
    rng = random.Random(0)

    def sentences(count: int) -> str:
        lines = (" ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 12))).capitalize() for _ in range(count))
        return "".join(f"{line}{rng.choice(['.', '.', '?', ' — é!'])}\n" for line in lines)

    rows = [
        {"prompt": f"{n}", "text": "ab" * (n % 7 + 1), "reward": -n % 7, "chosen": "ab", "rejected": "ab" * (n % 5 + 2)}
        for n in range(200)
    ]
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
        lines = [
            {column: f"{column} {n} of {sentences(1)}, a row long enough" for column in columns} for n in range(99)
        ]
        (folder / name / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        configs = [{"config_name": config, "data_files": "rows.jsonl"}]
        (folder / name / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    for path in folder.rglob("*"):
        os.utime(path, (10**9, 10**9))


def overrides(case: Case, preset: dict[str, Any]) -> list[str]:
    """What makes a case's preset tiny, then what is particular to the case."""
    method = {**preset.get("method", {"name": "pretrain"}), **case.settings.get("method", {})}["name"]
    settings = {**TINY, **TINY_DATA[preset["data"].get("type", "text")]}
    if preset["data"].get("sources", [None])[0] in ("my_text", "natural-questions", "wikipedia"):
        del settings["data.sources"]  # the folders of those names
    if case.name == "games-csv":
        settings["data.sources"] = [{**preset["data"]["sources"][0], "local": "games"}]
    if preset.get("sample", {}).get("tokens") == 0:
        settings.pop("sample.tokens", None)
    if "method" in case.settings:
        settings["method"] = case.settings["method"]
    settings |= {**TINY_METHOD.get(method, {}), **case.settings}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


class Checkout:
    """Runs the commands of one checkout in a working folder, whose data it writes; a context, as its server lives."""

    def __init__(self, checkout: Path, work: Path) -> None:
        self.work = work.resolve()
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        write_data(self.work)
        fixed = {
            "PYTHONPATH": str(checkout / "src"),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "NANOGROVE_CACHE": str(self.work / "cache"),
            "HF_HOME": str(self.work / "hub"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.work,
            env={**os.environ, **fixed},
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
        found: dict[str, str] = {}
        if preset is not None:
            settings = overrides(case, preset)
            outcome = self.command(["train", case.preset or "", *settings, "--out", run], case.ranks)
            if any(code for code, _, _ in outcome):
                return {"train": "".join(f"exit code {code}\n{said}{errors}" for code, said, errors in outcome)}
            found |= contents(self.work / run)
        for line in case.commands:
            code, said, errors = self.command([run if word == "RUN" else word for word in shlex.split(line)])[0]
            found |= {f"`{line}` exit code": str(code), f"`{line}`": CLOCK.sub("", said), f"`{line}` errors": errors}
        for name in ("lineage.json", *sorted(path.name for path in self.work.glob("explored-*.json"))):
            if (self.work / name).exists():
                found[name] = (self.work / name).read_text("utf-8")
                (self.work / name).unlink()
        if case.resumed:
            again = f"{run}-resumed"
            shutil.copytree(origin / run, self.work / again)
            saves = self.work / again / "checkpoints"
            newest = [saves / name for name in ("current", "prev", "prev2") if (saves / name).exists()]
            for save in newest[:-1]:
                shutil.rmtree(save)
            if (outcome := self.command(["train", again, "--resume"]))[0][0]:
                return {**found, "resume": repr(outcome)}
            found |= {f"resumed {name}": text for name, text in contents(self.work / again).items()}
        return found


def contents(run: Path) -> dict[str, str]:
    """What a run folder holds, by file, and in it by event, tensor or whole; the report, which tells times, is not."""
    found = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if name in ("report.html", ".lock"):
            continue
        passing = PASSING.get(path.name, frozenset())
        if path.suffix == ".safetensors":
            found |= {f"{name}: {part}": digest for part, digest in tensors(path.read_bytes())}
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            for number, line in enumerate(lines, 1):
                found[f"{name} {number} ({line.get('kind')} of step {line.get('step')})"] = lasting(line, passing)
        elif path.suffix == ".json":
            found[name] = lasting(json.loads(path.read_text("utf-8")), passing)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


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
            return f"{name}: {where(old, after[name])}"
    return next((f"{name}: new" for name in after if name not in before), None)


def where(before: str, after: str) -> str:
    """Where two texts differ first: a key of JSON, or a line."""
    try:
        old, new = json.loads(before), json.loads(after)
    except ValueError:
        old, new = before, after
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in [*old, *new] if old.get(key, "absent") != new.get(key, "absent"))
        return f"{key} {old.get(key, 'absent')!r} became {new.get(key, 'absent')!r}"
    if isinstance(old, str) and isinstance(new, str):
        lines = [*zip(old.splitlines(), new.splitlines(), strict=False)]
        old, new = next(((one, other) for one, other in lines if one != other), (old[-200:], new[-200:]))
    return f"{old!r} became {new!r}"


def of(checkout: Path) -> str:
    """What results depend on: the code of a checkout, this script, and the libraries."""
    files = [Path(__file__), *sorted(path for path in (checkout / "src").rglob("*") if path.suffix in (".py", ".json"))]
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


def before_results(
    checkout: Path, cases: Sequence[Case], presets: dict[str, dict[str, Any]], folder: Path
) -> dict[str, dict[str, str]]:
    """The results of the first checkout, those of an earlier time where code and libraries are the same."""
    kept, mark = folder / "results.json", of(checkout)
    stored = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    known: dict[str, dict[str, str]] = stored["results"] if stored.get("of") == mark else {}
    if all(case.name in known for case in cases):
        return known
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


@contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """The folder to keep, or one for this time only."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


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
    of_presets = {name: PRESETS.get(name, Case(name)) for name in presets}
    of_presets = {name: replace(case, preset=name) for name, case in of_presets.items()}
    cases = chosen({**of_presets, **{case.name: case for case in CASES}}, options.cases)
    wrong = 0
    with folder_for(options.keep) as folder, tempfile.TemporaryDirectory() as work:
        before = before_results(options.before, cases, presets, folder)
        with Checkout(options.after, Path(work)) as runner:
            for case in cases:
                after = runner.results(case, presets[case.preset] if case.preset else None, folder / "work")
                first = difference(before[case.name], after)
                if first is None and "train" in after:
                    first = f"does not run: {after['train']}"
                wrong += first is not None
                print(f"{case.name:<28}{'equal' if first is None else first}", flush=True)
    print(f"{wrong} of {len(cases)} cases differ" if wrong else f"all {len(cases)} cases are equal")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
