"""Whatever is wrong ends in one line that says what, where and what to do; the exit code is 2."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nanogrove
from nanogrove.data.sources.pieces import PIECE_CHARACTERS
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.language_model import load


@pytest.fixture
def preset(tiny: Any, tmp_path: Path) -> Path:
    """The path of a tiny preset, in a folder with some useless texts."""
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "no-texts").mkdir()
    (tmp_path / "no-texts" / "notes.md").write_text("Not a .txt.")
    (tmp_path / "broken.json").write_text('{"train": {"steps": 3,}}')
    (tmp_path / "list.json").write_text("[1, 2]")
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny()))
    return path


def in_the_file(tiny: Any, path: Path, **sections: Any) -> Path:
    path.write_text(json.dumps(tiny(**sections)))
    return path


OVERRIDES = {
    "missing file": ("data.sources=TMP/nope.txt", "TMP/nope.txt: no such file or folder", "data.sources"),
    "a name of two lines": ("data.sources=TMP/a\nb.txt", "TMP/a b.txt: no such file or folder"),
    "empty file": ("data.sources=TMP/empty.txt", "TMP/empty.txt: empty", "needs text"),
    "folder without texts": ("data.sources=TMP/no-texts", "TMP/no-texts: the train split has", "use more text"),
    "corpus below a block": ("data.sources=TMP/short.txt", "TMP/short.txt: the train split has", "model.block_size"),
    "unknown encoding": (
        'data.sources=[{"type": "text", "path": "TMP/short.txt", "encoding": "utf-9"}]',
        "unknown encoding; utf-8, cp1252 and latin-1 are common",
        "utf-9",
    ),
    "nothing left to train on": ("data.test=0.97", "data: validation and test leave nothing", "below 1"),
    "tokenizer that is missing": ("data.tokenizer=TMP/nope.json", "TMP/nope.json: cannot read this tokenizer"),
    "tokenizer that is none": ("data.tokenizer=TMP/list.json", "TMP/list.json: not a tokenizer.json"),
    "bpe without room": ("data.tokenizer=bpe data.vocab_size=100", "data.vocab_size=100 is too small", "256 bytes"),
    "model without room": ("model.vocab_size=7", "model.vocab_size=7 is smaller than the tokenizer's", "leave it out"),
    "unknown key": ("train.stepz=3", "unknown key train.stepz; did you mean train.steps?"),
    "key without its section": ("n_layer=3", "unknown key n_layer; did you mean model.n_layer?"),
    "no override": ("train.steps", "'train.steps' is not an override; write section.key=value"),
    "wrong type": ("train.steps=many", "train.steps=many:", "must be a whole number, and 'many' was given"),
    "out of range": ("model.dropout=1.5", "model.dropout=1.5: must be below 1"),
    "not a number": ("optimizer.lr=NaN", "optimizer.lr=NaN: must be above 0, and 'NaN' was given"),
    "a seed too large": ("seed=99999999999999999999", "seed=99999999999999999999: must be below 9223372036854775808"),
    "no such choice": ("model.family=gpt3", "model.family=gpt3:", "'gpt2', 'llama' or 'nanochat'"),
    "heads do not fit": ("model.n_embd=15", "model: n_embd 15 is not divisible by n_head 2"),
    "two budgets": (
        "train.steps=5 train.tokens=100",
        "train.steps=5 and train.tokens=100 exclude each other; give one",
    ),
    "no budget": ("train.steps=null", "train: no budget is set; set one of steps, tokens, epochs and minutes"),
    "no minutes": ("train.minutes=0", "train.minutes=0: must be above 0"),
    "minutes too short": ("train.minutes=1e-9", "train.minutes=1e-09 is too short: a step takes", "set train.minutes="),
    "accumulation of too little": ("train.accumulation=8", "train: accumulation 8 is more than batch_size 4"),
    "no such device": ("train.device=abacus", "train.device=abacus is not usable here", "train.device=auto"),
    "unknown method": ("method=pretrian", "no method is called 'pretrian'; did you mean pretrain?"),
    "unknown tracker": ('track.trackers=["wandbx"]', "track.trackers", "'wandb', 'tensorboard' or 'trackio'"),
    "diverging": (
        "optimizer.name=sgd optimizer.lr=1e6 schedule.name=constant train.clip=null save.every=1",
        "training diverged at step 2: loss ",
        "learning rate 1e+06",
        "lower optimizer.lr",
        "last good checkpoint: TMP/out/checkpoints/current (step 1)",
    ),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_an_override_that_cannot_be(command: Any, preset: Path, tmp_path: Path, case: str) -> None:
    given, *needles = [text.replace("TMP", str(tmp_path)) for text in OVERRIDES[case]]
    overrides = given.split(" ") if "[" not in given else [given]
    error = command("train", preset, "--out", tmp_path / "out", *overrides).error()
    for needle in needles:
        assert needle in error


FILES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"train": {"stepz": 3}}, "unknown key train.stepz; did you mean train.steps?"),
    "unknown section": ({"trian": {}}, "unknown key trian; did you mean train?"),
    "wrong type": ({"train": {"steps": "many"}}, "train.steps: must be a whole number, and 'many' was given"),
    "section that is none": ({"train": 5}, "train: must be a section, which is a JSON object, and 5 was given"),
    "heads do not fit": ({"model": {"n_head": 3}}, "model: n_embd 16 is not divisible by n_head 3"),
    "two budgets": ({"train": {"epochs": 2}}, "train: steps and epochs are set; keep one of steps, tokens, epochs"),
    "source of no type": ({"data": {"sources": [{"type": "telepathy"}]}}, "data.sources"),
    "no data": ({"data": None}, "data: "),
}


@pytest.mark.parametrize("case", FILES)
def test_a_preset_file_that_cannot_be(command: Any, tiny: Any, tmp_path: Path, case: str) -> None:
    sections, needle = FILES[case]
    path = in_the_file(tiny, tmp_path / "bad.json", **sections)
    assert needle in command("train", path, "--out", tmp_path / "out").error()
    assert not (tmp_path / "out").exists(), "an empty run folder was left over"


def test_a_section_that_is_none_and_an_override_of_it(command: Any, tiny: Any, tmp_path: Path) -> None:
    path = in_the_file(tiny, tmp_path / "bad.json", train=5)
    assert "train: a section is a JSON object, and 5 was given" in command("train", path, "train.steps=3").error()


@pytest.mark.parametrize(
    ("name", "needle"),
    [
        ("broken.json", "broken.json: not a preset in JSON ("),
        ("list.json", "list.json: not a preset; a preset is a JSON object"),
        ("nope.json", "nope.json'"),
    ],
)
def test_a_file_that_is_no_preset(command: Any, preset: Path, name: str, needle: str) -> None:
    assert needle in command("train", preset.with_name(name)).error()


def test_a_preset_that_is_not_there(command: Any) -> None:
    error = command("train", "quickstrat").error()
    assert "no preset is called 'quickstrat'; did you mean quickstart?" in error
    assert "`nanogrove presets` lists them" in command("train", "zzz").error()


def straddling(character: bytes) -> bytes:
    """Text in which a character of several bytes lies across the border of the first piece that is read."""
    return b"x" * (PIECE_CHARACTERS - 1) + character + b"y" * 1000


LATIN = {
    "at the start": b"\xff" + b"x" * 2000,
    "in the first piece": b"caf\xc3\xa9 caf\xe9 " + b"x" * 2000,
    "first of the second piece": b"x" * PIECE_CHARACTERS + b"\xe9" + b"y" * 1000,
    "far in": b"x" * (2 * PIECE_CHARACTERS + 17) + b"\xc3\xa9\xe9" + b"y" * 1000,
    "begun before the border, broken after it": straddling(b"\xe2\x82("),
    "after a character across the border": straddling("€".encode() + b"\xe9"),
    "unfinished at the end": b"x" * 2000 + b"\xe2\x82",
}


@pytest.mark.parametrize(
    "case", [case if "piece" in case else pytest.param(case, marks=pytest.mark.slow) for case in LATIN]
)
def test_a_text_that_is_not_utf8(command: Any, preset: Path, tmp_path: Path, case: str) -> None:
    path, out = tmp_path / "latin.txt", tmp_path / "out"
    path.write_bytes(LATIN[case])
    with pytest.raises(UnicodeDecodeError) as truth:
        LATIN[case].decode("utf-8")
    arguments = ("train", preset, "--out", out, "train.steps=1", "evaluate.tokens=20")
    error = command(*arguments, f'data.sources={{"type": "text", "path": "{path}"}}').error()
    at = truth.value.start
    assert f"{path}: not utf-8: byte 0x{LATIN[case][at]:02x} at offset {at};" in error
    advice = re.search(r"name the source as (\{.*\})$", error)
    assert advice, error
    assert command(*arguments, f"data.sources={advice[1]}").code == 0, "what the message advises does not work"


def test_a_character_across_the_border_is_read_whole(command: Any, preset: Path, tmp_path: Path) -> None:
    path = tmp_path / "euro.txt"
    path.write_bytes(straddling("€".encode()))
    assert command("train", preset, "--out", tmp_path / "out", f"data.sources={path}", "train.steps=1").code == 0
    assert load(tmp_path / "out").tokenizer.vocab_size == len("xy€") + 1


@pytest.fixture(scope="module")
def finished(forked: Any, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, `run`, beside its own copy of the text and its preset; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    values = tiny()
    text = shutil.copy(values["data"]["sources"], folder / "text.txt")
    preset = in_the_file(tiny, folder / "tiny.json", data={"sources": str(text)})
    assert forked("train", preset, "--out", folder / "run").code == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be spoilt."""
    return shutil.copytree(finished / "run", tmp_path / "run")


