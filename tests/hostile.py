"""Presets, checkpoints and records as a hostile stranger would write them, and what the program does with each.

    python tests/hostile.py                             prints how many end in which way; exit code 1 for a bad end
    python tests/hostile.py --presets 50 --seed 7       as many of one kind, of another seed

Each is a healthy one with something changed: a value, a tensor, some bytes. All checksums of checkpoints are right
again after the change. Each command runs in a process of its own, a fork of this one, which believes that `FREE_BYTES`
of memory are free. It may succeed, or refuse in one line with exit code 2; where it trains on, it must stop by Ctrl-C.
A bad end is a traceback, more lines, a signal, no end, or memory beyond `MAX_BYTES`.
"""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import math
import os
import random
import resource
import runpy
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MAKE = runpy.run_path(str(Path(__file__).parent / "golden" / "make.py"))
CASES = (
    *("pretrain", "pretrain, heads", "pretrain, mixing", "evolve", "evolution_strategies", "self_improve", "align"),
    *("offline_rl, rwr", "policy_gradient, grpo", "reward_model", "ensemble", "ensemble, chain"),
)
TENSORS = ("model", "optimizer", "heads", "kept", "average")
FREE_BYTES, MAX_BYTES = 1_500_000_000, 2_000_000_000
INTERRUPTS = (4.0, 7.0)  # seconds until each Ctrl-C
HANGING, WAITING = 20.0, 60.0  # seconds of a CPU, and of a clock on a busy machine, after which a command hangs
GOOD = ("succeeds", "refused", "stops")
DEEP = "[" * 100_000 + "]" * 100_000
Command = list[str]


def hostile_value(rng: random.Random) -> Any:
    """A value that no healthy file has there."""
    nested: Any = []
    for _ in range(rng.choice((1, 40, 400))):
        nested = [nested]
    return rng.choice(
        [
            *(None, True, [], {}, "", nested, [1, "a"], {"name": 5}, {"type": "text"}, "a\nb", "\x00", "\ud800"),
            *(0, -1, 1.5, math.nan, math.inf, -math.inf, 1e-300, 1e300, 10**400, "x" * 10**5, "nan", "../../etc"),
            *(10 ** rng.randrange(1, 19), -(10 ** rng.randrange(1, 19)), 2**31, 2**63 - 1, 2**63, "/dev/zero"),
        ]
    )


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(part, (dict, list)):
            yield from paths(part, (*path, key))


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON object with one to three of its values replaced, taken away, or new."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        *outer, key = rng.choice(list(paths(value)) or [("a",)])
        section = value
        for name in outer:
            section = section[name]
        match rng.randrange(8):
            case 0 if section:
                del section[key]
            case 1 if isinstance(section, dict):
                section[rng.choice(("a", "name", "__class__", "x" * 1000))] = hostile_value(rng)
            case _:
                section[key] = hostile_value(rng)
    return value


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """A file with some of its bytes changed, cut, or others in their place."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + bytes(rng.randrange(256) for _ in range(8)) + data[at + 8 :]
        case 2:
            return data[:at] + rng.choice((b"NaN", b"1" * 5000, b"\xef\xbb\xbf", b"\x00", b"{", b"\n")) + data[at:]
        case 3:
            return DEEP.encode()
        case 4:
            return b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    return rng.choice((b"", b"null", b"[]", b"5", b'"text"', b"{}", b"1" * 5000, b"\xff\xfe", b'{"a": 1e999}'))


def dumped(value: Any) -> bytes:
    """JSON, of numbers too that JSON does not have."""
    return json.dumps(value).encode()


def preset(bases: Path, folder: Path, rng: random.Random, cases: Sequence[str] = CASES) -> Command:
    """A hostile preset, to be trained."""
    value = json.loads((bases / rng.choice(cases) / "preset.json").read_text("utf-8"))
    data = dumped(mutated(value, rng))
    (folder / "preset.json").write_bytes(mutated_bytes(data, rng) if rng.random() < 0.2 else data)
    return ["train", "preset.json", "--out", "run"]


def sealed(checkpoint: Path) -> None:
    """Makes all checksums of a checkpoint right."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
        state = json.loads((checkpoint / "state.json").read_bytes())
        for name in state["files"]:
            state["files"][name] = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        bare = {key: value for key, value in state.items() if key != "checksum"}
        state["checksum"] = hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()
        (checkpoint / "state.json").write_bytes(dumped(state))


