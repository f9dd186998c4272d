"""The type of a setting that names an entry of a table."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True, eq=False)
class NameIn:
    """A `Literal` of the names in `table`, for `Annotated[str, NameIn(table)]`; it grows with the table."""

    table: Mapping[str, object]

    def check(self, value: object) -> str:
        """The name. Raises what pydantic raises for a value that a `Literal` does not have."""
        if isinstance(value, str) and value in self.table:
            return value
        names = [repr(name) for name in self.table]
        expected = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})

    def __get_pydantic_core_schema__(self, source: type[str], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "enum": list(self.table)}
