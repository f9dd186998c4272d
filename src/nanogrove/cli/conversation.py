"""A chat on a terminal: what each model and the user said, and what a line that begins with a slash does."""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from nanogrove.atomic import described, write_file
from nanogrove.cli.text import printable
from nanogrove.cli.writing import begun, show
from nanogrove.data.chat.conversations import Message
from nanogrove.data.chat.encoding import chat_prompt
from nanogrove.errors import NanogroveError, nearest
from nanogrove.generation import GenerationOptions
from nanogrove.language_model import LanguageModel


@dataclass
class Side:
    """A model, the name that it is shown by, and its conversation with the user."""

    name: str
    model: LanguageModel
    messages: list[Message] = field(default_factory=list)


@dataclass
class Chat:
    """A chat with one model or several, which answer the same messages, each with its own conversation.

    Args:
        sides: the models.
        tokens: of an answer, at most.
        options: of `generate`; the n-th answer, from 0, takes their seed plus n.
        system: a message that each conversation begins with; empty for none.
    """

    sides: Sequence[Side]
    tokens: int
    options: GenerationOptions
    system: str = ""
    answered: int = 0
    files: set[Path] = field(default_factory=set)  # that this chat has saved itself to

    def reset(self) -> None:
        """Begins all conversations anew."""
        self.answered = 0
        for side in self.sides:
            side.messages = [{"role": "system", "content": self.system}] if self.system else []


def take_line(chat: Chat, line: str) -> None:
    """Does what a line asks for: a command, or else an answer of each model. Raises EOFError to leave."""
    word, _, argument = line.strip().partition(" ")
    if not word.startswith("/"):
        answer(chat, line)
    elif word in COMMANDS:
        COMMANDS[word].run(chat, argument.strip())
    else:
        begin = [name for name in COMMANDS if name.startswith(word)]
        hint = f"did you mean {begin[0]}?" if begin else nearest(word, COMMANDS) or "/help lists them"
        note(f"no such command: {word}; {hint}")


def answer(chat: Chat, text: str) -> None:
    """Shows the answer of each model as it is written, and keeps it; Ctrl-C ends one, and what was written stays."""
    options: GenerationOptions = {**chat.options, "seed": chat.options.get("seed", 0) + chat.answered}
    for side in chat.sides:
        if len(chat.sides) > 1:
            show(f"{side.name}:\n")
        asked: Message = {"role": "user", "content": text}
        written = ""
        try:
            messages = fitting(chat, side, [*side.messages, asked])
            with closing(side.model.stream(messages, chat.tokens, **options)) as pieces:
                for piece in begun(pieces):
                    written += piece
                    show(piece)
            print()
        except KeyboardInterrupt:
            print()
        except NanogroveError as error:
            note(str(error))
            continue
        if written.strip():
            side.messages += [asked, {"role": "assistant", "content": written}]
        else:
            note("an empty answer, so this message is not part of the conversation")
    chat.answered += 1


def fitting(chat: Chat, side: Side, messages: list[Message]) -> list[Message]:
    """The messages, less the oldest where a model's context has no room for all and an answer; that is said."""
    config = side.model.model.config
    room, first = max(config.block_size - chat.tokens, config.block_size // 2), int(bool(chat.system))
    left_out = 0
    while side.model.model.memory is None and len(chat_prompt(side.model.tokenizer, messages).ids) > room:
        if len(messages) <= first + 1:
            note(f"this message is long: of all, the model reads the last {config.block_size} tokens")
            break
        del messages[first : first + 2]
        left_out += 2
    if left_out:
        note(f"the model's context of {config.block_size} tokens has no room for the first {left_out} messages")
    return messages


def note(text: str) -> None:
    """Says something that no model wrote."""
    print(f"({printable(' '.join(text.split()))})", flush=True)


def _help(chat: Chat, argument: str) -> None:
    for name, command in COMMANDS.items():
        print(f"{f'{name} {command.takes}'.strip():<18}{command.help}")
    print(f"{'Ctrl-C':<18}end an answer; what was written stays")


def _quit(chat: Chat, argument: str) -> None:
    raise EOFError


def _reset(chat: Chat, argument: str) -> None:
    chat.reset()
    note("a new conversation")


def _temperature(chat: Chat, argument: str) -> None:
    try:
        value = float(argument or chat.options.get("temperature", 0.8))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        note(f"/temperature takes a number, 0 or more, and {argument} was given")
        return
    chat.options["temperature"] = value
    note(f"temperature {value:g}")


def _save(chat: Chat, argument: str) -> None:
    path = Path(os.path.expanduser(argument))  # of an unknown user Path.expanduser raises
    rows = [{"model": side.name, "messages": side.messages} for side in chat.sides]
    if not argument:
        note("/save takes a file, as in /save talk.jsonl")
    elif not any(message["role"] == "assistant" for side in chat.sides for message in side.messages):
        note("no answer yet, so there is nothing to save")
    elif path not in chat.files and os.path.lexists(path):  # which of a name that is too long says no
        note(f"{path}: exists already; give another name")
    else:
        try:
            write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        except OSError as error:
            note(described(error, str(path)))
            return
        except ValueError as error:  # of a name, or of half a character
            note(f"cannot be saved ({error})")
            return
        chat.files.add(path)
        note(f"saved to {path}")


@dataclass(frozen=True)
class Command:
    """What a line that begins with a slash does: the function, which takes the rest of the line, and its help."""

    run: Callable[[Chat, str], None]
    help: str
    takes: str = ""


COMMANDS = {
    "/help": Command(_help, "show this"),
    "/reset": Command(_reset, "begin a new conversation"),
    "/save": Command(_save, "save the conversation as JSON lines, which data.type=chat reads", "FILE"),
    "/temperature": Command(_temperature, "0 takes the most likely token", "T"),
    "/quit": Command(_quit, "leave, as Ctrl-D does"),
}
