"""Every error a user can cause or meet.

NanogroveError          one line: what is wrong, where, and what to do; the command line exits with code 2
├── PresetError         a preset, an override, or a combination of settings that makes no sense
├── DataError           a corpus or tokenizer that cannot be read or used
├── CheckpointError     a checkpoint that is damaged, refused, or could not be written
├── RunError            a run folder that is missing, in use, or already holds a run
├── StudyError          a study whose arms cannot be compared, that could show nothing, or whose folder is damaged
└── DivergedError       a loss that is NaN, infinite, or far above a uniform guess; or a model that gives no numbers

`nearest` words the hint of a message about a name that is not known.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType


class NanogroveError(Exception):
    """Base of all errors nanogrove raises on purpose; its text is written for the person at the keyboard.

    >>> try:
    ...     nanogrove.load("runs/nowhere")
    ... except nanogrove.NanogroveError as error:
    ...     print(error)
    runs/nowhere: neither a run nor a checkpoint; give a folder such as runs/NAME
    """


class PresetError(NanogroveError):
    """A preset, an override, or a combination of settings that makes no sense."""


class DataError(NanogroveError):
    """A corpus or tokenizer that cannot be read or used."""


class CheckpointError(NanogroveError):
    """A checkpoint that is damaged, refused, or could not be written."""


class RunError(NanogroveError):
    """A run folder that is missing, in use, or already holds a run."""


class StudyError(NanogroveError):
    """A study whose arms cannot be compared, that could show nothing, or whose folder is damaged."""


class DivergedError(NanogroveError):
    """A loss that is NaN, infinite, or far above a uniform guess, or a model whose logits are NaN or infinite.

    Args:
        message: what is wrong.
        members: of a population, the number of each that diverged, and the message of its model trained alone.
    """

    def __init__(self, message: str, members: Mapping[int, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.members = members


def nearest(
    word: str, known: Iterable[str], count: int = 1, cutoff: float = 0.6, show: Callable[[str], str] = str
) -> str:
    """`did you mean a or b?` with up to `count` known names, whatever their case; empty where none is near.

    Args:
        word: the name that is not known
        known: the names that are
        count: how many to offer at most, the nearest first
        cutoff: the least similarity, of `difflib.get_close_matches`, 0 to 1
        show: how a name is shown, `repr` where it may hold blanks
    """
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), folded, count, cutoff)
    return f"did you mean {' or '.join(show(folded[name]) for name in near)}?" if near else ""
