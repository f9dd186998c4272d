"""Rewards: functions from texts to numbers, the higher the better, named in a preset as `module:function`.

Naming one is asking for code to be run, so a preset that does is refused until its reader allows it.
"""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import cast

from nanogrove.errors import PresetError

Reward = Callable[[Sequence[str]], Sequence[float]]


def find_reward(name: str, allow_code: bool) -> Reward:
    """The function `module:function`, of an installed module or one in the working directory.

    What it returns is checked: a finite number for each text. Raises PresetError where code is not allowed, nothing is
    there, or the function fails.
    """
    module, colon, function = name.partition(":")
    if not colon:
        raise PresetError(f"{name!r} is no reward; write module:function, a function from texts to numbers")
    if not allow_code:
        raise PresetError(f"{name} is Python code that this preset asks to run; if you trust it, add --allow-code")
    try:
        sys.path.insert(0, "")
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise PresetError(f"{name} cannot be imported ({type(error).__name__}: {error})") from None
    finally:
        sys.path.remove("")
    if not callable(found):
        raise PresetError(f"{name} is no function")
    reward = cast(Reward, found)

    def checked(texts: Sequence[str]) -> list[float]:
        try:
            values = [float(value) for value in reward(texts)]
        except Exception as error:
            raise PresetError(f"{name} failed on a text of the model ({type(error).__name__}: {error})") from error
        if len(values) != len(texts) or not all(map(math.isfinite, values)):
            shown = ", ".join(f"{value:g}" for value in values[:5])
            raise PresetError(f"{name} must give each of {len(texts)} texts a finite number; it gave {shown}")
        return values

    return checked
