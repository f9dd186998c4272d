"""Runs write on a page: the text is that of `generate`, with probabilities, and a page that goes ends the work."""

import asyncio
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient
from tests.conftest import Command, Tiny
from tests.ui.conftest import ADDRESS, SECRET, write_run

from nanogrove.config.overrides import resolve
from nanogrove.data.chat.conversations import Message
from nanogrove.decoding.sampling import Sampling
from nanogrove.errors import PresetError, RunError
from nanogrove.evaluate.reward import RewardConfig
from nanogrove.language_model import LanguageModel, from_checkpoint, load
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack
from nanogrove.runs.train import train
from nanogrove.synthetic.corpus import RHMConfig
from nanogrove.train.checkpoint import load_latest
from nanogrove.ui import exact, models, searching
from nanogrove.ui.app import Pages, application
from nanogrove.ui.asked import Asked, Side, Steering, asked_of
from nanogrove.ui.index import Index
from nanogrove.ui.play_page import SLIDERS
from nanogrove.ui.writing import Writer


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


def client_of(runs: Path) -> TestClient:
    """A browser that has been let in."""
    app, _ = application(Index(runs), SECRET)
    client = TestClient(app, base_url=ADDRESS, headers={"Origin": ADDRESS})
    client.get(f"/?key={SECRET}")
    return client


REWARDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"kind": "terms", "of": "old, sun=-3", "beta": 9}, {"terms": {"old": 1, "sun": -3}}),
    ({"kind": "pattern", "of": "[aeo]$"}, {"pattern": "[aeo]$"}),
    ({"kind": "length", "of": "12", "beta": -2.5}, {"length": 12}),
]


@pytest.mark.parametrize(("steering", "reward"), REWARDS)
def test_a_reward_steers_as_in_python(
    client: TestClient, runs: Path, steering: dict[str, Any], reward: dict[str, Any]
) -> None:
    events = events_of(client, wanted("a", tokens=12, steering=steering, sampling={"top_k": 5}))
    function = RewardConfig.model_validate(reward).find(allow_code=False)
    lm, beta = load(runs / "a"), steering.get("beta", 5.0)
    text = lm.generate("The sun", 12, seed=3, reward=function, beta=beta, top_k=5)
    assert "The sun" + text_of(events) == text
    if "pattern" in reward:  # to the others most tokens of one character are alike
        assert text != lm.generate("The sun", 12, seed=3, top_k=5)
    tokens = [event["token"] for event in events if "token" in event]
    assert tokens == lm.continuations(["The sun"], 12, seed=3, reward=function, beta=beta, top_k=5)[0].tokens


def test_a_pattern_that_takes_long_is_ended(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "SECONDS", 0.2)
    steering = {"kind": "pattern", "of": "( *)" * 6 + "x"}
    events = events_of(client, wanted("a", prompt=" " * 2000, tokens=2, steering=steering))
    (problem,) = [event["problem"] for event in events if "problem" in event]
    assert problem.startswith("pattern '( *)( *)( *)( *)( *)( *)x' takes more than 0.2 seconds on this text; write one")


def test_words_have_weights() -> None:
    reward = Steering(kind="terms", of=" old, sun = -3,a=b=.5").reward()
    assert reward(["an old sun", "Old", "sunny", "a=b"]) == [-2, 1, 0, 0.5]


