"""Kinds of data: the settings that a preset may hold under `data`, by type, and the corpus that each describes.

A new kind of data is a line here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from nanogrove.data.chat.config import ChatConfig
from nanogrove.data.chat.corpus import ChatCorpus
from nanogrove.data.corpus import Corpus, CorpusConfig
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.synthetic.corpus import GrammarCorpus, RHMConfig, RLMConfig
from nanogrove.synthetic.dialogues import DialogueConfig
from nanogrove.synthetic.examples import TaskConfig, TaskCorpus


class Kind(NamedTuple):
    """The settings of a kind, whose `type` is its name, and the corpus made from them.

    `corpus` takes the settings, the tokens per window, the sequences per batch, and a seed.
    `reseeded` takes a corpus and gives that of another seed; None where held-out data, too, depend on the seed.
    `names_tokenizer` says whether the setting `tokenizer` names its vocabulary, which else follows from the data.
    """

    Config: type[BaseModel]
    corpus: Callable[[Any, int, int, int], Corpus]
    reseeded: Callable[[Any, int], Corpus] | None = None
    names_tokenizer: bool = False


CORPORA = {
    "text": Kind(DataConfig, TextCorpus, TextCorpus.reseeded, names_tokenizer=True),
    "rlm": Kind(RLMConfig, GrammarCorpus, GrammarCorpus.reseeded),
    "rhm": Kind(RHMConfig, GrammarCorpus, GrammarCorpus.reseeded),
    "task": Kind(TaskConfig, TaskCorpus),
    "chat": Kind(ChatConfig, ChatCorpus, ChatCorpus.reseeded, names_tokenizer=True),
    "dialogues": Kind(DialogueConfig, ChatCorpus, ChatCorpus.reseeded, names_tokenizer=True),
    "rewarded": Kind(RewardedConfig, RewardedCorpus, names_tokenizer=True),
    "preferences": Kind(PreferencesConfig, RewardedCorpus, names_tokenizer=True),
}


LEARNED = ("char", "byte", "bpe")  # tokenizers that are no files
MakeCorpus = Callable[[CorpusConfig, int, int, int], Corpus]


def make_corpus(config: CorpusConfig, block_size: int, batch_size: int, seed: int) -> Corpus:
    """The corpus that `config` describes, in windows of `block_size` tokens and batches of `batch_size` sequences.

    Raises DataError where the data cannot be read or is too short.
    """
    return CORPORA[config.type].corpus(config, block_size, batch_size, seed)


def with_tokenizer(config: Any, file: Path) -> Any:
    """The settings of a kind with the tokenizer in `file` in place of one that would be learned from the data."""
    if not CORPORA[config.type].names_tokenizer or config.tokenizer not in LEARNED:
        return config
    return config.model_copy(update={"tokenizer": str(file.absolute())})


class SharedCorpora:
    """Makes corpora, those of equal settings from one that is prepared once, each seed once."""

    def __init__(self) -> None:
        self._prepared: list[tuple[CorpusConfig, tuple[int, int], dict[int, Corpus]]] = []

    def make(self, config: CorpusConfig, block_size: int, batch_size: int, seed: int) -> Corpus:
        """What `make_corpus` does."""
        size, reseeded = (block_size, batch_size), CORPORA[config.type].reseeded
        by_seed = next((known for like, sizes, known in self._prepared if sizes == size and like == config), None)
        if by_seed is None:
            by_seed = {}
            self._prepared.append((config, size, by_seed))
        if seed not in by_seed:
            first = next(iter(by_seed.values()), None)
            if reseeded is None or first is None:
                by_seed[seed] = make_corpus(config, block_size, batch_size, seed)
            else:
                by_seed[seed] = reseeded(first, seed)
        return by_seed[seed]
