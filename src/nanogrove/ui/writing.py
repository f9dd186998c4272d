"""Texts as a page gets them, token by token, with what the model, its grammar and its committee say of each.

The text is the one that `LanguageModel.generate` gives for the same prompt, seed and settings, or `chat` for messages.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import torch

from nanogrove.data.chat.conversations import Message
from nanogrove.data.chat.encoding import chat_prompt
from nanogrove.decoding.streaming import Step
from nanogrove.errors import NanogroveError
from nanogrove.generation import GenerationOptions, SteeredOptions
from nanogrove.language_model import LanguageModel
from nanogrove.memory import used_up_as_error
from nanogrove.ui.asked import Asked, Side
from nanogrove.ui.exact import Beside, grammar_of
from nanogrove.ui.models import Models
from nanogrove.ui.votes import MOST_VOTERS, count_votes, votes_by_token

ALTERNATIVES = 5  # that are shown for each token
Event = dict[str, object]  # of a side, as the page gets it
Events = Generator[list[Event], None, None]


class Writer(NamedTuple):
    """A side with the folder of its run."""

    side: Side
    path: Path


def write(models: Models, writers: Sequence[Writer], asked: Asked, reward: Path | None = None) -> Events:
    """Yields what each step brings; all sides take a step in turn. To close it ends the work.

    What one side cannot do is an event of it, and the other goes on. Every event has the number of its side, and

    - `state`: what is under way, or `note`: what is left out,
    - `text`, `token`, `probability` and `likeliest`: a token, with the text that it makes certain, often none; of a
      grammar what `Beside.event` gives too; `text` alone with lookahead and speculative decoding,
    - `end`: why the text ended, with the number of `tokens`,
    - `voting`, `votes` and `voters`: see `count_votes`; `ballots`: for each token the voters' likeliest ones, or
    - `problem`: why it failed.

    Args:
        models: where models are kept.
        writers: one or two.
        asked: what is to be written.
        reward: the run of the reward model that steers, where `asked` names one.
    """
    with ExitStack() as stack:
        at_work = dict[int, Events]()
        for number, writer in enumerate(writers):
            at_work[number] = stack.enter_context(closing(_side(models, writer, asked, reward)))
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


def _side(models: Models, writer: Writer, asked: Asked, reward: Path | None) -> Events:
    """The events of one side."""
    yield [{"state": "Loading the model."}]
    lm, prompt = models.load(writer.path), _prompt(writer.side, asked)
    options: SteeredOptions = {"seed": asked.seed, "calibrated": asked.calibrated, "precision": asked.precision}
    options |= {"stop": asked.stop, **asked.sampling.model_dump()}  # type: ignore[typeddict-item]
    if asked.steering is not None:
        options["beta"] = asked.steering.beta
        options["reward"] = asked.steering.reward() if reward is None else models.load_reward(reward)
    yield [{"state": "Reading the prompt."}]
    if asked.lookahead is not None or asked.speculative:
        yield from _pieces(lm, prompt, asked, options)
        new = list[int]()
    else:
        new = yield from _steps(lm, prompt, asked, options, writer.path)
    yield from _votes(models, writer.path, prompt, asked, new)


def _pieces(lm: LanguageModel, prompt: str | list[Message], asked: Asked, options: SteeredOptions) -> Events:
    """The events of a side that is not decoded plainly: its text, without probabilities."""
    settings: GenerationOptions = {**options, "speculative": asked.speculative, "lookahead": asked.lookahead}
    if isinstance(prompt, str):
        pieces = lm.pieces([prompt], asked.tokens, **settings)
    else:
        pieces = lm.answer_pieces(prompt, asked.tokens, **settings)
    with closing(pieces):
        for piece in pieces:
            events: list[Event] = [{"text": piece.text}]
            if piece.end is not None:
                events.append({"end": piece.end.reason, "tokens": piece.end.new_tokens})
            yield events


def _steps(
    lm: LanguageModel, prompt: str | list[Message], asked: Asked, options: SteeredOptions, run: Path
) -> Generator[list[Event], None, list[int]]:
    """The events of a side that is decoded plainly; returns its new tokens."""
    new, name = list[int](), Names(lm)
    grammar, why = grammar_of(run, lm.tokenizer)
    if why:
        yield [{"note": why}]
    beside = None if grammar is None else Beside(grammar, _ids(lm, prompt), lm.tokenizer.end)
    with closing(lm.steps(prompt, asked.tokens, **options)) as steps:
        for step in steps:
            new.append(step.token)
            event = _event(step, name) | ({} if beside is None else beside.event(step.token, step.scores, name))
            events = [event]
            if step.end is not None:
                events.append({"end": step.end.reason, "tokens": step.end.new_tokens})
            yield events
    return new


def _votes(models: Models, run: Path, prompt: str | list[Message], asked: Asked, new: Sequence[int]) -> Events:
    """The events of the votes of a run's members; none where it has one model alone."""
    try:
        voters = models.load_voters(run)
        if len(voters) > MOST_VOTERS:
            yield [{"note": f"Its {len(voters)} members are too many to vote here, {MOST_VOTERS} at most."}]
            return
        if len(voters) < 2:
            return
        ballots = votes_by_token(voters, _ids(voters[0], prompt), new)
        if ballots:
            name = Names(voters[0])
            yield [{"ballots": [[(name(token), count) for token, count in each.most_common()] for each in ballots]}]
        yield from count_votes(voters, prompt, asked.tokens, asked.stop)
    except NanogroveError as error:  # the text is whole without them
        yield [{"note": f"There are no votes: {error}"}]


def _prompt(side: Side, asked: Asked) -> str | list[Message]:
    return asked.prompt if side.messages is None else side.messages


def _ids(lm: LanguageModel, prompt: str | list[Message]) -> list[int]:
    """The tokens of a prompt, which its model reads."""
    if isinstance(prompt, str):
        return list(lm.tokenizer.encode(prompt)) or [lm.tokenizer.end]
    return chat_prompt(lm.tokenizer, prompt).ids


def _event(step: Step, name: "Names") -> Event:
    """What the page gets of a new token."""
    log_probabilities = step.scores.log_softmax(-1)
    values, likeliest = log_probabilities.topk(min(ALTERNATIVES, len(log_probabilities)))
    pairs = [(name(each), _probability(value)) for each, value in zip(likeliest.tolist(), values, strict=True)]
    probability = _probability(log_probabilities[step.token])
    return {"text": step.text, "token": name(step.token), "probability": probability, "likeliest": pairs}


class Names:
    """What tokens are called: by their text, or the name of a special one, which writes nothing."""

    def __init__(self, lm: LanguageModel) -> None:
        self._tokenizer = lm.tokenizer
        self._special = {number: name for name, number in lm.tokenizer.special_tokens().items()}

    def __call__(self, token: int) -> str:
        return self._special.get(token) or self._tokenizer.decode([token])


def _probability(log_probability: torch.Tensor) -> float:
    return round(math.exp(float(log_probability)), 6)
