"""nanogrove: a laboratory for small language models.

import nanogrove

nanogrove.run("quickstart", out="runs/first")
lm = nanogrove.load("runs/first")
print(lm.generate("def ", tokens=100, temperature=0.8))
"""

from typing import TYPE_CHECKING, Any

from nanogrove.errors import NanogroveError

if TYPE_CHECKING:
    from nanogrove.api import compare, export, from_transformers, report, run, score, to_transformers
    from nanogrove.language_model import LanguageModel, load

_HOME = {
    "LanguageModel": "nanogrove.language_model",
    "load": "nanogrove.language_model",
    "run": "nanogrove.api",
    "compare": "nanogrove.api",
    "export": "nanogrove.api",
    "score": "nanogrove.api",
    "report": "nanogrove.api",
    "to_transformers": "nanogrove.api",
    "from_transformers": "nanogrove.api",
}

__all__ = [
    "LanguageModel",
    "NanogroveError",
    "compare",
    "export",
    "from_transformers",
    "load",
    "report",
    "run",
    "score",
    "to_transformers",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for: torch takes a second, and `--help` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'nanogrove' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
