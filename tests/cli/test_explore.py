"""`nanogrove explore` as a person meets it: what it prints, the preset it writes, and that the preset trains."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len

from nanogrove.cli.exploration import described, proposed
from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.explore import proposal, sample
from nanogrove.explore.findings import Findings, explore
from nanogrove.explore.proposal import preset_name, propose, seconds
from nanogrove.language_model import load
from nanogrove.record.events import read_events
from nanogrove.runs import setup
from nanogrove.train.autotune import Settings

HOSTILE = '"[red]not[/] \x1b[31mred\x1b[0m","\x07 text with [bold]marks[/bold] and \x1b]0;a title\x07 in it\r\nline"'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "here"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed."""
    monkeypatch.setattr(proposal, "seconds", lambda *_: 420.0)
    monkeypatch.setattr(setup, "resolve_auto", lambda *_: Settings(1, "float32", 1, False))


@pytest.fixture
def games(here: Path) -> Path:
    rng = random.Random(0)
    rows = [
        f"{n},{' '.join(rng.choices(['Super', 'Mega', 'Star', 'Kart'], k=3))} {n},{rng.choice(['Wii', 'NES'])},"
        f"{rng.randint(1980, 2016)},{rng.random():.2f}"
        for n in range(1, 31)
    ]
    (here / "games.csv").write_text("\n".join(["Rank,Name,Platform,Year,NA_Sales", *rows]) + "\n")
    return here / "games.csv"


def test_what_it_says_and_writes(command: Any, games: Path, quick: None) -> None:
    done = command("explore", "games.csv")
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    output = " ".join(done.out.split())
    for needle in (
        "games.csv: CSV, ",
        "encoding utf-8: ASCII alone",
        "delimiter comma: 5 cells in 100% of the rows",
        "rows 30, of 5 columns",
        "Rank id: counts up from 1",
        "Platform category: 2 values",
        "short texts beside numbers: each row becomes a few lines",
        "Name: {Name} Platform: {Platform} Year: {Year} NA_Sales: {NA_Sales}",
        "scripts Latin 100%",
        "duplicates none in 30 documents",
        "tokenizer char: too little text for BPE",
        "time about 7 minutes on this machine",
        "train it with `nanogrove train games.json`",
    ):
        assert needle in output, needle
    preset = resolve(read_preset_file("games.json"))
    assert preset.name == "games"
    assert preset.data.tokenizer == "char"  # type: ignore[union-attr]


def test_the_preset_trains(command: Any, games: Path, quick: None) -> None:
    assert command("explore", "games.csv").code == 0
    small = ["train.tokens=null", "train.steps=3", "model.n_layer=1", "model.n_embd=16", "sample.tokens=5"]
    done = command("train", "games.json", *small)
    assert done.code == 0, done.err
    assert "30 documents" in done.out
    assert load("runs/games").generate("Name: ", tokens=3)


