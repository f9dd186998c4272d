"""Trackers, with the real libraries: what they store, where, and that none of them looks for a network."""

import importlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogrove.errors import PresetError
from nanogrove.record.events import Event
from nanogrove.record.trackers import Tracker, open_trackers

NASTY = "</pre><script>x</script>\n# no heading"

# wandb starts a service and trackio settles its folder when it is imported, so each gets a process of its own. Any
# name asked of the network is written down, by the threads that report on exit too.
ALONE = """
import json, os, socket, sys
from pathlib import Path

run, asked = Path("run"), Path("asked.txt").resolve()
names, parts = json.loads(Path("task.json").read_text())
def refuse(host, *rest, **named):
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        with asked.open("a") as file:
            file.write(f"{host} ")
        raise OSError("no network in tests")
    return find(host, *rest, **named)
find, socket.getaddrinfo = socket.getaddrinfo, refuse

from nanogrove.record.events import Event
from nanogrove.record.trackers import open_trackers
from nanogrove.errors import PresetError

for part in parts:
    try:
        trackers = open_trackers(names, run, {"model": {"n_layer": 2}}, project="lab", name="first")
    except PresetError as error:
        print(f"refused: {error}")
        break
    for event in (Event(*fields) for fields in part):
        with (run / "events.jsonl").open("a") as file:
            file.write(event.line())
        for tracker in trackers:
            tracker.log(event)
    for tracker in trackers:
        tracker.close()
"""


def events(first: int, last: int) -> list[Event]:
    listed = []
    for n in range(first, last + 1):
        listed.append(Event("eval", n, {"split": "validation", "loss": n + 0.25, "seen": 8 * n}, {"seconds": 9.0}))
        values = {"loss": n + 0.125, "lr": 0.5, "grad_norm": float("nan"), "tokens": 8 * n}
        listed.append(Event("step", n, values, {"seconds": n + 0.0625}))
    listed.append(Event("sample", last, {"prompt": "<b>", "text": NASTY}))
    return listed


