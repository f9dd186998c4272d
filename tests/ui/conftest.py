"""A folder of small runs, and a browser that has the secret."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nanogrove.config.overrides import resolve
from nanogrove.record.events import Event
from nanogrove.studies.compare import compared_runs
from nanogrove.studies.plan import Plan, PlannedArm
from nanogrove.studies.settings import read_settings
from nanogrove.ui.app import Pages, application
from nanogrove.ui.index import Index
from nanogrove.ui.processes import Processes

ADDRESS = "http://127.0.0.1:8100"
SECRET = "a-secret"

Browser = Callable[..., TestClient]


def step(number: int, **values: object) -> Event:
    named = {"loss": 3.0 - 0.1 * number, "lr": 0.1, "grad_norm": 1.0, "tokens": 64 * number} | values
    return Event("step", number, named, {"seconds": 2.0 * number, "tokens_per_second": 32.0})


def evaluation(number: int, loss: float) -> Event:
    return Event("eval", number, {"split": "validation", "loss": loss, "seen": 64 * number}, {"seconds": 2.0 * number})


def write_run(folder: Path, *events: Event, steps: int = 10, **preset: Any) -> Path:
    """A run folder with a record of these events, after its start."""
    folder.mkdir(parents=True)
    settings = {"name": folder.name, "method": {"name": "pretrain"}, "data": {"type": "text", "sources": ["a.txt"]}}
    (folder / "preset.json").write_text(json.dumps(settings | {"train": {"steps": steps}} | preset), "utf-8")
    start = Event("start", 0, {"name": folder.name, "steps": steps, "seed": 1})
    (folder / "events.jsonl").write_bytes("".join(e.line() for e in (start, *events)).encode("utf-8", "surrogatepass"))
    return folder


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that pages began here, which have ended when the test is over."""
    known: list[subprocess.Popen[bytes]] = []
    honest = Processes.resume

    def resume(self: Processes, run: Path) -> None:
        honest(self, run)
        known.append(self._continued[run])

    monkeypatch.setattr(Processes, "resume", resume)
    yield known
    for process in known:
        process.wait(60)


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    """Makes a client of the pages of `tmp_path / "runs"`, by default one that has been let in."""
    root = tmp_path / "runs"
    root.mkdir()

    def make(known: bool = True) -> TestClient:
        app, _ = application(Index(root), SECRET)
        client = TestClient(app, base_url=ADDRESS, headers={"Origin": ADDRESS} if known else {})
        if known:
            client.get(f"/?key={SECRET}")
        return client

    return make


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    """The pages of `tmp_path`."""
    return application(Index(tmp_path), SECRET)[1]


def write_study(folder: Path, preset: dict[str, Any], losses: dict[str, list[float]], **settings: Any) -> Path:
    """The folder of a planned study of arms, each with the losses of its finished runs by seed."""
    arms = [{"name": arm, "overrides": [f"optimizer.lr={0.01 * n}"]} for n, arm in enumerate(losses, 1)]
    study = read_settings({"preset": preset, "arms": arms, "seeds": 6, **settings}, "the study")
    numbers = dict(zip(("steps", "short", "long", "all_steps"), [4] * 4, strict=True))
    pinned = {arm["name"]: resolve(preset, arm["overrides"]).model_dump(mode="json") for arm in arms}
    planned = [
        PlannedArm(arm=arm, requested=values, preset=values, flops=1e6, **numbers) for arm, values in pinned.items()
    ]
    plan = Plan(study=study.model_dump(mode="json"), measure="loss", split="validation", machine={}, arms=planned)
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(study.model_dump_json())
    (folder / "plan.json").write_text(plan.model_dump_json())
    for run in compared_runs(plan, max(map(len, losses.values()))):
        if run.seed < len(losses[run.way.arm]):
            loss = losses[run.way.arm][run.seed]
            end = Event("end", 4, {"loss": loss, "best_step": 4}, {"seconds": 60.0})
            write_run(folder / run.folder, evaluation(4, loss), end, steps=4, **run.preset.model_dump(mode="json"))
    return folder
