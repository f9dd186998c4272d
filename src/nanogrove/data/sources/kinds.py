"""All kinds of sources, and what `data.sources` may name.

A source is a few lines of JSON: an object with a `type`, a short name such as `"python-stdlib"` or `"wikipedia"`, or a
path, whose files are recognised by what they hold. Each is a `DocumentSource`.
"""

import functools
import glob
import operator
import os
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

from nanogrove.data.sources.contract import DocumentSource, SourceKind
from nanogrove.data.sources.formats import FORMATS, format_of
from nanogrove.data.sources.hub import HUB, SHORTCUTS
from nanogrove.data.sources.kaggle import KAGGLE
from nanogrove.data.sources.recognize import recognize
from nanogrove.data.sources.text import PYTHON_STDLIB
from nanogrove.paths import expanded

KINDS: dict[str, SourceKind] = {kind.name: kind for kind in (*FORMATS, PYTHON_STDLIB, HUB, KAGGLE)}


def _from_name(value: object) -> object:
    """The settings of a bare string, which is a known name or a path; anything else as it is."""
    if not isinstance(value, str):
        return value
    if value == PYTHON_STDLIB.name:
        return {"type": value}
    if value in SHORTCUTS:
        return SHORTCUTS[value]
    if next(glob.iglob(str(expanded(value)), recursive=True), None) is not None or os.path.isfile(value):
        return recognize(value).source
    return {"type": format_of(value).name, "path": value}  # whoever reads it says that it is not there


class _OneOfTheKinds:
    """Tells pydantic to validate a source as the settings of the kind that its `type` names."""

    @staticmethod
    def __get_pydantic_core_schema__(_: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        settings = functools.reduce(operator.or_, [kind.settings for kind in KINDS.values()])
        return handler.generate_schema(Annotated[settings, Field(discriminator="type")])


Source = Annotated[DocumentSource, _OneOfTheKinds(), BeforeValidator(_from_name)]


def make_source(settings: Mapping[str, object]) -> DocumentSource:
    """The source that JSON settings describe."""
    return _ADAPTER.validate_python(settings)


_ADAPTER: TypeAdapter[DocumentSource] = TypeAdapter(Source)
