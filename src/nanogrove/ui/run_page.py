"""The page of a run: its state, what a person wrote of it, and the sections of its report."""

from collections.abc import Mapping
from functools import lru_cache

from nanogrove.config.catalog import packaged_text, parse_preset
from nanogrove.config.overrides import resolve
from nanogrove.json_difference import differences, shown
from nanogrove.record.events import Event, Values
from nanogrove.record.growing import Part
from nanogrove.record.listing import Listed, cells
from nanogrove.record.reading import Run, times
from nanogrove.reports.report import drawn_sections
from nanogrove.reports.tables import cut, wide_table
from nanogrove.reports.values import duration, escaped, finite
from nanogrove.ui.frame import alert, link
from nanogrove.ui.notes import MAX_TAGS, NOTE_CHARACTERS, TAG_CHARACTERS, Notes

VALUE_CHARACTERS = 300  # of a setting


def run_page(key: str, stamp: str, sections: Mapping[str, str], form: str) -> str:
    """The body of the page of a run, whose sections `run.js` replaces as they change."""
    parts = "".join(f'<section id="{name}">{html}</section>' for name, html in sections.items())
    verbs = (
        f'<p class="verbs"><a href="{link("/try", name=key)}">Try it: let it write</a> · '
        f'<a href="{link("/new", run=key)}">New run from these settings</a></p>'
    )
    return f'{verbs}<div id="live" data-events="{link("/run/events", name=key, seen=stamp)}">{parts}</div>{form}'


def status(row: Listed, newest: Event | None, key: str, starting: bool = False, failure: str = "") -> str:
    """How far a run is, and what can be done with it.

    Args:
        row: the run in one line.
        newest: the last event of its record, where there is one.
        key: its name in addresses.
        starting: whether a process was started that does not train yet.
        failure: why such a process ended.
    """
    left = _seconds_left(row, newest) if row.state == "running" else None
    steps = cells(row, 0.0)[3]
    words = [f"{steps} steps" if steps else "", f"about {duration(left)} left" if left is not None else ""]
    bar = ""
    if row.step is not None and row.steps:
        bar = f'<progress aria-label="Progress" max="{row.steps}" value="{row.step}"></progress>'
    state = "starting" if starting else row.state
    badge = f'<span class="state {escaped(state)}">{escaped(state)}</span> {escaped(", ".join(filter(None, words)))}'
    buttons = {"running": _button("stop", key, "Stop and save"), "stopped": _button("continue", key, "Continue")}
    return f'<p class="status">{badge}</p>{bar}{alert(row.damage or failure)}{buttons.get(state, "")}'


def _seconds_left(row: Listed, newest: Event | None) -> float | None:
    """The time of training that is left, at the pace until now."""
    seconds = finite(times(newest).get("seconds")) if newest else None
    if seconds is None or not row.step or not row.steps:
        return None
    return finite(seconds / row.step * (row.steps - row.step))


def _button(action: str, key: str, label: str) -> str:
    return f'<form method="post" action="{link(f"/run/{action}", name=key)}"><button>{label}</button></form>'


def sections_of(run: Run, thinned: Mapping[str, Part]) -> dict[str, str]:
    """The HTML of the sections of a run that follow from its record, by their names, in the order of the page.

    Args:
        run: what was read.
        thinned: the kinds of events of which it holds not all.
    """
    drawn = drawn_sections(run)
    first, last = ("overview",), ("preset", "machine")
    parts = {name: drawn[name] for name in first if name in drawn}
    parts["happened"] = happened(run)
    parts["thinned"] = left_out(thinned)
    parts |= {name: html for name, html in drawn.items() if name not in (*first, *last)}
    parts["differing"] = differing(run.preset)
    parts |= {name: drawn[name] for name in last if name in drawn}
    return {name: html for name, html in parts.items() if html}


def left_out(thinned: Mapping[str, Part]) -> str:
    """Of which events a page shows not all; empty where it shows all."""
    parts = " and ".join(f"1 in {each.every:,} of {each.total:,} {kind} events" for kind, each in thinned.items())
    return f'<p class="note">Drawn from {escaped(parts)}; <code>nanogrove report</code> has all.</p>' if parts else ""


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
    packaged = _packaged(name)
    if packaged is None:
        return ""
    rows = [
        (key, *(cut(shown(value), VALUE_CHARACTERS) for value in values))
        for key, *values in differences(packaged, preset)
    ]
    table = wide_table("Settings that differ from the preset", ("setting", f"preset {name}", "this run"), rows)
    return f"<h2>What differs from the preset</h2>{table or f'<p>Nothing: it is {escaped(name)} as it comes.</p>'}"


@lru_cache(maxsize=32)
def _packaged(name: str) -> Values | None:
    """All settings of a preset that comes with nanogrove; None where none has this name."""
    text = packaged_text(name)
    return None if text is None else resolve(parse_preset(text, name)).model_dump(mode="json")


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
