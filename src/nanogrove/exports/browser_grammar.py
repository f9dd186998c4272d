"""The rules of a run's grammar as JSON for a page, which `reports/browser/grammar.js` reads."""

import base64
from typing import Any

import torch

from nanogrove.errors import DataError
from nanogrove.synthetic.corpus import RHMConfig, grammar_config
from nanogrove.synthetic.rhm import RandomHierarchyModel
from nanogrove.synthetic.rlm import RandomLanguageModel

MOST_RULES = 1 << 21  # of all levels: 11 MB in a page
MOST_STEPS = 1 << 23  # rules times leaves: what a browser computes in some ten milliseconds per token


def grammar_table(data: object) -> dict[str, Any] | None:
    """The grammar of the `data` section of a preset; None where there is none, or too large a one for a page."""
    config = grammar_config(data)
    if config is None:
        return None
    levels, leaves = config.L, (config.s if isinstance(config, RHMConfig) else 2) ** min(config.L, 32)
    count = levels * config.v * config.m if isinstance(config, RHMConfig) else config.v**3
    if count > MOST_RULES or count * leaves > MOST_STEPS:
        return None
    try:
        grammar = config.grammar()
    except DataError:
        return None  # sizes that cannot be, of which the report shows what there is
    table = {"v": grammar.v, "s": grammar.s, "depth": grammar.L, "rules": "", "shares": None}
    if isinstance(grammar, RandomHierarchyModel):
        table["rules"] = _base64(torch.stack(grammar.rules).to(torch.int32))
    if isinstance(grammar, RandomLanguageModel):
        table["shares"] = _base64(grammar.rules.float())
    return table


def _base64(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.contiguous().numpy().tobytes()).decode()
