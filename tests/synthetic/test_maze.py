"""Mazes: the graph of a prompt is a tree, the answer its path, and every tree is equally likely."""

from collections import Counter, deque
from itertools import pairwise

import pytest

from nanogrove.data.rng import random
from nanogrove.synthetic.maze import LABELS, spanning_tree
from nanogrove.synthetic.tasks import examples, find_task


def parsed(prompt: str) -> tuple[str, str, dict[str, list[str]]]:
    """Start, goal, and the neighbours of each node, in the order of the prompt."""
    ends, graph = prompt.removesuffix("=").split("#")
    start, goal = ends.split(">")
    pairs = [section.split(":") for section in graph.split("-")]
    assert len({node for node, _ in pairs}) == len(pairs)
    return start, goal, {node: others.split(",") for node, others in pairs}


def distances(graph: dict[str, list[str]], start: str) -> dict[str, int]:
    """Hops from `start`, breadth first, to all that can be reached."""
    found, queue = {start: 0}, deque([start])
    while queue:
        here = queue.popleft()
        for there in graph[here]:
            if there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found


def frequencies(nodes: int, hops: int, count: int) -> Counter[frozenset[tuple[int, int]]]:
    """How often each set of edges came up, ends of an edge in order."""
    generator = random(5, "trees", nodes, hops)
    trees = (spanning_tree(nodes, hops, generator) for _ in range(count))
    return Counter(frozenset((min(edge), max(edge)) for edge in tree) for tree in trees)


def chi_square(counts: Counter[frozenset[tuple[int, int]]], cells: int) -> float:
    assert len(counts) == cells
    expected = counts.total() / cells
    return sum((count - expected) ** 2 for count in counts.values()) / expected


@pytest.mark.parametrize(
    ("name", "options", "difficulty", "nodes", "hops"),
    [
        ("maze", {}, 1, 30, 1),
        ("maze", {}, 9, 30, 9),
        ("maze", {}, 29, 30, 29),
        ("maze", {"nodes": 2}, 1, 2, 1),
        ("maze-nodes", {}, 10, 10, 9),
        ("maze-nodes", {}, 30, 30, 9),
        ("maze-nodes", {"hops": 2}, 99, 99, 2),
    ],
)
def test_a_maze_is_a_tree_with_its_path(
    name: str, options: dict[str, int], difficulty: int, nodes: int, hops: int
) -> None:
    for prompt, answer in examples(find_task(name, **options), difficulty, 3, "train", range(100)):
        start, goal, graph = parsed(prompt)
        assert len(graph) == nodes
        assert all(node in graph[other] for node, others in graph.items() for other in others)
        assert all(len(set(others)) == len(others) for others in graph.values())
        assert sum(map(len, graph.values())) == 2 * (nodes - 1)
        reached = distances(graph, start)
        assert reached.keys() == graph.keys()
        assert reached[goal] == hops
        path = answer.split(">")
        assert (path[0], path[-1], len(path)) == (start, goal, hops + 1)
        assert all(there in graph[here] for here, there in pairwise(path))


def test_trees_are_uniform() -> None:
    """Cayley: the complete graph of n nodes has n^(n − 2) spanning trees. Bounds exceeded once in 1,000."""
    assert chi_square(frequencies(3, 0, 3000), 3) < 13.9
    assert chi_square(frequencies(4, 0, 8000), 16) < 37.7


def test_trees_around_a_path_are_uniform_among_those_that_hold_it() -> None:
    """A tree of 4 nodes holds 3 of the 6 edges: half of the 16 hold a given one, and 3 a given path of two.

    Of 5 nodes 4 of 10 edges: of 125 trees 50 hold a given edge. Bounds exceeded once in 1,000.
    """
    assert chi_square(frequencies(4, 1, 4000), 8) < 24.4
    assert chi_square(frequencies(4, 2, 3000), 3) < 13.9
    assert chi_square(frequencies(5, 1, 10_000), 50) < 85.4
    assert all({(0, 1), (1, 2)} <= tree for tree in frequencies(5, 2, 200))
    assert frequencies(4, 3, 10) == {frozenset({(0, 1), (1, 2), (2, 3)}): 10}


def test_labels_and_orders_are_uniform() -> None:
    """Nothing of how a maze is built shows: labels, the place of the start, and of the way among the neighbours."""
    task = find_task("maze", nodes=5)
    starts: Counter[str] = Counter()
    places: Counter[int] = Counter()
    first = total = 0
    for prompt, answer in examples(task, 3, 3, "train", range(4000)):
        start, _, graph = parsed(prompt)
        starts[start] += 1
        places[list(graph).index(start)] += 1
        others = graph[answer[2]]
        if len(others) == 2:
            total += 1
            first += others[0] == start
    assert len(LABELS) == len(set(LABELS)) == 99
    assert set(starts) == set(LABELS)
    expected = 4000 / 99
    assert sum((count - expected) ** 2 for count in starts.values()) / expected < 146.0
    assert sum((count - 800) ** 2 for count in places.values()) / 800 < 18.5
    assert abs(first - total / 2) < 3.3 * (total / 4) ** 0.5


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("", "empty"),
        ("A>C#B:A,C-A:B-C:B", "no ="),
        ("A>C#B:A,C-A:B-C:B=A", "more after ="),
        ("A>C#B:AC-A:B-C:B=", "no comma"),
        ("A>C#B:A,C,-A:B-C:B=", "a comma too many"),
        ("A>C B:A,C-A:B-C:B=", "no #"),
        ("A>C#B:A,C-A:B-C:B-=", "an empty section"),
        ("A>C#B:A,C-A:B-C:B-D:=", "a node without neighbours"),
        ("A>×#B:A,×-A:B-×:B=", "a label that is none"),
        ("A>A#B:A,C-A:B-C:B=", "start is goal"),
        ("A>D#B:A,C-A:B-C:B=", "goal is not there"),
        ("D>A#B:A,C-A:B-C:B=", "start is not there"),
        ("A>C#B:A,C-A:B=", "a neighbour is not listed"),
        ("A>C#B:A,C-A:B-C:A=", "an edge of one direction"),
        ("A>C#B:A,C-A:B,C-C:B,A=", "a circle"),
        ("A>B#A:B-B:A-C:D-D:C=", "two parts"),
        ("A>B#A:B-B:A-C:D,E-D:C,E-E:C,D=", "two parts, the other a circle"),
        ("A>C#B:A,C-A:B-C:B-A:B=", "a node twice"),
        ("A>C#A:B-A:C-B:A,C-C:A,B=", "a node twice, and a circle"),
        ("A>C#B:A,A,C-A:B-C:B=", "a neighbour twice"),
        ("A>B#A:A,B-B:A=", "a node beside itself"),
        ("A>B#A:B-B:A-C:C,D-D:C,D=", "two parts, the other of nodes beside themselves"),
    ],
)
def test_a_malformed_maze_has_no_answer(prompt: str, why: str) -> None:
    task = find_task("maze")
    assert task.answer(prompt) is None, why
    for answer in ("", "A>B>C", "A>B", "A", "None"):
        assert not task.correct(prompt, answer), why


def test_only_the_path_is_correct() -> None:
    task, prompt = find_task("maze"), "A>C#C:B-A:B-B:C,A,D-D:B="
    assert task.correct(prompt, "A>B>C")
    for wrong in ("A>C", "C>B>A", "A>B>D>B>C", "A>B>A>B>C", "A>B", "B>C", "ABC", "A>B>C>", "A>B>C="):
        assert not task.correct(prompt, wrong)
