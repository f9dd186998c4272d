"""The pictures of an evolution: scores, genealogy, hyperparameters along the winning line, diversity."""

from collections.abc import Sequence
from itertools import groupby, pairwise

from nanogrove.errors import RunError
from nanogrove.record.events import Event
from nanogrove.record.lineage import Genealogy, Life, genealogy, winning_line
from nanogrove.record.reading import Run
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line, line, links
from nanogrove.reports.values import escaped, finite


def evolution(run: Run) -> str:
    """Best, median and worst score, who came of whom, hyperparameters and diversity, generation by generation."""
    generations = run.of("generation")
    try:
        lived = genealogy(generations)
    except RunError as error:
        return f"<h2>Evolution</h2><p>{escaped(error)}</p>"
    winner = winning_line(lived)
    numbers = [number for number, _ in groupby(event.values["generation"] for event in generations)]
    scores = [[life.score for life in members.values()] for members in lived]
    unit = str(generations[-1].values.get("unit") or "score")
    best = [min((score for score in these if score is not None), default=None) for these in scores]
    pictures = [
        [
            plot(
                "Score: best, median, worst; lower is better",
                "generation",
                unit,
                [*line("all members", numbers, scores), *line("best", numbers, best)],
            ),
            plot(
                "Genealogy: each member joined to its parent",
                "generation",
                unit,
                [*links("all members", _descent(lived)), *_traced("winner", winner)],
            ),
        ],
        [_hyperparameter(name, lived, winner) for name in _names(lived)],
        [
            plot("Distance of members in weights", "generation", "distance", _distance(generations, "weights")),
            plot("Distance in predictions", "generation", "distance", _distance(generations, "predictions")),
        ],
    ]
    body = rows(pictures)
    return f'<h2>Evolution</h2>{body}<p class="note">{escaped(_summary(generations, winner))}</p>'


def _descent(lived: Genealogy) -> list[tuple[tuple[object, object], tuple[object, object]]]:
    """A segment to each member from its parent, or from itself, in the generation before."""
    return [
        ((before[life.parent].generation, before[life.parent].score), (life.generation, life.score))
        for before, members in pairwise(lived)
        for life in members.values()
    ]


def _traced(name: str, lives: Sequence[Life]) -> list[Line]:
    return line(name, [life.generation for life in lives], [life.score for life in lives])


def _names(lived: Genealogy) -> list[str]:
    return list(dict.fromkeys(name for members in lived for life in members.values() for name in life.values))


def _hyperparameter(name: str, lived: Genealogy, winner: Sequence[Life]) -> str:
    """One hyperparameter of everyone, and along the winning line; on a logarithmic axis where nothing is zero."""
    numbers = [life.generation for members in lived for life in list(members.values())[:1]]
    values = [[life.values.get(name) for life in members.values()] for members in lived]
    traced = line("winner", [life.generation for life in winner], [life.values.get(name) for life in winner])
    positive = all((finite(value) or 0) > 0 for these in values for value in these)
    return plot(
        f"{name} of all members, and of the winner",
        "generation",
        name,
        [*line("all members", numbers, values), *traced],
        log_y=positive,
    )


def _distance(generations: list[Event], kind: str) -> list[Line]:
    numbers = [event.values["generation"] for event in generations]
    distances = [event.values.get("distance") for event in generations]
    return line(kind, numbers, [each.get(kind) if isinstance(each, dict) else None for each in distances])


def _summary(generations: list[Event], winner: Sequence[Life]) -> str:
    counts = {
        name: sum(len(event.values[key]) for event in generations if isinstance(event.values.get(key), list))
        for key, name in (("births", "births"), ("spared", "spared as no worse than noise"), ("diverged", "diverged"))
    }
    sentences = [f"{count:,} {name}" for name, count in counts.items() if count]
    if winner:
        sentences.append(f"the winner is member {winner[-1].member} of generation {winner[-1].generation}")
    return "; ".join(sentences) + "."
