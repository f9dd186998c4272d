"""The engine: each text is that of `generate` for its seed, whatever is beside it; places are freed; none is lost."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from nanogrove.data.tokenizer import bpe_tokenizer, character_tokenizer
from nanogrove.decoding.open_rows import OpenRows
from nanogrove.decoding.sampling import Sampling
from nanogrove.decoding.stopping import stop_texts
from nanogrove.errors import PresetError, RunError
from nanogrove.language_model import LanguageModel
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.serve import engine as engines
from nanogrove.serve.engine import BusyError, Engine, Request, Ticket, Update, opened

LETTERS = "abcdefgh "
PROMPTS = ["a", "bad cafe", "", "ab ab ab ab ab ab ab ab ab", "head", "gaff"]


def make(text: str = LETTERS, **settings: Any) -> LanguageModel:
    """A model with something to say: weights four times as large as at first."""
    tokenizer = character_tokenizer([text]) if text == LETTERS else bpe_tokenizer([text], 300)
    sizes = {"vocab_size": tokenizer.vocab_size, "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}
    model = GPT(ModelConfig(**{**sizes, **settings})).initialize(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)
    return LanguageModel(model, tokenizer)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return make()


@pytest.fixture
def engine(lm: LanguageModel) -> Iterator[Engine]:
    with opened(lm, room=3, waiting_limit=5) as engine:
        yield engine


def request(lm: LanguageModel, prompt: str = "a", tokens: int = 20, seed: int = 0, **options: Any) -> Request:
    stops = stop_texts(options.pop("stop", ()), lm.tokenizer.decode)
    alternatives, ends = options.pop("alternatives", None), options.pop("ends", [lm.tokenizer.end])
    return Request(
        prompt=lm.tokenizer.encode(prompt) or [lm.tokenizer.end],
        tokens=tokens,
        sampling=Sampling(**options),
        seed=seed,
        ends=frozenset(ends),
        stops=stops,
        alternatives=alternatives,
    )


def drain(engine: Engine) -> list[Update]:
    """All updates until nothing is left to do."""
    updates = []
    while engine.waiting or engine.active:
        updates += engine.step()
    return updates


def text_of(updates: Sequence[Update], ticket: Ticket) -> str:
    return "".join(update.text for update in updates if update.ticket is ticket)


def ends(updates: Sequence[Update]) -> dict[Ticket, str]:
    ended = [(update.ticket, update.end) for update in updates if update.end is not None]
    assert len(dict(ended)) == len(ended), "a request ends once"
    return dict(ended)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 4, "stop": ["ba", "e "]},
    {"temperature": 1.2, "top_p": 0.9, "repetition_penalty": 1.3},
    {"temperature": 1.0, "no_repeat_ngram": 3},
    {"min_p": 0.1, "stop": "d"},
]


def test_each_text_is_that_of_generate_for_its_seed_whatever_is_beside_it(lm: LanguageModel) -> None:
    with opened(lm, room=3, waiting_limit=20) as engine:
        wanted, updates = {}, []
        for number in range(12):
            prompt, options = PROMPTS[number % len(PROMPTS)], OPTIONS[(number + number // 6) % len(OPTIONS)]
            ticket = engine.submit(request(lm, prompt, 16 + number, number, **options))
            wanted[ticket] = (prompt, 16 + number, number, options)
            updates += engine.step()  # the next one comes while others are written
        updates += drain(engine)
    ended = ends(updates)
    for ticket, (prompt, tokens, seed, options) in wanted.items():
        assert prompt + text_of(updates, ticket) == lm.generate(prompt, tokens, seed=seed, **options)
        (count,) = [update.tokens for update in updates if update.ticket is ticket and update.end]
        assert (ended[ticket] == "length") <= (count == tokens)
        assert ended[ticket] in ("stop", "length")
    assert {"stop", "length"} == set(ended.values())


def test_half_characters_wait_and_the_whole_is_that_of_generate() -> None:
    lm = make("é ü — 漢字 " * 20, n_embd=32)
    with opened(lm, room=2, waiting_limit=2) as engine:
        ticket = engine.submit(request(lm, "é", 40, temperature=1.5, seed=4))
        updates = drain(engine)
    assert "é" + text_of(updates, ticket) == lm.generate("é", 40, temperature=1.5, seed=4)
    assert len([update for update in updates if update.text]) < len(updates)


def test_the_first_token_comes_in_the_step_that_admits(lm: LanguageModel, engine: Engine) -> None:
    first = engine.submit(request(lm, "a", ends=[]))
    for _ in range(3):
        engine.step()
    second = engine.submit(request(lm, "bad", ends=[]))
    tokens = {update.ticket: update.tokens for update in engine.step()}
    assert tokens == {first: 4, second: 1}


def test_long_prompts_are_read_over_several_steps(
    lm: LanguageModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "PROMPT_TOKENS_PER_STEP", 10)
    for _ in range(3):
        engine.submit(request(lm, "bad cafe", ends=[]))
    engine.step()
    assert (engine.active, engine.waiting) == (2, 1)


def test_a_full_queue_refuses_and_takes_again_once_there_is_room(lm: LanguageModel, engine: Engine) -> None:
    for _ in range(8):
        engine.submit(request(lm, tokens=2, ends=[]))
    with pytest.raises(BusyError, match="8 requests wait already; send this one again later"):
        engine.submit(request(lm))
    engine.step()
    engine.step()
    assert (engine.active, engine.waiting) == (3, 2)
    assert set(ends(drain(engine)).values()) == {"length"}


def test_a_request_waits_until_its_prompt_is_read(
    lm: LanguageModel, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, seen = OpenRows.admit, list[tuple[int, int]]()

    def watched(rows: OpenRows, prompt: Sequence[int]) -> Tensor:
        seen.append((engine.active, engine.waiting))
        with pytest.raises(BusyError):
            engine.submit(request(lm))
        return admit(rows, prompt)

    monkeypatch.setattr(OpenRows, "admit", watched)
    for _ in range(8):
        engine.submit(request(lm, tokens=2, ends=[]))
    engine.step()
    assert seen == [(0, 8), (1, 7), (2, 6)]


def test_a_cancelled_request_frees_its_place_at_the_next_step(lm: LanguageModel, engine: Engine) -> None:
    tickets = [engine.submit(request(lm, prompt, 30, seed=5)) for prompt in ("a", "bad", "head", "gaff", "b")]
    updates = engine.step()
    tickets[0].cancelled = tickets[3].cancelled = True
    updates += engine.step()
    assert (engine.active, engine.waiting) == (3, 0)
    updates += drain(engine)
    ended = ends(updates)
    assert [ended[ticket] == "cancelled" for ticket in tickets] == [True, False, False, True, False]
    for ticket, prompt in zip(tickets, ("a", "bad", "head", "gaff", "b"), strict=True):
        if not ticket.cancelled:
            assert prompt + text_of(updates, ticket) == lm.generate(prompt, 30, seed=5)


def test_log_probabilities_are_those_of_the_tokens_that_are_written(lm: LanguageModel, engine: Engine) -> None:
    ticket = engine.submit(request(lm, "bad", 17, temperature=1.0, alternatives=3, seed=2))
    engine.submit(request(lm, "a", 17))
    scored = [update.scored for update in drain(engine) if update.ticket is ticket]
    (wanted,) = lm.continuations(["bad"], 17, temperature=1.0, seed=2)
    probabilities = torch.tensor([each.log_probability for each in scored if each]).exp()
    torch.testing.assert_close(probabilities, torch.tensor(wanted.probabilities))
    for each in scored:
        assert each is not None
        values = [value for _, value in each.likeliest]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert each.log_probability <= values[0]


def test_a_model_that_gives_no_numbers_fails_the_request_and_not_the_engine() -> None:
    lm = make()
    with torch.no_grad():
        lm.model.embed.weight[lm.tokenizer.encode("b")[0]] = torch.nan
    with opened(lm, room=2, waiting_limit=2) as engine:
        engine.submit(request(lm, "b"))
        (update,) = drain(engine)
    assert (update.end, update.problem) == ("failed", engines.NOT_FINITE)


def test_requests_end_when_a_step_fails_and_the_engine_goes_on(lm: LanguageModel, engine: Engine) -> None:
    tickets = {engine.submit(request(lm, ends=[])) for _ in range(5)}
    engine.step()
    updates = engine.abandon("out of order")
    assert {update.ticket for update in updates} == tickets
    assert {update.problem for update in updates} == {"out of order"}
    ticket = engine.submit(request(lm, "bad", 20, seed=3))
    assert "bad" + text_of(drain(engine), ticket) == lm.generate("bad", 20, seed=3)


@pytest.mark.parametrize("failing", ["extend", "admit"])
def test_a_step_that_fails_loses_no_request(
    lm: LanguageModel, engine: Engine, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Not the one that was about to be admitted, and not one whose end the failed step did not get to say."""

    def fail(*_: object) -> None:
        raise MemoryError

    tickets = [engine.submit(request(lm, ends=[])) for _ in range(2)]
    engine.step()
    tickets += [engine.submit(request(lm, ends=[])) for _ in range(2)]
    tickets[0].cancelled = True
    with monkeypatch.context() as patch:
        patch.setattr(OpenRows, failing, fail)
        with pytest.raises(MemoryError):
            engine.step()
    assert [update.ticket for update in engine.abandon("out of memory")] == tickets
    ticket = engine.submit(request(lm, "bad", 20, seed=3))
    assert "bad" + text_of(drain(engine), ticket) == lm.generate("bad", 20, seed=3)


def test_a_model_with_a_rolling_memory_is_refused_and_so_is_a_cache_that_does_not_fit(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PresetError, match=r"^mine: a model with a rolling memory .* is not served; use generate"):
        opened(make(memory_tokens=2, memory_segment=8), 2, 2, name="mine").__enter__()
    monkeypatch.setattr(engines, "free_bytes", lambda: 1000)
    with pytest.raises(RunError, match=r"^mine: keys and values of 4 rows of 16 tokens take 8.2 kB, and 1.0 kB are"):
        opened(lm, 4, 2, name="mine").__enter__()
