"""The folder of prepared data where nothing can be written to it."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from nanogrove.corpora import make_corpus
from nanogrove.data.text.config import DataConfig
from nanogrove.errors import DataError


def read_only(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes the system refuse to create or write anything in a folder, as a read-only file system does for root too."""

    def refuse(path: Any, writes: bool) -> None:
        if writes and not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(folder):
            raise OSError(errno.EROFS, "Read-only file system", os.fsdecode(path))

    for name in ("open", "mkdir", "unlink", "replace"):
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            flags = arguments[0] if name == "open" and arguments else options.get("flags", 0)
            refuse(path, name != "open" or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
            return real(path, *arguments, **options)

        patch.setattr(os, name, call)


def test_prepared_data_is_read_from_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOGROVE_CACHE", str(tmp_path / "cache"))
    for name in ("known", "new"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text of some words. " * 200)
    known, new = (DataConfig.model_validate({"sources": str(tmp_path / f"{name}.txt")}) for name in ("known", "new"))
    before = make_corpus(known, 16, 4, 0).batch(3).tokens
    read_only(monkeypatch, tmp_path / "cache")
    assert make_corpus(known, 16, 4, 0).batch(3).tokens.equal(before)
    with pytest.raises(DataError) as refused:
        make_corpus(new, 16, 4, 0)
    assert str(refused.value).startswith(f"{tmp_path / 'cache'}")
    assert str(refused.value).endswith(
        ": cannot write prepared data (Read-only file system); allow this user to write there or set NANOGROVE_CACHE "
        "to another folder"
    )
