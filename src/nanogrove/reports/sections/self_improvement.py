"""The pictures of a self-improving run: what the committee can do at each difficulty, and how good its labels were."""

from collections.abc import Iterable, Iterator

from nanogrove.record.events import Event
from nanogrove.record.reading import Run
from nanogrove.reports.figures import heatmap, plot, rows
from nanogrove.reports.lines import Line, line
from nanogrove.reports.values import escaped, finite, spread


def self_improvement(run: Run) -> str:
    """Exact match by difficulty and round, the labels of each round beside the truth, and the rounds undone."""
    surveys, rounds = run.of("exact"), run.of("round")
    hit = [(event, d, finite(vote)) for event, d, vote in _cells(surveys, "vote")]
    single = [(event, d, spread(exact)[1]) for event, d, exact in _cells(surveys, "exact")]
    agreed = [(event, d, finite(share)) for event, d, share in _cells(surveys, "agreement")]
    effective = list(_hardest(rounds, "effective", "effective voters"))
    trust = list(_hardest(rounds, "trust", "trust"))
    right = list(_hardest(rounds, "precision", "right among kept labels")) if trust else []
    labels = [(event, label.get("difficulty"), label) for event in rounds for label in _labels(event)]
    errors = [(event, d, _complement(label.get("precision"))) for event, d, label in labels]
    pictures = [
        [_heat("Exact match, median voter", single), _heat("Exact match of the vote", hit)],
        [_heat("Agreement of the voters", agreed), _heat("Wrong among kept labels", errors)],
        [
            plot(
                "Precision of each filter",
                "round",
                "share of kept labels that are right",
                list(_filters(rounds, "precision")),
            ),
            plot(
                "Recall of each filter",
                "round",
                "share of right labels that are kept",
                list(_filters(rounds, "recall")),
            ),
        ],
        [
            plot(
                "Exact match by difficulty, median voter",
                "difficulty",
                "share of answers",
                list(_before_and_after(surveys, rounds)),
            )
        ],
        [
            plot(
                "Share of labels kept",
                "round",
                "share",
                line("kept", [_round(e) for e in rounds], [*map(_kept, rounds)]),
            ),
            plot("Hardest difficulty open", "round", "difficulty", _frontier(surveys[:1] + rounds)),
        ],
        [
            plot(title, "round", what, lines)
            for title, what, lines in (
                ("Effective number of voters", "equal votes as good as theirs", effective),
                ("Trust in the labels, and what was right", "share", trust + right),
            )
            if lines
        ],
    ]
    body = rows(pictures)
    why = '<p class="note">Right and wrong are measured for this page; the run decides by agreement alone.</p>'
    return f"<h2>Self-improvement</h2>{why}{body}{_undone(run)}"


def _round(event: Event) -> object:
    return event.values.get("round")


def _cells(events: Iterable[Event], name: str) -> Iterator[tuple[Event, object, object]]:
    """Each survey's difficulties with the figure of that name."""
    for event in events:
        difficulties, figures = event.values.get("difficulties"), event.values.get(name)
        if isinstance(difficulties, list) and isinstance(figures, list):
            yield from ((event, difficulty, figure) for difficulty, figure in zip(difficulties, figures, strict=False))


def _heat(title: str, cells: list[tuple[Event, object, float | None]]) -> str:
    return heatmap(title, "round", "difficulty", [(_round(event), d, value) for event, d, value in cells])


def _labels(event: Event) -> list[dict[str, object]]:
    labels = event.values.get("labels")
    return [label for label in labels if isinstance(label, dict)] if isinstance(labels, list) else []


def _complement(share: object) -> float | None:
    value = finite(share)
    return None if value is None else 1.0 - value


def _kept(event: Event) -> list[float]:
    return [share for label in _labels(event) if (share := finite(label.get("kept"))) is not None]


def _hardest(rounds: list[Event], figure: str, name: str) -> Iterator[Line]:
    """A figure of the hardest difficulty that each round labelled; none in records that do not have it."""
    hardest = [labels[-1].get(figure) if (labels := _labels(event)) else None for event in rounds]
    if any(finite(value) is not None for value in hardest):
        yield from line(name, [_round(event) for event in rounds], hardest)


def _filters(rounds: list[Event], figure: str) -> Iterator[Line]:
    """A line for each filter, and one for all of them together."""
    lines: dict[str, dict[str, list[object]]] = {"all": {"x": [], "y": []}}
    for event in rounds:
        for label in _labels(event):
            filters = label.get("filters")
            every = {"all": label, **(filters if isinstance(filters, dict) else {})}
            for name, figures in every.items():
                drawn = lines.setdefault(name, {"x": [], "y": []})
                drawn["x"].append(_round(event))
                drawn["y"].append(figures.get(figure) if isinstance(figures, dict) else None)
    for name, drawn in lines.items():
        yield from line(name, drawn["x"], drawn["y"])


def _before_and_after(surveys: list[Event], rounds: list[Event]) -> Iterator[Line]:
    """Two lines over difficulty: the base without rounds, and the voters after the last one that was not undone."""
    undone = [_round(event) for event in rounds if event.values.get("accepted") is False]
    kept = [event for event in surveys if _round(event) not in undone]
    for name, event in {"base alone": surveys[0], "after the last round": (kept or surveys)[-1]}.items():
        cells = list(_cells([event], "exact"))
        yield from line(name, [d for _, d, _ in cells], [spread(exact)[1] for _, _, exact in cells])


def _frontier(events: list[Event]) -> list[Line]:
    return line("frontier", [_round(event) for event in events], [event.values.get("frontier") for event in events])


def _undone(run: Run) -> str:
    """Rounds that were undone, and why there were no more."""
    sentences = [f"Round {_round(event)} was undone: {event.values.get('reason')}." for event in run.of("alarm")]
    sentences += [f"No more rounds: {event.values['ended']}." for event in run.of("round") if event.values.get("ended")]
    return f"<ul>{''.join(f'<li>{escaped(text)}</li>' for text in sentences)}</ul>" if sentences else ""
