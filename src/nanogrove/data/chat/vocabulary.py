"""The vocabulary of conversations: one that is loaded, or is learned from their texts, with the template's tokens."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from nanogrove.data.chat.template import Renderer, spelled_tokens, template_of
from nanogrove.data.text.vocabulary import learn_bpe
from nanogrove.data.tokenizer import END_OF_TEXT, Tokenizer, byte_tokenizer, character_tokenizer, load_tokenizer


@dataclass(frozen=True)
class ChatVocabulary:
    """What is known of a vocabulary before conversations are read.

    Args:
        template: the text of the chat template.
        name: of the template, for messages.
        special: tokens that the template writes; those that the vocabulary lacks are added.
        fixed: a tokenizer that depends on no texts; None for one that is learned from them.
    """

    template: str
    name: str
    special: list[str]
    fixed: Tokenizer | None

    @classmethod
    def of(cls, template: str, special_tokens: Sequence[str], tokenizer: str) -> Self:
        """From the settings of these names. Raises DataError for a template or a tokenizer that cannot be read."""
        text = template_of(template)
        fixed = byte_tokenizer() if tokenizer == "byte" else None
        if tokenizer not in ("byte", "char", "bpe"):
            fixed = load_tokenizer(tokenizer)
        return cls(text, template, list(dict.fromkeys([*spelled_tokens(text), *special_tokens])), fixed)

    @property
    def end(self) -> str:
        """The token that ends a text."""
        return END_OF_TEXT if self.fixed is None else self.fixed.end_token

    @property
    def forbidden(self) -> list[str]:
        """The special tokens, which no message may spell."""
        return [*self.special, self.end, *(() if self.fixed is None else self.fixed.special_tokens())]

    def renderer(self) -> Renderer:
        """What makes texts of conversations."""
        return Renderer(self.template, self.end, self.name)

    def tokenizer(self, name: str, vocab_size: int, texts: Iterable[str]) -> Tokenizer:
        """The tokenizer, where it is learned, of kind `name` from what the template makes of conversations."""
        tokenizer = self.fixed
        if tokenizer is None:
            longest_first = sorted([*self.special, self.end], key=len, reverse=True)
            between = re.compile("|".join(map(re.escape, longest_first)))
            parts = [part for text in texts for part in between.split(text) if part]
            tokenizer = character_tokenizer(parts) if name == "char" else learn_bpe(parts, vocab_size)
        return tokenizer.for_chat(self.template, self.special)
