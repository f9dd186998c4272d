"""The list knows a run by its files: what was read is kept, and read anew once one of them changes."""

import json
import os
from pathlib import Path

import pytest
from tests.ui.conftest import evaluation, step, write_run

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.listing import Listed, listed
from nanogrove.record.lock import FolderLock
from nanogrove.ui import index as indices
from nanogrove.ui.index import FILE, Index
from nanogrove.ui.notes import Notes, write_notes


def test_runs_are_listed_anew_only_where_their_files_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = write_run(tmp_path / "done", step(10), Event("end", 10, {"loss": 2.0}))
    write_run(tmp_path / "some", step(4))
    calls = list[str]()

    def counted(run: Path, root: Path) -> Listed:
        calls.append(run.name)
        return listed(run, root)

    monkeypatch.setattr(indices, "listed", counted)
    assert {key: entry.run.state for key, entry in Index(tmp_path).read().runs.items()} == {
        "done": "finished",
        "some": "stopped",
    }
    assert calls == ["done", "some"]
    again = Index(tmp_path)  # of another start
    lock = FolderLock(tmp_path / "some")
    assert again.read().runs["some"].run.state == "running"
    lock.release()
    assert again.read().runs["some"].run.state == "stopped"
    assert calls == ["done", "some"]
    with (done / "events.jsonl").open("a") as record:
        record.write(evaluation(10, 1.5).line())
    assert again.read().runs["done"].run.figure == 1.5
    assert calls == ["done", "some", "done"]


def test_notes_and_new_runs_are_seen(tmp_path: Path) -> None:
    run, index = write_run(tmp_path / "a"), Index(tmp_path)
    assert index.read().runs["a"].notes == Notes()
    write_notes(run, Notes(tags=["x"]), Notes().digest())
    write_run(tmp_path / "deep" / "b")
    lab = index.read()
    assert list(lab.runs) == ["a", "deep/b"]
    assert lab.runs["a"].notes.tags == ["x"]


FORGED = b'{"a": {"stamp": [1], "run": {"name": "../../etc", "figure": {}}, "notes": {}}}'


@pytest.mark.parametrize("kept", [b"{", b"[]", b"null", FORGED, b"9" * 5000])
def test_a_damaged_index_is_made_anew(tmp_path: Path, kept: bytes) -> None:
    write_run(tmp_path / "a", step(3))
    (tmp_path / FILE).write_bytes(kept)
    assert Index(tmp_path).read().runs["a"].run.step == 3
    (tmp_path / "a" / "events.jsonl").write_text("{}\n{}\n")
    assert Index(tmp_path).read().runs["a"].run.damage == "events.jsonl is damaged"


def test_an_index_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Event("end", 3))
    (tmp_path / FILE).mkdir()
    lab = Index(tmp_path).read()
    assert list(lab.runs) == ["a"]
    assert lab.problem.startswith(f"{tmp_path / FILE}: cannot be written (Is a directory); move away what is there;")


def test_an_index_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    write_run(root / "a", Event("end", 3))
    elsewhere.write_text("{}")
    (root / FILE).symlink_to(elsewhere)
    Index(root).read()
    assert elsewhere.read_text() == "{}"
    assert "a" in json.loads((root / FILE).read_text())


def test_links_lead_nowhere(tmp_path: Path) -> None:
    write_run(tmp_path / "outside" / "b")
    root = tmp_path / "runs"
    a = write_run(root / "a")
    (root / "link").symlink_to(tmp_path / "outside")
    index = Index(root)
    assert list(index.read().runs) == ["a"]
    outside = str(tmp_path / "outside" / "b")
    for name in ("link/b", "link", "../outside/b", "a/../../outside/b", outside, "a/x", "\0"):
        with pytest.raises((RunError, ValueError)):
            index.path_of(name)
    a.rename(root / "c")
    a.symlink_to(root / "c")
    with pytest.raises(RunError, match="no run is here"):
        index.path_of("a")


def test_a_name_that_is_not_utf8_has_an_address(tmp_path: Path) -> None:
    write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))
    assert list(Index(tmp_path).read().runs) == ["caf\\xe9"]


def test_studies_are_listed_with_their_ways(tmp_path: Path) -> None:
    study = tmp_path / "rates"
    write_run(study / "runs" / "fast" / "seed-0")
    (study / "study.json").write_text(json.dumps({"arms": [{"name": "fast"}, {"name": "slow"}]}))
    (study / "plan.json").write_text(json.dumps({"measure": "loss"}))
    (study / "results.jsonl").write_text("{}\n{}\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "study.json").write_text("{")
    lab = Index(tmp_path).read()
    assert list(lab.runs) == ["rates/runs/fast/seed-0"]
    rates, bad = lab.studies["rates"], lab.studies["bad"]
    assert (rates.arms, rates.measure, rates.results, rates.running) == (("fast", "slow"), "loss", 2, False)
    assert "study.json: cannot be read" in bad.damage


def test_a_folder_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a folder; name one that holds runs"):
        Index(tmp_path / "none")
