"""Tables of a report, as HTML: of key figures, of many columns, and of facts by name. All cells are escaped here."""

from collections.abc import Iterable, Mapping, Sequence

from nanogrove.reports.values import escaped

CELL_LENGTH = 600  # characters of one value of a table of facts
MAX_DEPTH = 4  # of what lies in one another in a table of facts


def key_figures(figures: Iterable[tuple[str, str, str]]) -> str:
    """A row of figures, each with its label above and what else there is to say of it below; empty where none."""
    cells = "".join(
        f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd>{f'<dd>{escaped(about)}</dd>' if about else ''}</div>"
        for label, value, about in figures
    )
    return f"<dl>{cells}</dl>" if cells else ""


def wide_table(about: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls in a box of its own where a screen is too narrow for it; empty where it has no rows.

    `about` says what it holds, for those who cannot see it.
    """
    head = "".join(f'<th scope="col">{escaped(title)}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(f'<td><div>{escaped(cell)}</div></td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(about)}">{table}</div>' if body else ""


def fact_tables(groups: Mapping[str, object]) -> str:
    """Tables of names and values side by side, one for each group that is an object and holds something."""
    filled = {title: group for title, group in groups.items() if isinstance(group, dict) and group}
    tables = "".join(_facts(title, group) for title, group in filled.items())
    return f'<div class="row">{tables}</div>' if tables else ""


def _facts(title: str, group: dict[str, object]) -> str:
    cells = ((escaped(key.replace("_", " ")), escaped(_cell(v))) for key, v in group.items() if v not in (None, {}, []))
    rows = "".join(f'<tr><th scope="row">{key}</th><td>{value}</td></tr>' for key, value in cells)
    return f"<table><caption>{escaped(title)}</caption>{rows}</table>"


def _cell(value: object) -> str:
    """A value as a person reads it: numbers in few digits, a list or an object with its parts in a row."""
    return cut(_words(value), CELL_LENGTH)


def _words(value: object, depth: int = MAX_DEPTH) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.5g}"
    if isinstance(value, (dict, list)) and not depth:
        return "…"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_words(part, depth - 1)}" for key, part in value.items())
    return ", ".join(_words(part, depth - 1) for part in value) if isinstance(value, list) else str(value)


def cut(text: str, length: int) -> str:
    """A text of at most so many characters, and how many more there were."""
    return text if len(text) <= length else f"{text[:length]} … ({len(text) - length:,} more characters)"
