"""Settings that name files and folders: when a run begins they become absolute, so that it goes on from anywhere."""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class OnDisk:
    """Marks a setting that may name a file, a folder, or a pattern of files; `names` are words that mean none."""

    names: tuple[str, ...] = ()

    def absolute(self, value: object) -> object:
        """The absolute path of what is there; any other value, such as the name of a data set, as it is."""
        if isinstance(value, list):
            return [self.absolute(each) for each in value]
        if not isinstance(value, str) or not value or value in self.names:
            return value
        path = Path(value)
        if path.is_absolute() or value.startswith("~"):
            return value
        fixed = itertools.takewhile(lambda part: not has_magic(part), path.parts)
        exists = os.path.exists(path) or os.path.exists(Path(*fixed))  # False too for a name longer than names may be
        return str(path.absolute()) if exists else value


LocalPath = Annotated[str, OnDisk()]


def expanded(path: str) -> Path:
    """A path whose `~` is a home folder where it names one; `~` of no user is part of a name."""
    return Path(os.path.expanduser(path))


def with_absolute_paths(settings: Model) -> Model:
    """The same settings, in which each path of a setting that is marked `OnDisk` is absolute, at any depth."""
    changes: dict[str, Any] = {}
    for name, info in type(settings).model_fields.items():
        value = before = getattr(settings, name)
        for marker in info.metadata:
            if isinstance(marker, OnDisk):
                value = marker.absolute(value)
        if isinstance(value, BaseModel):
            value = with_absolute_paths(value)
        elif isinstance(value, list):
            value = [with_absolute_paths(each) if isinstance(each, BaseModel) else each for each in value]
        if value != before:
            changes[name] = value
    return settings.model_copy(update=changes) if changes else settings


def short_names(titles: Iterable[str]) -> list[str]:
    """Titles for tables and legends, without the folder that all absolute paths among them share."""
    titles = list(titles)
    folders = [set(Path(title).parents) for title in titles if Path(title).is_absolute()]
    shared = max(set.intersection(*folders), key=lambda folder: len(folder.parts)) if folders else None
    return [str(Path(title).relative_to(shared)) if shared and Path(title).is_absolute() else title for title in titles]