def test_a_folder_that_holds_a_run(command: Any, finished: Path, run: Path) -> None:
    before = (run / "events.jsonl").read_bytes()
    error = command("train", finished / "tiny.json", "--out", run).error()
    assert f"{run}: holds a run; continue it with --resume, or choose another --out" in error
    assert (run / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.weight_decay=0.5", "optimizer.weight_decay is 0.1 there and 0.5 here"),
        ("train.clip=null", "train.clip is 1.0 there and null here"),
        ("data.tokenizer=byte", 'data.tokenizer is "char" there and "byte" here'),
        ("data.test=0.2", "data.test is 0.05 there and 0.2 here"),
        ("seed=1", "seed is 0 there and 1 here"),
    ],
)
def test_a_resume_with_another_preset(command: Any, finished: Path, run: Path, override: str, message: str) -> None:
    for arguments in ((run, "--resume"), (finished / "tiny.json", "--out", run, "--resume")):
        error = command("train", *arguments, override).error()
        assert f"{run}: a resumed run keeps its preset, and {message}; start anew with another --out" in error


def test_a_resume_where_no_run_is(command: Any, tmp_path: Path) -> None:
    error = command("train", tmp_path, "--resume").error()
    assert f"{tmp_path}: no run here" in error
    assert "--out" in error