def mutated_tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header lies, whose tensors are NaN, or which has others."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    match rng.randrange(7):
        case 0:
            return struct.pack("<Q", rng.choice((0, 10**8, 2**40, 2**63, 2**64 - 1))) + data[8:]
        case 1:
            return data[: 8 + length] + struct.pack("<f", rng.choice((math.nan, math.inf, 1e38))) * (len(rest) // 4)
        case 2:
            del header[name]
        case 3:
            header[name]["dtype"] = rng.choice(("I32", "F64", "U32", "BF16", "X", 5))
        case 4:
            header[name]["shape"] = rng.choice(([], [0], [2**62, 2**62], [1, *header[name]["shape"]], [-1], "a"))
        case 5:
            header = {f"{name}{number}": header[name] for number in range(20_000)}
        case _:
            header["x" * 1000] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def checkpoint(bases: Path, folder: Path, rng: random.Random, cases: Sequence[str] = CASES) -> Command:
    """A run whose checkpoints are hostile, with right checksums; it is used, resumed or scored."""
    shutil.copytree(bases / rng.choice(cases) / "run", folder / "run")
    file = rng.choice(("state.json", "state.json", "config.json", *(f"{name}.safetensors" for name in TENSORS)))
    part = rng.choice((None, "notes"))  # of state.json: all of it, or what the method keeps
    seed = rng.random()
    for each in sorted((folder / "run" / "checkpoints").iterdir()):
        path, rng_each = each / file, random.Random(seed)
        if not path.exists():
            path = each / "config.json"
        if path.suffix == ".safetensors":
            path.write_bytes(mutated_tensors(path.read_bytes(), rng_each))
        else:
            value = json.loads(path.read_bytes())
            if part in value:
                value[part] = mutated({part: value[part]}, rng_each).get(part)
            else:
                value = mutated(value, rng_each)
            path.write_bytes(dumped(value))
        sealed(each)
        if rng_each.random() < 0.1:
            path.unlink()
            path.symlink_to(rng_each.choice(("/dev/zero", "/etc/passwd", "state.json", str(path))))
    return command(rng)


def command(rng: random.Random) -> Command:
    """What is done with a run folder."""
    return rng.choice((["generate", "run", "the", "--tokens", "3"], ["train", "run", "--resume"], ["evaluate", "run"]))


def record(bases: Path, folder: Path, rng: random.Random, cases: Sequence[str] = CASES) -> Command:
    """A run with a hostile line in its record, or other JSON of it changed; it is reported, resumed or used."""
    shutil.copytree(bases / rng.choice(cases) / "run", folder / "run")
    names = ("events.jsonl", "events.jsonl", "preset.json", "checkpoints/*/config.json", "checkpoints/*/state.json")
    name = rng.choice(names)
    seed = rng.random()
    for path in sorted((folder / "run").glob(name)):
        rng_each, data = random.Random(seed), path.read_bytes()
        if path.suffix == ".jsonl":
            lines = data.splitlines()
            at = rng_each.randrange(len(lines))
            line = dumped(mutated(json.loads(lines[at]), rng_each))
            lines[at] = line if rng_each.random() < 0.7 else mutated_bytes(lines[at], rng_each)
            path.write_bytes(b"\n".join(lines) + b"\n")
        else:
            path.write_bytes(mutated_bytes(data, rng_each))
        if path.parent.parent.name == "checkpoints":
            sealed(path.parent)
    return rng.choice((["report", "run"], ["report", "run"], command(rng)))


KINDS: dict[str, Callable[..., Command]] = {
    "presets": preset,
    "checkpoints": checkpoint,
    "records": record,
}


def make_bases(folder: Path, cases: Sequence[str] = CASES) -> None:
    """A healthy preset and a run of it that has some of its steps yet to make, for each of the cases."""
    from nanogrove.config.overrides import resolve
    from nanogrove.runs.train import train

    for case in cases:
        (folder / case).mkdir(parents=True)
        MAKE["write_data"](folder / case)
        value = MAKE["preset_of"](case)
        for key in {"sources", "path"} & value["data"].keys():
            names = value["data"][key]
            files = [str(folder / case / name) for name in ([names] if isinstance(names, str) else names)]
            value["data"][key] = files[0] if isinstance(names, str) else files
        (folder / case / "preset.json").write_bytes(dumped(value))
        preset, steps = resolve({**value, "save": {"every": 2}}), 0
        for event in train(preset, folder / case / "run"):
            steps += event.kind == "step"
            if steps == 5:
                break


def run_here(argv: Command) -> tuple[int, str]:
    """The exit code of a command of this process, and what it says on standard error."""
    from nanogrove.cli.main import main

    sys.argv = ["nanogrove", *argv]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            return (end.code if isinstance(end.code, int) else int(end.code is not None)), error.getvalue()
    return 0, error.getvalue()


def ending(code: int, error: str) -> str:
    """In which way a command ended."""
    lines = [line for line in error.strip("\n").split("\n") if not line.startswith("decoded in ")]
    if "Traceback" in error:
        return "traceback"
    if code == 0:
        return "succeeds"
    if code == 2:
        return "refused" if len(lines) == 1 and lines[0].startswith("error: ") else "lines"
    return "stops" if code in (130, 128 + signal.SIGINT) else f"code {code}"


def nothing() -> None:
    """What a fork does before most commands."""


def run_apart(
    argv: Command, folder: Path, interrupts: Sequence[float] = INTERRUPTS, before: Callable[[], None] = nothing
) -> tuple[str, str]:
    """How a command ends in a fork of this process, which does `before` first, and what it says on standard error."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        try:
            os.chdir(folder)
            for descriptor, name in ((1, "out.txt"), (2, "err.txt")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            code, error = run_here(argv)
            os.write(2, error.encode(errors="replace"))
            os._exit(code)
        except BaseException:
            import traceback

            os.write(2, traceback.format_exc().encode(errors="replace"))
            os._exit(1)
    status, verdict = watched(process, interrupts)
    error = (folder / "err.txt").read_text(errors="replace") if (folder / "err.txt").exists() else ""
    if verdict is None and os.WIFSIGNALED(status):
        verdict = f"death by signal {os.WTERMSIG(status)}"
    return verdict or ending(os.waitstatus_to_exitcode(status), error), error


def cpu_seconds(process: int) -> float:
    """How long a process has computed."""
    ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def watched(process: int, interrupts: Sequence[float]) -> tuple[int, str | None]:
    """The status of a process when it has ended, and the bad end for which it was killed, if it was.

    It gets Ctrl-C after so many seconds each.
    """
    began, due = time.monotonic(), list(interrupts)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status, None
        seconds = time.monotonic() - began
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            hangs = seconds > WAITING or cpu_seconds(process) > HANGING
            verdict = "memory" if pages * resource.getpagesize() > MAX_BYTES else "hang" if hangs else None
            if verdict:
                os.kill(process, signal.SIGKILL)
                return os.waitpid(process, 0)[1], verdict
        if due and seconds > due[0]:
            due.pop(0)
            os.kill(process, signal.SIGINT)
        time.sleep(0.01)


Attempt = tuple[str, Command, str, Path]


def attempts(kind: str, count: int, seed: int, bases: Path, scratch: Path) -> Iterator[Attempt]:
    """The endings of `count` hostile files, each with command, error and folder; good ones are removed."""
    for number in range(count):
        folder = scratch / f"{kind}-{seed}-{number}"
        folder.mkdir(parents=True)
        argv = KINDS[kind](bases, folder, random.Random(f"{kind} {seed} {number}"))
        end, error = run_apart(argv, folder)
        yield end, argv, error, folder
        if end in GOOD:
            shutil.rmtree(folder)


def prepare(bases: Path) -> None:
    """Imports all that commands import, on one thread, and makes the healthy files and runs."""
    import psutil
    import torch

    import nanogrove.reports.report
    import nanogrove.runs.score  # noqa: F401
    from nanogrove.methods import METHODS, load_method

    torch.set_num_threads(1)
    for name in METHODS:
        load_method(name)
    os.environ["NANOGROVE_CACHE"] = str(bases / "cache")
    make_bases(bases)
    psutil.virtual_memory = lambda: SimpleNamespace(total=8 * FREE_BYTES, available=FREE_BYTES)


def main() -> int:
    parser = argparse.ArgumentParser()
    for kind, count in (("presets", 200), ("checkpoints", 200), ("records", 2000)):
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    asked = vars(parser.parse_args())
    scratch, bad = Path(tempfile.mkdtemp(prefix="hostile-")), 0
    prepare(scratch / "bases")
    for kind in KINDS:
        counts: Counter[str] = Counter()
        for end, argv, error, folder in attempts(kind, asked[kind], asked["seed"], scratch / "bases", scratch):
            counts[end] += 1
            if end not in GOOD:
                bad += 1
                print(f"{end}: cd {folder}; nanogrove {' '.join(argv)}\n    {error.strip()[-300:]}", flush=True)
        print(f"{asked[kind]} hostile {kind}: {', '.join(f'{count} {end}' for end, count in sorted(counts.items()))}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # kilobytes, on Linux
    print(f"at most {peak / 1e6:.2f} GB of memory in one command")
    if not bad:
        shutil.rmtree(scratch)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
