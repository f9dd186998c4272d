"""What was meant by an option that a verb does not have: one of its own, or a setting, which is given as KEY=VALUE."""

import shlex
from collections.abc import Sequence
from difflib import get_close_matches

from nanogrove.errors import PresetError


def is_option(argument: str) -> bool:
    """Whether an argument looks like an option; a dash alone is standard input."""
    return argument.startswith("-") and argument != "-"


def unknown_option(arguments: Sequence[str], known: Sequence[str]) -> PresetError:
    """The error for the first option among `arguments`, of a verb whose options are `known`, with what was meant."""
    from nanogrove.config.hints import meant_by_option

    position = next(position for position, argument in enumerate(arguments) if is_option(argument))
    option, equals, value = arguments[position].partition("=")
    following = arguments[position + 1 : position + 2]
    takes_next = not equals and bool(following) and not is_option(following[0]) and "=" not in following[0]
    near = [name for name in known if name.startswith(option) or option.startswith(name)]
    near = near or get_close_matches(option, known, 1, 0.8)
    settings = meant_by_option(option)
    exact = any(setting.key.rpartition(".")[2] == option.lstrip("-").replace("-", "_") for setting in settings)
    if near and not exact:
        return PresetError(f"no such option: {option}; did you mean {near[0]}?")
    if not settings:
        hint = "settings are given as KEY=VALUE, and `nanogrove settings` lists them; options are " + ", ".join(known)
        return PresetError(f"no such option: {option}; {hint}")
    choices = []
    for setting in settings:
        flag = "true or false" in setting.type and not equals
        given = following[0] if takes_next and not flag else value
        if flag:
            given = "false" if option.startswith("--no-") else "true"
        choices.append(shlex.quote(f"{setting.key}={given}") if given else f"{setting.key}=VALUE")
    listed = ", ".join(choices[:-1]) + (" or " if len(choices) > 1 else "") + choices[-1]
    return PresetError(f"no such option: {option}; a setting is given as KEY=VALUE: write {listed}")
