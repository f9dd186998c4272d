"""The optimizers there are: one line each."""

from nanogrove.train.optim.adamw import ADAMW
from nanogrove.train.optim.muon import MUON
from nanogrove.train.optim.sgd import SGD
from nanogrove.train.optim.update_rule import UpdateRule

RULES: dict[str, UpdateRule] = {
    "adamw": ADAMW,
    "sgd": SGD,
    "muon": MUON,
}


def moments_per_weight(name: str) -> int:
    """The most tensors that an optimizer keeps of a weight, its own or those of the rule for all but matrices."""
    rule = RULES[name]
    others = rule if rule.others is None else RULES[rule.others]
    return max(len(rule.moments), len(others.moments))
