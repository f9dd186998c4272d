"""A file that is dropped: kept whole and under a name of its own, explored apart, and a form that begins from it."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Tiny
from tests.ui.conftest import Browser
from tests.ui.test_new_run import Fields

from nanogrove.ui import files, processes
from nanogrove.ui.files import Files

TEXT = b"a cat and a dog\n" * 40
PRINTED = "notes.txt: <b>text</b>, 640 bytes\n\nmodel       4 layers\npreset      preset.json\n"
LAST = "train it with \\`nanogrove train preset.json\\`"


@pytest.fixture
def client(browser: Browser) -> Any:
    return browser()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where dropped files are kept."""
    return tmp_path / "runs" / "files"


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: Tiny) -> Path:
    """What runs in place of Python: explores any file with the same answer, prints figures, and keeps its arguments."""
    path, preset = tmp_path / "python", tmp_path / "proposed"
    preset.write_text(json.dumps(tiny()))
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\ncase "$*" in\n'
        f'*explore*) cp {preset} preset.json; printf "{PRINTED}"; echo "{LAST}";;\n'
        "*) cat > /dev/null; echo figures;;\nesac\n"
    )
    path.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(path))
    return path


def refused(client: Any, **words: Any) -> str:
    answer = client.post("/files", params={"name": "a.txt"}, **words)
    assert answer.status_code == 409
    return str(answer.text)


def test_a_file_is_kept_whole_and_over_no_other(client: Any, kept: Path) -> None:
    names = [client.post("/files?name=notes.txt", content=content).text for content in (TEXT, b"other", TEXT, b"third")]
    assert names == ["notes.txt", "notes-2.txt", "notes.txt", "notes-3.txt"]
    contents = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert contents == {"notes.txt": TEXT, "notes-2.txt": b"other", "notes-3.txt": b"third"}
    assert "Dropped before: " in client.get("/new").text


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("My <b>notes (1).txt", "My-b-notes-1.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\a.csv.GZ", "a.csv.gz"),
        ("数据.csv", "file.csv"),
        (".hidden", "hidden"),
        ("preset.json", "preset-2.json"),
        ("events.jsonl", "events-2.jsonl"),
        ("-x" * 200 + ".parquet", "-".join("x" * 40) + ".parquet"),
        ("a\0b.txt", "a-b.txt"),
        ("", "file"),
        ("..", "file"),
        ("a." + "b" * 300, "a." + "b" * 19),
    ],
)
def test_a_name_becomes_a_plain_one_with_its_ending(client: Any, kept: Path, name: str, plain: str) -> None:
    assert client.post("/files", params={"name": name}, content=b"x").text == plain
    assert [path.name for path in kept.iterdir()] == [plain]
    assert files.NAME.fullmatch(plain)