def test_a_stored_preset_that_is_damaged(command: Any, run: Path) -> None:
    (run / "preset.json").write_text("{")
    assert f"{run / 'preset.json'}: cannot be read" in command("train", run, "--resume").error()


def test_a_run_in_use_by_a_living_process(command: Any, finished: Path, run: Path) -> None:
    hold = "import sys, pathlib; from nanogrove.record.folder import RunFolder as R; r = R(pathlib.Path(sys.argv[1]))"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print('held', flush=True); sys.stdin.read()", str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        error = command("train", run, "--resume").error()
        assert f"{run}: in use by process {owner.pid}; wait for it, stop it, or choose another --out" in error
        assert "in use" in command("train", finished / "tiny.json", "--out", run).error()
        owner.kill()
    assert command("train", run, "--resume").code == 0, "a dead process still holds the folder"


@pytest.mark.parametrize("out", ["a file", "below a file", "no such place"])
def test_an_out_folder_that_cannot_be(command: Any, preset: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("precious")
    path = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "run", "no such place": "/proc/nope/run"}
    error = command("train", preset, "--out", path[out]).error()
    assert f"{path[out]}: no run folder can be made here (" in error
    assert "choose another --out" in error
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_folder_without_permission(command: Any, preset: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    error = command("train", preset, "--out", tmp_path / "closed" / "run").error()
    assert "no run folder can be made here (Permission denied)" in error


def test_a_record_that_is_not_ours_is_left_alone(command: Any, preset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").write_text("precious\n")
    command("train", preset, "--out", tmp_path / "out", "data.sources=nope.txt").error()
    assert (tmp_path / "out" / "events.jsonl").read_text() == "precious\n"


VERBS = {
    "evaluate another split": ("evaluate RUN --split=dev", "--split dev: no such split", "validation, test or train"),
    "evaluate no run": ("evaluate TMP", "TMP: no run here", "runs/NAME"),
    "evaluate no folder": ("evaluate TMP/nope", "TMP/nope: no run here", "runs/NAME"),
    "generate from no run": ("generate TMP", "TMP: neither a run nor a checkpoint", "runs/NAME"),
    "generate from no folder": ("generate TMP/nope", "TMP/nope: neither a run nor a checkpoint", "runs/NAME"),
    "generate from a file": ("generate TMP/tiny.json", "TMP/tiny.json: neither a run nor a checkpoint"),
    "a character it lacks": ("generate RUN The§end", "character '§' at position 3 is not among", "bpe"),
    "a penalty of NaN": (
        "generate RUN The --repetition-penalty=nan",
        "repetition_penalty: must be a finite number, and NaN was given",
    ),
    "a share above 1": ("generate RUN The --top-p=2", "top_p: must be 1 or less, and 2.0 was given"),
    "report of no run": ("report TMP", "TMP: "),
}


@pytest.mark.parametrize("case", VERBS)
def test_a_verb_that_cannot(command: Any, preset: Path, finished: Path, tmp_path: Path, case: str) -> None:
    line, *needles = [text.replace("TMP", str(tmp_path)) for text in VERBS[case]]
    error = command(*line.replace("RUN", str(finished / "run")).split(" ")).error()
    for needle in needles:
        assert needle in error


@pytest.mark.parametrize(
    "line",
    [
        "train",
        "generate RUN a --nope",
        "generate RUN The --temperature=-1",
        "generate RUN --tokens=0",
        "evaluate",
        "dance",
    ],
)
def test_a_command_line_that_makes_no_sense(command: Any, finished: Path, line: str) -> None:
    assert command(*line.replace("RUN", str(finished / "run")).split(" ")).error().startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"temperature": -1}, "temperature: "), ({"temperature": float("nan")}, "temperature: "), ({"heat": 1}, "heat: ")],
)
def test_a_setting_of_decoding_that_cannot_be(finished: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PresetError, match=message):
        load(finished / "run").generate("The", tokens=1, **arguments)


