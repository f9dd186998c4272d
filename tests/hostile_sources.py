"""Files of text and tables as a hostile stranger, a broken disk or bad luck would leave them, read by every reader.

    python tests/hostile_sources.py                        prints how many of each kind end in which way
    python tests/hostile_sources.py --count 200 --seed 7   as many in all, of another seed
    python tests/hostile_sources.py --kinds pdf parquet    of these kinds alone

Each is a healthy file or folder in which something is changed: bytes, rows, its packing, its name, what its path is, or
the moment at which it vanishes. `explore` looks at it, and `train` takes one step on it by its bare path and scores
both held-out splits; a source with a `type`, and rows with rewards, are trained alone. Each command runs in a fork, as
`hostile.py` runs its own, within the same limits of time and memory: it must succeed, or refuse in one line.
"""

import argparse
import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import resource
import runpy
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

HOSTILE = runpy.run_path(str(Path(__file__).with_name("hostile.py")))
GOOD = ("succeeds", "refused")
ROWS = 120  # of a healthy table: enough to be split by document
WORDS = ["the", "a", "sun", "moon", "river", "stone", "lamp", "walks", "sings", "old", "or", "café", "naïve", "größer"]
ENCODINGS = ("utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8", "utf-8")
TRAIN = {
    "name": "hostile",
    "model": {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8},
    "train": {"steps": 1, "batch_size": 2, "device": "cpu", "precision": "float32", "threads": 1},
    "evaluate": {"every": 1, "tokens": 50},
    "sample": {"tokens": 2},
}
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
MUCH = 5  # of the changes leave nothing, or little, as it was
Made = tuple[str, bytes]  # the name of a file, and what it holds


class Attempt(NamedTuple):
    """Commands to be run in turn in a folder, what each fork does first, and what was changed."""

    commands: list[list[str]]
    before: Callable[[], None]
    change: str