def test_what_is_too_large_or_does_not_come_leaves_nothing(
    client: Any, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    assert "larger than 0 GiB" in refused(client, content=b"x" * 101)

    def parts() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 40

    assert "larger than 0 GiB" in refused(client, content=parts())  # whose length is not said
    assert client.post("/files?name=a.txt", content=b"x" * 100).status_code == 200
    monkeypatch.setattr(Files, "_place", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert "(No space left on device); free some space and drop the file again" in refused(client, content=b"y")
    assert [path.name for path in kept.iterdir()] == ["a.txt"]


def test_only_who_has_the_secret_and_comes_from_the_page_may_drop(browser: Browser, kept: Path) -> None:
    assert browser(known=False).post("/files?name=a.txt", content=b"x").status_code == 403
    other = {"Origin": "http://elsewhere.example"}
    assert browser().post("/files?name=a.txt", content=b"x", headers=other).status_code == 403
    assert not kept.exists()


def test_a_link_in_the_place_of_the_folder_or_of_a_file_is_not_followed(
    client: Any, kept: Path, tmp_path: Path, python: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    kept.symlink_to(outside)
    assert "is a link, and files are not kept there" in refused(client, content=b"x")
    assert client.get("/new?file=secret.txt").status_code == 404
    kept.unlink()
    kept.mkdir()
    (kept / "a.txt").symlink_to(outside / "secret.txt")
    (kept / "b.txt").symlink_to(outside / "new")
    assert client.post("/files?name=a.txt", content=b"secret").text == "a-2.txt"
    assert client.post("/files?name=b.txt", content=b"x").text == "b-2.txt"
    for name in ("a.txt", "b.txt", "../p.json", "", ".", "x" * 5000, "none.txt"):
        assert client.get("/new", params={"file": name}).status_code == 404
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == "secret"
    assert not (tmp_path / "arguments").exists()


def test_a_form_begins_from_a_file_with_its_figures(
    client: Any, kept: Path, tmp_path: Path, python: Path, begun: list[subprocess.Popen[bytes]]
) -> None:
    name = client.post("/files?name=notes.txt", content=TEXT).text
    page = client.get(f"/new?file={name}").text
    explored = re.search(r"What the file holds</h2><pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert explored is not None
    assert explored[1] == "notes.txt: &lt;b&gt;text&lt;/b&gt;, 640 bytes\n\nmodel       4 layers"
    assert ">figures</pre>" in page
    form = Fields(page).sent
    assert (form["train.steps"], form["folder"]) == ("30", "tiny")
    answer = client.post(f"/new?file={name}", data={"folder": "mine", "do": "start", "seen": form["seen"]})
    assert answer.url.path == "/run"
    assert json.loads((tmp_path / "runs" / "mine" / "preset.json").read_text())["train"]["steps"] == 30
    begun[0].wait(60)
    lines = (tmp_path / "arguments").read_text().splitlines()
    assert lines[:2] == [
        f"-P -m nanogrove explore {kept / name} --out preset.json",
        "-P -m nanogrove train - --dry-run",
    ]
    assert len(lines) == 3  # what was explored is kept, and the third is the run


def test_a_file_that_explore_refuses_has_its_error_on_the_page_and_is_not_kept(
    client: Any, kept: Path, python: Path
) -> None:
    client.post("/files?name=kept.txt", content=TEXT)
    assert client.get("/new?file=kept.txt").status_code == 200
    name = client.post("/files?name=a.bin", content=b"\0\1").text
    python.write_text('#!/bin/sh\necho "a <i>description"\necho "error: a.bin: not text; <b>rename it" >&2\nexit 2\n')
    answer = client.get(f"/new?file={name}")
    assert answer.status_code == 422
    assert '<p class="alert" role="alert">a.bin: not text; &lt;b&gt;rename it; the file was not kept</p>' in answer.text
    assert ">a &lt;i&gt;description</pre>" in answer.text
    assert 'id="drop"' in answer.text
    assert client.get(f"/new?file={name}").status_code == 404
    (kept / "kept.txt").write_bytes(TEXT * 2)  # explored before, so that it may be the data of a run
    assert client.get("/new?file=kept.txt").status_code == 422
    assert [path.name for path in kept.iterdir()] == ["kept.txt"]
    python.write_text("#!/bin/sh\necho '[1' > preset.json\n")
    other = client.post("/files?name=b.txt", content=TEXT).text
    assert "b.txt: not a preset in JSON" in client.get(f"/new?file={other}").text


def test_exploring_that_takes_too_long_is_ended(
    client: Any, kept: Path, python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_SECONDS", 0.1)
    name = client.post("/files?name=a.txt", content=TEXT).text
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    assert "a file takes more than 0 seconds here; give its path to" in client.get(f"/new?file={name}").text
    python.write_text("#!/bin/sh\nexec kill -9 $$\n")
    assert "the file ended with code -9" in client.get(f"/new?file={name}").text
    assert [path.name for path in kept.iterdir()] == [name], "only what is refused goes"


@pytest.mark.slow
def test_a_dropped_file_is_explored_as_the_command_line_does(client: Any, kept: Path) -> None:
    name = client.post("/files?name=notes.txt", content=TEXT * 20).text
    page = client.get(f"/new?file={name}").text
    assert f"{kept / name}: text, 12.8 kB" in page
    assert "preset.json" not in page
    assert "parameters" in page
    assert 'value="start">Start</button>' in page
    wrong = client.post("/files?name=wrong.bin", content=bytes(range(256)) * 40).text
    assert "wrong.bin: " in client.get(f"/new?file={wrong}").text.partition('role="alert">')[2].partition("</p>")[0]
