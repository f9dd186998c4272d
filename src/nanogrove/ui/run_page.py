"""The page of a run: its state, what a person wrote of it, and the sections of its report."""

from collections.abc import Mapping
from pathlib import Path

from nanogrove.config.catalog import packaged_text, parse_preset
from nanogrove.config.overrides import resolve
from nanogrove.errors import NanogroveError, RunError
from nanogrove.json_difference import differences, shown
from nanogrove.record.events import Values
from nanogrove.record.listing import Listed, cells, listed
from nanogrove.record.reading import Run, last_event, read_run, times
from nanogrove.reports.report import drawn_sections
from nanogrove.reports.tables import cut, wide_table
from nanogrove.reports.values import duration, escaped, finite
from nanogrove.ui.frame import alert, link
from nanogrove.ui.notes import MAX_TAGS, NOTE_CHARACTERS, TAG_CHARACTERS, Notes
from nanogrove.ui.processes import Processes

VALUE_CHARACTERS = 300  # of a setting


def run_page(key: str, stamp: str, sections: Mapping[str, str], form: str) -> str:
    """The body of the page of a run, whose sections `run.js` replaces as they change."""
    parts = "".join(f'<section id="{name}">{html}</section>' for name, html in sections.items())
    verbs = (
        f'<p class="verbs"><a href="{link("/try", name=key)}">Try it: let it write</a> · '
        f'<a href="{link("/new", run=key)}">New run from these settings</a></p>'
    )
    return f'{verbs}<div id="live" data-events="{link("/run/events", name=key, seen=stamp)}">{parts}</div>{form}'


def status(run: Path, key: str, processes: Processes) -> str:
    """How far a run is, and what can be done with it."""
    row = listed(run, run)
    left = _seconds_left(run, row) if row.state == "running" else None
    steps = cells(row, 0.0)[3]
    words = [f"{steps} steps" if steps else "", f"about {duration(left)} left" if left is not None else ""]
    bar = ""
    if row.step is not None and row.steps:
        bar = f'<progress aria-label="Progress" max="{row.steps}" value="{row.step}"></progress>'
    state = "starting" if processes.is_starting(run) else row.state
    badge = f'<span class="state {escaped(state)}">{escaped(state)}</span> {escaped(", ".join(filter(None, words)))}'
    buttons = {"running": _button("stop", key, "Stop and save"), "stopped": _button("continue", key, "Continue")}
    return f'<p class="status">{badge}</p>{bar}{alert(row.damage or processes.failure(run))}{buttons.get(state, "")}'


def _seconds_left(run: Path, row: Listed) -> float | None:
    """The time of training that is left, at the pace until now."""
    last = last_event(run / "events.jsonl")
    seconds = finite(times(last).get("seconds")) if last else None
    if seconds is None or not row.step or not row.steps:
        return None
    return seconds / row.step * (row.steps - row.step)


def _button(action: str, key: str, label: str) -> str:
    return f'<form method="post" action="{link(f"/run/{action}", name=key)}"><button>{label}</button></form>'


def sections_of(path: Path, key: str) -> dict[str, str]:
    """The HTML of the sections of a run that follow from its record, by their names, in the order of the page."""
    try:
        run = read_run(path)
    except RunError as error:
        return {"overview": f"<h1><bdi>{escaped(key)}</bdi></h1>{alert(str(error))}"}
    drawn = drawn_sections(run)
    first, last = ("overview",), ("preset", "machine")
    parts = {name: drawn[name] for name in first if name in drawn}
    parts["happened"] = happened(run)
    parts |= {name: html for name, html in drawn.items() if name not in (*first, *last)}
    parts["differing"] = differing(run.preset)
    parts |= {name: drawn[name] for name in last if name in drawn}
    return {name: html for name, html in parts.items() if html}


def happened(run: Run) -> str:
    """Alarms, and where the run went on with other settings or on another machine; empty where there are none."""
    alarms = (f"step {each.step:,}: alarm: {each.values.get('reason')}" for each in run.of("alarm"))
    diverged = (f"step {each.step:,}: diverged" for each in run.of("diverged"))
    changed = ((each.step, each.values.get("changed")) for each in run.of("resume"))
    resumed = (
        f"step {step:,}: went on with {name} changed: {cut(str(change), VALUE_CHARACTERS)}"
        for step, changes in changed
        if isinstance(changes, dict)
        for name, change in changes.items()
    )
    items = "".join(f"<li><bdi>{escaped(line)}</bdi></li>" for line in (*alarms, *diverged, *resumed))
    return f"<h2>Alarms and changes</h2><ul>{items}</ul>" if items else ""


def differing(preset: Values) -> str:
    """The settings in which a run differs from the preset of its name that comes with nanogrove."""
    name = str(preset.get("name"))
    text = packaged_text(name)
    if text is None:
        return ""
    try:
        packaged = resolve(parse_preset(text, name)).model_dump(mode="json")
    except NanogroveError:  # of another version of nanogrove than wrote it
        return ""
    rows = [
        (key, *(cut(shown(value), VALUE_CHARACTERS) for value in values))
        for key, *values in differences(packaged, preset)
    ]
    table = wide_table("Settings that differ from the preset", ("setting", f"preset {name}", "this run"), rows)
    return f"<h2>What differs from the preset</h2>{table or f'<p>Nothing: it is {escaped(name)} as it comes.</p>'}"


def notes_form(action: str, notes: Notes, seen: str, problem: str = "") -> str:
    """The form of what a person writes about a run or a study, sent to the address `action`."""
    about = f"up to {MAX_TAGS}, with commas between them"
    return (
        f'<section id="notes"><h2>Tags and notes</h2>{alert(problem)}'
        f'<form class="notes" method="post" action="{action}">'
        f'<label for="tags">Tags <small>{about}</small></label>'
        f'<input id="tags" name="tags" value="{escaped(", ".join(notes.tags))}" '
        f'maxlength="{MAX_TAGS * (TAG_CHARACTERS + 2)}">'
        f'<label for="note">Note</label><textarea id="note" name="note" rows="4" maxlength="{NOTE_CHARACTERS}">\n'
        f"{escaped(notes.note)}</textarea>"
        f'<input type="hidden" name="seen" value="{escaped(seen)}"><button>Save</button></form></section>'
    )