def test_it_trains_at_once(
    command: Any, here: Path, quick: None, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("Grüße an alle.txt").write_text(text_file.read_text("utf-8")[:900], "latin-1", "replace")
    Path("runs", "Gr-e-an-alle").mkdir(parents=True)
    monkeypatch.setattr(proposal, "_round", lambda value: 16)  # two steps
    done = command("explore", "Grüße an alle.txt", "--train")
    assert done.code == 0, done.err
    assert "report: runs/Gr-e-an-alle-2/report.html" in done.out
    assert json.loads(Path("Gr-e-an-alle.json").read_text())["data"]["sources"][0]["encoding"] == "cp1252"
    assert load("runs/Gr-e-an-alle-2").generate("a", tokens=3).startswith("a")


def test_a_preset_is_never_written_over(command: Any, games: Path, quick: None) -> None:
    Path("games.json").write_text("precious")
    assert "preset games-2.json" in " ".join(command("explore", "games.csv").out.split())
    assert "preset games-2.json" in " ".join(command("explore", "games.csv").out.split()), "the same again"
    assert sorted(path.name for path in Path().glob("*.json")) == ["games-2.json", "games.json"]
    assert (
        "games.json: is there already; name another file" in command("explore", "games.csv", "--out=games.json").error()
    )
    assert Path("games.json").read_text() == "precious"
    assert command("explore", "games.csv", "--out=other.json").code == 0
    assert resolve(read_preset_file("other.json")).name == "other"
    done = command("explore", "games.csv", "--out=no/such/folder.json")
    assert done.error().startswith("error: no/such/folder.json: the preset cannot be written (No such file")


def test_text_of_a_file_stays_text(command: Any, here: Path, quick: None) -> None:
    rows = "".join(HOSTILE.replace("not", f"not {n}") + "\n" for n in range(30))
    Path("[red]a.csv").write_text('"[blue]\x1b[1m","b"\n' + rows + "\x1b[5m,1,2\n", newline="")
    done = command("explore", "[red]a.csv")
    assert done.code == 0, done.err
    assert not {c for c in done.out if c != "\n" and not c.isprintable()}
    for needle in ("[red]a.csv: CSV", "[blue]\\x1b[1m", "\\x1b[31mred", "[bold]marks[/bold]", "ragged: too many cells"):
        assert needle in done.out


def test_errors_are_one_line(command: Any, here: Path) -> None:
    Path("[red]").mkdir()
    Path("few.txt").write_text("Too short.")
    Path("p.txt").write_bytes(b"\x89PNG\r\n" + bytes(99))
    assert "nope: no such file or folder" in command("explore", "nope").error()
    assert "[red]: holds no file" in command("explore", "[red]").error()
    assert "p.txt: a PNG picture" in command("explore", "p.txt").error()
    done = command("explore", "few.txt")
    assert "too little to train on, with 11 tokens; nothing is written" in done.error()
    assert "few.txt: text, 10 bytes" in done.out
    assert not list(Path().glob("*.json"))


def test_it_imports_no_torch_to_look(games: Path) -> None:
    script = (
        "import sys\nfrom nanogrove.explore.findings import explore\nfrom nanogrove.cli.exploration import described\n"
        "from nanogrove.explore.proposal import propose\nfound = explore('games.csv')\nlist(described(found))\n"
        "propose(found)\nassert not {'torch', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("tokens", "width", "budget"),
    [
        (350, 128, 5100),
        (50_000, 128, 450_000),
        (2_000_000, 192, 7_200_000),
        (1 << 24, 192, 10**7),
        (1 << 30, 256, 2 * 10**7),
    ],
)
def test_the_size_follows_the_tokens(games: Path, tokens: int, width: int, budget: int) -> None:
    findings = explore(str(games))
    for each in findings.tokens:
        object.__setattr__(each, "count", tokens)
    preset = propose(findings)
    assert preset is not None
    model, train = preset.values["model"], preset.values["train"]
    assert (model["n_embd"], train["tokens"]) == (width, budget)
    assert 16 * model["block_size"] <= 0.9 * tokens or model["block_size"] == 16
    resolve({"name": "x", **preset.values})


def test_the_time_is_measured(games: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step takes 3 s, and the first longer; it reads no third, for which no time is left."""
    ends = [30.0, 33.0]
    readings = iter([0.0, *(reading for end in ends for reading in (end, end))])
    monkeypatch.setattr(proposal, "time", SimpleNamespace(perf_counter=lambda: next(readings)))
    findings = explore(str(games))
    proposed = propose(findings)
    assert proposed is not None
    model, train, scored = proposed.values["model"], proposed.values["train"], proposed.values["evaluate"]
    model.update(n_embd=16, block_size=16)
    train.update(threads=1, tokens=10**5, accumulation=1, precision="float32", compile=False, batch_size=10)
    steps, forward = 10**5 / 160, 1 / 3
    assert seconds(proposed, findings.chosen_tokens.vocabulary) == pytest.approx(
        3 * (steps + steps / scored["every"] * scored["tokens"] / 160 * forward)
    )


def test_a_sample_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("text,x\n" + "".join(f"some words of row {n:04},{n % 7}\n" for n in range(2000)))
    monkeypatch.setattr(sample, "MAX_ROWS", 500)
    output = " ".join(" ".join(described(explore(str(tmp_path / "a.csv")))).split())
    assert "only the beginning was read: 500 rows; counts of the whole are estimates" in output
    assert "rows about 2,0" in output or "rows about 1,9" in output
    assert "char about " in output


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_the_terminal(tmp_path: Path, width: int) -> None:
    wide = "漢字の文章がここにある。" * 30
    (tmp_path / "a.jsonl").write_text(json.dumps({"名前" * 20: wide, "x" * 300: "y" * 300}) + "\n" * 3)
    assert max(map(cell_len, described(explore(str(tmp_path / "a.jsonl")), width))) <= width + 2


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/vg sales.csv.gz", "vg-sales.csv"),
        ("logs/*.txt", "logs"),
        ("../*", "data"),
        ("/", "data"),
        (".", "here"),
        ("-x", "x"),
    ],
)
def test_the_name_of_a_preset(here: Path, path: str, name: str) -> None:
    name_of_path = preset_name(path)
    assert name_of_path == name or path == "../*"
    assert resolve({"name": name_of_path, "data": {"sources": "x"}, "train": {"steps": 1}}).name == name_of_path


def test_findings_are_plain(games: Path) -> None:
    findings = explore(str(games))
    assert isinstance(findings, Findings)
    assert json.loads(json.dumps(asdict(findings)))["rows"] == 30


def test_a_file_whose_name_is_not_utf8_goes_through_a_whole_run(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()
    rows = "".join(json.dumps({"text": f"row {n} of the many rows"}) + "\n" for n in range(300))
    try:
        Path(os.fsdecode(b"rows/t\xff.jsonl")).write_text(f"{rows}{{not JSON\n")
    except OSError:
        pytest.skip("this system takes such names for no file")
    findings = explore("rows")
    Path("rows.json").write_text(json.dumps({"data": {"sources": [findings.source], "tokenizer": "byte"}}))
    small = ["model.n_layer=1", "model.n_head=1", "model.n_embd=8", "model.block_size=16", "train.steps=4"]
    fixed = ["train.device=cpu", "train.precision=float32", "train.compile=false", "train.accumulation=1"]
    trained = command("train", "rows.json", *small, *fixed, "train.batch_size=4", "sample.tokens=0", "--out", "run")
    assert (trained.code, "as in" in trained.out) == (0, True)
    assert "t\\xff.jsonl, line 301" in trained.out
    assert command("report", "run").out == "run/report.html\n"
    assert "is finished" in command("train", "run", "--resume").out
    assert command("evaluate", "run").code == 0
    (start,) = [event for event in read_events(Path("run/events.jsonl")) if event.kind == "start"]
    assert "\udcff" in json.dumps(start.values["data"]["for_example"], ensure_ascii=False)


@pytest.mark.parametrize(("tokens", "advised"), [(19_999, True), (20_000, False)])
def test_pretrained_weights_are_proposed_for_a_short_text(games: Path, tokens: int, advised: bool) -> None:
    findings = explore(str(games))
    for each in findings.tokens:
        object.__setattr__(each, "count", tokens)
    preset = propose(findings)
    assert preset is not None
    assert ("train.init=FOLDER" in "\n".join(proposed(preset, 1.0, "games.json"))) == advised
