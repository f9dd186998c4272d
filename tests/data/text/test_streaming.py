"""Sources that stream: training begins on what is there, and every batch is what it would have been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogrove.config.overrides import resolve
from nanogrove.data.sources import pieces as documents
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.splits import SPLITS
from nanogrove.data.text import assign, reader, shards
from nanogrove.data.text import prepare as preparing
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.data.text.prepare import PreparationProcess, prepare, write
from nanogrove.data.text.shards import read_index
from nanogrove.data.tokenizer import byte_tokenizer
from nanogrove.errors import DataError
from nanogrove.record.events import read_events
from nanogrove.runs.train import train


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a few kilobytes are many seals and blocks."""
    monkeypatch.setattr(shards, "TOKENS_PER_COMMIT", 1000)
    monkeypatch.setattr(preparing, "TOKENS_PER_COMMIT", 1000)
    monkeypatch.setattr(preparing, "BATCH_CHARACTERS", 500)
    monkeypatch.setattr(reader, "TOKENS_PER_BLOCK", 3000)
    monkeypatch.setattr(shards, "HELD_OUT_TOKENS", 400)
    monkeypatch.setattr(assign, "STREAM_FROM_BYTES", 1000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "stream.txt"
    path.write_text("".join(f"document {n} {'x' * (n * 7 % 50)}\n\n" for n in range(800)))
    return path


def config(source: Path, **settings: Any) -> DataConfig:
    sources = [{"type": "text", "path": str(source), "separator": "\n\n"}]
    return DataConfig.model_validate({"sources": sources, "tokenizer": "byte", **settings})


class Slow:
    """In place of the process: writes one seal more whenever somebody waits."""

    def __init__(self, config: DataConfig, streaming: list[tuple[int, Path]], tokenizer: Any) -> None:
        self.writers = [write(config, config.all_sources[n], folder, tokenizer) for n, folder in streaming]
        for _, folder in streaming:
            folder.mkdir(parents=True, exist_ok=True)
        self.waited = 0

    def check(self) -> bool:
        self.waited += 1
        ended = [next(writer, writer) is writer for writer in self.writers]
        return all(ended)


@pytest.fixture
def slowly(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "PreparationProcess", Slow)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_batches_of_a_stream_are_those_of_the_whole(slowly: None, source: Path) -> None:
    """One corpus asks for batches while it is written, the other when all is there, in another order."""
    growing = TextCorpus(config(source), 16, 8, seed=3)
    first = growing.batch(0)
    assert not growing.sources[0].index["complete"], "the first batch waits for one block only"
    assert growing.windows_per_epoch is None
    batches = [first, *(growing.batch(step) for step in range(1, 450))]
    assert growing.sources[0].index["complete"]
    assert growing.windows_per_epoch is not None
    assert 2 * growing.windows_per_epoch < 450 * 8, "more than two passes"
    whole = TextCorpus(config(source), 16, 8, seed=3)
    for step in range(449, -1, -1):
        assert whole.batch(step).tokens.equal(batches[step].tokens)
    held = [
        [b.tokens.tolist() for b in text_corpus.eval_batches("validation", 200)] for text_corpus in (growing, whole)
    ]
    assert held[0] == held[1]
    assert growing.describe()["fingerprint"] == whole.describe()["fingerprint"]


def test_a_pass_shows_every_window_of_every_block_once(slowly: None, source: Path) -> None:
    text_corpus = TextCorpus(config(source), 16, 8, seed=3)
    shard = text_corpus.sources[0]
    count, total = shard.count("train"), shard.epoch(16)
    assert count > 3 * reader.TOKENS_PER_BLOCK
    starts = []
    shard.read = lambda split, starts_, length: starts.append(starts_) or np.zeros((len(starts_), length), np.int64)  # type: ignore[assignment,method-assign,func-returns-value]
    for passed in range(3):
        shard.train_windows(np.arange(passed * total, (passed + 1) * total), 16, 0)
        at = np.sort(starts[-1])
        assert len(np.unique(at)) == total
        assert (np.diff(at) >= 16).all(), "no token is shown twice"
        assert at[-1] + 17 <= count
    assert not np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[1], starts[2])


