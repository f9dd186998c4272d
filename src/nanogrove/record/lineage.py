"""Lineage: what the `generation` events of an evolution say about descent, and the winner's schedule as a preset.

A member is a number given at birth; the first ones are numbered by their slots. An ancestor is a first parent: the one
whose weights a child began as.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nanogrove.errors import RunError
from nanogrove.record.events import Event


@dataclass(frozen=True)
class Life:
    """A member in one generation, which ended behind `step`."""

    generation: int
    step: int
    member: int
    score: float | None
    values: dict[str, float]


def lives(generations: Sequence[Event]) -> list[dict[int, Life]]:
    """For each generation its members, by number. Raises RunError where an event is none of an evolution's."""
    try:
        return [
            {
                member: Life(
                    event.values["generation"],
                    event.step,
                    member,
                    event.values["score"][slot],
                    {name: values[slot] for name, values in event.values["values"].items()},
                )
                for slot, member in enumerate(event.values["members"])
            }
            for event in generations
        ]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise RunError("a `generation` event is not what an evolution writes; the record is damaged") from None


def ancestors(generations: Sequence[Event]) -> dict[int, int]:
    """The first parent of everyone who was born."""
    births = [birth for event in generations for birth in event.values.get("births", [])]
    return {birth["member"]: birth["parents"][0] for birth in births}


def winning_line(generations: Sequence[Event]) -> list[Life]:
    """The member with the lowest score of all generations and its ancestors, oldest first; empty without a score."""
    found, parents = lives(generations), ancestors(generations)
    scored = [life for members in found for life in members.values() if life.score is not None]
    if not scored:
        return []
    winner = min(scored, key=lambda life: life.score or 0.0)
    line, member = [winner], winner.member
    for members in found[: found.index(next(m for m in found if m.get(winner.member) is winner))][::-1]:
        member = member if member in members else parents[member]
        line.insert(0, members[member])
    return line


def schedule(line: Sequence[Life]) -> dict[str, list[list[float]]]:
    """Points `[step, value]` along a line, by hyperparameter: each value holds from its step on."""
    points: dict[str, list[list[float]]] = {}
    begins = [0, *(life.step for life in line)]
    for began, life in zip(begins, line, strict=False):
        for name, value in life.values.items():
            mine = points.setdefault(name, [])
            if not mine or mine[-1][1] != value:
                mine.append([began, value])
    return points


def replay(preset: dict[str, Any], generations: Sequence[Event]) -> dict[str, Any]:
    """A preset that trains one model by the winner's schedule, for as many steps. Raises RunError without a winner.

    The noise of mutations is no part of it.
    """
    line = winning_line(generations)
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
