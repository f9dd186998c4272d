"""Data sets of the hub, by the real library: of folders that are laid out like them, and of a hub of our own."""

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from nanogrove.data.sources import network
from nanogrove.data.sources.hub import SHORTCUTS, HubSource
from nanogrove.data.sources.network import is_transient
from nanogrove.data.sources.pieces import Skipped
from nanogrove.errors import DataError

ROWS = [{"question": f"Why {n}?", "answer": f"Because {n}.", "score": n} for n in range(40)]
QA = {"fields": ["question", "answer"], "format": "Q: {question}\nA: {answer}"}
NAME = "sentence-transformers/natural-questions"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "fedcba9876543210fedcba9876543210fedcba98"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with a cache of its own and no waits."""
    from datasets import config  # which takes seconds, and so is left to who runs these tests

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(network, "FIRST_WAIT_SECONDS", 0.0)


def fill(folder: str, rows: list[dict[str, Any]], kind: str = "jsonl", name: str = "train", files: int = 2) -> None:
    """Writes rows into a folder, in a few files."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for number in range(files):
        part = rows[number * size : (number + 1) * size]
        path = Path(folder, f"{name}-{number}.{kind}")
        if kind == "parquet":
            parquet.write_table(pyarrow.Table.from_pylist(part), path, row_group_size=4)
        elif kind == "csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(part[0]))
                writer.writeheader()
                writer.writerows(part)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in part))


def read(source: HubSource, skipped: Skipped | None = None) -> list[str]:
    return [piece.text for piece in source.pieces(skipped or Skipped())]


def asked(rows: list[dict[str, Any]]) -> list[str]:
    return [f"Q: {row['question']}\nA: {row['answer']}" for row in rows]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("streaming", [True, False])
def test_several_fields_make_a_text(kind: str, streaming: bool, capfd: pytest.CaptureFixture[str]) -> None:
    from datasets.utils import are_progress_bars_disabled

    fill(NAME, ROWS, kind)
    source = HubSource.model_validate({"dataset": NAME, **QA, "streaming": streaming})
    assert read(source) == asked(ROWS)
    assert source.size() == sum(path.stat().st_size for path in Path(NAME).iterdir())
    assert capfd.readouterr() == ("", "")
    assert not are_progress_bars_disabled()


def test_one_column_is_text_by_default() -> None:
    fill("set", [{"text": "one"}, {"text": None}, {"text": "two"}, {"text": " "}, {"text": "4"}])
    skipped = Skipped()
    assert read(HubSource(dataset="set"), skipped) == ["one", "two", "4"]
    assert skipped.counts == {"empty": 2}
    fill("other", ROWS)
    assert read(HubSource(dataset="other", text_field="answer")) == [row["answer"] for row in ROWS]


def test_rows_that_lack_the_text_are_counted() -> None:
    fill("set", [{"text": "one", "n": 1}], name="a", files=1)
    fill("set", [{"n": 2}, {"n": 3}], name="b", files=1)
    skipped = Skipped()
    assert read(HubSource(dataset="set"), skipped) == ["one"]
    assert skipped.counts == {"empty": 2}
    fill("table", [{"text": "one", "n": 1}], "csv", name="a", files=1)
    fill("table", [{"n": 2}, {"n": 3}], "csv", name="b", files=1)
    skipped = Skipped()
    assert read(HubSource(dataset="table"), skipped) == ["one"]
    assert skipped.locations == {"without 'text'": ["table, row 2", "table, row 3"]}


