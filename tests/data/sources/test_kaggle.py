"""Data sets of Kaggle, by the real library on a cache that is filled beforehand."""

import os
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from nanogrove.data.sources import network
from nanogrove.data.sources.kaggle import KaggleSource
from nanogrove.data.sources.pieces import Skipped
from nanogrove.errors import DataError

VERSION = "owner/name/versions/1"
QA = {"fields": ["question", "answer"], "format": "Q: {question}\nA: {answer}"}


def read(source: KaggleSource, skipped: Skipped | None = None) -> list[str]:
    return [piece.text for piece in source.pieces(skipped or Skipped())]


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a version in a cache as kagglehub leaves it after a download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "kaggle" / "datasets" / "owner" / "name"
    (folder / "versions" / "1").mkdir(parents=True)
    (folder / "1.complete").touch()
    return folder / "versions" / "1"


def test_kaggle_files_are_read_by_their_endings(kaggle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (kaggle / "a.csv").write_text('text,n\n"one, ""quoted""\nand broken",1\n,2\n')
    (kaggle / "inner").mkdir()
    (kaggle / "inner" / "b.jsonl").write_text('{"text": "two"}\n{broken\n')
    parquet.write_table(pyarrow.table({"text": ["three"]}), kaggle / "inner" / "c.parquet")
    (kaggle / "notes.txt").write_text("four")
    (kaggle / "picture.png").write_bytes(b"\x89PNG")
    skipped = Skipped()
    source = KaggleSource(dataset=VERSION)
    assert read(source, skipped) == ['one, "quoted"\nand broken', "two", "three", "four"]
    assert skipped.counts == {"empty": 1, "broken JSON": 1}
    assert source.size() == sum(path.stat().st_size for path in source.files())
    assert capfd.readouterr() == ("", "")
    assert read(KaggleSource(dataset=VERSION, file="*.csv")) == ['one, "quoted"\nand broken']
    assert read(KaggleSource(dataset=VERSION, file="inner/*")) == ["two", "three"]
    before = source.identity()
    os.utime(kaggle / "a.csv", (1, 1))
    assert KaggleSource(dataset=VERSION).identity() != before


def test_kaggle_columns_and_encodings(kaggle: Path) -> None:
    (kaggle / "qa.csv").write_bytes("question,answer\nQui ?,Moi é\n".encode("latin-1"))
    options = {"dataset": VERSION, "encoding": "latin-1", **QA}
    assert read(KaggleSource.model_validate(options)) == ["Q: Qui ?\nA: Moi é"]
    with pytest.raises(DataError, match=r"qa\.csv: no column 'text'; there are 'question', 'answer'"):
        read(KaggleSource(dataset=VERSION))


def test_a_kaggle_folder_at_hand_is_read_instead(kaggle: Path) -> None:
    Path("mine").mkdir()
    Path("mine/a.csv").write_text("text\nmine\n")
    assert read(KaggleSource(dataset="owner/name", local="mine")) == ["mine"]
    assert read(KaggleSource(dataset="owner/name", local="mine", file="a.csv")) == ["mine"]
    with pytest.raises(DataError, match="owner/name: local=nowhere is not a folder"):
        read(KaggleSource(dataset="owner/name", local="nowhere"))
    with pytest.raises(DataError, match=r"owner/name: no file 'b\.csv'; there are a\.csv"):
        read(KaggleSource(dataset="owner/name", local="mine", file="b.csv"))
    Path("mine/a.csv").rename("mine/a.png")
    with pytest.raises(DataError, match=r"neither CSV, JSON lines, JSON, Parquet nor text; there are a\.png"):
        read(KaggleSource(dataset="owner/name", local="mine"))


@pytest.mark.slow
def test_kaggle_without_a_network_says_what_helps(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kagglesdk.kaggle_http_client as client

    tried: list[str] = []
    true_init = client.KaggleHttpClient.__init__

    def nowhere(self: Any, *args: Any, **kwargs: Any) -> None:
        true_init(self, *args, **kwargs)
        self._endpoint = "http://127.0.0.1:9"
        tried.append("")

    monkeypatch.setattr(client.KaggleHttpClient, "__init__", nowhere)
    with pytest.raises(DataError, match=r"^owner/name: Kaggle cannot be reached \(.*\); name a version .*versions/1"):
        read(KaggleSource(dataset="owner/name"))
    assert len(tried) == network.MAX_FAILURES


def test_kaggle_names_are_checked() -> None:
    for name in ("name", "owner/name/2", "https://www.kaggle.com/owner/name"):
        with pytest.raises(ValidationError, match="owner/name"):
            KaggleSource(dataset=name)


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(DataError, match=r"a/b: Kaggle needs kagglehub; pip install 'nanogrove\[data\]'"):
        read(KaggleSource(dataset="a/b"))


@pytest.mark.network
def test_kaggle_downloads() -> None:
    source = KaggleSource(dataset="uciml/sms-spam-collection-dataset", text_field="v2", encoding="latin-1")
    assert len(read(source)) > 5000
