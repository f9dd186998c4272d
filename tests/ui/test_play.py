"""Runs write on a page: the text is that of `generate`, with probabilities, and a page that goes ends the work."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.conftest import Command, Tiny
from tests.ui.conftest import ADDRESS, SECRET, write_run

from nanogrove.config.overrides import resolve
from nanogrove.data.chat.conversations import Message
from nanogrove.decoding.sampling import Sampling
from nanogrove.errors import PresetError, RunError
from nanogrove.language_model import LanguageModel, load
from nanogrove.runs.train import train
from nanogrove.serve.engine import Engine
from nanogrove.ui import models
from nanogrove.ui.app import Pages, application
from nanogrove.ui.index import Index
from nanogrove.ui.play_page import SLIDERS
from nanogrove.ui.writing import Asked, Side, Writer, asked_of


@pytest.fixture(scope="module")
def runs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of other seeds, and one without a checkpoint."""
    root = tmp_path_factory.mktemp("play") / "runs"
    for name, seed in (("a", 1), ("b", 2)):
        for _ in train(resolve(tiny(seed=seed, train={"steps": 3})), root / name):
            pass
    write_run(root / "empty")
    return root


@pytest.fixture(scope="module")
def client(runs: Path) -> TestClient:
    app, _ = application(Index(runs), SECRET)
    client = TestClient(app, base_url=ADDRESS, headers={"Origin": ADDRESS})
    client.get(f"/?key={SECRET}")
    return client


def wanted(*runs: str, **settings: Any) -> dict[str, Any]:
    return {"sides": [{"run": run} for run in runs], "prompt": "The sun", "tokens": 40, "seed": 3, **settings}


def events_of(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    lines = client.post("/try/write", json=body).text.splitlines()
    return [event for line in lines for event in json.loads(line)]


def text_of(events: list[dict[str, Any]], side: int = 0) -> str:
    return "".join(event.get("text", "") for event in events if event["side"] == side)


SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.3, "top_k": 7, "repetition_penalty": 1.2},
    {"top_p": 0.8, "min_p": 0.02, "no_repeat_ngram": 3},
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_two_sides_write_what_generate_writes(client: TestClient, runs: Path, sampling: dict[str, Any]) -> None:
    events = events_of(client, wanted("a", "b", sampling=sampling))
    for side, name in enumerate(("a", "b")):
        text = load(runs / name).generate("The sun", 40, seed=3, **sampling)
        assert "The sun" + text_of(events, side) == text
    assert {event["side"] for event in events if event.get("end") in ("length", "stop")} == {0, 1}


def test_the_text_is_that_of_the_command_line(client: TestClient, runs: Path, command: Command) -> None:
    done = command("generate", runs / "a", "The sun", "--tokens", 20, "--seed", 5, "--top-k", 9)
    assert (
        done.out == "The sun" + text_of(events_of(client, wanted("a", tokens=20, seed=5, sampling={"top_k": 9}))) + "\n"
    )


def test_tokens_have_their_probabilities_and_the_likeliest(client: TestClient, runs: Path) -> None:
    tokens = [event for event in events_of(client, wanted("a")) if "token" in event]
    (continuation,) = load(runs / "a").continuations(["The sun"], 40, seed=3)
    assert [event["token"] for event in tokens] == continuation.tokens
    assert [event["probability"] for event in tokens] == pytest.approx(continuation.probabilities, abs=2e-6)
    for event in tokens:
        shares = [share for _, share in event["likeliest"]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert dict(event["likeliest"]).get(event["token"], event["probability"]) == event["probability"]


def test_a_side_that_fails_leaves_the_other(client: TestClient) -> None:
    events = events_of(client, wanted("empty", "a", tokens=5))
    (problem,) = [event["problem"] for event in events if "problem" in event]
    assert "neither a run nor a checkpoint" in problem
    assert text_of(events, 1)
    (problem,) = [event["problem"] for event in events_of(client, wanted("a", calibrated=True)) if "problem" in event]
    assert "`nanogrove evaluate RUN --calibrate`" in problem


def test_a_run_that_chats_answers_messages(tiny: Tiny, tmp_path: Path) -> None:
    answer: Message = {"role": "assistant", "content": "cd"}
    rows = [{"messages": [{"role": "user", "content": "ab" * (1 + n % 9)}, answer]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    preset = tiny(model={"block_size": 32}, train={"steps": 2})
    data = {"type": "chat", "path": str(tmp_path / "rows.jsonl"), "tokenizer": "char"}
    for _ in train(resolve({**preset, "data": data}), tmp_path / "runs" / "chat"):
        pass
    app, _ = application(Index(tmp_path / "runs"), SECRET)
    client = TestClient(app, base_url=ADDRESS, headers={"Origin": ADDRESS})
    assert 'id="chat"' in client.get(f"/?key={SECRET}").text + client.get("/try?name=chat").text
    question: Message = {"role": "user", "content": "ab"}
    messages = [question, answer, question]
    side = {"run": "chat", "messages": messages}
    events = events_of(client, {**wanted(), "sides": [side]})
    assert text_of(events) == load(tmp_path / "runs" / "chat").chat(messages, 40, seed=3)
    side["messages"] = [question, answer]
    assert "end with one of the user" in events_of(client, {**wanted(), "sides": [side]})[-1]["problem"]


OTHERWISE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"auxiliary": {"enable_value": True, "enable_dynamics": True}}, {"lookahead": 2}),
    ({"model": {"memory_tokens": 2, "memory_segment": 8}}, {}),
]


