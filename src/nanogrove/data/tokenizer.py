"""Tokenizers, all of them a `tokenizer.json` of the `tokenizers` library, so one file format serves every run.

    char   one token per character of the corpus        byte   one token per byte, 256 of them
    bpe    byte-level BPE trained on the corpus       else   a path to a tokenizer.json, or a name on the hub

Every vocabulary that nanogrove makes ends with `<|endoftext|>`, which stands between documents.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from nanogrove.data.tokenizer_json import BadTokenizerError, check_tokenizer_json, read_tokenizer_file
from nanogrove.errors import DataError

END_OF_TEXT = "<|endoftext|>"
_END_NAMES = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
LONGEST_WORD_BYTES = 256  # that a vocabulary is learned from: the time grows with the square of a word's length


class Tokenizer:
    """A `tokenizers.Tokenizer` with what training needs: arrays of ids, and an id that ends a document.

    `vocab_size` is one more than the largest id, since ids may have gaps. `chat_template` is the text of the template
    by which conversations become tokens, where there is one. Raises DataError when the vocabulary has no token that
    ends a document.
    """

    def __init__(self, backend: Backend, where: str = "tokenizer", chat_template: str | None = None) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True  # a corpus that spells an end of text does not write one
        self.backend, self.chat_template = backend, chat_template
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values(), default=0) + 1
        ends = [i for i in map(backend.token_to_id, _END_NAMES) if i is not None]
        if not ends:
            raise DataError(f"{where}: no token ends a text; add {END_OF_TEXT} to it as a special token")
        self.end: int = ends[0]
        self.end_token: str = backend.id_to_token(self.end) or END_OF_TEXT
        self._table = self._character_table()

    @classmethod
    def from_json(cls, text: str, where: str = "tokenizer.json", chat_template: str | None = None) -> "Tokenizer":
        """From the text of a `tokenizer.json`. Raises DataError, naming `where`, for what is none or not safe."""
        try:
            check_tokenizer_json(text)
            with _panics_as_errors():
                backend = Backend.from_str(text)
        except BadTokenizerError as error:
            raise DataError(f"{where}: this tokenizer.json is refused ({error})") from None
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{where}: not a tokenizer.json of the tokenizers library ({error})") from None
        return cls(backend, where, chat_template)

    def for_chat(self, template: str, special_tokens: Sequence[str]) -> "Tokenizer":
        """The same vocabulary with a chat template and its special tokens; those that it lacks are added at its end."""
        backend = Backend.from_str(self.to_json())
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
        return Tokenizer(backend, chat_template=template)

    @property
    def is_characters(self) -> bool:
        """Whether each token but special ones is a single character."""
        return self._table is not None

    def special_tokens(self) -> dict[str, int]:
        """The ids of the special tokens."""
        return {str(token.content): i for i, token in self.backend.get_added_tokens_decoder().items() if token.special}

    def to_json(self) -> str:
        """The text of a `tokenizer.json`."""
        return self.backend.to_str(pretty=False)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added. Raises DataError for a character a character vocabulary lacks."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text as int64 arrays, on all cores; one look-up per character where the vocabulary is one.

        Raises DataError for a text that the vocabulary cannot express, and where the library fails on it.
        """
        if self._table is not None:
            return [self._look_up(text) for text in texts]
        try:
            with _panics_as_errors():
                encoded = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise DataError(self._encoding_problem(texts, error)) from None
        return [np.array(e.ids, dtype=np.int64) for e in encoded]

    def encode_marked(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids `[T]` of texts in which special tokens are spelled out, and the span of characters of each `[T, 2]`.

        Raises DataError as `encode_batch` does.
        """
        self.backend.encode_special_tokens = False
        try:
            with _panics_as_errors():
                encoded = self.backend.encode_batch(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise DataError(self._encoding_problem(texts, error)) from None
        finally:
            self.backend.encode_special_tokens = True
        return [(np.array(e.ids, dtype=np.int64), np.array(e.offsets, dtype=np.int64).reshape(-1, 2)) for e in encoded]

    def _encoding_problem(self, texts: Sequence[str], error: Exception) -> str:
        """What is wrong with texts that the library does not encode."""
        for text in texts:
            if (at := next((n for n, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)) is not None:
                return f"{text[:40]!r} holds half a character, {text[at]!r} at position {at}; leave it out"
        if isinstance(error, _PanicError):
            return f"this tokenizer fails on a text that begins {texts[0][:40]!r} ({error}); choose another one"
        return (
            f"{texts[0][:40]!r} holds a word that is not among the {self.vocab_size - 1} of this vocabulary; "
            "use only those, as in '0 1 2'"
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD, and special tokens are left out.

        Raises DataError where the library fails.
        """
        try:
            with _panics_as_errors():
                return self.backend.decode(list(ids), skip_special_tokens=True)
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"this tokenizer fails on the ids {list(ids[:8])} ({error}); choose another one") from None

    @cached_property
    def run_tokens(self) -> frozenset[int]:
        """Tokens such as `<0xE2>`, by which a vocabulary of words spells the bytes of rare characters, if it does so.

        A run of them is decoded as a whole. Special tokens are among them: they are left out, so none ends a run.
        """
        names = (f"<0x{byte:02X}>" for byte in range(256))
        ids = {name: self.backend.token_to_id(name) for name in names}
        of_bytes = {i for name, i in ids.items() if i is not None and self.decode([i]) != name}
        return frozenset(of_bytes | {*self.special_tokens().values()} if of_bytes else ())

    def _character_table(self) -> np.ndarray | None:
        """Ids by code point for a vocabulary of single characters, −1 where it has none."""
        if not isinstance(self.backend.model, models.WordLevel) or self.backend.normalizer is not None:
            return None
        if not isinstance(self.backend.pre_tokenizer, pre_tokenizers.Split):
            return None  # words between spaces, which may all be short
        vocabulary = self.backend.get_vocab(with_added_tokens=False)
        characters = {token: i for token, i in vocabulary.items() if len(token) == 1}
        if len(characters) < len(vocabulary):
            return None
        table = np.full(max(map(ord, characters), default=0) + 1, -1, dtype=np.int64)
        for token, i in characters.items():
            table[ord(token)] = i
        return table

    def _look_up(self, text: str) -> np.ndarray:
        assert self._table is not None
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        ids = self._table[np.minimum(points, len(self._table) - 1)]
        unknown = (points >= len(self._table)) | (ids < 0)
        if unknown.any():
            at = int(unknown.argmax())
            raise DataError(
                f"character {chr(points[at])!r} at position {at} is not among the {self.vocab_size - 1} characters "
                "of this vocabulary; use only those, or train with data.tokenizer=bpe"
            )
        return ids