@pytest.mark.parametrize("streaming", [True, False])
def test_configs_and_splits_are_chosen_and_missing_ones_named(streaming: bool) -> None:
    fill("set", [{"text": "first"}], name="one", files=1)
    fill("set", [{"text": "second"}], name="two", files=1)
    Path("set/README.md").write_text(
        textwrap.dedent("""
        ---
        configs:
        - config_name: plain
          data_files: [{split: train, path: one-*.jsonl}, {split: test, path: two-*.jsonl}]
        - config_name: extra
          data_files: two-*.jsonl
        ---
        """).lstrip()
    )

    def texts(**options: Any) -> list[str]:
        return read(HubSource(dataset="set", streaming=streaming, **options))

    assert texts(config="plain") == ["first"]
    assert texts(config="plain", split="test") == ["second"]
    assert texts(config="extra") == ["second"]
    for options, message in (
        ({}, "set: cannot be read .Config name is missing. .* available configs: .'plain', 'extra'.*"),
        ({"config": "plane"}, ".*'plane' not found. Available: .'plain', 'extra'.*"),
        ({"config": "plain", "split": "dev"}, ".*dev.*'train', 'test'.*"),
    ):
        with pytest.raises(DataError, match=rf"^{message}$"):
            texts(**options)


def test_a_missing_column_offers_the_nearest() -> None:
    fill("set", ROWS)
    with pytest.raises(DataError, match=r"^set: no column 'questions'; there are .*; did you mean 'question'\?"):
        read(HubSource(dataset="set", text_field="questions"))
    with pytest.raises(DataError, match=r"^set: no column 'text'; .*'answer'.*; name one with text_field"):
        read(HubSource(dataset="set"))


def test_what_is_no_data_set_says_so_in_a_line() -> None:
    Path("none").mkdir()
    Path("script").mkdir()
    Path("script/script.py").write_text("raise SystemExit('I was run')")
    Path("broken").mkdir()
    Path("broken/a.jsonl").write_text('{"text": "a"}\n{broken\n')
    for name, message in (
        ("none", "none: cannot be read .The directory at .* doesn't contain any data files."),
        ("script", "script: cannot be read .Dataset scripts are no longer supported, but found script.py."),
        ("broken", "broken: cannot be read .JSON parse error: .*"),
    ):
        for streaming in (True, False):
            with pytest.raises(DataError, match=rf"^{message}$"):
                read(HubSource(dataset=name, streaming=streaming))


def test_a_folder_is_pinned_by_its_files() -> None:
    fill("set", ROWS)
    before = HubSource(dataset="set").identity()
    assert json.loads(json.dumps(before)) == before
    assert before == HubSource(dataset="set").identity()
    assert before != HubSource(dataset="set", split="test").identity()
    os.utime("set/train-1.jsonl", (1, 1))
    assert before != HubSource(dataset="set").identity()


class Flaky:
    """Has the library's reader of files fail at chosen tables, counted over all tries."""

    def __init__(self, true: Callable[..., Iterator[Any]], failures: dict[int, Exception]) -> None:
        self.true, self.failures, self.tables = true, failures, 0

    def __get__(self, builder: Any, owner: Any) -> Callable[..., Iterator[Any]]:
        def tables(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for table in self.true(builder, *args, **kwargs):
                error = self.failures.get(self.tables)
                self.tables += 1
                if error is not None:
                    raise error
                yield table

        return tables


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, Exception]], Flaky]:
    from datasets.packaged_modules.parquet.parquet import Parquet

    def install(failures: dict[int, Exception]) -> Flaky:
        failing = Flaky(Parquet._generate_tables, failures)
        monkeypatch.setattr(Parquet, "_generate_tables", failing)
        return failing

    return install


def test_a_failing_network_neither_loses_nor_doubles_rows(flaky: Callable[[dict[int, Exception]], Flaky]) -> None:
    fill("set", ROWS, "parquet")  # ten tables of four rows
    flaky({number: ConnectionError("cut off") for number in (0, 1, 4, 5, 6, 10, 16, 19, 20)})
    skipped = Skipped(refuse=True)
    assert read(HubSource.model_validate({"dataset": "set", **QA}), skipped) == asked(ROWS)
    assert skipped.counts == {"network error, retried": 9}


