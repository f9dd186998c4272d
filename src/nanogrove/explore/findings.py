"""Describes what a file or folder holds and how to tokenise it, by a sample: in seconds whatever the size, no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from unicodedata import name as character_name

from nanogrove.data.sources.dialect import DialectGuess
from nanogrove.data.sources.encodings import Guess
from nanogrove.data.sources.files import size_of
from nanogrove.data.sources.pieces import Skipped
from nanogrove.data.sources.recognize import recognize
from nanogrove.data.tokenizer import bpe_tokenizer
from nanogrove.errors import DataError
from nanogrove.explore.columns import Choice, Column
from nanogrove.explore.sample import take

BPE_CHARACTERS = 1 << 21  # that a vocabulary is learned from here, and that its tokens are counted on
VOCABULARY_SIZE = 4096
MIN_USES_PER_TOKEN = 200  # on average, for a BPE vocabulary to be worth having
MAX_ALPHABET = 512  # characters of a character vocabulary
SCRIPTS = {"CJK": "Han", "HIRAGANA": "Japanese kana", "KATAKANA": "Japanese kana", "FULLWIDTH": "Latin"}
MIN_SCRIPT_SHARE = 0.001  # of the letters, for a script to be shown


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, its vocabulary, and how many tokens it makes of all that is there."""

    name: str  # char, byte or bpe
    vocabulary: int
    count: int


@dataclass(frozen=True)
class Findings:
    """What a file or folder holds. Where `whole` is False only a sample was read, and counts are estimates."""

    path: str
    kind: str  # name of the kind of source, such as csv
    source: dict[str, object]  # for `data.sources`
    files: int
    bytes: int
    looked_at: int  # files that were sampled
    others: list[tuple[str, int]]  # endings of other files in the folder, and how many each
    whole: bool
    encoding: Guess | None  # None for files that are not text
    dialect: DialectGuess | None  # of CSV
    columns: list[Column]  # of a table
    choice: Choice | None  # of columns
    sample_rows: int
    rows: int
    documents: int
    characters: int
    alphabet: int  # different characters, in the sample
    median: int  # characters of a document
    longest: int
    duplicates: int  # among `compared` documents
    compared: int
    scripts: dict[str, float]  # shares of the letters
    skipped: dict[str, int]  # counts by reason, in the sample
    locations: dict[str, list[str]]  # the first few by reason
    tokens: list[Tokens]
    tokenizer: str  # the one recommended
    why: str  # it is recommended
    example: str  # a document
    notes: list[str]
    question: str | None  # of one file whose rows are conversations: what the user says first in the first of them

    @property
    def chosen_tokens(self) -> Tokens:
        """Those of the tokenizer recommended."""
        return next(tokens for tokens in self.tokens if tokens.name == self.tokenizer)


def explore(path: str) -> Findings:
    """Looks at a file, a folder, or the files a pattern names. Raises DataError where there is nothing to train on."""
    chosen = recognize(path)
    sizes = {file: size_of(file) for file in chosen.files}
    skipped = Skipped()
    sample = take(chosen, sizes, skipped)
    texts = [text for text in sample.texts if text and not text.isspace()]
    if not texts:
        raise DataError(f"{path}: nothing to train on ({skipped.most_common() or 'blanks alone'})")
    source = chosen.source | (sample.choice.options if sample.choice is not None else {})
    compared = [text for text, complete in zip(sample.texts, sample.complete, strict=True) if complete]
    alphabet = Counter("".join(texts))
    tokens = count_tokens(texts, sample.characters, sample.documents, len(alphabet))
    tokenizer, why = recommend(tokens)
    question = sample.question if len(chosen.files) == 1 else None
    notes = chosen.notes + sample.notes + (sample.choice.notes if sample.choice is not None else [])
    if question is not None:
        notes = [*chosen.notes, "rows are conversations, of which the assistant's answers are learned (data.type=chat)"]
    elif sample.question is not None:
        notes.append("rows are conversations; in one file, data.type=chat learns the assistant's answers alone")
    return Findings(
        path=path,
        kind=chosen.kind.name,
        source=source,
        files=len(chosen.files),
        bytes=sum(sizes.values()),
        looked_at=sample.looked_at,
        others=chosen.others,
        whole=sample.whole,
        encoding=chosen.encoding,
        dialect=chosen.dialect,
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
        skipped=dict(skipped.counts),
        locations=skipped.locations,
        tokens=tokens,
        tokenizer=tokenizer,
        why=why,
        example=texts[0],
        notes=notes,
        question=question,
    )


def scripts(alphabet: Counter[str]) -> dict[str, float]:
    """The share of each script among the letters, the largest first."""
    letters: Counter[str] = Counter()
    for character, count in alphabet.items():
        if character.isalpha():
            word = character_name(character, "OTHER").split()[0]
            letters[SCRIPTS.get(word, word.capitalize())] += count
    total = letters.total()
    return {script: count / total for script, count in letters.most_common() if count >= MIN_SCRIPT_SHARE * total}


def count_tokens(texts: Sequence[str], characters: float, documents: float, alphabet: int) -> list[Tokens]:
    """Tokens of `characters` characters in `documents` documents under each tokenizer, as `texts` have them.

    Each document has one more, its end of text.
    """
    part = thinned(texts, BPE_CHARACTERS)
    length = sum(map(len, part))
    bpe = bpe_tokenizer(part, VOCABULARY_SIZE)
    pieces = sum(map(len, bpe.encode_batch(part)))
    utf8_bytes = sum(len(text.encode("utf-8", "replace")) for text in part)
    return [
        Tokens("char", alphabet + 1, round(characters + documents)),
        Tokens("byte", 257, round(characters * utf8_bytes / length + documents)),
        Tokens("bpe", bpe.vocab_size, round(characters * pieces / length + documents)),
    ]


def thinned(texts: Sequence[str], characters: int) -> list[str]:
    """About `characters` of texts, evenly from all, in short pieces."""
    step = -(-sum(map(len, texts)) // characters)
    size = 1 << 14
    pieces = [text[at : at + size] for text in texts for at in range(0, len(text), size)]
    return pieces[::step]


def recommend(tokens: Sequence[Tokens]) -> tuple[str, str]:
    """The tokenizer to take, and why: bpe where MIN_USES_PER_TOKEN is reached on average, else char or byte."""
    char, _, bpe = tokens
    times = bpe.count // bpe.vocabulary
    if times >= MIN_USES_PER_TOKEN:
        return "bpe", f"each of its {bpe.vocabulary:,} tokens is seen about {times:,} times"
    too_little = f"too little text for BPE: each token would be seen only about {times:,} times"
    if char.vocabulary <= MAX_ALPHABET:
        return "char", f"{too_little}, and {char.vocabulary - 1:,} characters are few"
    return "byte", f"{too_little}, and {char.vocabulary - 1:,} characters are many"