def character_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """One token for each character that occurs, in code-point order."""
    occurring: set[str] = set()
    for text in texts:
        occurring.update(text)
    characters = sorted(occurring)
    backend = Backend(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token=""))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return _with_end(backend)


def byte_tokenizer() -> Tokenizer:
    """One token for each of the 256 bytes; ids follow the byte-level alphabet of the `tokenizers` library."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _with_end(backend)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int, report: bool = False) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting rule, trained on `texts`; no text is unknown to it.

    Words longer than `LONGEST_WORD_BYTES`, such as genomes, are cut for training alone. With `report` the library
    writes how far it is to the standard error output, in lines of JSON.

    Raises DataError when `vocab_size` leaves no room for the 256 bytes and the end of text.
    """
    if vocab_size < 257:
        raise DataError(f"data.vocab_size={vocab_size} is too small: bpe needs 256 bytes and one end of text")
    backend, words = Backend(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(LONGEST_WORD_BYTES)])
    backend.decoder = decoders.ByteLevel()
    settings: dict[str, Any] = {"progress_format": "json"} if report else {}  # which would report in any case
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=report,
        **settings,
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = words
    return _with_end(backend)


def load_tokenizer(name: str) -> Tokenizer:
    """A `tokenizer.json` by path, or a tokenizer of the hub by name, such as `gpt2`.

    Raises DataError when the file is missing or damaged, or the hub cannot be reached.
    """
    path = Path(name)
    if path.suffix == ".json" or path.exists():
        return Tokenizer.from_json(read_tokenizer_file(path), where=name)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error below says enough
    from huggingface_hub import hf_hub_download  # which takes time to import

    try:
        path = Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # of the hub, of the network, or of the name
        reason = str(error).split("\n")[0]
        raise DataError(
            f"tokenizer {name!r} could not be fetched from the hub ({reason}); "
            "without a network, set data.tokenizer=path/to/tokenizer.json"
        ) from None
    return Tokenizer.from_json(read_tokenizer_file(path), where=name)


class _PanicError(Exception):
    """The library came to a state that its authors thought impossible."""


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Turns a panic of the library, which is a BaseException of no public class, into an Exception."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise _PanicError(str(error)) from None


def _with_end(backend: Backend) -> Tokenizer:
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Tokenizer(backend)