def run_alone(tmp_path: Path, name: str, *parts: list[Event], **environment: str) -> str:
    """Log each part with a freshly opened tracker, all in one process; its standard output."""
    (tmp_path / "run").mkdir()
    asked = tmp_path / "asked.txt"
    # In a file, because wandb keeps the command line too, where a test would find everything.
    parted = [[[e.kind, e.step, e.values, e.time] for e in part] for part in parts]
    (tmp_path / "task.json").write_text(json.dumps([[name], parted]))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "TRACKIO_", "HF_"))}
    clean |= {"HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        env=clean,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not asked.exists(), f"{name} looked for {asked.read_text()}"
    return done.stdout


def one(name: str, run: Path) -> Tracker:
    [tracker] = open_trackers([name], run, {"model": {"n_layer": 2}}, project="lab")
    return tracker


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run / "trackers" / "tensorboard"))
    board.Reload()
    return {tag: [(s.step, s.value) for s in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_holds_numbers_and_texts(tmp_path: Path) -> None:
    tracker = one("tensorboard", tmp_path)
    for event in [Event("start", 0, {"parameters": 5}), *events(1, 2), Event("end", 2, {"loss": 2.25})]:
        tracker.log(event)
    tracker.close()
    numbers = scalars(tmp_path)
    assert numbers["train/loss"] == [(1, 1.125), (2, 2.125)]
    assert numbers["validation/loss"] == [(1, 1.25), (2, 2.25)]
    assert numbers["time/seconds"] == [(1, 1.0625), (2, 2.0625)]
    assert numbers["end/loss"] == [(2, 2.25)]
    assert set(numbers) == {
        *("train/loss", "train/lr", "train/tokens", "time/seconds"),
        *("validation/loss", "validation/seen", "end/loss"),
    }
    board = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    board.Reload()
    [sample] = board.Tensors("sample/text_summary")
    text = sample.tensor_proto.string_val[0].decode()
    assert "prompt: <b>" in text
    assert all(line.startswith("    ") for line in text.split("\n")), "shown as it is, not as Markdown"


def test_tensorboard_forgets_what_a_kill_undid(tmp_path: Path) -> None:
    first = one("tensorboard", tmp_path)
    for event in events(1, 5):
        first.log(event)
    first.close()
    again = one("tensorboard", tmp_path)
    again.log(Event("step", 4, {"loss": 40.0}))
    again.close()
    assert scalars(tmp_path)["train/loss"] == [(1, 1.125), (2, 2.125), (3, 3.125), (4, 40.0)]


def test_a_population_is_shown_by_its_median_and_range(tmp_path: Path) -> None:
    tracker = one("tensorboard", tmp_path)
    tracker.log(Event("step", 1, {"loss": [3.0, 1.0, 2.0, float("inf")], "parts": {"value": [7]}, "flag": True}))
    tracker.log(Event("step", 2, {"loss": [None], "note": "text"}))
    tracker.close()
    numbers = {tag: values for tag, values in scalars(tmp_path).items() if not tag.startswith("train/parts")}
    assert numbers == {"train/loss": [(1, 2.0)], "train/loss_min": [(1, 1.0)], "train/loss_max": [(1, 3.0)]}
    assert scalars(tmp_path)["train/parts/value"] == [(1, 7.0)]


def test_trackio_holds_numbers_and_texts_in_the_run_folder_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    output = run_alone(tmp_path, "trackio", events(1, 2), events(3, 3))
    assert output == ""
    assert not (tmp_path / "home").exists(), "nothing outside the run folder"
    database = sqlite3.connect(tmp_path / "run" / "trackers" / "trackio" / "lab.db")
    rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    runs = database.execute("SELECT COUNT(DISTINCT run_id) FROM metrics").fetchone()
    database.close()
    logged = [(name, step, json.loads(metrics)) for name, step, metrics in rows]
    assert runs == (1,)
    assert {name for name, _, _ in logged} == {"first"}
    losses = [(step, values["train/loss"]) for _, step, values in logged if "train/loss" in values]
    assert losses == [(1, 1.125), (2, 2.125), (3, 3.125)]
    [sample, _] = [values["sample"]["_value"] for _, _, values in logged if "sample" in values]
    assert "    # no heading" in sample.split("\n")


def test_trackio_keeps_to_the_folder_the_user_chose(tmp_path: Path) -> None:
    run_alone(tmp_path, "trackio", events(1, 1), TRACKIO_DIR=str(tmp_path / "all"))
    assert (tmp_path / "all" / "lab.db").exists()
    assert not (tmp_path / "run" / "trackers" / "trackio").exists()


def test_trackio_refuses_a_second_folder_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utils = type(sys)("trackio.utils")
    utils.TRACKIO_DIR = tmp_path / "first"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", type(sys)("trackio"))
    monkeypatch.setitem(sys.modules, "trackio.utils", utils)
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    with pytest.raises(PresetError, match="set TRACKIO_DIR"):
        one("trackio", tmp_path / "second")
    assert "TRACKIO_DIR" not in os.environ


def wandb_files(tmp_path: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((tmp_path / "run" / "trackers" / "wandb").rglob("run-*.wandb"))]


@pytest.mark.slow
def test_wandb_is_offline_and_tells_a_resumed_run_from_its_beginning(tmp_path: Path) -> None:
    run_alone(tmp_path, "wandb", events(1, 2), events(3, 3))
    [first, second] = wandb_files(tmp_path)
    for content in (first, second):
        assert all(key in content for key in (b"train/loss", b"validation/loss", b"time/seconds", b"n_layer"))
        assert b"\x051.125" in content
        assert b"grad_norm" not in content
    assert b"\x053.125" not in first  # after its length, since wandb's own figures of memory may end alike
    assert b"\x053.125" in second
    one_id = (tmp_path / "run" / "trackers" / "wandb" / "id.txt").read_text()
    assert {path.stem for path in tmp_path.rglob("run-*.wandb")} == {f"run-{one_id}"}
    [page, *_] = tmp_path.rglob("sample_2_*.html")
    assert "&lt;/pre&gt;&lt;script&gt;" in page.read_text()


def test_wandb_online_without_a_key_is_refused_and_never_asks(tmp_path: Path) -> None:
    output = run_alone(tmp_path, "wandb", events(1, 1), WANDB_MODE="online", WANDB_ERROR_REPORTING="false")
    assert output == ("refused: track.trackers: wandb is online and has no API key; run `wandb login` first\n")
    assert wandb_files(tmp_path) == []


def test_wandb_can_be_switched_off_from_outside(tmp_path: Path) -> None:
    assert run_alone(tmp_path, "wandb", events(1, 1), WANDB_MODE="disabled") == ""
    assert wandb_files(tmp_path) == []


def test_no_names_open_nothing(tmp_path: Path) -> None:
    assert open_trackers([], tmp_path, {}) == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused_before_any_is_opened(tmp_path: Path) -> None:
    with pytest.raises(PresetError, match=r"track\.trackers: no tracker is called 'tensorbord'"):
        open_trackers(["tensorboard", "tensorbord"], tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_missing_library_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = importlib.import_module

    def absent(wanted: str) -> object:
        if wanted == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(wanted)

    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with pytest.raises(PresetError, match=rf"{name} is not installed; pip install 'nanogrove\[track\]'"):
        open_trackers([name], tmp_path, {})


def test_trackers_already_open_are_closed_when_a_later_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanogrove.record import trackers

    closed = []

    class Good:
        def __init__(self, *_: object) -> None: ...

        def log(self, event: Event) -> None: ...

        def close(self) -> None:
            closed.append(self)

    def bad(*_: object) -> Iterator[None]:
        raise PresetError("no")

    monkeypatch.setattr(trackers, "TRACKERS", {"good": Good, "bad": bad})
    with pytest.raises(PresetError, match="no"):
        open_trackers(["good", "bad"], tmp_path, {})
    assert len(closed) == 1
