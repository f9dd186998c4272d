"""Whatever is wrong is told in one line that says what, where and what to do; the exit code is 2."""

import errno
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
import torch

import nanogrove
from nanogrove.data.sources import PIECE
from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.language_model import load
from nanogrove.model.gpt import GPT, ModelConfig
from nanogrove.train.checkpoint import load_best, load_checkpoint, load_latest, save_checkpoint
from nanogrove.train.optim import OptimizerConfig, make_optimizer
from nanogrove.train.state import TrainState


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
    "folder without texts": ("data.sources=TMP/no-texts", "TMP/no-texts: no file matches glob '**/*.txt'", "data.sou"),
    "corpus below a block": ("data.sources=TMP/short.txt", "TMP/short.txt: the train split has", "model.block_size"),
    "unknown encoding": (
        'data.sources=[{"type": "text", "path": "TMP/short.txt", "encoding": "utf-9"}]',
        "data.sources: unknown encoding 'utf-9'",
        "latin-1",
    ),
    "nothing left to train on": ("data.test=0.97", "data.validation and data.test leave nothing", "below 1"),
    "tokenizer that is missing": ("data.tokenizer=TMP/nope.json", "TMP/nope.json: cannot read this tokenizer"),
    "tokenizer that is none": ("data.tokenizer=TMP/list.json", "TMP/list.json: not a tokenizer.json"),
    "bpe without room": ("data.tokenizer=bpe data.vocab_size=100", "data.vocab_size=100 is too small", "256 bytes"),
    "model without room": ("model.vocab_size=7", "model.vocab_size=7 is smaller than the tokenizer's", "leave it out"),
    "unknown key": ("train.stepz=3", "unknown key train.stepz; did you mean train.steps?"),
    "key without its section": ("n_layer=3", "unknown key n_layer; did you mean model.n_layer?"),
    "no override": ("train.steps", "'train.steps' is no override; write section.key=value"),
    "wrong type": ("train.steps=many", "train.steps=many:", "integer", "'many' was given"),
    "out of range": ("model.dropout=1.5", "model.dropout=1.5:", "less than 1"),
    "not a number": ("optimizer.lr=NaN", "optimizer.lr=NaN:", "finite"),
    "a seed too large": ("seed=99999999999999999999", "seed=99999999999999999999:", "less than"),
    "no such choice": ("model.family=gpt3", "model.family=gpt3:", "'gpt2', 'llama' or 'nanochat'"),
    "heads do not fit": ("model.n_embd=15", "model: n_embd 15 is not divisible by n_head 2"),
    "two budgets": ("train.tokens=100", "train: steps and tokens are set; set one of steps, tokens and epochs"),
    "no budget": ("train.steps=null", "train: no budget is set; set one of steps, tokens and epochs"),
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
    "wrong type": ({"train": {"steps": "many"}}, "train.steps: input should be a valid integer"),
    "section that is none": ({"train": 5}, "train: input should be a valid dictionary"),
    "heads do not fit": ({"model": {"n_head": 3}}, "model: n_embd 16 is not divisible by n_head 3"),
    "two budgets": ({"train": {"epochs": 2}}, "train: steps and epochs are set"),
    "source of no type": ({"data": {"sources": [{"type": "telepathy"}]}}, "data.sources"),
    "no data": ({"data": None}, "data: "),
}


@pytest.mark.parametrize("case", FILES)
def test_a_preset_file_that_cannot_be(command: Any, tiny: Any, tmp_path: Path, case: str) -> None:
    sections, needle = FILES[case]
    path = in_the_file(tiny, tmp_path / "bad.json", **sections)
    assert needle in command("train", path, "--out", tmp_path / "out").error()
    assert not (tmp_path / "out").exists(), "a folder was left behind in which nothing began"


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
    assert "no preset is called 'quickstrat'; did you mean quickstart?; `nanogrove presets` lists them" in error


def straddling(character: bytes) -> bytes:
    """Text in which a character of several bytes lies across the border of the first piece that is read."""
    return b"x" * (PIECE - 1) + character + b"y" * 1000


LATIN = {
    "at the start": b"\xff" + b"x" * 2000,
    "in the first piece": b"caf\xc3\xa9 caf\xe9 " + b"x" * 2000,
    "first of the second piece": b"x" * PIECE + b"\xe9" + b"y" * 1000,
    "far in": b"x" * (2 * PIECE + 17) + b"\xc3\xa9\xe9" + b"y" * 1000,
    "begun before the border, broken behind it": straddling(b"\xe2\x82("),
    "behind a character across the border": straddling("€".encode() + b"\xe9"),
    "unfinished at the end": b"x" * 2000 + b"\xe2\x82",
}