def sentence(rng: random.Random, words: int = 12) -> str:
    """Made-up words, some with letters beyond ASCII."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, words))).capitalize() + "."


def rows_of(rng: random.Random) -> list[dict[str, Any]]:
    """Rows of a table, with a text, a reward, and other cells."""
    rows = [{"id": n, "text": sentence(rng), "title": sentence(rng, 4), "reward": rng.random()} for n in range(ROWS)]
    for row in rows:
        row |= {"prompt": sentence(rng, 4), "chosen": sentence(rng), "rejected": sentence(rng)}
    return rows


def text(rng: random.Random) -> Made:
    """Prose, also with marks between texts."""
    between = rng.choice(("\n", "\r\n", "\n<|endoftext|>\n", "\n---\n", "<|endoftext|><|startoftext|>", "\n\n"))
    return "a.txt", between.join(sentence(rng) for _ in range(ROWS)).encode(rng.choice(ENCODINGS))


def delimited(rng: random.Random) -> Made:
    """CSV of some dialect, or TSV."""
    out, ending = io.StringIO(newline=""), rng.choice((".csv", ".csv", ".tsv"))
    delimiter = "\t" if ending == ".tsv" else rng.choice(",;|")
    writer = csv.DictWriter(out, rows_of(rng)[0], delimiter=delimiter, quotechar=rng.choice('""\''))
    writer.writeheader()
    writer.writerows({**row, "title": row["title"].replace(" ", "\n")} for row in rows_of(rng))
    before = rng.choice(("", "", f"sep={delimiter}\n", "A title\n\n"))
    return f"a{ending}", (before + out.getvalue()).encode(rng.choice(ENCODINGS))


def json_lines(rng: random.Random) -> Made:
    """Objects, chats or texts on lines of their own."""
    rows: list[Any] = rows_of(rng)
    match rng.randrange(4):
        case 0:
            rows = [{"messages": [{"role": "user", "content": row["title"]}] * 2} for row in rows]
        case 1:
            rows = [row["text"] for row in rows]
    return rng.choice(("a.jsonl", "a.ndjson")), "\n".join(map(json.dumps, rows)).encode(rng.choice(ENCODINGS))


def json_in_one(rng: random.Random) -> Made:
    """An array of objects or texts, or an object that holds it."""
    rows: list[Any] = rows_of(rng)
    if rng.random() < 0.3:
        rows = [row["text"] for row in rows]
    value = rng.choice((rows, rows, {"version": [1, 2], "data": rows}, {"about": "x" * 100_000, "data": rows}))
    return "a.json", json.dumps(value, indent=rng.choice((None, 1)), ensure_ascii=False).encode(rng.choice(ENCODINGS))


def parquet(rng: random.Random) -> Made:
    """Parquet of some packing, with columns of lists, dates and bytes too."""
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    rows, sink = rows_of(rng), arrow.BufferOutputStream()
    extra = rng.choice((None, [[1, 2]] * ROWS, [b"\xff\x00"] * ROWS, [{"a": {"b": "c"}}] * ROWS, [None] * ROWS))
    columns = {name: [row[name] for row in rows] for name in rows[0]} | ({"more": extra} if extra else {})
    compression = rng.choice(("none", "snappy", "gzip", "zstd", "brotli", "lz4"))
    dictionary, size = rng.choice((True, False)), rng.choice((10, 1000))
    write_table(arrow.table(columns), sink, compression=compression, use_dictionary=dictionary, row_group_size=size)
    return "a.parquet", sink.getvalue().to_pybytes()


def pdf(rng: random.Random) -> Made:
    """A PDF of a few pages, packed or not."""
    count, objects = rng.choice((1, 3)), [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = b" ".join(b"%d 0 R" % (4 + 2 * page) for page in range(count))
    objects += [b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, count)]
    objects += [b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]
    for page in range(count):
        lines = b" ".join(b"(%s) '" % sentence(rng).encode("cp1252") for _ in range(40))
        stream, filters = b"BT /F1 12 Tf 14 TL 72 720 Td %s ET" % lines, b""
        if rng.random() < 0.5:
            stream, filters = zlib.compress(stream), b" /Filter /FlateDecode"
        head = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> "
        objects += [head + b"/Contents %d 0 R >>" % (5 + 2 * page)]
        objects += [b"<< /Length %d%s >>\nstream\n%s\nendstream" % (len(stream), filters, stream)]
    out, table = b"%PDF-1.4\n", b""
    for number, body in enumerate(objects, start=1):
        table += b"%010d 00000 n \n" % len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    size = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return "a.pdf", out + end % (size, table, size, len(out))


def zipped(data: bytes, name: str = "a.txt") -> bytes:
    """An archive of one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    """Packed by zstd."""
    import pyarrow

    return bytes(pyarrow.compress(data, "zstd", asbytes=True))


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
    ".zip": zipped,
}
PLAIN: dict[str, Callable[[random.Random], Made]] = {
    "text": text,
    "csv": delimited,
    "jsonl": json_lines,
    "json": json_in_one,
    "parquet": parquet,
    "pdf": pdf,
}


MOST_BYTES = 4_000_000  # of a file before it is packed: ten million lines of two bytes take half a minute to read