def test_a_split_that_is_none(finished: Path) -> None:
    with pytest.raises(PresetError, match="'dev' is not a split; take one of train, validation, test"):
        nanogrove.score(finished / "run", "dev")


def test_debug_shows_the_trace(command: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a run nor a checkpoint"):
        command("--debug", "generate", tmp_path)


def test_a_test_split_of_nothing(forked: Any, command: Any, tiny: Any, tmp_path: Path) -> None:
    path = in_the_file(tiny, tmp_path / "tiny.json", data={"test": 0}, train={"steps": 1})
    assert forked("train", path, "--out", tmp_path / "run").code == 0
    error = command("evaluate", tmp_path / "run", "--split=test").error()
    assert "the test split is empty; this run was made with data.test=0" in error


def reseal(folder: Path, **changes: Any) -> None:
    """Makes the checksums of a checkpoint fit what its files hold now, and changes its state."""
    state = json.loads((folder / "state.json").read_text())
    state |= changes
    state["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in state["files"]}
    del state["checksum"]
    state["checksum"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "state.json"])
def test_a_damaged_best_model(command: Any, run: Path, file: str) -> None:
    path = run / "checkpoints" / "best" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert f"{path}: damaged" in command("generate", run).error()
    assert command("generate", run / "checkpoints" / "current").code == 0


def test_a_checkpoint_of_another_format(command: Any, run: Path) -> None:
    for name in ("current", "prev", "prev2", "best"):
        reseal(run / "checkpoints" / name, format=2)
    for arguments in (("generate", run), ("train", run, "--resume")):
        error = command(*arguments).error()
        assert "has checkpoint format 2, and this nanogrove reads format 1; use the nanogrove that wrote it" in error


def test_a_state_without_a_step(command: Any, run: Path) -> None:
    reseal(run / "checkpoints" / "best", step=None)
    error = command("generate", run).error()
    assert f"{run / 'checkpoints' / 'best' / 'state.json'}: damaged" in error


def test_weights_of_another_model(command: Any, run: Path) -> None:
    best = run / "checkpoints" / "best"
    config = json.loads((best / "config.json").read_text())
    (best / "config.json").write_text(json.dumps({**config, "n_layer": 3}))
    reseal(best)
    error = command("generate", run).error()
    assert f"{best}: weight blocks.2." in error
    assert "is missing, and the configuration asks for" in error


def test_a_tokenizer_of_another_model(command: Any, run: Path) -> None:
    best = run / "checkpoints" / "best"
    (best / "tokenizer.json").write_text(character_tokenizer(["".join(map(chr, range(300, 900)))]).to_json())
    reseal(best)
    assert f"{best}: the tokenizer has 601 tokens and the model " in command("generate", run).error()


@pytest.fixture
def text(finished: Path) -> Iterator[Path]:
    """The text of the finished run, brought back as it was."""
    path = finished / "text.txt"
    was, times = path.read_bytes(), path.stat()
    yield path
    path.write_bytes(was)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "message"),
    [("new characters 0123", "has another vocabulary than the data"), ("the same sun", "the data has changed since")],
)
def test_a_corpus_that_has_changed(command: Any, run: Path, text: Path, change: str, message: str) -> None:
    before = (run / "events.jsonl").read_bytes()
    text.write_text(text.read_text("utf-8") + change, encoding="utf-8")
    assert message in command("train", run, "--resume").error()
    assert (run / "events.jsonl").read_bytes() == before
    assert "the data has changed since" in command("evaluate", run).error()


def test_a_corpus_that_is_gone(command: Any, run: Path, text: Path) -> None:
    text.unlink()
    assert f"{text}: no such file or folder" in command("train", run, "--resume").error()
