"""A run folder writes through nothing that a stranger put there, keeps what is there, and knows what it has lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import TypedDict

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.folder import FILES, FOLDERS, RunFolder, read_preset


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def link_to_folder(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent)


def link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent / "missing")


def hard_link(path: Path, victim: Path) -> None:
    os.link(victim, path)


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, victim: Path) -> None:
    path.mkdir()


def file(path: Path, victim: Path) -> None:
    path.write_bytes(b"")


Form = Callable[[Path, Path], None]
FORMS = [link, link_to_folder, link_to_nothing, hard_link, pipe]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's, outside of any run."""
    path = tmp_path / "home" / "victim"
    path.parent.mkdir()
    path.write_bytes(b"precious")
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_part_that_is_not_plain_is_refused_and_named(tmp_path: Path, victim: Path, name: str, form: Form) -> None:
    run = tmp_path / "run"
    run.mkdir()
    form(run / name, victim)
    with pytest.raises(RunError, match=f"{run / name}: is (a|not a) .*; put a (file|folder) in its place"):
        RunFolder(run)
    assert (victim.read_bytes(), os.listdir(victim.parent)) == (b"precious", ["victim"])
    assert os.listdir(run) == [name], "nothing is left where nothing was begun"


@pytest.mark.parametrize(("name", "form"), [("preset.json", folder), (".lock", folder), ("checkpoints", file)])
def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path: Path, name: str, form: Form) -> None:
    (tmp_path / "run").mkdir()
    form(tmp_path / "run" / name, tmp_path)
    with pytest.raises(RunError, match=f"{name}: is (not )?a folder"):
        RunFolder(tmp_path / "run")


def test_a_run_folder_that_is_a_link_is_refused_and_its_target_named(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "run").symlink_to("target")
    with pytest.raises(RunError, match=f"run: is a link; give the folder that it leads to, {tmp_path / 'target'}"):
        RunFolder(tmp_path / "run")
    assert not os.listdir(tmp_path / "target")


def test_a_folder_in_which_nothing_began_is_taken_away_and_no_other(tmp_path: Path) -> None:
    RunFolder(tmp_path / "a" / "run").close()
    assert os.listdir(tmp_path / "a") == []
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "events.jsonl").write_text("precious")
    RunFolder(tmp_path / "notes").close()
    assert os.listdir(tmp_path / "notes") == ["events.jsonl"]


def test_the_record_is_cut_back_to_a_mark_of_its_own_only(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        run.append(Event("step", 1))
        first = run.mark()
        run.append(Event("step", 2))
        second = run.mark()
        run.rewind(first)
        assert run.mark() == first, "what is cut is gone from the digest, too"
        record = tmp_path / "run" / "events.jsonl"
        for damaged in (record.read_bytes()[:-1], b"x" * 200, b""):
            record.write_bytes(damaged)
            with pytest.raises(RunError, match="is not the record that its checkpoint was saved with; put that back"):
                run.rewind(second)
            assert record.read_bytes() == damaged
        run.rewind({"position": 0})
        run.append(Event("step", 1))
        run.append(Event("step", 2))
        assert run.mark() == second
        run.rewind({"position": first["position"]})  # as a checkpoint of an earlier version says
        assert run.mark() == first


def test_what_the_record_knows_however_damaged_it_is(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        assert (run.is_empty(), run.reached(), run.start(), run.end()) == (True, 0, None, None)
        lines = [Event("start", 0).line(), "\0" * 100 + "\n", "[" * 100_000 + "\n", "{}\n", Event("step", 7).line()]
        (tmp_path / "run" / "events.jsonl").write_text("".join(lines) + '{"kind": "st')
        assert (run.reached(), run.start(), run.end()) == (7, Event("start", 0), None)
        (tmp_path / "run" / "events.jsonl").write_text("".join(lines) + Event("end", 8).line())
        assert run.end() == Event("end", 8)


@pytest.mark.parametrize("part", ["events.jsonl", "checkpoints/current/state.json"])
def test_a_preset_that_is_missing_beside_other_parts_is_told(tmp_path: Path, part: str) -> None:
    assert read_preset(tmp_path) is None
    (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / part).write_text("{}")
    name = part.split("/")[0]
    with pytest.raises(RunError, match=f"preset.json: missing, and {name} of a run are here; put it back, or train in"):
        read_preset(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\0"])
def test_a_preset_that_is_damaged_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "preset.json").write_text(content)
    with pytest.raises(RunError, match=r"preset\.json: .*; put back what the run wrote there"):
        read_preset(tmp_path)


def test_a_preset_of_any_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "preset.json", "wb") as huge:
        huge.truncate(1 << 40)
    with pytest.raises(RunError, match="larger than 16,777,216 bytes"):
        read_preset(tmp_path)


class Row(TypedDict):
    """A row of these tests."""

    a: str


def accept(row: Row) -> None:
    if row["a"] == "z":
        raise ValueError("z is not a text of this run")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": "x"}\n{"a": 1}\n', "line 2: a must be text, and 1 was given"),
        (b'{"a": "x"}\n{"b": "x"}\n', "line 2: a is missing"),
        (b'{"a": "x"}\n[]\n', "line 2: "),
        (b'{"a": "z"}\n{"a": "x"}\n', "line 1: z is not a text of this run"),
        (b'{"a": "x"}\n{"a": "y"}', "line 2 is cut short"),
        (b'{"a": "x"}\n', "with 1 rows of 2"),
        (b"", "with 0 rows of 2"),
        (b'{"a": "x"\n\n', "expecting ',' delimiter"),
        (b"[" * 100_000 + b"\n\n", "nested too deeply"),
    ],
)
def test_damaged_rows_are_refused_with_what_can_be_done(tmp_path: Path, data: bytes, message: str) -> None:
    with RunFolder(tmp_path) as run:
        run.write_rows("labels", [{"a": "x"}, {"a": "y"}])
        assert run.read_rows("labels", Row, accept, 2) == [{"a": "x"}, {"a": "y"}]
        (tmp_path / "data" / "labels.jsonl").write_bytes(data)
        with pytest.raises(RunError) as refused:
            run.read_rows("labels", Row, accept, 2)
    line = str(refused.value)
    assert line.startswith(f"{tmp_path / 'data' / 'labels.jsonl'}: is damaged, ")
    assert message in line
    assert line.endswith("; put back what the run wrote there, or train anew in another folder")
    assert "\n" not in line


def test_rows_are_written_in_a_folder_of_their_own_and_read_back(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        run.write_rows("labels", [{"a": "é"}])
        assert run.read_rows("labels", Row, accept, None) == [{"a": "é"}]
        (tmp_path / "run" / "data" / "labels.jsonl").unlink()
        os.mkfifo(tmp_path / "run" / "data" / "labels.jsonl")
        with pytest.raises(RunError, match=r"labels\.jsonl: cannot be read \(not a file\); put back what the run"):
            run.read_rows("labels", Row, accept, None)
        run.write_preset({"name": "é"})
    assert json.loads((tmp_path / "run" / "preset.json").read_bytes()) == {"name": "é"}
    assert (tmp_path / "run" / "checkpoints").is_dir()


def test_what_a_killed_writer_left_aside_is_removed_once_the_file_is_whole(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("data/.round-1.jsonl.0123abcd.part", ".preset.json.0123abcd.part"):
        (tmp_path / name).write_bytes(b"torn")
    with RunFolder(tmp_path) as run:
        run.write_preset({"name": "tiny"})
        run.write_rows("round-1", [1])
    assert not list(tmp_path.rglob("*.part"))