@pytest.mark.parametrize("case", LATIN)
def test_a_text_that_is_not_utf8(command: Any, preset: Path, tmp_path: Path, case: str) -> None:
    path, out = tmp_path / "latin.txt", tmp_path / "out"
    path.write_bytes(LATIN[case])
    with pytest.raises(UnicodeDecodeError) as truth:
        LATIN[case].decode("utf-8")
    arguments = ("train", preset, "--out", out, "train.steps=1", "evaluate.tokens=20")
    error = command(*arguments, f"data.sources={path}").error()
    at = truth.value.start
    assert f"{path}: not utf-8: byte 0x{LATIN[case][at]:02x} at offset {at};" in error
    advice = re.search(r"data\.sources=\[.*\]$", error)
    assert advice, error
    assert command(*arguments, advice[0]).code == 0, "what the message advises does not work"


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
    ("override", "said"),
    [
        ("train.steps=60", "train.steps is 30 there and 60 here"),
        ("optimizer.lr=0.5", "optimizer.lr is 0.001 there and 0.5 here"),
        ("train.clip=null", "train.clip is 1.0 there and null here"),
        ("data.tokenizer=byte", 'data.tokenizer is "char" there and "byte" here'),
        ('sample.prompts=["The"]', 'sample.prompts is [""] there and ["The"] here'),
        ("seed=1", "seed is 0 there and 1 here"),
    ],
)
def test_a_resume_with_another_preset(command: Any, finished: Path, run: Path, override: str, said: str) -> None:
    for arguments in ((run, "--resume"), (finished / "tiny.json", "--out", run, "--resume")):
        error = command("train", *arguments, override).error()
        assert f"{run}: a resumed run keeps its preset, and {said}; start anew with another --out" in error


def test_a_resume_where_no_run_is(command: Any, tmp_path: Path) -> None:
    error = command("train", tmp_path, "--resume").error()
    assert f"{tmp_path}: no run here" in error
    assert "--out" in error


def test_a_stored_preset_that_is_damaged(command: Any, run: Path) -> None:
    (run / "preset.json").write_text("{")
    assert f"{run / 'preset.json'}: cannot be read" in command("train", run, "--resume").error()


def test_a_run_in_use_by_a_living_process(command: Any, finished: Path, run: Path) -> None:
    hold = "import sys, pathlib; from nanogrove.record.run import RunFolder as R; r = R(pathlib.Path(sys.argv[1]))"
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
    "a penalty that is no number": ("generate RUN The --repetition-penalty=nan", "repetition_penalty:", "greater"),
    "a share above 1": ("generate RUN The --top-p=2", "top_p:", "less than or equal to 1"),
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
    ["train", "train a --nope", "generate RUN The --temperature=-1", "generate RUN --tokens=0", "evaluate", "dance"],
)
def test_a_command_line_that_makes_no_sense(command: Any, finished: Path, line: str) -> None:
    ended = command(*line.replace("RUN", str(finished / "run")).split(" "))
    assert ended.code == 2
    assert "Usage:" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"temperature": -1}, "temperature: "), ({"temperature": float("nan")}, "temperature: "), ({"heat": 1}, "heat: ")],
)
def test_a_setting_of_decoding_that_cannot_be(finished: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(PresetError, match=said):
        load(finished / "run").generate("The", tokens=1, **arguments)


def test_a_split_that_is_none(finished: Path) -> None:
    with pytest.raises(PresetError, match="'dev' is no split; take one of train, validation, test"):
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
    ("change", "said"),
    [("new characters 0123", "has another vocabulary than the data"), ("the same sun", "the text has changed since")],
)
def test_a_corpus_that_has_changed(command: Any, run: Path, text: Path, change: str, said: str) -> None:
    before = (run / "events.jsonl").read_bytes()
    text.write_text(text.read_text("utf-8") + change, encoding="utf-8")
    assert said in command("train", run, "--resume").error()
    assert (run / "events.jsonl").read_bytes() == before
    assert "the text has changed since" in command("evaluate", run).error()


def test_a_corpus_that_is_gone(command: Any, run: Path, text: Path) -> None:
    text.unlink()
    assert f"{text}: no such file or folder" in command("train", run, "--resume").error()


def changes_of(forked: Any, preset: Path, folder: Path) -> list[str]:
    """The changes of the file system a run makes that finds its text prepared."""
    assert forked("train", preset, "--dry-run").code == 0
    assert forked("train", preset, "--out", folder / "whole", count=str(folder / "changes")).code == 0
    return (folder / "changes").read_text().splitlines()


