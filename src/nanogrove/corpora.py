"""The corpus that each class of data settings describes: a new kind of data is a line here."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from nanogrove.data.corpus import Corpus
from nanogrove.data.rewarded import PreferencesConfig, RewardedConfig, RewardedCorpus
from nanogrove.data.text.config import DataConfig
from nanogrove.data.text.corpus import TextCorpus
from nanogrove.synthetic.corpus import GrammarCorpus, RHMConfig, RLMConfig
from nanogrove.synthetic.examples import TaskConfig, TaskCorpus

CORPORA: dict[type[BaseModel], Callable[..., Any]] = {
    DataConfig: TextCorpus,
    RLMConfig: GrammarCorpus,
    RHMConfig: GrammarCorpus,
    TaskConfig: TaskCorpus,
    RewardedConfig: RewardedCorpus,
    PreferencesConfig: RewardedCorpus,
}


def make_corpus(config: BaseModel, block_size: int, batch_size: int, seed: int) -> Corpus:
    """The corpus that `config` describes, in windows of `block_size` tokens and batches of `batch_size` sequences.

    Raises DataError where the data cannot be read or is too short.
    """
    corpus: Corpus = CORPORA[type(config)](config, block_size, batch_size, seed)
    return corpus
