"""Tags and notes: what fits, what is damaged, and nothing lost."""

from pathlib import Path

import pytest

from nanogrove.errors import RunError
from nanogrove.ui.notes import FILE, Notes, parse_notes, read_notes, write_notes


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    notes = parse_notes(" wide,  old  one,, wide ", "a\r\nb \n")
    assert (notes.tags, notes.note) == (["wide", "old one"], "a\nb")
    write_notes(tmp_path, notes, Notes().digest())
    assert read_notes(tmp_path) == notes


@pytest.mark.parametrize(("tags", "note"), [("x" * 41, ""), (",".join(map(str, range(21))), ""), ("", "x" * 10_001)])
def test_too_much_is_refused(tags: str, note: str) -> None:
    with pytest.raises(RunError, match="too long; there is room for 20 tags of 40 characters and a note of 10,000"):
        parse_notes(tags, note)


def test_what_another_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    write_notes(tmp_path, Notes(note="first"), Notes().digest())
    with pytest.raises(RunError, match="changed elsewhere meanwhile"):
        write_notes(tmp_path, Notes(note="second"), Notes().digest())
    assert read_notes(tmp_path).note == "first"


@pytest.mark.parametrize("text", ["{", "[]", '{"tags": 3}', '{"tags": [], "note": "", "more": 1}', "[" * 100_000])
def test_damaged_notes_are_said_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match=r"notes\.json: cannot be read .*mend it, or move it away"):
        write_notes(tmp_path, Notes(note="new"), Notes().digest())
    assert (tmp_path / FILE).read_text() == text


def test_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"note": "secret"}')
    (tmp_path / FILE).symlink_to("secret")
    with pytest.raises(RunError, match="cannot be read"):
        read_notes(tmp_path)