def damaged(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Bytes with one to three changes, and what the changes are."""
    names = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, span = rng.randrange(len(data) + 1), rng.choice((1, 4, 50, 5000))
        number = rng.choice(NUMBERS).to_bytes(8, rng.choice(("little", "big")))[: rng.choice((4, 8))]
        near_end = max(len(data) - rng.randrange(1, 200), 0)
        deep = rng.choice(("[", '{"a":', "[{", "<<", "(")).encode() * rng.choice((100, 5000, 200_000))
        junk = (
            b"\0" * 9,
            b"NaN",
            b"1" * 5000,
            b"\xef\xbb\xbf",
            b"\xff\xfe",
            b'"',
            b"\\",
            b"\n" * 9,
            b"\\ud800",
            b"\x85",
        )
        noise = rng.randbytes(span)
        changes: dict[str, bytes] = {
            "a byte": data[:at] + noise[:1] + data[at + 1 :],
            "flipped": data[:at] + noise + data[at + span :],
            "cut": data[:at],
            "without its beginning": data[at:],
            "doubled": data + data,
            "a span doubled": data[: at + span] + data[at:],
            "a span many times": data[:at] + data[at : at + span] * min(500, 400_000 // span) + data[at:],
            "a number": data[:at] + number + data[at + len(number) :],
            "a number at the end": data[:near_end] + number + data[near_end + len(number) :],
            "a number at the beginning": number + data[len(number) :],
            "junk": data[:at] + rng.choice(junk) * rng.choice((1, 1, 1000)) + data[at:],
            "nested deep": data[:at] + deep + data[at:],
            "without line ends": data.replace(b"\n", b""),
            "blanks": b" \n\t" * len(data),
            "empty": b"",
            "random": rng.randbytes(len(data)),
        }
        name = rng.choice(list(changes)[: None if rng.random() < 0.3 else -MUCH])
        data = changes[name][:MOST_BYTES]
        names.append(name)
    return data, ", ".join(names)


def odd_row(rng: random.Random, made: Made) -> Made:
    """A file of JSON in which some values are hostile."""
    name, data = made
    for _ in range(rng.choice((1, 5))):
        value = json.dumps(HOSTILE["hostile_value"](rng)).encode()
        ends = [at for at in range(len(data)) if data[at : at + 1] in b",:}"]
        at = rng.choice(ends or [0])
        data = data[:at] + rng.choice((b":", b",", b"", b"}")) + value + data[at:]
    return name, data


def one_file(kind: str, folder: Path, rng: random.Random) -> tuple[Path, str]:
    """A file of a kind with bytes, rows, packing or name changed; and what was changed."""
    made, change = PLAIN[kind](rng), ""
    if kind in ("json", "jsonl") and rng.random() < 0.3:
        made, change = odd_row(rng, made), "hostile values"
    elif rng.random() < 0.9:
        data, change = damaged(made[1], rng)
        made = made[0], data
    name, data = made
    if rng.random() < 0.15:
        name, change = (
            f"a{rng.choice(('.txt', '.csv', '.json', '.jsonl', '.parquet', '.pdf', ''))}",
            f"{change}, renamed",
        )
    if rng.random() < 0.3:
        ending = rng.choice(list(PACKINGS))
        data = PACKINGS[ending](data)
        name, change = name + (ending if rng.random() < 0.8 else rng.choice((*PACKINGS, ""))), f"{change}, packed"
        if rng.random() < 0.6:
            data, after = damaged(data, rng)
            change = f"{change}, {after}"
    if rng.random() < 0.1:
        odd = rng.choice(("-d", "~", "~root", "a\nb", "[a]", "*", "a b", "é", "'", "$(x)", "%s", ".hidden", "[red]"))
        name, change = odd + rng.choice(("", Path(name).suffix)), f"{change}, odd name"
    path = folder / name
    path.write_bytes(data)
    return path, change


def vanish(path: Path, at: int, how: str) -> None:
    """Makes a file vanish, or become another thing, as a file of its folder is opened for the `at`-th time."""
    opening, looks = Path.open, 0

    def opened(self: Path, *arguments: Any, **named: Any) -> Any:
        nonlocal looks
        looks += self.parent.name == path.parent.name
        if looks == at and self.parent.name == path.parent.name:
            if how == "cut":
                os.truncate(path, path.stat().st_size // 2)
            else:
                path.unlink()
            if how == "folder":
                path.mkdir()
            elif how == "link":
                path.symlink_to(path)
        return opening(self, *arguments, **named)

    Path.open = opened  # type: ignore[method-assign]


def misplace(path: Path, rng: random.Random) -> str:
    """Puts something that is no file, or cannot be read, in the place of a file."""
    how = rng.choice(("pipe", "folder", "empty folder", "device", "link to itself", "link to nothing", "proc"))
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how.endswith("folder"):
        path.mkdir()
        if how == "folder":
            (path / "b").symlink_to(path)
            os.mkfifo(path / "c.txt")
    else:
        links = {"device": "/dev/zero", "link to itself": str(path), "link to nothing": "nothing"}
        path.symlink_to(links.get(how, "/proc/self/mem"))
    return how


def training(folder: Path, data: dict[str, Any]) -> list[str]:
    """The command that takes one step on data, by a preset in `folder`."""
    method = {"method": {"name": "reward_model"}, "model": {**TRAIN["model"], "scalar": True}}  # type: ignore[dict-item]
    preset = {**TRAIN, **(method if data.get("type") == "preferences" else {}), "data": {"tokenizer": "char", **data}}
    (folder / "preset.json").write_text(json.dumps(preset))
    return ["train", "preset.json", "--out", "run"]


def bare(folder: Path, path: str) -> list[list[str]]:
    """What is done with a path."""
    return [["explore", "--out", "explored.json", "--", path], training(folder, {"sources": path})]


def file_attempt(kind: str, folder: Path, rng: random.Random) -> Attempt:
    """A hostile file of a kind, at a path of its own; now and then no file, or one that vanishes."""
    (folder / "data").mkdir()
    path, change = one_file(kind, folder / "data", rng)
    before: Callable[[], None] = HOSTILE["nothing"]
    if rng.random() < 0.08:
        how = rng.choice(("gone", "gone", "cut", "folder", "link"))
        change, before = f"{change}, {how} while read", partial(vanish, path, rng.randrange(1, 12), how)
    elif rng.random() < 0.06:
        change = f"{change}, {misplace(path, rng)}"
    return Attempt(bare(folder, f"data/{path.name}"), before, change)


def folder_attempt(folder: Path, rng: random.Random) -> Attempt:
    """A folder of a few files, of one kind or several, some of them hostile."""
    kinds, changes = rng.choices(list(PLAIN), k=2), []
    for number in range(rng.choice((1, 3, 6))):
        inner = folder / "data" / rng.choice((".", "b", ".git", "__MACOSX", "x" * 200)) / str(number)
        inner.mkdir(parents=True)
        path, change = one_file(rng.choice(kinds), inner, rng)
        changes.append(change if rng.random() < 0.8 else misplace(path, rng))
    before: Callable[[], None] = HOSTILE["nothing"]
    if rng.random() < 0.3 and path.is_file():
        before = partial(vanish, path, rng.randrange(1, 8), rng.choice(("gone", "cut", "folder", "link")))
    named = rng.choice(("data", "data", "data/**/*", "data/*/*/*", f"data/**/*{path.suffix}"))
    return Attempt(bare(folder, named), before, "; ".join(changes))


def typed_attempt(folder: Path, rng: random.Random) -> Attempt:
    """A hostile file named by a source of a type, right or wrong, with settings."""
    (folder / "data").mkdir()
    kind = rng.choice(list(PLAIN))
    path, change = one_file(kind, folder / "data", rng)
    source: dict[str, Any] = {
        "type": kind if rng.random() < 0.7 else rng.choice(list(PLAIN)),
        "path": f"data/{path.name}",
    }
    options: dict[str, list[Any]] = {
        "encoding": [
            "auto",
            "detect",
            "utf-8",
            "utf-16",
            "utf-32-be",
            "cp1252",
            "gb18030",
            "iso2022_jp",
            "utf-7",
            "rot13",
        ],
        "text_field": ["text", "title", "no such", "", "id"],
        "format": ["{text}", "Q: {title}\n{text}", "{x}", "{text!r}"],
        "glob": ["**/*", "*", "../*", "[", "**"],
        "delimiter": [",", ";", "\t", "\n", " "],
        "rows_in": ["data", "version", "x"],
        "separator": ["\n", "<|endoftext|>", ["a", "ab"], " "],
    }
    from nanogrove.data.sources.kinds import KINDS as SOURCE_KINDS

    known = sorted(options.keys() & SOURCE_KINDS[source["type"]].settings.model_fields.keys())
    for name in rng.sample(known, min(len(known), rng.choice((0, 1, 1, 2)))):
        source[name] = rng.choice(options[name])
    data: dict[str, Any] = {"sources": [source], "bad_rows": rng.choice(("skip", "skip", "refuse"))}
    if rng.random() < 0.2:
        data["sources"] = [{"type": "kaggle", "dataset": "a/b", "local": "data"}]
    elif rng.random() < 0.2:
        data["sources"] = [{"type": "hf", "dataset": "data", "streaming": False}]
    data |= rng.choice(({}, {"split": "document"}, {"drop_duplicates": True}, {"min_text_length": 20}))
    return Attempt([training(folder, data)], HOSTILE["nothing"], change)


def rewarded_attempt(folder: Path, rng: random.Random) -> Attempt:
    """Hostile rows with rewards, or pairs, at a path."""
    (folder / "data").mkdir()
    path, change = one_file(rng.choice(("csv", "jsonl", "json", "parquet", "text")), folder / "data", rng)
    data = {"type": rng.choice(("rewarded", "preferences")), "path": f"data/{path.name}"}
    return Attempt([training(folder, data)], HOSTILE["nothing"], change)


KINDS: dict[str, Callable[[Path, random.Random], Attempt]] = {
    **{kind: partial(file_attempt, kind) for kind in PLAIN},
    "folders": folder_attempt,
    "typed": typed_attempt,
    "rewarded": rewarded_attempt,
}

Outcome = tuple[str, str, str, str, Path]  # how it ends, the command, what was changed, the error, the folder


def outcomes(kind: str, count: int, seed: int, scratch: Path) -> Iterator[Outcome]:
    """The endings of the commands of `count` attempts; folders of good ones are removed."""
    for number in range(count):
        folder = scratch / f"{kind}-{seed}-{number}"
        folder.mkdir()
        attempt = KINDS[kind](folder, random.Random(f"{kind} {seed} {number}"))
        good = True
        for argv in attempt.commands:
            end, error = HOSTILE["run_apart"](argv, folder, (), attempt.before)
            good &= end in GOOD
            yield end, argv[0], attempt.change, error, folder
        if good:
            shutil.rmtree(folder)


def prepare(scratch: Path) -> None:
    """Imports all that commands import, on one thread, with a cache of its own, and times no step."""
    import torch
    import torch._dynamo  # optimizers import it at their first step

    import nanogrove.reports.report
    import nanogrove.runs.train  # noqa: F401
    from nanogrove.explore import proposal
    from nanogrove.methods import METHODS, load_method
    from nanogrove.reports import page

    torch.set_num_threads(1)
    for name in METHODS:
        load_method(name)
    os.environ["NANOGROVE_CACHE"] = str(scratch / "cache")
    page.packed_plotly()  # once for all of them
    proposal.seconds = lambda *_: 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--verbose", action="store_true", help="print each ending")
    asked = parser.parse_args()
    scratch, bad = Path(tempfile.mkdtemp(prefix="hostile-sources-")), 0
    prepare(scratch)
    for number, kind in enumerate(asked.kinds):
        count = (asked.count + number) // len(asked.kinds)
        counts: Counter[str] = Counter()
        for end, verb, change, error, folder in outcomes(kind, count, asked.seed, scratch):
            counts[f"{verb} {end}"] += 1
            bad += end not in GOOD
            if end not in GOOD or asked.verbose:
                print(f"{end}: {verb} in {folder} ({change})\n    {error.strip()[-400:]}", flush=True)
        print(f"{count} of {kind}: {', '.join(f'{n} {end}' for end, n in sorted(counts.items()))}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # kilobytes, on Linux
    print(f"{bad} bad ends; at most {peak / 1e6:.2f} GB of memory in one command")
    if not bad:
        shutil.rmtree(scratch)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
