"""The first page: all runs and studies below the folder, with search and sort."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nanogrove.record.listing import TITLES, age, cells
from nanogrove.reports.values import escaped, spread
from nanogrove.ui.compare_page import MAX_RUNS
from nanogrove.ui.frame import alert, link
from nanogrove.ui.index import Entry, Lab
from nanogrove.ui.notes import Notes
from nanogrove.ui.studies import Study, is_within

SHOWN_RUNS = 1000  # in one page
SHOWN_NOTE = 120  # characters of a note
SortKey = tuple[bool, float | str, float | str]  # whether the figure is missing, and what runs are ordered by


@dataclass(frozen=True)
class Asked:
    """What a person asks the list for.

    Args:
        search: words, each of which a run has in its name, method, data, sources, state, tags or note.
        sort: a key of SORTS.
        descending: whether the last comes first.
    """

    search: str = ""
    sort: str = "run"
    descending: bool = False

    def link(self, sort: str) -> str:
        """The address of the list in the order of a column, the other way round where it is in that order."""
        descending = not self.descending if sort == self.sort else sort in ("age", "steps")
        words = {"sort": sort, "order": "descending" if descending else "ascending"}
        return link("/", **({"search": self.search} if self.search else {}), **words)


class Sort(NamedTuple):
    """How a column orders runs, `now` being given in seconds since 1970; runs without a figure come last."""

    key: Callable[[Entry, float], SortKey]


def _text(get: Callable[[Entry], str]) -> Sort:
    return Sort(lambda entry, now: (not get(entry), get(entry).casefold(), ""))


def _progress(entry: Entry, now: float) -> SortKey:
    step, steps = entry.run.step, entry.run.steps
    return step is None, (step or 0) / steps if steps else 0.0, float(step or 0)


def _figure(entry: Entry, now: float) -> SortKey:
    middle = spread(entry.run.figure)[1]
    return middle is None, entry.run.measure or "", middle or 0.0


def _age(entry: Entry, now: float) -> SortKey:
    seconds = age(entry.run, now)
    return seconds is None, -(seconds or 0.0), ""


SORTS: Mapping[str, Sort] = {
    "run": _text(lambda entry: entry.run.name),
    "method": _text(lambda entry: entry.run.method or ""),
    "data": _text(lambda entry: " ".join([entry.run.data or "", *entry.run.sources])),
    "steps": Sort(_progress),
    "measure": Sort(_figure),
    "state": _text(lambda entry: entry.run.state),
    "age": Sort(_age),
}


def asked_of(words: Mapping[str, str]) -> Asked:
    """What the words of an address ask for."""
    sort = words.get("sort", "")
    search = " ".join(words.get("search", "").split())
    return Asked(search, sort if sort in SORTS else "run", words.get("order") == "descending")


def chosen(lab: Lab, asked: Asked, now: float) -> dict[str, Entry]:
    """The runs that a search means, in the order that is asked for."""
    words, sort = asked.search.casefold().split(), SORTS[asked.sort]
    matching = [(key, entry) for key, entry in lab.runs.items() if _matches(words, _words(key, entry))]
    ordered = sorted(matching, key=lambda pair: sort.key(pair[1], now), reverse=asked.descending)
    return dict(sorted(ordered, key=lambda pair: sort.key(pair[1], now)[0]))  # those without a figure last


def _matches(words: list[str], text: str) -> bool:
    return all(word in text for word in words)


def _words(key: str, entry: Entry) -> str:
    run, notes = entry.run, entry.notes
    facts = [key, run.method, run.data, *run.sources, run.state, run.measure, *notes.tags, notes.note]
    return "\n".join(filter(None, facts)).casefold()


def _words_of_study(key: str, study: Study) -> str:
    state = "running" if study.running else "damaged" if study.damage else ""
    return "\n".join([key, *study.arms, study.measure, state, *study.notes.tags, study.notes.note]).casefold()


def list_page(lab: Lab, asked: Asked, folder: str, now: float) -> str:
    """The body of the page of all runs and studies."""
    title = f"<h1>Runs</h1><p class='note'>below <bdi>{escaped(folder)}</bdi></p>{alert(lab.problem)}"
    if not lab.runs and not lab.studies:
        return (
            f'{title}<form id="runs"><p>No run is here yet. <code>nanogrove train quickstart</code> makes one in '
            "<code>runs</code>; the page shows it as soon as it begins.</p></form>"
        )
    runs = chosen(lab, asked, now)
    words = asked.search.casefold().split()
    studies = {key: each for key, each in lab.studies.items() if _matches(words, _words_of_study(key, each))}
    return f"{title}{_search(asked)}{_runs(runs, len(lab.runs), asked, now)}{_studies(studies, lab)}"


def _search(asked: Asked) -> str:
    order = "descending" if asked.descending else "ascending"
    return (
        '<form class="search" role="search"><label for="search">Search</label>'
        f'<input id="search" name="search" type="search" value="{escaped(asked.search)}" '
        'placeholder="names, methods, data, states, tags, notes">'
        f'<input type="hidden" name="sort" value="{asked.sort}"><input type="hidden" name="order" value="{order}">'
        "<button>Search</button></form>"
    )


def _runs(runs: Mapping[str, Entry], all_runs: int, asked: Asked, now: float) -> str:
    """The table of runs."""
    count = f"{all_runs:,} run" + ("" if all_runs == 1 else "s")
    count = count if len(runs) == all_runs else f"{len(runs):,} of {count}"
    running = sum(entry.run.state == "running" for entry in runs.values())
    damaged = sum(entry.run.state == "damaged" for entry in runs.values())
    parts = [count, f"{running:,} running" if running else "", f"{damaged:,} damaged" if damaged else ""]
    if len(runs) > SHOWN_RUNS:
        parts.append(f"the first {SHOWN_RUNS:,} are shown; search for fewer")
    head = "".join(_title(title, asked) for title in TITLES) + '<th scope="col">tags and notes</th>'
    rows = "".join(_row(key, entry, now) for key, entry in list(runs.items())[:SHOWN_RUNS])
    return (
        f'<form id="runs" action="/compare"><p class="note" role="status">{", ".join(filter(None, parts))}</p>'
        f"{choose_all(min(len(runs), SHOWN_RUNS))}"
        f'<div class="wide list" role="region" tabindex="0" aria-label="Runs"><table><thead><tr>'
        f'<th scope="col">choose</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        "<p><button>Compare the chosen runs</button></p></form>"
    )


def choose_all(shown: int) -> str:
    """A box that chooses all runs of a table, as many as can be compared; empty where there are none to compare."""
    if shown < 2:
        return ""
    most = min(shown, MAX_RUNS)
    label = f"Choose all {shown:,} runs" if most == shown else f"Choose the first {most:,} of {shown:,} runs"
    return f'<p><label class="box"><input type="checkbox" id="all" data-most="{most}"> {label}</label></p>'


def _title(title: str, asked: Asked) -> str:
    """The head of a column, which orders the list by it."""
    order = ("descending" if asked.descending else "ascending") if title == asked.sort else ""
    sorted_by = f' aria-sort="{order}"' if order else ""
    arrow = {"ascending": " ↑", "descending": " ↓"}.get(order, "")
    return f'<th scope="col"{sorted_by}><a href="{asked.link(title)}">{title}</a>{arrow}</th>'


def _row(key: str, entry: Entry, now: float) -> str:
    _, method, data, steps, measure, state, shown = cells(entry.run, now)
    words = "".join(f"<td><div><bdi>{escaped(cell)}</bdi></div></td>" for cell in (method, data, steps, measure))
    return (
        f'<tr><td><input type="checkbox" name="run" value="{escaped(key)}" aria-label="Choose {escaped(key)}"></td>'
        f'<th scope="row"><div><a href="{link("/run", name=key)}"><bdi>{escaped(key)}</bdi></a></div></th>{words}'
        f'<td><div class="state {entry.run.state}">{escaped(state)}</div></td><td><div>{shown}</div></td>'
        f"<td><div>{written(entry.notes)}{alert(entry.problem)}</div></td></tr>"
    )


def written(notes: Notes) -> str:
    """Tags, and the first line of a note."""
    first = notes.note.partition("\n")[0]
    shown = first if len(first) <= SHOWN_NOTE else f"{first[:SHOWN_NOTE]}…"
    tags = "".join(f'<bdi class="tag">{escaped(tag)}</bdi> ' for tag in notes.tags)
    return f"{tags}<bdi>{escaped(shown)}</bdi>"


def _studies(studies: Mapping[str, Study], lab: Lab) -> str:
    """The table of studies; empty where there are none."""
    titles = ("study", "arms", "measure", "runs finished", "state", "tags and notes", "")
    head = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in titles)
    rows = "".join(_study(key, each, _finished(key, each, lab)) for key, each in studies.items())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    box = f'<div id="studies" class="wide list" role="region" tabindex="0" aria-label="Studies">{table}</div>'
    return f"<h2>Studies</h2>{box}" if rows else ""


def _finished(key: str, study: Study, lab: Lab) -> int:
    """How many runs of a study are finished: those of its results, and while it is under way those that have ended."""
    ended = [name for name, each in lab.runs.items() if each.run.state in ("finished", "diverged")]
    return max(study.results, sum(is_within(name, key) for name in ended))


def _study(key: str, study: Study, finished: int) -> str:
    state = f"damaged: {study.damage}" if study.damage else "running" if study.running else ""
    figures = (", ".join(study.arms), study.measure, f"{finished:,}", state)
    words = "".join(f"<td><div><bdi>{escaped(cell)}</bdi></div></td>" for cell in figures)
    compare = f'<a href="{link("/compare", study=key)}" aria-label="Compare the runs of {escaped(key)}">compare</a>'
    return (
        f'<tr><th scope="row"><div><a href="{link("/study", name=key)}"><bdi>{escaped(key)}</bdi></a></div></th>{words}'
        f"<td><div>{written(study.notes)}</div></td><td>{compare if finished else ''}</td></tr>"
    )