@pytest.mark.parametrize(("sections", "options"), OTHERWISE, ids=["lookahead", "memory"])
def test_what_is_not_decoded_plainly_is_written_too(
    sections: dict[str, Any], options: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    for _ in train(resolve(tiny(train={"steps": 2}, **sections)), tmp_path / "runs" / "a"):
        pass
    app, _ = application(Index(tmp_path / "runs"), SECRET)
    client = TestClient(app, base_url=ADDRESS, headers={"Origin": ADDRESS})
    client.get(f"/?key={SECRET}")
    events = events_of(client, wanted("a", tokens=12, **options))
    assert "The sun" + text_of(events) == load(tmp_path / "runs" / "a").generate("The sun", 12, seed=3, **options)
    assert events[-1]["end"] in ("length", "stop")


REFUSED: list[tuple[dict[str, Any], str]] = [
    (wanted("a", tokens=0), "tokens: must be 1 or more"),
    (wanted("a", tokens=10**9), "tokens: must be 5000 or less"),
    (wanted("a", sampling={"top_p": 2}), "top_p: must be 1 or less"),
    (wanted("a", sampling={"heat": 1}), "heat: "),
    (wanted("a", "a"), "cannot stand beside itself"),
    (wanted("../outside"), "no run is here"),
    (wanted(), "sides: must be 1 or more entries long"),
    (wanted("a", "b", "a"), "sides: must be 2 entries long at most"),
]


@pytest.mark.parametrize(("body", "problem"), REFUSED)
def test_what_makes_no_sense_is_refused_in_a_line(client: TestClient, body: dict[str, Any], problem: str) -> None:
    answer = client.post("/try/write", json=body)
    assert answer.status_code == 409
    assert problem in json.loads(answer.text)[0]["problem"]


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"\xff", b"[]"])
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(PresetError):
        asked_of(body)


def test_the_page_has_a_slider_for_each_setting(client: TestClient) -> None:
    page = client.get("/try?name=a").text
    assert [slider.name for slider in SLIDERS] == list(Sampling.model_fields)
    fields = dict(re.findall(r'id="(\w+)" class="sampling"[^>]* value="([^"]*)"', page))
    assert Sampling(**{name: value for name, value in fields.items() if value}) == Sampling()
    assert '<option value="b">b</option>' in page
    assert '<option value="a">' not in page
    assert "Chat" not in page
    assert '<a href="/try?name=a">' in client.get("/run?name=a").text
    assert client.get("/try?name=nowhere").status_code == 404


def test_a_page_that_goes_ends_the_work(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the step under way is computed, and the next text is not kept waiting."""
    pages = Pages(Index(runs))
    steps = list[int]()
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: steps.append(1) or step(engine))  # type: ignore[func-returns-value]
    writers = [Writer(Side(run="a"), runs / "a")]

    async def leave() -> None:
        lines = pages.playground._lines(writers, Asked(sides=[Side(run="a")], tokens=4000, seed=0))
        async for line in lines:
            if "token" in line.decode():
                break
        await lines.aclose()  # type: ignore[attr-defined]
        before = len(steps)
        texts = pages.playground._lines(writers, Asked(sides=[Side(run="a")], tokens=3, seed=0))
        events = [event async for line in texts for event in json.loads(line)]
        assert events[-1]["end"] in ("length", "stop")
        assert len(steps) <= before + 3

    asyncio.run(asyncio.wait_for(leave(), 20))


def test_a_model_is_loaded_once_until_it_changes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = list[Path]()

    def counted(path: Path) -> LanguageModel:
        loads.append(path)
        return load(path)

    monkeypatch.setattr(models, "load", counted)
    kept = models.Models()
    first = kept.load(runs / "a")
    assert kept.load(runs / "a") is first
    kept.load(runs / "b")
    assert kept.load(runs / "a") is first
    state = runs / "a" / "checkpoints" / "best" / "state.json"
    state.touch()
    assert kept.load(runs / "a") is not first
    monkeypatch.setattr(models, "KEPT_BYTES", 0)  # then only the one that was asked for last is kept
    state.touch()
    again = kept.load(runs / "a")
    assert kept.load(runs / "a") is again
    del loads[:]
    for name in ("b", "a", "a"):
        kept.load(runs / name)
    assert [path.name for path in loads] == ["b", "a"]


def test_a_model_larger_than_memory_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "free_bytes", lambda: 1000)
    with pytest.raises(RunError, match=r"loading its model takes .* and 1.0 kB are free"):
        models.Models().load(runs / "a")
