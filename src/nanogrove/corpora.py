"""Kinds of data: the settings that a preset may hold under `data`, by type, and the corpus that each describes.

A new kind of data is a line here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from nanogrove.data.corpus import Corpus, CorpusConfig
from nanogrove.data.rewarded import RewardedCorpus
from nanogrove.data.rewarded_files import PreferencesConfig, RewardedConfig
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.synthetic.corpus import GrammarCorpus, RHMConfig, RLMConfig
from nanogrove.synthetic.examples import TaskConfig, TaskCorpus


class Kind(NamedTuple):
    """The settings of a kind, whose `type` is its name, and the corpus made from them.

    `corpus` takes the settings, the tokens per window, the sequences per batch, and a seed.
    """

    Config: type[BaseModel]
    corpus: Callable[[Any, int, int, int], Corpus]


CORPORA = {
    "text": Kind(DataConfig, TextCorpus),
    "rlm": Kind(RLMConfig, GrammarCorpus),
    "rhm": Kind(RHMConfig, GrammarCorpus),
    "task": Kind(TaskConfig, TaskCorpus),
    "rewarded": Kind(RewardedConfig, RewardedCorpus),
    "preferences": Kind(PreferencesConfig, RewardedCorpus),
}


def make_corpus(config: CorpusConfig, block_size: int, batch_size: int, seed: int) -> Corpus:
    """The corpus that `config` describes, in windows of `block_size` tokens and batches of `batch_size` sequences.

    Raises DataError where the data cannot be read or is too short.
    """
    return CORPORA[config.type].corpus(config, block_size, batch_size, seed)