def test_a_reward_model_that_is_a_run_steers(tiny: Tiny, runs: Path, tmp_path: Path, command: Command) -> None:
    root = tmp_path / "runs"
    shutil.copytree(runs / "a", root / "a")
    rows = [{"text": "The sun" + " walks" * (n // 9) + " over" * (n % 9), "reward": n % 9} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = str(root / "a" / "checkpoints" / "best" / "tokenizer.json")
    data = {"type": "rewarded", "path": str(tmp_path / "rows.jsonl"), "tokenizer": tokenizer}
    preset = {**tiny(model={"scalar": True, "block_size": 64}, train={"steps": 2}), "data": data}
    for _ in train(resolve({**preset, "method": {"name": "reward_model"}}), root / "judge"):
        pass
    client = client_of(root)
    page = client.get("/try?name=a").text
    assert '<option value="run:judge">' in page
    assert '<option value="judge">' not in page, "what writes nothing stands beside no run"
    steering = {"kind": "run", "of": "judge", "beta": 30}
    text = "The sun" + text_of(events_of(client, wanted("a", tokens=9, steering=steering)))
    done = command(
        "generate", root / "a", "The sun", "--tokens", 9, "--seed", 3, "--reward", root / "judge", "--beta", 30
    )
    assert done.out == text + "\n"
    (problem,) = [
        e["problem"] for e in events_of(client, wanted("a", steering=steering | {"of": "a"})) if "problem" in e
    ]
    assert "is not a reward model" in problem


def test_a_grammar_is_beside_its_model(tmp_path: Path, tiny: Tiny) -> None:
    """The exact probabilities are those of all derivations of the tokens before, and both divergences those of them."""
    data = {"type": "rhm", "v": 4, "m": 2, "s": 2, "L": 2, "held_out": 8, "targets": "all"}
    for _ in train(resolve({**tiny(train={"steps": 2}), "data": data}), tmp_path / "a"):
        pass
    client, lm = client_of(tmp_path), load(tmp_path / "a")
    events = events_of(client, wanted("a", prompt="", tokens=6, sampling={"temperature": 2.0}))
    new = [event for event in events if "token" in event]
    grammar = RHMConfig.model_validate(data).grammar()
    every = torch.cartesian_prod(*[torch.arange(4)] * 4)
    chances = grammar.next_token_log_probs(every).sum(1).exp()
    ids, defined = list[int](), 0
    for event in new:
        before = (every[:, : len(ids)] == torch.tensor(ids, dtype=torch.int64)).all(1) if len(ids) < 4 else chances > 1
        chance = torch.zeros(4, dtype=torch.float64)
        if len(ids) < 4:
            chance.index_add_(0, every[before, len(ids)], chances[before])
        if chance.sum() > 0:
            defined += 1
            p = chance / chance.sum()
            with torch.no_grad():
                q = lm.model(torch.tensor([[lm.tokenizer.end, *ids]]))[0, -1].double().softmax(-1)
            shown = {name: (ours, theirs) for name, ours, theirs in event["exact"]}
            assert shown == {
                name: pytest.approx((float(q[int(name)]), float(p[int(name)])), abs=2e-6) for name in "0123"
            } | {name: pytest.approx((float(q[4]), 0), abs=2e-6) for name in shown.keys() - set("0123")}
            on, possible = p > 0, q[:4][p > 0].sum()
            ours = q[:4][on] / possible
            assert event["kl"] == pytest.approx(float((ours * (ours / p[on]).log()).sum()), abs=1e-5)
            assert event["excess"] == pytest.approx(float((p[on] * (p[on] / q[:4][on]).log()).sum()), abs=1e-5)
            assert event["impossible"] == pytest.approx(float(1 - possible), abs=1e-5)
        else:
            assert event["exact"] is None
        ids.append(lm.tokenizer.end if event["token"].startswith("<") else int(event["token"]))
    assert defined > 1


def test_a_grammar_of_too_many_rules_is_left_out_with_a_word(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"type": "rlm", "v": 3, "L": 1, "held_out": 4}
    for _ in train(resolve({**tiny(train={"steps": 1}), "data": data}), tmp_path / "a"):
        pass
    monkeypatch.setattr(exact, "MOST_RULES", 26)
    events = events_of(client_of(tmp_path), wanted("a", prompt="", tokens=2))
    assert [event["note"] for event in events if "note" in event] == [exact.TOO_LARGE]
    assert not any("exact" in event for event in events)


def test_the_members_of_a_run_vote(tmp_path: Path, tiny: Tiny) -> None:
    method: dict[str, Any] = {"name": "evolve", "population_size": 3, "generations": 1, "steps_per_generation": 2}
    method |= {"replaced": 0.34, "parents": 0.34, "noise": 0.5, "significance": None}
    preset = tiny(evaluate={"every": 2}, save={"every": 2}, train={"steps": None}, model={"block_size": 32})
    for _ in train(resolve({**preset, "method": method}), tmp_path / "a"):
        pass
    events = events_of(client_of(tmp_path), wanted("a", tokens=8, stop=["q"]))
    checkpoint, _ = load_latest(tmp_path / "a" / "checkpoints")
    assert checkpoint is not None
    ids = checkpoint.tokenizer.encode("The sun")
    new, texts, nexts = [event["token"] for event in events if "token" in event], list[str](), list[list[str]]()
    read = [*ids, *(checkpoint.tokenizer.encode("".join(new[:-1])) if len(new) > 1 else [])]
    for member in range(3):
        voter = from_checkpoint(replace(checkpoint, model=unstack(checkpoint.model, member)))
        texts.append(voter.generate("The sun", 8, temperature=0, stop="q").removeprefix("The sun"))
        with torch.no_grad():
            likeliest = voter.model(torch.tensor([read]))[0, len(ids) - 1 :].argmax(-1)
        nexts.append([checkpoint.tokenizer.decode([token]) for token in likeliest.tolist()])
    assert events[-1]["voters"] == 3
    assert {text: count for count, text in events[-1]["votes"]} == Counter(texts)
    (ballots,) = [event["ballots"] for event in events if "ballots" in event]
    assert [dict(each) for each in ballots] == [Counter(given) for given in zip(*nexts, strict=True)]
    assert [event["voting"] for event in events if "voting" in event][-1] == 1.0


OTHERWISE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"auxiliary": {"enable_value": True, "enable_dynamics": True}}, {"lookahead": 2}),
    ({"auxiliary": {"enable_multi_token": True}}, {"speculative": True}),
    ({"model": {"memory_tokens": 2, "memory_segment": 8}}, {}),
    ({}, {"stop": ["e"], "precision": "int8"}),
]