def test_a_network_that_stays_away_ends_in_an_error(
    flaky: Callable[[dict[int, Exception]], Flaky], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill("set", ROWS, "parquet")
    failing = flaky({number: TimeoutError("no answer") for number in range(3, 1000)})
    waits: list[float] = []
    monkeypatch.setattr(network, "FIRST_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(network.time, "sleep", waits.append)
    source = HubSource.model_validate({"dataset": "set", **QA})
    skipped = Skipped()
    pieces = source.pieces(skipped)
    assert [next(pieces).text for _ in range(12)] == asked(ROWS[:12])
    with pytest.raises(DataError, match=r"^set: the network failed after row 12 \(no answer\); .*--resume goes on"):
        next(pieces)
    assert skipped.counts == {"network error, retried": 4}
    assert waits == [1, 2, 4, 8]
    failing.failures = {failing.tables: ValueError("what is this")}
    with pytest.raises(DataError, match=r"^set: cannot be read \(what is this\)$"):
        read(source)


def test_which_errors_pass() -> None:
    class AnsweredError(OSError):
        def __init__(self, status: int) -> None:
            self.response = type("Response", (), {"status_code": status})

    assert not any(is_transient(AnsweredError(status)) for status in (401, 404))
    assert all(is_transient(AnsweredError(status)) for status in (408, 429, 500, 503))
    wrapped = RuntimeError("no")
    wrapped.__cause__ = ConnectionResetError()
    assert is_transient(wrapped)
    assert not is_transient(FileNotFoundError("no"))
    assert not is_transient(OSError(28, "No space left on device"))


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fill("set", ROWS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"set: the hub needs datasets; pip install 'nanogrove\[data\]'"):
        read(HubSource(dataset="set"))


def test_shortcuts_are_sources() -> None:
    assert sorted(SHORTCUTS) == list(SHORTCUTS)
    for options in SHORTCUTS.values():
        assert HubSource.model_validate(options).type == "hf"


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as the library asks for: one data set, `owner/name`, in two files."""

    protocol_version = "HTTP/1.1"
    commit = COMMIT
    failures: dict[str, int]  # how often a file is not given but the connection cut
    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def say(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch("/datasets/owner/name/resolve/[^/]+/(.*)", path):
            name = match[1]
            if self.failures.get(name):
                self.failures[name] -= 1
                self.close_connection = True
                return
            if name not in self.files:
                self.say(404, X_Error_Code="EntryNotFound")
                return
            data, code, headers = (
                self.files[name],
                200,
                {"ETag": f'"{name}-{self.commit}"', "X_Repo_Commit": self.commit},
            )
            if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
                headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
                data, code = data[first : last + 1], 206
            self.say(code, data, **headers)
        elif path.startswith("/api/datasets/owner/name/tree/"):
            within = path.partition("/tree/")[2].partition("/")[2]
            listed = [
                {"type": "file", "oid": "0" * 40, "size": len(data), "path": name}
                for name, data in self.files.items()
                if name.startswith(within)
            ]
            self.say(200, json.dumps(listed).encode(), Content_Type="application/json")
        elif path.startswith("/api/datasets/owner/name"):
            siblings = [{"rfilename": name} for name in self.files]
            self.say(200, json.dumps({"id": "owner/name", "sha": self.commit, "siblings": siblings}).encode())
        else:
            self.say(404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def our_hub() -> Iterator[tuple[type[Hub], ThreadingHTTPServer]]:
    described = "---\ndataset_info:\n  splits:\n  - name: train\n    num_bytes: 12345\n    num_examples: 200\n---\n"
    lines = {f"train-{k}.jsonl": "".join(f'{{"text": "{k}-{n}"}}\n' for n in range(100)) for k in range(2)}
    files = {name: text.encode() for name, text in {"README.md": described, **lines}.items()}
    handler = type("Handler", (Hub,), {"files": files, "failures": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, server
    server.shutdown()
    server.server_close()
    thread.join()


def visit(server: ThreadingHTTPServer, script: str) -> str:
    """Runs a script on our hub, in a process of its own since the library reads its settings when it is imported."""
    before = """
        import os, time
        waits = []
        time.sleep = waits.append
        import datasets
        datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
        from nanogrove.data.sources.pieces import Skipped
        from nanogrove.data.sources.hub import HubSource
        from nanogrove.errors import DataError
        skipped = Skipped()
        def read(**options):
            return [piece.text for piece in HubSource(dataset="owner/name", **options).pieces(skipped)]
        def refused(act):
            try:
                act()
            except DataError as error:
                print(error)
        every = [f"{k}-{n}" for k in range(2) for n in range(100)]
    """
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(Path("hf").absolute()),
        "HF_HUB_DISABLE_XET": "1",
        "USE_TORCH": "0",  # of which the library needs nothing, but it would import it
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + textwrap.dedent(script)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_pinned_to_its_commit(our_hub: tuple[type[Hub], ThreadingHTTPServer]) -> None:
    handler, server = our_hub
    assert visit(
        server,
        """
        source = HubSource(dataset="owner/name")
        print(source.identity()["revision"], source.size(), read() == every, read(streaming=False) == every, waits)
        """,
    ) == (f"{COMMIT} 12345 True True []\n")
    handler.commit = OTHER
    del handler.files["README.md"]
    assert visit(server, 'print(HubSource(dataset="owner/name").identity()["revision"], read() == every)') == (
        f"{OTHER} True\n"
    )


@pytest.mark.slow
def test_a_connection_that_is_cut_goes_on(our_hub: tuple[type[Hub], ThreadingHTTPServer]) -> None:
    handler, server = our_hub
    handler.failures["train-1.jsonl"] = 14  # the library tries each request six times
    assert visit(server, "print(read() == every, skipped.counts)") == ("True Counter({'network error, retried': 2})\n")
    handler.failures["train-1.jsonl"] = 1000
    output = visit(server, "refused(read)")
    assert re.fullmatch(r"owner/name: the network failed after row 100 \(.*\); once .* --resume goes on .*\n", output)


def test_what_the_hub_does_not_have_is_told_at_once(our_hub: tuple[type[Hub], ThreadingHTTPServer]) -> None:
    _, server = our_hub
    output = visit(
        server,
        """
        refused(HubSource(dataset="owner/nothing").identity)
        refused(HubSource(dataset="owner/nothing").size)
        refused(lambda: read(config="large"))
        refused(lambda: read(split="dev"))
        refused(lambda: read(text_field="texts"))
        print(waits)
        """,
    ).splitlines()
    assert len(output) == 6
    assert re.match(r"owner/nothing: cannot be read \(404 .*", output[0])
    assert output[1] == output[0]
    assert re.match(
        r"owner/name: cannot be read \(BuilderConfig 'large' not found. Available: \['default'\]\)", output[2]
    )
    assert re.match(r"owner/name: cannot be read \(Bad split: dev. Available splits: \['train'\]\)", output[3])
    assert re.match(r"owner/name: no column 'texts'; there are 'text'; did you mean 'text'\?", output[4])
    assert output[5] == "[]"


@pytest.mark.slow
def test_without_a_network_what_is_here_is_read_and_nothing_else(
    our_hub: tuple[type[Hub], ThreadingHTTPServer],
) -> None:
    _, server = our_hub
    visit(server, "read(streaming=False)")
    server.shutdown()
    server.server_close()
    script = """
        print(HubSource(dataset="owner/name").identity()["revision"], read(streaming=False) == every)
        refused(lambda: read(streaming=False, revision="%s"))
    """
    output = visit(server, script % OTHER).splitlines()
    assert output[0] == f"{COMMIT} True"
    assert re.match("owner/name: the network failed .*", output[1])


@pytest.mark.network
@pytest.mark.parametrize("name", sorted(SHORTCUTS))
def test_shortcuts_are_there(name: str) -> None:
    source = HubSource.model_validate(SHORTCUTS[name])
    assert re.fullmatch("[0-9a-f]{40}", str(source.identity()["revision"]))
    pieces = source.pieces(Skipped())
    assert next(pieces).text
    pieces.close()  # type: ignore[attr-defined]
