"""Lineage: what the `generation` events of an evolution say about descent, and the winner's schedule as a preset.

A member is a number given at birth; the first ones are numbered by their slots. An ancestor is a first parent: the one
whose weights a child began as.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanogrove.errors import RunError
from nanogrove.record.events import Event, Values


@dataclass(frozen=True)
class Life:
    """A member in one generation, which ended after `step`; `parent` is itself, or who it was copied from before."""

    generation: int
    step: int
    member: int
    parent: int
    score: float | None
    values: dict[str, float]


Genealogy = list[dict[int, Life]]  # for each generation, oldest first, its members by number


def genealogy(generations: Sequence[Event]) -> Genealogy:
    """Who lived in each generation. Raises RunError where an event is not one that an evolution writes."""
    lived: Genealogy = []
    parents: dict[int, int] = {}  # of those just born
    number = None  # of the generation before
    try:
        for event in generations:
            values = event.values
            members = {
                int(member): Life(
                    int(values["generation"]),
                    event.step,
                    int(member),
                    parents.get(member, member),
                    None if values["score"][slot] is None else float(values["score"][slot]),
                    {name: float(settings[slot]) for name, settings in values["values"].items()},
                )
                for slot, member in enumerate(values["members"])
            }
            # A longer run breeds from what was the last generation, whose event comes again with its births.
            if number != values["generation"]:
                lived.append(members)
            number = values["generation"]
            parents = {birth["member"]: birth["parents"][0] for birth in values.get("births", [])}
            if len(lived) > 1 and any(life.parent not in lived[-2] for life in lived[-1].values()):
                raise KeyError
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError):
        raise RunError("a `generation` event is not one that an evolution writes; the record is damaged") from None
    return lived


def winning_line(lived: Genealogy) -> list[Life]:
    """The member with the lowest score of all generations and its ancestors, oldest first; empty without a score."""
    scored = [(life.score, number, life) for number, members in enumerate(lived) for life in members.values()]
    known = [entry for entry in scored if entry[0] is not None]
    if not known:
        return []
    _, number, winner = min(known, key=lambda entry: entry[0] or 0.0)
    line = [winner]
    for members in lived[:number][::-1]:
        line.insert(0, members[line[0].parent])
    return line


def schedule(line: Sequence[Life]) -> dict[str, list[list[float]]]:
    """Points `[step, value]` along a line, by hyperparameter: each value holds from its step on."""
    points: dict[str, list[list[float]]] = {}
    begins = [0, *(life.step for life in line)]
    for began, life in zip(begins, line, strict=False):
        for name, value in life.values.items():
            so_far = points.setdefault(name, [])
            if not so_far or so_far[-1][1] != value:
                so_far.append([began, value])
    return points


def replay(preset: Values, line: Sequence[Life]) -> Values:
    """A preset that trains one model by the schedule of a winning line, for as many steps.

    `preset` is the evolution's, resolved. The noise of mutations is left out. Raises RunError for an empty line.
    """
    if not line:
        raise RunError("this run has no generation yet, so nobody has won; let it train on")
    follow = {name: points for name, points in schedule(line).items() if name != "noise"}
    total = preset["method"]["generations"] * preset["method"]["steps_per_generation"]
    return {
        **preset,
        "name": f"{preset['name']}-winner",
        "description": f"One model by the schedule of the winner of {preset['name']}.",
        "method": {"name": "pretrain", "follow": follow},
        "train": {**preset["train"], "steps": line[-1].step},
        "schedule": {**preset["schedule"], "steps": preset["schedule"]["steps"] or total},
    }
