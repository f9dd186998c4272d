"""What a file or folder holds and how it would train, told from a sample: no torch, and seconds whatever the size."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from unicodedata import name as character_name

from nanogrove.data.sources.base import Problems
from nanogrove.data.sources.rows import inner_suffix
from nanogrove.data.tokenizer import bpe_tokenizer
from nanogrove.errors import DataError
from nanogrove.explore.columns import Choice, Column
from nanogrove.explore.guess import Guess, choose_files
from nanogrove.explore.sample import take

LEARN = 1 << 21  # characters a vocabulary is learned from here, and counted on
COUNT = 1 << 22  # characters whose scripts are counted
VOCABULARY = 4096
SEEN = 200  # times that a token of a vocabulary should come, on average, before it is worth having
ALPHABET = 512  # characters of a character vocabulary, at most
SCRIPTS = {"CJK": "Han", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana", "FULLWIDTH": "Latin"}
SHOWN = 0.001  # share of the letters from which on a script is told


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, its vocabulary, and how many tokens it makes of all that is there."""

    name: str  # char, byte or bpe
    vocabulary: int
    count: int


@dataclass(frozen=True)
class Findings:
    """What is there. Where `whole` is False only a sample was read, and counts are estimates."""

    path: str
    kind: str  # text, csv, jsonl, parquet or pdf
    source: dict[str, Any]  # for `data.sources`
    files: int
    bytes: int
    looked_at: int  # files
    others: list[tuple[str, int]]  # endings of other files in the folder, and how many each
    whole: bool
    encoding: Guess | None  # None for Parquet and PDF
    delimiter: tuple[str, str] | None  # of CSV, and why
    columns: list[Column]  # of a table
    choice: Choice | None  # of columns
    sample_rows: int
    rows: int
    documents: int
    characters: int
    alphabet: int  # different characters, in the sample
    median: int  # characters of a document
    longest: int
    duplicates: int  # of `compared` documents, those that came before
    compared: int
    scripts: dict[str, float]  # shares of the letters
    problems: dict[str, int]  # in the sample
    places: dict[str, list[str]]
    tokens: list[Tokens]
    tokenizer: str  # the one recommended
    why: str  # it is
    example: str  # a document
    notes: list[str]

    @property
    def chosen_tokens(self) -> Tokens:
        """Those of the tokenizer recommended."""
        return next(tokens for tokens in self.tokens if tokens.name == self.tokenizer)


def explore(path: str) -> Findings:
    """Looks at a file, a folder, or the files a pattern names. Raises DataError where there is nothing to train on."""
    chosen = choose_files(path)
    sizes = {file: file.stat().st_size for file in chosen.files}
    problems = Problems()
    sample = take(chosen, sizes, problems)
    texts = [text for text in sample.texts if text and not text.isspace()]
    if not texts:
        told = "; ".join(f"{count} times {kind}" for kind, count in problems.counts.most_common(3))
        raise DataError(f"{path}: nothing to train on ({told or 'blanks alone'})")
    source = dict(chosen.source)
    if sample.encoding is not None and sample.encoding.option:
        source["encoding"] = sample.encoding.option
    if sample.delimiter is not None:
        usual = {"\t" if inner_suffix(file) == ".tsv" else "," for file in chosen.files}
        source |= {} if usual == {sample.delimiter[0]} else {"delimiter": sample.delimiter[0]}
    source |= sample.choice.options if sample.choice is not None else {}
    compared = [text for text, complete in zip(sample.texts, sample.complete, strict=True) if complete]
    alphabet = Counter("".join(texts))
    tokens = count_tokens(texts, sample.characters, sample.documents, len(alphabet))
    tokenizer, why = recommend(tokens)
    return Findings(
        path=path,
        kind=chosen.kind,
        source=source,
        files=len(chosen.files),
        bytes=sum(sizes.values()),
        looked_at=sample.looked_at,
        others=chosen.others,
        whole=sample.whole,
        encoding=sample.encoding,
        delimiter=sample.delimiter,
        columns=sample.columns,
        choice=sample.choice,
        sample_rows=sample.rows,
        rows=round(sample.all_rows),
        documents=round(sample.documents),
        characters=round(sample.characters),
        alphabet=len(alphabet),
        median=round(median(sample.lengths)),
        longest=round(max(sample.lengths)),
        duplicates=len(compared) - len(set(compared)),
        compared=len(compared),
        scripts=scripts(alphabet),
        problems=dict(problems.counts),
        places=problems.places,
        tokens=tokens,
        tokenizer=tokenizer,
        why=why,
        example=texts[0],
        notes=sample.notes + (sample.choice.notes if sample.choice is not None else []),
    )


def scripts(alphabet: Counter[str]) -> dict[str, float]:
    """The share of each script among the letters, the largest first."""
    found: Counter[str] = Counter()
    for character, count in alphabet.items():
        if character.isalpha():
            word = character_name(character, "OTHER").split()[0]
            found[SCRIPTS.get(word, word.capitalize())] += count
    letters = found.total()
    return {script: count / letters for script, count in found.most_common() if count >= SHOWN * letters}


def count_tokens(texts: Sequence[str], characters: float, documents: float, alphabet: int) -> list[Tokens]:
    """Tokens of `characters` characters in `documents` documents under each tokenizer, as `texts` have them.

    Each document has an end of text beside its own.
    """
    part = thinned(texts, LEARN)
    length = sum(map(len, part))
    bpe = bpe_tokenizer(part, VOCABULARY)
    pieces = sum(map(len, bpe.encode_batch(part)))
    held = sum(len(text.encode("utf-8", "replace")) for text in part)
    return [
        Tokens("char", alphabet + 1, round(characters + documents)),
        Tokens("byte", 257, round(characters * held / length + documents)),
        Tokens("bpe", bpe.vocab_size, round(characters * pieces / length + documents)),
    ]


def thinned(texts: Sequence[str], characters: int) -> list[str]:
    """So many characters of texts, evenly from all, in short pieces."""
    step = -(-sum(map(len, texts)) // characters)
    size = 1 << 14
    pieces = [text[at : at + size] for text in texts for at in range(0, len(text), size)]
    return pieces[::step]


def recommend(tokens: Sequence[Tokens]) -> tuple[str, str]:
    """The tokenizer to take, and why: bpe where its tokens come `SEEN` times on average, else char or byte."""
    char, _, bpe = tokens
    times = bpe.count // bpe.vocabulary
    if times >= SEEN:
        return "bpe", f"each of its {bpe.vocabulary:,} tokens comes about {times:,} times"
    little = f"little text: tokens of bpe would come about {times:,} times each"
    if char.vocabulary <= ALPHABET:
        return "char", f"{little}, and {char.vocabulary - 1:,} characters are few"
    return "byte", f"{little}, and {char.vocabulary - 1:,} characters are many"
