"""Each counterpart on the pages "Coming from …" is tried as it stands there: small, and on local text.

The form of a counterpart says what is tried. All of a page is tried in its order, in one folder:

    a line of a bash block that begins with nanogrove or torchrun   the command runs
    inline code that begins so                                      the same
    inline code of words section.key=value                          settings: `--dry-run` with them, appended to the
                                                                    latest `nanogrove train PRESET` of a block above
    a json block                                                    the file that its title names
    a python block                                                  the program runs
    inline code such as nanogrove.load("runs/mine") or lm.model     a name that a program of the page uses

Inline code with an ellipsis is left alone, and so is the first column of a table, which is the other project's.
"""

import json
import random
import re
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "guide" / "coming-from"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "index.md")
CODE = re.compile(r'^```(\w+)(?: title="([\w.-]+)")?\n(.*?)^```$|`([^`\n]+)`', re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(nanogrove|torchrun)( |$)")
SETTING = re.compile(
    r"'?((method|data|model|auxiliary|train|optimizer|schedule|evaluate|sample|save|track)(\.\w+)+|name|seed)="
)
CALL = re.compile(r"((?:nanogrove|lm|grammar)\.[\w.]+|RandomLanguageModel)\b")

SMALL = [
    *["train.device=cpu", "train.precision=float32", "train.threads=1", "train.accumulation=1", "train.compile=false"],
    *["model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.block_size=16", "train.batch_size=4"],
    *["evaluate.tokens=100", "sample.tokens=3"],
]
BUDGETS = {"steps": "2", "tokens": "128", "epochs": "0.05"}
TASK = ["data.held_out=4", "data.base=[1,2]", "method.to=3", "method.si_iter=2", "method.examples=8"]
SIZES: dict[str, list[str]] = {  # of a preset, besides those of all
    "evolve": ["method.population_size=8", "method.generations=2", "method.steps_per_generation=1"],
    "self-improve-copy": TASK,
    "self-improve-quick": [*TASK, "method.si_rounds=1"],
    "offline-rl": ["method.base_steps=1", "model.block_size=32"],
    "align-terms": [
        "method.rounds=1",
        "method.steps_per_round=1",
        "method.texts=4",
        "method.prompt=2",
        "method.tokens=4",
    ],
    "reward-model": ["model.block_size=32"],
    "rlm": ["data.v=8", "data.held_out=64"],
    "mine.json": ["method.adaptive.interval=64"],
}
TEXT = ["data.custom_sources=[]", "data.tokenizer=byte", "data.sources=data.txt"]
TWO = [*TEXT, 'data.sources=["data.txt", "more.txt"]', 'sample.prompts=[""]']
LOCAL: dict[str, list[str]] = {  # in the place of the network, and of a corpus that takes seconds to prepare
    **dict.fromkeys(("quickstart", "own-text", "evolve", "align-terms"), TEXT),
    **dict.fromkeys(("qa", "muzero-general", "mine.json"), TWO),
    "general": [*TWO, 'data.sources=["data.txt", "more.txt", "data.txt", "more.txt"]'],
}
# One process does a whole page on one CPU: threads that wait for each other on a busy machine take seconds.
DRIVER = """
import json, os, runpy, sys
import nanogrove
import nanogrove.runs.estimate

nanogrove.runs.estimate.training_seconds = lambda setup: 1.0  # models of full size, whose steps take seconds
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with open("page.json") as file:
    page = json.load(file)


def run(preset, out, overrides=None, *, train=nanogrove.run, **options):
    return train(preset, out, {**(overrides or {}), **page["small"][preset]}, **options)


nanogrove.run = run
for text, words in page["tries"]:
    sys.argv = words
    try:
        if words[0] == "nanogrove":
            runpy.run_module("nanogrove", run_name="__main__")
        else:
            exec(compile(text, "program", "exec"), {})
    except SystemExit as end:
        if end.code:
            print(f"from {text}", file=sys.stderr)
            raise
"""


class Part(NamedTuple):
    """A piece of a page: its `kind` (json, python, command, settings, call, inline), and its text.

    `title` is that of a block, and `block` of a command that stands in one.
    """

    kind: str
    text: str
    title: str = ""


class Try(NamedTuple):
    """A counterpart, and the words of the command line that try it; a program has one, `program`."""

    text: str
    words: list[str]


def parts(page: str) -> Iterator[Part]:
    """The blocks and the inline code of a page in its order, less the first column of tables."""
    for match in CODE.finditer(re.sub(r"^\|[^|\n]*(?=\|)", "", page, flags=re.MULTILINE)):
        kind, title, text, inline = match.groups()
        if kind == "bash":
            yield from (Part("command", line, "block") for line in text.splitlines() if COMMAND.match(line))
        elif kind:
            yield Part(kind, text, title or "")
        elif "…" not in inline:
            yield Part(_kind(inline), inline)


def _kind(inline: str) -> str:
    if COMMAND.match(inline):
        return "command"
    return "settings" if SETTING.match(inline) else "call" if CALL.match(inline) else "inline"


def small(words: list[str]) -> list[str]:
    """The words of a command, and where it trains a preset, what makes that quick and local."""
    if words[1:2] != ["train"] or "--resume" in words:
        return words
    preset = Path(words[2]).name
    given = [name for name in BUDGETS if any(word.startswith(f"train.{name}=") for word in words)] or ["steps"]
    budget = [] if preset == "evolve" else [f"train.{name}={BUDGETS[name]}" for name in given]
    return [*words, *SMALL, *SIZES.get(preset, []), *LOCAL.get(preset, []), *budget]


def tries(page: str, folder: Path) -> Iterator[Try]:
    """How each counterpart of a page is tried, in its order, a repeated command once; writes the files of the page."""
    train, commands = ["nanogrove", "train", "quickstart"], set()
    for kind, text, title in parts(page):
        words = shlex.split(text, comments=True) if kind in ("command", "settings") else []
        if kind == "json":
            (folder / title).write_text(text)
        elif kind == "python":
            yield Try(text, ["program"])
        elif kind == "settings":
            preset = Path(train[2]).name
            yield Try(text, [*train, *SIZES.get(preset, []), *words, *LOCAL.get(preset, []), "--dry-run"])
        elif kind == "command":
            start = words.index("-m") + 1 if words[0] == "torchrun" else 0
            if text not in commands:
                yield Try(text, [*words[:start], *small(words[start:])])
            commands.add(text)
            if title and words[1:2] == ["train"] and "--resume" not in words:
                train = words[: words.index("--out")] if "--out" in words else words


def attempt(page: str, folder: Path, forked: Any) -> None:
    """Tries all counterparts of a page in the folder, and fails with the first that does not work."""
    (folder / "driver.py").write_text(DRIVER)
    values = {
        preset: {
            key: _value(text) for key, _, text in (word.partition("=") for word in small(["", "train", preset])[3:])
        }
        for preset in ("evolve", "self-improve-copy", "rlm")
    }
    for of_ranks, group in groupby(tries(page, folder), key=lambda each: each.words[0] == "torchrun"):
        if of_ranks:
            for text, words in group:
                start = words.index("-m") + 2
                number = next(int(word.partition("=")[2]) for word in words if word.startswith("--nproc_per_node="))
                for outcome in forked.ranks(*[words[start:]] * number, folders=[folder] * number):
                    assert outcome.code == 0, f"{text}\n{outcome.err}"
        else:
            (folder / "page.json").write_text(json.dumps({"small": values, "tries": list(group)}))
            outcome = forked(cwd=folder, script=folder / "driver.py")
            assert outcome.code == 0, outcome.err


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the pages name."""
    rng, words = random.Random(0), ["The", "moon", "and", "a", "river:", "old", "lamps,", "quiet"]

    def text(lines: int) -> str:
        return "".join(" ".join(rng.choices(words, k=8)) + "\n" for _ in range(lines))

    (tmp_path / "data.txt").write_text(text(300))
    (tmp_path / "more.txt").write_text(text(300))
    (tmp_path / "reward_data.txt").write_text("".join(f"{text(1).strip()}|{rng.random():.2f}\n" for _ in range(60)))
    rows = "".join(f'{n},"{text(1).strip()}",{rng.randint(1, 5)}\n' for n in range(40))
    (tmp_path / "reviews.csv").write_text(f"id,review,stars\n{rows}")
    return tmp_path


def test_the_index_leads_to_each_page() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(([\w-]+\.md)\)", index)) == [path.name for path in PAGES]
    assert len(PAGES) == 5


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_counterpart_works(path: Path, folder: Path, forked: Any) -> None:
    attempt(path.read_text(encoding="utf-8"), folder, forked)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_calls_named_are_those_of_the_programs(path: Path) -> None:
    all_parts = list(parts(path.read_text(encoding="utf-8")))
    programs = "\n".join(part.text for part in all_parts if part.kind == "python")
    for part in all_parts:
        if part.kind == "call":
            name = CALL.match(part.text)
            assert name, part
            assert name[0] in programs, f"{path.name}: no program of this page uses {name[0]}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_row_has_a_counterpart_or_says_that_it_has_none(path: Path) -> None:
    here = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.sub(r"`[^`]*`", lambda code: code[0].replace("|", "/"), line).split("|")]
        here = (cells.index("here") if "here" in cells else here) if line.startswith("|") else 0
        if not here or set(line) <= set("|-") or "here" in cells:
            continue
        code = [_kind(inline) for inline in re.findall(r"`([^`]+)`", cells[here])]
        assert set(code) & {"command", "settings", "call"} or "no counterpart" in cells[here] or "pip" in cells[here], (
            line
        )


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("`model.n_embed=8`", "unknown key model.n_embed"),
        ("`train.batch_size=many`", "train.batch_size=many"),
        ("```bash\nnanogrove train rlm\n```\n`data.beta=2 data.sources=x`", "unknown key data.sources"),
        ("""`'data.sources={"type": "pdf", "paths": "x"}'`""", "paths"),
        ("```bash\nnanogrove train rml\n```", "no preset is called 'rml'"),
        ("| there | here |\n|---|---|\n| `x` | `nanogrove describe runs/x` |", "no such verb: describe"),
        ("```python\nimport nanogrove\nnanogrove.open('x')\n```", "no attribute 'open'"),
        (
            '```json title="mine.json"\n{"method": "pretrain", "modle": {}}\n```\n`nanogrove train mine.json`',
            "unknown key modle",
        ),
    ],
)
def test_a_wrong_counterpart_fails(page: str, reason: str, folder: Path, forked: Any) -> None:
    with pytest.raises(AssertionError) as error:
        attempt(page, folder, forked)
    assert reason in str(error.value)
