"""A record that is read in parts holds what one holds that is read at once, within limits of memory."""

import json
import random
from pathlib import Path

import pytest

from nanogrove.errors import RunError
from nanogrove.record import growing
from nanogrove.record.events import Event, event_of
from nanogrove.record.growing import GrowingRecord, Part
from nanogrove.record.reading import Run, read_run


def folder(tmp_path: Path) -> Path:
    (tmp_path / "preset.json").write_text("{}")
    (tmp_path / "events.jsonl").touch()
    return tmp_path


def events(rng: random.Random, count: int) -> list[Event]:
    kinds = rng.choices(("step", "eval", "sample"), (20, 2, 1), k=count)
    return [Event(kind, n, {"loss": rng.random(), "text": "x" * rng.randrange(30)}) for n, kind in enumerate(kinds, 1)]


def evenly(run: Run, record: GrowingRecord) -> dict[str, list[Event]]:
    """What is to be kept of all events: every k-th, and the last one."""
    kept = {}
    for kind, each in run.events.items():
        every = record.thinned().get(kind, Part(1, len(each))).every
        kept[kind] = [event for n, event in enumerate(each) if n % every == 0 or n == len(each) - 1]
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_parts_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever the lengths of the parts, which end within lines too; and cut back, it is read anew."""
    rng = random.Random(seed)
    monkeypatch.setattr(growing, "MOST_EVENTS", rng.choice((3, 20, 1000)))
    monkeypatch.setattr(growing, "MOST_BYTES", rng.choice((300, 3000, 1 << 24)))
    monkeypatch.setattr(growing, "BLOCK_BYTES", rng.choice((7, 500, 1 << 20)))
    run, record = folder(tmp_path), GrowingRecord(tmp_path)
    for text in ("".join(event.line() for event in events(rng, 120)) for _ in range(2)):
        written = 0
        while written < len(text):
            written += rng.choice((1, 90, 3000))
            (run / "events.jsonl").write_text(text[:written])  # shorter than before, the second time
            assert record.read() == GrowingRecord(run).read()
        assert record.read().events == evenly(read_run(run), record)
        assert record.newest() == event_of(text.splitlines()[-1])
    kept = sum(len(each) for each in record.read().events.values())
    assert kept <= 3 * (growing.MOST_EVENTS + 1)


def test_a_record_that_was_cut_back_and_grew_past_that_is_read_anew(tmp_path: Path) -> None:
    run, record = folder(tmp_path), GrowingRecord(tmp_path)
    lines = [Event("step", n, {"loss": 1.0}, {"seconds": float(n)}).line() for n in range(1, 100)]
    (run / "events.jsonl").write_text("".join(lines))
    record.read()
    resumed = [Event("step", n, {"loss": 1.0}, {"seconds": n + 0.5}).line() for n in range(50, 120)]
    (run / "events.jsonl").write_text("".join(lines[:49] + resumed))
    assert record.read() == read_run(run)


def test_the_evaluation_that_chose_the_best_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "MOST_EVENTS", 4)
    run = folder(tmp_path)
    recorded = [Event("eval", n, {"loss": abs(n - 30.0), "exact_match": n / 100}) for n in range(1, 51)]
    recorded.append(Event("end", 50, {"loss": 0.0, "best_step": 30}))
    (run / "events.jsonl").write_text("".join(event.line() for event in recorded))
    read = GrowingRecord(run).read()
    assert read.result()["exact_match"] == 0.3
    assert len(read.of("eval")) <= 6


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense\n", "line 1 is not an event"),
        (Event("step", 1).line() + Event("step", 2).line()[:9] + "\n", "line 2 is not an event"),
        ("[" * 1_500 + "\n", "line 1 is not an event"),
        ("x" * 3000, "line 1 has more than 2,000 bytes"),
        ("".join(Event(f"kind {n}", 1).line() for n in range(1002)), "too many or too large"),
    ],
    ids=["nonsense", "cut", "deep", "long", "kinds"],
)
def test_a_damaged_record_is_refused_and_read_once_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setattr(growing, "MAX_BYTES", 2000)
    monkeypatch.setattr(growing, "BLOCK_BYTES", 500)
    run = folder(tmp_path)
    record, path = GrowingRecord(run), run / "events.jsonl"
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(RunError, match=problem):
            record.read()
    path.write_text(Event("step", 3).line())
    assert [event.step for event in record.read().of("step")] == [3]
    path.unlink()
    with pytest.raises(RunError, match=r"no run is here \(events.jsonl is missing\)"):
        record.read()
    path.symlink_to(run / "preset.json")
    with pytest.raises(RunError, match="cannot be read"):
        record.read()


def test_a_step_that_is_passed_over_is_a_step_by_its_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "MOST_EVENTS", 2)
    run = folder(tmp_path)
    lines = [json.dumps({"step": n, "kind": "step", "time": {}}) for n in range(5)]  # in another order of keys
    (run / "events.jsonl").write_text("\n".join([*lines, *lines]) + "\n")
    record = GrowingRecord(run)
    assert len(record.read().of("step")) <= 4
    assert record.thinned()["step"].total == 10
    with (run / "events.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 11, "loss\n')
    with pytest.raises(RunError, match="line 11 is not an event"):
        record.read()
