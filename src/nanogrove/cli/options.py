"""Words after a verb that it does not take: one line each, which says what was meant."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from nanogrove.errors import PresetError

if TYPE_CHECKING:
    from nanogrove.config.settings import Setting


class Verb(TyperCommand):
    """A verb. Its options are looked at before typer sees them, since typer's errors take several lines."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Takes the words after the verb. Raises PresetError for those that it does not take, and for missing ones."""
        if ctx.resilient_parsing:  # to complete a line that is not whole yet
            return super().parse_args(ctx, args)
        known = known_options(self.params, ctx.help_option_names)
        check_options(args, known, ctx.command_path, with_settings=self.name == "train")
        ctx.allow_extra_args = True
        try:
            left = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            raise PresetError(f"{_reason(error)}; see `{ctx.command_path} --help`") from None
        if left:
            raise PresetError(f"`{ctx.command_path}` does not take {left[0]!r}; see `{ctx.command_path} --help`")
        return left


@dataclass(frozen=True)
class Options:
    """The options of a verb: those that are followed by a value, and those that stand alone."""

    valued: tuple[str, ...]
    flags: tuple[str, ...]


def known_options(parameters: Sequence[Any], help_names: Sequence[str]) -> Options:
    """The options among typer's parameters of a verb, and those that show help."""
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    valued = tuple(name for option in options if not option.is_flag for name in option.opts)
    return Options(valued, (*(name for option in options if option.is_flag for name in option.opts), *help_names))


def check_options(
    arguments: Sequence[str], known: Options, command: str, *, with_settings: bool = False, first_only: bool = False
) -> None:
    """Raises PresetError for the first option that is not known, or lacks its value, or has one that it does not take.

    Args:
        arguments: the words after the command.
        known: its options.
        command: as it is typed, such as `nanogrove train`.
        with_settings: whether an option may be meant for a setting.
        first_only: whether options end at the first word that is none, where a verb of its own begins.
    """
    words = enumerate(arguments)
    for position, argument in words:
        option, equals, _ = argument.partition("=")
        if argument == "--" or (first_only and not _is_option(argument)):
            return
        if not _is_option(argument):
            continue
        if option in known.valued:
            if not equals and next(words, None) is None:
                raise PresetError(f"{option} needs a value; see `{command} --help`")
        elif option not in known.flags:
            names = (*known.valued, *known.flags)
            raise _unknown(arguments[position:], names, command, with_settings)
        elif equals:
            raise PresetError(f"{option} takes no value; write {option} alone")


def _is_option(argument: str) -> bool:
    """Whether an argument looks like an option; a dash alone is standard input."""
    return argument.startswith("-") and argument != "-"


def _reason(error: typer.BadParameter) -> str:
    """Why typer refuses a value; of a missing one typer gives no reason."""
    name = (error.param.opts or [error.param.name])[0] if error.param is not None else "an argument"
    message = error.message.strip().removeprefix("Value error, ").rstrip(".")
    return f"{name}: {message[:1].lower()}{message[1:]}" if message else f"{name} is missing"


def _unknown(arguments: Sequence[str], known: Sequence[str], command: str, with_settings: bool) -> PresetError:
    """The error for the first of `arguments`, which is none of the options `known`, with what was meant."""
    option = arguments[0].partition("=")[0]
    settings = _meant_settings(option) if with_settings else []
    name = option.lstrip("-").replace("-", "_")
    near = [other for other in known if other.startswith(option) or option.startswith(other)]
    near = near or get_close_matches(option, known, 1, 0.8)
    listed = ", ".join(other for other in known if other.startswith("--"))
    if near and not any(setting.key.rpartition(".")[2] == name for setting in settings):
        hint = f"did you mean {near[0]}?"
    elif settings:
        hint = f"a setting is given as KEY=VALUE: write {_as_settings(arguments, settings)}"
    elif with_settings:
        hint = f"settings are given as KEY=VALUE, and `nanogrove settings` lists them; options are {listed}"
    else:
        hint = f"options of `{command}` are {listed}"
    return PresetError(f"no such option: {option}; {hint}")


def _as_settings(arguments: Sequence[str], settings: Sequence["Setting"]) -> str:
    """The first of `arguments`, an option, as it is typed as each of these settings."""
    option, equals, value = arguments[0].partition("=")
    following = arguments[1:2]
    takes_next = not equals and bool(following) and not _is_option(following[0]) and "=" not in following[0]
    choices = []
    for setting in settings:
        flag = "true or false" in setting.type and not equals
        given = following[0] if takes_next and not flag else value
        if flag:
            given = "false" if option.startswith("--no-") else "true"
        choices.append(shlex.quote(f"{setting.key}={given}") if given else f"{setting.key}=VALUE")
    return ", ".join(choices[:-1]) + (" or " if len(choices) > 1 else "") + choices[-1]


def _meant_settings(option: str) -> list["Setting"]:
    """The settings that an option may mean."""
    from nanogrove.config.hints import meant_by_option

    return meant_by_option(option)
