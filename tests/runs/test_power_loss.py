"""After a loss of power at any moment a run goes on to the very end it would have had, and prepared data is made whole.

pytest -m slow -s tests/runs/test_power_loss.py     every moment, and how many there are; some minutes on two cores
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lossy_disk import Image, LossyDisk, write_image

from nanogrove.config.overrides import resolve
from nanogrove.config.preset import Preset
from nanogrove.data.text import prepare
from nanogrove.data.text.config import DataConfig
from nanogrove.data.tokenizer import byte_tokenizer
from nanogrove.errors import NanogroveError
from nanogrove.runs.train import train


@pytest.fixture(autouse=True)
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is written from what is there, at any time, and takes as long as the run."""
    monkeypatch.setattr("nanogrove.runs.recorder.write_report", lambda run: None)
    monkeypatch.setattr("nanogrove.runs.train.write_report", lambda run: None)


def left(run: Path) -> dict[str, Any]:
    """The record less its clock, the rows that the run made, and the tensors of the newest and the best state."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text("utf-8").splitlines()]
    files = [*run.glob("checkpoints/current/*.safetensors"), *run.glob("checkpoints/best/*"), *run.glob("data/*")]
    contents = {str(path.relative_to(run)): path.read_bytes() for path in files if path.name != "state.json"}
    return {"record": [{key: value for key, value in line.items() if key != "time"} for line in lines], **contents}


def lost(disk: LossyDisk, resumed: Callable[[Path], Any], whole: Any, folder: Path, most: int | None) -> str:
    """Goes on from images, all or `most` of them by chance, and sees that each ends `whole` or is refused in a line."""
    images: list[tuple[str, Image]] = list(disk.images.values())
    chosen = images if most is None else random.Random(0).sample(images, min(most, len(images)))
    refused: list[str] = []
    for moment, image in chosen:
        write_image(image, folder)
        try:
            assert resumed(folder) == whole, moment
        except NanogroveError as error:
            refused.append(f"{moment}: {error}")
        shutil.rmtree(folder)
    for line in refused:
        print(line)
        assert "\n" not in line
    return f"{disk.moments} moments, {len(images)} states, {len(chosen)} tried, {len(refused)} refused"


def run_of(preset: Preset, root: Path, monkeypatch: pytest.MonkeyPatch, resume: bool = True) -> dict[str, Any]:
    """What a run leaves, its prepared data on the same disk."""
    monkeypatch.setenv("NANOGROVE_CACHE", str(root / "cache"))
    for _ in train(preset, root / "run", resume):
        pass
    return left(root / "run")


def power_fails(
    preset: Preset, folder: Path, monkeypatch: pytest.MonkeyPatch, random_images: int, most: int | None
) -> str:
    """Runs a preset on a disk that loses power, and goes on from what that leaves."""
    whole = run_of(preset, folder / "whole", monkeypatch, resume=False)
    (folder / "disk").mkdir()
    disk = LossyDisk(folder / "disk", random_images)
    with disk.recording(monkeypatch):
        assert run_of(preset, folder / "disk", monkeypatch, resume=False) == whole
    return lost(disk, lambda root: run_of(preset, root, monkeypatch), whole, folder / "image", most)


SHORT = {"train": {"steps": 6}, "evaluate": {"every": 2, "tokens": 50}, "sample": {"tokens": 0}, "save": {"every": 2}}


@pytest.mark.slow
def test_power_fails_while_a_run_goes_on(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert power_fails(resolve(tiny(**SHORT)), tmp_path, monkeypatch, 1, most=6).endswith("6 tried, 0 refused")


@pytest.mark.slow
def test_power_fails_at_every_moment_of_a_run(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = resolve(tiny(**{**SHORT, "save": {"every": 2, "snapshots": True}}))
    print(f"\npretrain: {power_fails(preset, tmp_path, monkeypatch, 3, None)}")


@pytest.mark.slow
def test_power_fails_at_every_moment_of_a_run_that_writes_rows(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"type": "task", "task": "copy", "base": [1, 2], "held_out": 4}
    method = {"name": "self_improve", "voters": 2, "si_rounds": 1, "si_iter": 2, "to": 3, "examples": 8, "guard": False}
    preset = {**tiny(**SHORT, method=method), "data": data}
    preset["train"] = {**preset["train"], "steps": 4}
    print(f"\nself_improve: {power_fails(resolve(preset), tmp_path, monkeypatch, 2, None)}")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, Any]]:
    """Prepares a source that streams in the folder `shards` of another, to its end; the files it left."""
    (tmp_path / "text.txt").write_text("".join(f"line {n} of a text\n\n" for n in range(400)))
    sources = [{"type": "text", "path": str(tmp_path / "text.txt"), "separator": "\n\n"}]
    config = DataConfig.model_validate({"sources": sources, "tokenizer": "byte", "split": "document"})
    for name, value in (("streams", lambda source: True), ("TOKENS_PER_COMMIT", 1500), ("BATCH_CHARACTERS", 2000)):
        monkeypatch.setattr(prepare, name, value)
    monkeypatch.setattr("nanogrove.data.text.shards.TOKENS_PER_SHARD", 3000)

    def write(root: Path) -> dict[str, Any]:
        (root / "shards").mkdir(exist_ok=True)
        for _ in prepare.write(config, config.all_sources[0], root / "shards", byte_tokenizer()):
            pass
        index = json.loads((root / "shards" / "index.json").read_bytes())
        index |= {"digest": "", "checksum": ""}  # the first is of the tokens that were added since the writer began
        return {"index": index, **{path.name: path.read_bytes() for path in (root / "shards").glob("*.bin")}}

    return write


@pytest.mark.parametrize("most", [20, pytest.param(None, marks=pytest.mark.slow)])
def test_power_fails_while_text_is_prepared(
    prepared: Callable[[Path], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    (tmp_path / "whole").mkdir()
    whole = prepared(tmp_path / "whole")
    assert len(whole) > 4
    (tmp_path / "disk").mkdir()
    disk = LossyDisk(tmp_path / "disk", random_images=1 if most else 6)
    with disk.recording(monkeypatch):
        prepared(tmp_path / "disk")
    outcome = lost(disk, prepared, whole, tmp_path / "image", most)
    print(f"\nshards: {outcome}")
    assert outcome.endswith(" 0 refused")


def test_a_writer_that_makes_nothing_durable_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk loses what it may, so that the tests above prove something."""
    (tmp_path / "disk").mkdir()
    disk = LossyDisk(tmp_path / "disk", random_images=0)
    with disk.recording(monkeypatch):
        (tmp_path / "disk" / "new").write_bytes(b"new and longer")
        os.replace(tmp_path / "disk" / "new", tmp_path / "disk" / "file")
    states = {tuple(sorted(image.items())) for _, image in disk.images.values()}
    contents = [b"", b"\0" * 14, b"new and", b"new and longer"]
    assert states == {
        (),
        (("new", b""),),
        *((("file", content),) for content in contents),
        *((("new", content),) for content in contents[1:]),
    }