@pytest.mark.parametrize(("sections", "options"), OTHERWISE, ids=["lookahead", "speculative", "memory", "stop"])
def test_other_ways_to_decode_write_what_generate_writes(
    sections: dict[str, Any], options: dict[str, Any], tiny: Tiny, tmp_path: Path
) -> None:
    for _ in train(resolve(tiny(train={"steps": 2}, **sections)), tmp_path / "runs" / "a"):
        pass
    events = events_of(client_of(tmp_path / "runs"), wanted("a", tokens=12, **options))
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
    (wanted("a", precision="float8"), "precision: must be 'auto', 'float32', 'bfloat16' or 'int8'"),
    (
        wanted("a", steering={"kind": "function", "of": "os:getcwd"}),
        "kind: must be 'terms', 'pattern', 'length' or 'run'",
    ),
    (wanted("a", steering={"kind": "terms", "of": " "}), "the terms of the reward is empty; fill it in"),
    (wanted("a", steering={"kind": "terms", "of": "a=b"}), "'a=b' is not a word with a weight"),
    (wanted("a", steering={"kind": "terms", "of": "good, =1"}), "'=1' is not a word with a weight"),
    (wanted("a", steering={"kind": "pattern", "of": "("}), "pattern '(' is not a regular expression"),
    (wanted("a", steering={"kind": "pattern", "of": "(a+)+$"}), "it may take forever"),
    (wanted("a", steering={"kind": "pattern", "of": "a?" * 40 + "a" * 40}), "it may take forever"),
    (wanted("a", steering={"kind": "pattern", "of": "x" * 10_001}), "must be 10000 characters long at most"),
    (wanted("a", steering={"kind": "terms", "of": ",".join(map(str, range(201)))}), "201 words are given, and 200"),
    (wanted("a", steering={"kind": "length", "of": "9" * 400}), "give a whole number of characters"),
    (wanted("a", steering={"kind": "length", "of": "-3"}), "the length of the reward is '-3'; give a whole number"),
    (wanted("a", steering={"kind": "run", "of": "../judge"}), "no run is here"),
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
    logits = GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda model, *given: steps.append(1) or logits(model, *given))  # type: ignore[func-returns-value]
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
