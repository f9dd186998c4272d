"""Every public name has a docstring, since the reference is made of them."""

import importlib.util
from pathlib import Path

import nanogrove

PATH = Path(__file__).parent.parent.parent / "docs" / "docstrings.py"
SPEC = importlib.util.spec_from_file_location("docstrings", PATH)
assert SPEC is not None
assert SPEC.loader is not None
docstrings = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docstrings)


def test_every_public_name_has_a_docstring() -> None:
    assert list(docstrings.undocumented(Path(nanogrove.__file__).parent)) == []


def test_a_name_without_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text('"""A room."""\n\nclass Door:\n    """A door."""\n\n    def open(self): ...\n')
    assert list(docstrings.undocumented(tmp_path)) == ["room.py:Door.open"]