def test_held_out_text_is_bounded_and_no_document_is_on_two_sides(slowly: None, source: Path) -> None:
    text_corpus = TextCorpus(config(source, validation=0.2, test=0.2), 16, 8, seed=3)
    sides = []
    for split in SPLITS:
        tokens = text_corpus.sources[0].read(split, np.array([0]), text_corpus.sources[0].count(split))[0].tolist()
        cut = "".join(
            "|" if t == text_corpus.tokenizer.end else text_corpus.tokenizer.decode([t]) for t in tokens
        ).split("|")
        sides.append(set(cut[1:]))
        assert split == "train" or 400 <= len(tokens) < 500
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert len(sides[0]) == pytest.approx(480, abs=40)


def test_a_writer_that_was_killed_goes_on_where_it_sealed(slowly: None, source: Path, tmp_path: Path) -> None:
    settings, tokenizer = config(source), byte_tokenizer()
    folders = [tmp_path / name for name in ("whole", "cut")]
    for folder in folders:
        folder.mkdir()
    for _ in write(settings, settings.all_sources[0], folders[0], tokenizer):
        pass
    for seals in (1, 3):
        writer = write(settings, settings.all_sources[0], folders[1], tokenizer)
        for _ in range(seals):
            next(writer)
        writer.close()
        with (folders[1] / "train-00000.bin").open("ab") as file:
            file.write(b"tokens that were written and never sealed")
    for _ in write(settings, settings.all_sources[0], folders[1], tokenizer):
        pass
    for name in ("train-00000.bin", "validation-00000.bin", "test-00000.bin"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    whole, cut = (read_index(folder) for folder in folders)
    assert whole is not None and cut is not None  # noqa: PT018
    assert whole["splits"] == cut["splits"]


@pytest.mark.slow
def test_the_process_writes_while_this_one_reads_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("".join(f"row {n} of a table that has many\n" for n in range(60_000)))
    script = (
        "import nanogrove.data.text.assign as t; t.STREAM_FROM_BYTES = 1000\n"
        "from nanogrove.data.text.prepare import prepare\n"
        f"c = t.DataConfig.model_validate({config(path).model_dump(mode='json')!r})\n"
        "p = prepare(c); print(p.process.process.pid, p.folders[0], flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    pid, folder = child.stdout.readline().split()
    deadline = time.monotonic() + 60
    while not (Path(folder) / "index.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with child:
        os.kill(child.pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the process outlives the one it works for"
        time.sleep(0.05)


def test_what_goes_wrong_in_the_process_is_said_here(small: None, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a good line\n\n" * 2000 + b"\xff\n\n")
    settings = config(path)
    process = PreparationProcess(settings, [(0, tmp_path / "folder")], byte_tokenizer())
    process.process.wait(60)
    with pytest.raises(DataError, match=r"bad\.txt: not utf-8: byte 0xff at offset 26000"):
        process.check()


def test_duplicates_and_short_documents_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assign, "RECENT_HASHES", 7)
    path = tmp_path / "many.txt"
    path.write_text("".join(f"document {n % 90}\n\n" for n in range(300)) + "no\n\n" * 5)
    text_corpus = TextCorpus(config(path, drop_duplicates=True, min_text_length=4), 4, 2, seed=0)
    description = text_corpus.describe()
    assert description["left_out"] == {"duplicate": 210, "shorter than 4 characters": 5}
    assert description["documents"] == 90


def test_a_source_with_nothing_of_use_says_why(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("a\n\nb\n\nc")
    with pytest.raises(DataError, match=r"short\.txt: nothing to use \(3 times shorter than 10 characters\)"):
        TextCorpus(config(path, min_text_length=10), 4, 2, seed=0)


def test_prepare_of_a_complete_stream_starts_no_process(slowly: None, source: Path) -> None:
    text_corpus = TextCorpus(config(source), 16, 8, seed=3)
    text_corpus.sources[0].count("train")
    assert prepare(config(source)).process is None
    assert json.loads((text_corpus.sources[0].folder / "index.json").read_text())["complete"]


def test_problems_of_a_kind_keep_their_first_places() -> None:
    skipped = Skipped()
    for line in range(9):
        skipped.bad("broken", f"line {line}")
    assert skipped.counts["broken"] == 9
    assert skipped.locations["broken"] == ["line 0", "line 1", "line 2"]
    with pytest.raises(DataError, match=r"line 4: broken; mend it, or set data\.bad_rows=skip"):
        Skipped(refuse=True).bad("broken", "line 4")


def test_a_run_cut_while_its_text_streams_ends_alike(
    slowly: None, source: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumes_exactly: Any
) -> None:
    """Each of the runs begins with an empty cache; the first is never cut, and reads the least ahead."""
    data = {**config(source).model_dump(mode="json"), "validation": 0.2, "test": 0.2}
    preset = tiny(train={"steps": 40, "batch_size": 8}, evaluate={"every": 9}, save={"every": 6})
    preset["data"] = data
    record = resumes_exactly(preset, tmp_path, [("step", n) for n in (2, 7, 20, 33)])
    assert record[0]["data"]["streams"]
    assert "left_out" not in record[0]["data"], "what has been read by then depends on the clock"


@pytest.mark.slow
def test_a_run_whose_text_fails_on_the_way_is_saved(
    slowly: None, source: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tiny(train={"steps": 400, "batch_size": 8}, evaluate={"every": 1000}, save={"every": 1000})
    preset["data"] = config(source).model_dump(mode="json")
    check, calls = Slow.check, []

    def failing(self: Slow) -> bool:
        calls.append(1)
        if len(calls) > 16:
            raise DataError("the network failed")
        return check(self)

    monkeypatch.setattr(Slow, "check", failing)
    with pytest.raises(
        DataError, match=r"the network failed; the run is saved at step (\d+), go on with --resume"
    ) as e:
        list(train(resolve(preset), tmp_path / "run"))
    step = int(str(e.value).split("step ")[1].split(",")[0])
    assert step > 20
    monkeypatch.setattr(Slow, "check", check)
    for event in train(resolve(preset), tmp_path / "run", resume=True):
        last = event
    assert (last.kind, last.step) == ("end", 400)
    steps = [event.step for event in read_events(tmp_path / "run/events.jsonl") if event.kind == "step"]
    assert steps == list(range(1, 401))


@pytest.fixture
def two(tmp_path: Path) -> list[tuple[DataConfig, list[tuple[int, Path]]]]:
    """The same two sources, in both orders, and their folders."""
    sources = []
    for name in "ab":
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{name} {n} in a line of its own\n\n" for n in range(80_000)))
        sources.append({"type": "text", "path": str(path), "separator": "\n\n"})
    settings_and_folders = []
    for order in ([0, 1], [1, 0]):
        settings = {"sources": [sources[n] for n in order], "tokenizer": "byte", "split": "document"}
        folders = [(place, tmp_path / f"cache/{n}") for place, n in enumerate(order)]
        settings_and_folders.append((DataConfig.model_validate(settings), folders))
    return settings_and_folders


@pytest.mark.slow
def test_two_processes_share_their_work_and_neither_waits_for_ever(two: list) -> None:
    processes = [PreparationProcess(settings, folders, byte_tokenizer()) for settings, folders in two]
    for process in processes:
        assert process.process.wait(100) == 0
        assert process.check()
    for _, folder in two[0][1]:
        index = read_index(folder)
        assert index is not None
        assert index["complete"]
        assert index["splits"]["train"]["documents"] > 70_000


@pytest.mark.slow
def test_a_process_that_fails_leaves_what_another_writes_alone(two: list, tmp_path: Path) -> None:
    (settings, folders), (broken, _) = two
    (tmp_path / "a.csv").write_text("name\nno text\n")
    lacking = [{"type": "csv", "path": str(tmp_path / "a.csv")}, settings.sources[1].model_dump()]
    failing = broken.model_copy(update={"sources": DataConfig.model_validate({"sources": lacking}).sources})
    good = PreparationProcess(settings, folders, byte_tokenizer())
    while read_index(folders[1][1]) is None:
        assert not good.check()
        time.sleep(0.01)
    bad = PreparationProcess(failing, [(0, tmp_path / "cache/csv"), (1, folders[1][1])], byte_tokenizer())
    bad.process.wait(100)
    with pytest.raises(DataError, match="no column 'text'"):
        bad.check()
    assert good.process.wait(100) == 0
    for _, folder in folders:
        index = read_index(folder)
        assert index is not None, "shorter than the index says"
        assert index["complete"]


def test_a_source_that_is_named_twice_is_read_once(slowly: None, source: Path) -> None:
    twice = config(source).model_copy(update={"custom_sources": config(source).sources})
    text_corpus = TextCorpus(twice, 16, 8, seed=3)
    assert [shard.count("train") for shard in text_corpus.sources] == [text_corpus.sources[0].count("train")] * 2


def test_data_that_is_gone_is_said(slowly: None, source: Path) -> None:
    text_corpus = TextCorpus(config(source), 16, 8, seed=3)
    for path in text_corpus.sources[0].folder.glob("*"):
        path.unlink()
    text_corpus.process = None
    with pytest.raises(DataError, match="prepared data is gone; the next start makes it anew"):
        text_corpus.sources[0].count("train")


@pytest.mark.parametrize("size", [7, 50, 64, 1000])
def test_pieces_do_not_depend_on_where_chunks_end(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 50)
    whole_text = "==\n".join("".join(f"line {n}\n" for n in range(m % 23)) for m in range(60))
    chunks = (whole_text[at : at + size] for at in range(0, len(whole_text), size))
    pieces = list(documents.split_at_separators(chunks, ["==\n"]))
    assert pieces == list(documents.split_at_separators(iter([whole_text]), ["==\n"]))
    assert all(len(piece.text) <= 50 for piece in pieces)
    alone = [piece for text in whole_text.split("==\n") for piece in documents.split_long_document(iter([text]))]
    assert pieces == alone, "a document among others is cut as it would be alone"


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_large_stream_and_a_resume_end_alike(tiny: Any, tmp_path: Path) -> None:
    """In earnest: 50 MB of CSV, the process that reads, SIGKILL, and a second cache for the run that is left alone."""
    path = tmp_path / "rows.csv"
    with path.open("w") as file:
        file.write("id,text\n")
        file.writelines(f'{n},"row {n} of a large table, {"x" * (n % 60)}"\n' for n in range(800_000))
    preset = tiny(train={"steps": 120}, evaluate={"every": 200}, save={"every": 10}, sample={"tokens": 0})
    preset["data"] = {"sources": [str(path)], "tokenizer": "byte"}
    (tmp_path / "preset.json").write_text(json.dumps(preset))

    def command(name: str, *more: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "NANOGROVE_CACHE": str(tmp_path / f"cache-{name}")}
        arguments = [sys.executable, "-m", "nanogrove", "train", str(tmp_path / "preset.json")]
        return subprocess.Popen([*arguments, "--out", str(tmp_path / name), *more], env=environment)

    assert command("whole").wait() == 0
    cut = command("cut")
    record = tmp_path / "cut/events.jsonl"
    while not record.exists() or record.read_bytes().count(b'"kind": "step"') < 15:
        assert cut.poll() is None
    cut.kill()
    cut.wait()
    (index,) = (read_index(at.parent) for at in (tmp_path / "cache-cut").glob("*/index.json"))
    assert index is not None
    assert not index["complete"], "the text was still being read"
    assert command("cut", "--resume").wait() == 0
    weights = [(tmp_path / name / "checkpoints/current/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    records = [(tmp_path / name / "events.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    losses = [[json.loads(line).get("loss") for line in lines] for lines in records]
    assert losses[0] == losses[1]


def test_what_other_versions_left_incomplete_is_begun_anew(
    slowly: None, source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, tokenizer = config(source), byte_tokenizer()
    folder = tmp_path / "folder"
    folder.mkdir()
    writer = write(settings, settings.all_sources[0], folder, tokenizer)
    next(writer)
    writer.close()
    assert read_index(folder) is not None
    monkeypatch.setattr(shards, "versions", lambda: {"tokenizers": "another"})
    assert read_index(folder) is None, "neither a reader nor a writer goes on from it"
    for _ in write(settings, settings.all_sources[0], folder, tokenizer):
        pass
    index = read_index(folder)
    assert index is not None
    assert index["made_by"] == {"tokenizers": "another"}
    assert (folder / "train-00000.bin").stat().st_size == 2 * index["splits"]["train"]["tokens"]
