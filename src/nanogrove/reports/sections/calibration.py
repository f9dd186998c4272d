"""How far a best model's confidence can be trusted: reliability diagrams, and figures before and after.

Made from the `calibration.json` that `nanogrove evaluate RUN --calibrate` leaves beside the weights, of which no value
is taken on trust: what is not a finite number is left out or shown as `n/a`.
"""

from nanogrove.record.measures import CALIBRATION
from nanogrove.record.reading import STALE, Run
from nanogrove.reports.figures import plot
from nanogrove.reports.lines import Line, line
from nanogrove.reports.values import UNKNOWN, escaped, finite, short

EVENTS = {
    "answer": "is right when the model's greedy answer is the true one",
    "share": "stands with its tokens' mean confidence and the share of them that is predicted right",
}
MIN_COUNT_DRAWN = 10  # predictions in a bin; the accuracy of fewer is chance


def calibration(run: Run) -> str:
    """The reliability diagram of tokens and of sequences, with what one temperature changes, on a split of its own."""
    if run.calibration == STALE:
        why = (
            "calibration.json is damaged or belongs to other weights; nanogrove evaluate RUN --calibrate makes it anew."
        )
        return f"<h2>Calibration</h2><p>{why}</p>"
    calibrated = _of(run.calibration)
    fitted, measured = _of(calibrated, "fitted"), _of(calibrated, "measured")
    answer = measured.get("event") == "answer"
    meant = EVENTS["answer" if answer else "share"]
    chose = ", which chose this checkpoint too" if fitted.get("chose_checkpoint") is True else ""
    note = (
        f"Temperature {_number(calibrated.get('temperature'))}, fitted on {short(finite(fitted.get('tokens')))} tokens "
        f"of the {fitted.get('split')} split{chose}; shown is the {measured.get('split')} split. A sequence {meant}. "
        f"Bins that hold fewer than {MIN_COUNT_DRAWN} are not drawn."
    )
    blocks = finite(measured.get("blocks"))
    if blocks is not None:
        note += (
            " Chance raises both ECEs, most where data is scarce. The debiased one is free of that, below 0 where gaps "
            "are smaller than chance makes them; "
            f"its interval resamples {short(blocks)} blocks of neighbouring sequences."
        )
    diagrams = tables = ""
    for name in ("tokens", "sequences"):
        figures = {when: _of(measured, "figures", name, when) for when in ("before", "after")}
        lines = [one for when, each in figures.items() for one in _reliability(when, each)]
        ideal = line("ideal", [0, 1], [0, 1], "reference")
        diagrams += plot(f"{name.capitalize()}: accuracy over confidence", "confidence", "accuracy", [*lines, *ideal])
        tables += _table(f"{short(finite(measured.get(name)))} {name}", figures)
    body = "".join(f'<div class="row">{row}</div>' for row in (diagrams, tables))
    return f'<h2>Calibration</h2><p class="note">{escaped(note)}</p>{body}'


def _table(caption: str, figures: dict[str, dict[str, object]]) -> str:
    rows = ""
    for measure in CALIBRATION:
        cells = "".join(f"<td>{_number(each.get(measure.name))}</td>" for each in figures.values())
        rows += f'<tr><th scope="row">{measure.title or measure.label}</th>{cells}</tr>'
    head = "".join(f'<th scope="col">{when}</th>' for when in figures)
    return f"<table><caption>{caption}</caption><tr><td></td>{head}</tr>{rows}</table>"


def _reliability(name: str, figures: dict[str, object]) -> list[Line]:
    """The line of one reliability table of equal width; none where its columns are not three lists of one length."""
    table = _of(figures, "bins", "width")
    columns = [table.get(name) for name in ("count", "confidence", "accuracy")]
    lists = [column for column in columns if isinstance(column, list)]
    if len(lists) < 3 or len(set(map(len, lists))) > 1:
        return []
    rows = [row for row in zip(*lists, strict=True) if (finite(row[0]) or 0) >= MIN_COUNT_DRAWN]
    return line(name, [row[1] for row in rows], [finite(row[2]) for row in rows])


def _of(value: object, *keys: str) -> dict[str, object]:
    """The object under these keys, an empty one where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _number(value: object) -> str:
    number = finite(value)
    return UNKNOWN if number is None else f"{number:.4f}"