def test_a_disk_that_fills_while_saving(forked: Any, preset: Path, tmp_path: Path) -> None:
    """From within the third save on, no file can grow beyond 1,000 bytes."""
    changes, run = changes_of(forked, preset, tmp_path), tmp_path / "run"
    begun = [n for n, change in enumerate(changes, 1) if change.startswith("os.mkdir") and ".current" in change]
    # The first one is tried twice, its parent being made in between.
    ended = forked("train", preset, "--out", run, mishap={"at": begun[3], "kind": "full", "bytes": 1000})
    error = ended.error()
    assert f"{run / 'checkpoints' / 'current'}: could not be saved at step 12 (File too large)" in error
    assert "free some space and continue with --resume" in error
    newest, damaged = load_latest(run / "checkpoints")
    assert newest is not None
    assert (newest.state["step"], damaged) == (8, [])
    assert not list((run / "checkpoints").glob(".*")), "what was half written takes the space that is lacking"
    assert forked("generate", run, "The").code == 0
    assert forked("train", run, "--resume").code == 0
    same = [(folder / "checkpoints/current/model.safetensors").read_bytes() for folder in (run, tmp_path / "whole")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("^open.*preset.json.part", "the preset cannot be written (File too large); free some space"),
        ("^open.*/.best.part/model.safetensors", "could not be saved at step 5 (File too large)"),
        ("rename.*/.current.part", "the record cannot be written (File too large); free some space"),
        ("^open.*report.html.part", "File too large"),
    ],
)
def test_a_disk_that_is_full_elsewhere(forked: Any, preset: Path, tmp_path: Path, moment: str, said: str) -> None:
    changes, run = changes_of(forked, preset, tmp_path), tmp_path / "run"
    at = next(n for n, change in enumerate(changes, 1) if re.search(moment, change))
    ended = forked("train", preset, "--out", run, mishap={"at": at, "kind": "full", "bytes": 500})
    assert said in ended.error()
    assert forked("train", preset, "--out", run, "--resume").code == 0
    assert (run / "report.html").exists()


def test_a_disk_that_is_full_while_text_is_prepared(forked: Any, preset: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "new.txt").write_text("Nobody has read this before. " * 2000)
    arguments = ("train", preset, "--out", tmp_path / "run", f"data.sources={tmp_path / 'new.txt'}", "train.steps=2")
    whole = set(cache.iterdir())
    error = forked(*arguments, mishap={"at": 1, "kind": "full", "bytes": 5000}).error()
    assert "cannot write prepared data (File too large); free some space or set NANOGROVE_CACHE" in error
    assert set(cache.iterdir()) == whole, "half-prepared data was left behind"
    assert forked(*arguments).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_disk_that_is_full_in_earnest(forked: Any, preset: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        error = forked("train", preset, "--out", disk / "run").error()
        assert "No space left on device" in error
        assert "free some space" in error
        newest, damaged = load_latest(disk / "run" / "checkpoints")
        assert newest is not None
        assert not damaged
        subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
        assert forked("train", disk / "run", "--resume").code == 0
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def state() -> TrainState:
    """A training state as small as can be."""
    model = GPT(ModelConfig(vocab_size=4, n_layer=1, n_head=1, n_embd=4, block_size=4)).initialize(0)
    return TrainState(model, make_optimizer(model, OptimizerConfig()))


def full(*arguments: Any, **named: Any) -> Any:
    """What every call does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_best_model_that_a_kill_left_aside_outlives_a_save_that_fails(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = character_tokenizer(["abc"])
    save_checkpoint(tmp_path, "best", state, tokenizer, {}, moments=False)
    (tmp_path / "best").rename(tmp_path / ".best.old")  # as a kill between two renames leaves it
    state.step = 1
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(tmp_path, "best", state, tokenizer, {}, moments=False)
    assert load_best(tmp_path).state["step"] == 0
    save_checkpoint(tmp_path, "best", state, tokenizer, {}, moments=False)
    assert load_best(tmp_path).state["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("call", ["os.fsync", "os.open", "Path.rename", "Path.mkdir"])
def test_each_failing_step_of_a_save_leaves_the_older_ones_whole(
    state: TrainState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The n-th save fails in its n-th call, until there is no such call."""
    tokenizer, owner, name = character_tokenizer(["abc"]), os if call.startswith("os") else Path, call.split(".")[1]
    real = getattr(owner, name)
    for failing in range(100):
        calls = iter(range(100))

        def refuse(*arguments: Any, calls: Iterator[int] = calls, failing: int = failing, **named: Any) -> Any:
            return (full if next(calls) == failing else real)(*arguments, **named)

        state.step = 2 * failing + 1
        torch.nn.init.constant_(state.model.embed.weight, state.step)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            try:
                save_checkpoint(tmp_path, "current", state, tokenizer, {})
            except CheckpointError as error:
                refused = str(error)
            else:
                break
        assert "No space left on device" in refused
        newest, damaged = load_latest(tmp_path)
        assert not damaged
        if newest is not None:  # the last one that was saved, or the new one when all that failed came behind it
            assert newest.state["step"] in (state.step - 1, state.step)
            assert bool((newest.model["embed.weight"] == newest.state["step"]).all())
        assert (newest is None) is (failing == 0 and not (tmp_path / "current").exists())
        state.step = 2 * failing + 2
        torch.nn.init.constant_(state.model.embed.weight, state.step)
        save_checkpoint(tmp_path, "current", state, tokenizer, {})
    assert failing > 0, f"{call} was never called"
    assert load_checkpoint(tmp_path / "current").state["step"] == 2 * failing + 1
    assert load_checkpoint(tmp_path / "prev").state["step"] == 2 * failing
