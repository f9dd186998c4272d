"""Files of texts with rewards, and of pairs of texts of which one is preferred: settings, and the examples they yield.

A file is `text|reward` lines (the last bar that is not escaped separates, `\\|` is a bar of the text), or a table with
named columns, in any format that `data.sources` reads. Messages of a chat become text by a chat template, or are joined
by their roles. Rows that cannot be used are counted.

The path `python-defs` stands for the first lines of functions in Python's own library, each with minus its length as
the reward, or in pairs of which the shorter is preferred: data that every installation has. With `prompt` each line is
divided after `def NAME(`, which is the prompt.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from nanogrove.data.chat.answers import prompts_and_texts, whole_conversations
from nanogrove.data.chat.conversations import BadConversationError
from nanogrove.data.chat.template import Renderer
from nanogrove.data.chat.vocabulary import ChatVocabulary
from nanogrove.data.rng import random
from nanogrove.data.rows_file import RowsFile
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.rows import check_columns, encodes, text_lines
from nanogrove.data.sources.tables import cell_text
from nanogrove.data.sources.text import PythonStandardLibrary
from nanogrove.errors import DataError
from nanogrove.paths import OnDisk

Row = Mapping[str, Any]  # the cells of a row by column
TRUTH = {"true": 1.0, "false": 0.0}  # rewards that are words, as a CSV file has them
COLUMNS_IN_MESSAGE = 20


class Example(NamedTuple):
    """A text after a prompt, which may be empty, and its reward."""

    prompt: str
    text: str
    reward: float


class Chat(NamedTuple):
    """What makes texts of messages, and the special tokens that no message may spell."""

    renderer: Renderer
    forbidden: list[str]


class RewardedOptions(RowsFile):
    """Settings of both kinds of file."""

    path: Annotated[str, OnDisk(("python-defs",))] = Field(
        description="file of the rows, or python-defs: lines of the standard library"
    )
    tokenizer: Annotated[str, OnDisk(("char", "byte", "bpe"))] = Field(
        "char", description="char, byte, bpe, a path to a tokenizer.json, or a hub name"
    )
    vocab_size: int = Field(4096, ge=1, le=10_000_000, description="tokens of a bpe tokenizer trained here")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the prompts")
    test: float = Field(0.1, ge=0, lt=1, description="share of the prompts")
    split_by: Literal["prompt", "text"] = Field(
        "prompt", description="what is held out: all rows of a prompt, or rows by their texts, where prompts are few"
    )
    template: Annotated[str | None, OnDisk(("plain",))] = Field(
        None, description="chat template of messages: plain, or a file of Jinja; they are joined when left out"
    )
    special_tokens: list[str] = Field(
        [], description="special tokens that the template writes, besides those that it spells as <|name|>"
    )

    def vocabulary(self) -> ChatVocabulary | None:
        """The vocabulary of conversations; None where rows are texts. Raises DataError for one that cannot be read."""
        if self.template is None:
            return None
        return ChatVocabulary.of(self.template, self.special_tokens, self.tokenizer)

    @property
    def known_reward(self) -> Callable[[str], float] | None:
        """The reward of any prompt with its text, where there is a rule for it."""
        return _brevity if self.path == "python-defs" else None

    def rows(self, columns: Sequence[str], skipped: Skipped) -> Iterator[tuple[str, Row]]:
        """Rows with these columns, each with its location; others are counted.

        Raises DataError for a file that cannot be read, or without the columns.
        """
        if self.path == "python-defs":
            yield from ((f"function {n}", row) for n, row in enumerate(_functions(columns), start=1))
            return
        path = self.existing_path()
        table = self.table(path)
        if table is None:
            if len(columns) != 2:
                raise DataError(f"{path}: a file of lines has text|reward only; for prompts or pairs take CSV or JSONL")
            lines = text_lines(path, self.encoding, lambda fault, n: skipped.bad(fault, f"line {n}"))
            yield from ((f"line {n}", _bar(line, columns)) for n, line in lines if line.strip())
            return
        for number, row in table.rows(path, partial(check_columns, columns), skipped):
            location = table.location(path, number)
            missing = next((column for column in columns if column not in row), None)
            if missing is None:
                yield location, row
            else:
                known = ", ".join(map(repr, list(row)[:COLUMNS_IN_MESSAGE]))
                skipped.bad(f"no column {missing!r}; there are {known}", location)

    @contextmanager
    def chat(self) -> Iterator[Chat | None]:
        """What makes texts of messages; None where messages are joined."""
        vocabulary = self.vocabulary()
        if vocabulary is None:
            yield None
            return
        with vocabulary.renderer() as renderer:
            yield Chat(renderer, vocabulary.forbidden)

    def add(
        self,
        groups: list[list[Example]],
        prompt: str | None,
        answers: Mapping[str, float],
        chat: Chat | None,
        located: tuple[str, Row],
        skipped: Skipped,
    ) -> None:
        """Appends the group of examples that a row is, or counts why it is none.

        Args:
            groups: what is appended to.
            prompt: column of the prompt, where there is one.
            answers: columns of answers, and the reward of each.
            chat: what makes texts of messages.
            located: the row and where it is.
            skipped: what counts.
        """
        location, row = located
        try:
            sides = self.sides(row, prompt, list(answers), chat, skipped)
        except BadConversationError as error:
            skipped.bad(str(error), location)
            return
        if all(encodes(text) for side in sides for text in side):
            groups.append([Example(*side, reward) for side, reward in zip(sides, answers.values(), strict=True)])
        else:
            skipped.bad("not utf-8", location)

    def sides(
        self, row: Row, prompt: str | None, answers: Sequence[str], chat: Chat | None, skipped: Skipped
    ) -> list[tuple[str, str]]:
        """The texts of the prompt and of each answer, which stand in these columns.

        Raises BadConversationError for cells that are no messages, where there is a chat template.
        """
        if chat is not None:
            asked = row[prompt] if prompt else None
            conversations = whole_conversations(asked, [row[name] for name in answers])
            return prompts_and_texts(*chat, conversations, len(asked) if isinstance(asked, list) else None)
        text = self.cell(row, prompt, skipped)
        return [(text, cell_text(row[name])) for name in answers]

    def cell(self, row: Row, column: str | None, skipped: Skipped) -> str:
        """A cell as text, empty without a column; a null is empty, and counted."""
        if column is None:
            return ""
        if is_null(row[column]):
            skipped.unwanted(f"null in {column!r}, read as empty")
        return cell_text(row[column])


class RewardedConfig(RewardedOptions):
    """Texts with rewards."""

    type: Literal["rewarded"]
    prompt: str | None = Field(None, description="column of the prompt; there is none when left out")
    text: str = Field("text", description="column of the text")
    reward: str = Field("reward", description="column of the reward")

    def examples(self, skipped: Skipped) -> list[list[Example]]:
        """Groups of one example each; rows that cannot be used are counted."""
        groups: list[list[Example]] = []
        with self.chat() as chat:
            for location, row in self.rows([c for c in (self.prompt, self.text, self.reward) if c], skipped):
                reward = _number(row.get(self.reward))
                if reward is None:
                    skipped.bad(f"no finite number in {self.reward!r}", location)
                elif is_null(row[self.text]):
                    skipped.bad(f"null in {self.text!r}", location)
                else:
                    answers = {self.text: reward}
                    self.add(groups, self.prompt, answers, chat, (location, row), skipped)
        return groups


class PreferencesConfig(RewardedOptions):
    """Pairs of texts after one prompt, the first preferred to the second."""

    type: Literal["preferences"]
    prompt: str | None = Field("prompt", description="column of the prompt; null for none")
    chosen: str = Field("chosen", description="column of the better text")
    rejected: str = Field("rejected", description="column of the worse text")

    def examples(self, skipped: Skipped) -> list[list[Example]]:
        """Groups of two, the chosen one first, with rewards 1 and 0; rows that cannot be used are counted."""
        groups: list[list[Example]] = []
        with self.chat() as chat:
            for location, row in self.rows([c for c in (self.prompt, self.chosen, self.rejected) if c], skipped):
                if is_null(row[self.chosen]) or is_null(row[self.rejected]) or row[self.chosen] == row[self.rejected]:
                    skipped.bad("needs two different texts", location)
                else:
                    answers = {self.chosen: 1.0, self.rejected: 0.0}
                    self.add(groups, self.prompt, answers, chat, (location, row), skipped)
        return groups


def is_null(value: object) -> bool:
    """Whether a cell is missing, which pandas writes as NaN."""
    return value is None or value != value


def _number(value: object) -> float | None:
    """A reward; None for what is not a finite number. True and false are 1 and 0, as words too."""
    if isinstance(value, str):
        value = TRUTH.get(value.strip().lower(), value)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _brevity(line: str) -> float:
    """The reward of `python-defs`."""
    return -float(len(line))


def _functions(columns: Sequence[str]) -> Iterator[Row]:
    """Different first lines of functions, 20 to 100 characters long, by column of `rewarded` or `preferences`.

    With rewards and prompts, the prompt is the line up to its first parenthesis, and the text the rest.
    """
    scored = "reward" in columns
    check_columns(columns, ("prompt", "text", "reward") if scored else ("prompt", "chosen", "rejected"))
    pattern = re.compile(r"^ *(def \w+\(.*\).*:)$", re.MULTILINE)
    pieces = PythonStandardLibrary().pieces(Skipped())
    lines = list(
        dict.fromkeys(m[1] for piece in pieces for m in pattern.finditer(piece.text) if 20 <= len(m[1]) <= 100)
    )
    if scored:
        for line in lines:
            begin = line.index("(") + 1 if "prompt" in columns else 0
            yield {"prompt": line[:begin], "text": line[begin:], "reward": _brevity(line)}
        return
    order = random(0, "python-defs").permutation(len(lines))
    for first, second in order[: len(order) // 2 * 2].reshape(-1, 2):
        chosen, rejected = sorted((lines[first], lines[second]), key=len)
        if len(chosen) < len(rejected):
            yield {"chosen": chosen, "rejected": rejected, "prompt": ""}


def _bar(line: str, columns: Sequence[str]) -> Row:
    """`text|reward` at the last bar without a backslash."""
    line = line.rstrip("\r\n")
    at = line.rfind("|")
    while at > 0 and line[at - 1] == "\\":
        at = line.rfind("|", 0, at)
    if at < 0:
        return {}
    return {columns[0]: line[:at].replace("\\|", "|"), columns[1]: line[at + 1 :]}
