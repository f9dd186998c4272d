"""Jobs in processes of this machine: what they train, and what happens where one of them is killed."""

import io
import json
import os
import signal
from pathlib import Path

import pytest
from tests.conftest import Tiny
from tests.studies.conftest import MakeStudy, outcome, run

from nanogrove.config.overrides import resolve
from nanogrove.errors import StudyError
from nanogrove.record.events import read_events
from nanogrove.studies.compare import Options, compare
from nanogrove.studies.engines import local
from nanogrove.studies.engines.contract import Happened, Job, Place
from nanogrove.studies.engines.local import train_here
from nanogrove.studies.plan import PlannedArm, Run, Way, run_of
from nanogrove.studies.work import run_job
from nanogrove.studies.worker import serve


def make_run(tiny: Tiny, seed: int, steps: int) -> Run:
    preset = resolve(tiny(train={"steps": steps}, sample={"tokens": 0}))
    values = preset.model_dump(mode="json")
    planned = PlannedArm(
        arm="a", requested=values, preset=values, steps=steps, short=steps, long=steps, all_steps=steps, flops=1.0
    )
    return run_of(Way("a", preset, planned), seed)


def kinds(folder: Path) -> list[tuple[str, int, object]]:
    """What a record says, less times and circumstances."""
    return [
        (e.kind, e.step, e.values) for e in read_events(folder / "events.jsonl") if e.kind not in ("start", "resume")
    ]


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_its_run_has_the_same_bits(tiny: Tiny, tmp_path: Path) -> None:
    run, killed, events = make_run(tiny, 0, 20), False, list[Happened]()
    for event in train_here([Job((run,))], Place(tmp_path / "killed", 1)):
        events.append(event)
        if event.kind == "eval" and not killed:
            killed = True
            lock = tmp_path / "killed" / run.folder / ".lock"
            os.kill(int(lock.read_text().split()[-1]), signal.SIGKILL)
    assert killed
    assert all(event.run is run for event in events)
    assert [event.kind for event in events][-1] == "end"
    list(run_job([(run.preset, tmp_path / "whole" / run.folder)]))
    one, other = (tmp_path / name / run.folder for name in ("killed", "whole"))
    assert kinds(one) == kinds(other)
    weights = [(folder / "checkpoints/current/model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]


def test_a_job_whose_process_always_dies_is_given_up(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.sys, "executable", "/bin/false")
    with pytest.raises(StudyError, match=r"arm a, seed 0: its process ended with exit code 1, 3 times"):
        list(train_here([Job((make_run(tiny, 0, 2),))], Place(tmp_path, 2)))


def test_a_job_goes_on_as_long_as_any_of_its_runs_does(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process dies after a step of one run, and after fewer of the next one: its runs may take turns."""
    worker, count = tmp_path / "worker", tmp_path / "count"
    lines = [json.dumps({"run": n, "kind": "step", "step": 9 - n, "text": ""}) for n in range(5)]
    cases = "\n".join(f"{n}) echo '{line}'; kill -9 $$;;" for n, line in enumerate(lines))
    worker.write_text(
        f"#!/bin/sh\nread job\nn=$(cat {count} 2>/dev/null || echo 0)\necho $((n + 1)) > {count}\n"
        f"case $n in\n{cases}\nesac\necho '{{\"done\": true}}'\n"
    )
    worker.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(worker))
    runs = tuple(make_run(tiny, seed, 9) for seed in range(5))
    assert [event.step for event in train_here([Job(runs)], Place(tmp_path, 1))] == [9, 8, 7, 6, 5]


def test_a_run_that_cannot_be_trained_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    job = {"allow_code": False, "runs": [{"preset": tiny(), "folder": str(tmp_path)}]}
    answers = io.StringIO()
    serve(io.StringIO(json.dumps(job) + "\n"), answers)
    assert "events.jsonl: is a folder" in json.loads(answers.getvalue())["error"]


@pytest.mark.slow
def test_a_killed_study_goes_on_with_the_same_bits(study: MakeStudy, tmp_path: Path) -> None:
    """The process of a study is killed after each of its first events, and its workers end at their next message."""
    whole = run(study(), tmp_path / "whole", "processes")
    child = os.fork()
    if not child:
        for number, _ in enumerate(compare(study(), tmp_path / "killed", Options("processes"))):
            if number == 5:
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    _, findings = outcome(compare(study(), tmp_path / "killed", Options("processes")))
    assert findings.verdicts == whole.verdicts
    for key, result in whole.results.items():
        assert findings.results[key].figures == result.figures
