"""What a page asks one model to write, or two side by side, and the texts as they come, with each token's probability.

The text is the one that `LanguageModel.generate` gives for the same prompt, seed and settings, or `chat` for messages.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, cast

from pydantic import Field, ValidationError

from nanogrove.data.chat.conversations import Message
from nanogrove.data.chat.encoding import chat_prompt
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.decoding.sampling import Sampling
from nanogrove.errors import CheckpointError, NanogroveError, PresetError
from nanogrove.generation import GenerationOptions
from nanogrove.language_model import LanguageModel
from nanogrove.memory import used_up_as_error
from nanogrove.serve.engine import NOT_FINITE, Request, Update, opened
from nanogrove.settings import Settings, reason
from nanogrove.ui.models import Models

MAX_TOKENS = 5_000  # of a text; each has an element in the page
ALTERNATIVES = 5  # that are shown for each token
Event = dict[str, object]  # of a side, as the page gets it


class Side(Settings):
    """A run that writes: its name in addresses, and the conversation that it answers, where it is to chat."""

    run: str
    messages: list[Message] | None = None


class Asked(Settings):
    """What a page asks for: one run or two, what they continue, and how."""

    sides: list[Side] = Field(min_length=1, max_length=2)
    prompt: str = ""
    tokens: int = Field(ge=1, le=MAX_TOKENS)
    seed: int = Field(ge=0, lt=1 << 63)
    calibrated: bool = False
    lookahead: int | None = None
    sampling: Sampling = Sampling()


class Writer(NamedTuple):
    """A side with the folder of its run."""

    side: Side
    path: Path


def asked_of(body: bytes) -> Asked:
    """What the body of a request asks for. Raises PresetError, which names the first field that is wrong."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors()
        place = ".".join(map(str, problems[0]["loc"])) or "the request"
        raise PresetError(f"{place.removeprefix('sampling.')}: {reason(problems[:1])}") from None


def write(models: Models, writers: Sequence[Writer], asked: Asked) -> Generator[list[Event], None, None]:
    """Yields what each step brings; all sides take a step in turn. To close it ends the work.

    What one side cannot do is an event of it, and the other goes on. Every event has the number of its side, and

    - `state`: what is under way,
    - `text`, `token`, `probability` and `likeliest`: a token, with the text that it makes certain, often none; `text`
      alone with lookahead, of a model with a rolling memory and of an ensemble,
    - `end`: why the text ended, with the number of `tokens`, or
    - `problem`: why it failed.
    """
    with ExitStack() as stack:
        at_work = dict[int, Generator[list[Event], None, None]]()
        for number, writer in enumerate(writers):
            at_work[number] = stack.enter_context(closing(_side(models, writer, asked)))
        while at_work:
            events = list[Event]()
            for number, steps in list(at_work.items()):
                try:
                    with used_up_as_error():
                        new = next(steps, None)
                except NanogroveError as error:
                    new = [{"problem": str(error)}]
                    steps.close()
                    del at_work[number]
                if new is None:
                    del at_work[number]
                events += [{"side": number, **event} for event in new or ()]
            if events:
                yield events


def _side(models: Models, writer: Writer, asked: Asked) -> Generator[list[Event], None, None]:
    """The events of one side."""
    yield [{"state": "Loading the model."}]
    lm = models.load(writer.path)
    yield [{"state": "Reading the prompt."}]
    plain = lm.model.memory is None and lm.model.population is None
    if asked.lookahead is not None or not plain:
        yield from _pieces(lm, writer.side, asked)
        return
    request = _request(lm, writer.side, asked)
    names = {number: name for name, number in lm.tokenizer.special_tokens().items()}
    with opened(lm, 1, 0, name=writer.side.run) as engine:
        engine.submit(request)
        while engine.waiting or engine.active:
            yield [event for update in engine.step() for event in _events(update, lm.tokenizer, names)]


def _pieces(lm: LanguageModel, side: Side, asked: Asked) -> Generator[list[Event], None, None]:
    """The events of a side that no engine writes: its text, without probabilities."""
    draw = {"seed": asked.seed, "calibrated": asked.calibrated, "lookahead": asked.lookahead}
    options = cast(GenerationOptions, {**asked.sampling.model_dump(), **draw})
    if side.messages is None:
        pieces = lm.pieces([asked.prompt], asked.tokens, **options)
    else:
        pieces = lm.answer_pieces(side.messages, asked.tokens, **options)
    with closing(pieces):
        for piece in pieces:
            events: list[Event] = [{"text": piece.text}]
            if piece.end is not None:
                events.append({"end": piece.end.reason, "tokens": piece.end.new_tokens})
            yield events


def _request(lm: LanguageModel, side: Side, asked: Asked) -> Request:
    """What the engine of a side is asked for. Raises CheckpointError and DataError."""
    tokenizer, sampling = lm.tokenizer, asked.sampling
    ends = {tokenizer.end}
    if side.messages is None:
        prompt = list(tokenizer.encode(asked.prompt)) or [tokenizer.end]
    else:
        prompt, end = chat_prompt(tokenizer, side.messages)
        ends.add(end)
    if asked.calibrated:
        if not lm.calibrated:
            raise CheckpointError(
                f"{side.run}: this model has no temperature of its own yet; run `nanogrove evaluate RUN --calibrate`, "
                "or write without it"
            )
        sampling = sampling.model_copy(update={"temperature": sampling.temperature * lm.temperature})
    return Request(
        prompt=prompt,
        tokens=asked.tokens,
        sampling=sampling,
        seed=asked.seed,
        ends=frozenset(ends),
        alternatives=ALTERNATIVES,
    )


def _events(update: Update, tokenizer: Tokenizer, names: dict[int, str]) -> Generator[Event, None, None]:
    """What the page gets of an update."""
    if update.scored is not None:
        token, log_probability, likeliest = update.scored
        pairs = [(_name(each, tokenizer, names), _probability(value)) for each, value in likeliest]
        name = _name(token, tokenizer, names)
        yield {"text": update.text, "token": name, "probability": _probability(log_probability), "likeliest": pairs}
    if update.end == "failed":
        yield {"problem": update.problem or NOT_FINITE}
    elif update.end is not None:
        yield {"end": update.end, "tokens": update.tokens}


def _name(token: int, tokenizer: Tokenizer, names: dict[int, str]) -> str:
    """What a token is called: its text, or the name of a special one, which writes nothing."""
    return names.get(token) or tokenizer.decode([token])


def _probability(log_probability: float) -> float:
    return round(math.exp(log_probability), 6)
