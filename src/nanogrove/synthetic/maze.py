"""Mazes: the way from one node of a random tree to another.

    A>C#C:B-A:B-B:C,A,D-D:B=   →   A>B>C

The prompt names the start and the goal, then every node with its neighbours, nodes and neighbours in random order;
the answer is the path. In a tree there is one simple path, the shortest one; a walk with a detour is not an answer, so
the checker compares with that path.

Format of Lee et al. 2025 (arXiv 2502.01612), who label nodes with random numbers from 1 to 99; here a label is one of
99 single characters, so that a node is one token. The paper fixes the path first and adds the other nodes by Wilson's
algorithm (Wilson 1996), as done here. Its code joins later walks only to the path and to where earlier walks began;
here, as in Wilson, to any node of the tree, which makes every tree that contains the path equally likely, and so,
with random labels, every tree with a marked start and goal so many hops apart.
"""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nanogrove.errors import DataError
from nanogrove.synthetic.tasks import check_difficulty

_ACCENTED = "".join(chr(point) for point in range(0xC0, 0xE6) if point != 0xD7)  # × is not a letter
LABELS = string.digits + string.ascii_uppercase + string.ascii_lowercase + _ACCENTED
"""The 99 labels: digits, letters, and the accented letters from À to å."""
_NODE = f"[{LABELS}]"
_SECTION = f"{_NODE}:{_NODE}(?:,{_NODE})*"
_PROMPT = re.compile(f"({_NODE})>({_NODE})#({_SECTION}(?:-{_SECTION})*)=")


@dataclass(frozen=True)
class Maze:
    """A tree of `nodes` nodes and a path of `hops` hops; the difficulty is whichever of them is None."""

    name: str
    nodes: int | None = None
    hops: int | None = None
    symbols: ClassVar[str] = "".join(sorted(f"#,-:=>{LABELS}"))

    def example(self, difficulty: int, generator: np.random.Generator) -> tuple[str, str]:
        """A maze and its path.

        Raises DataError where the path does not fit the tree, or the tree not the 99 labels.
        """
        nodes, hops = self._size(difficulty)
        labels = [LABELS[i] for i in generator.permutation(len(LABELS))[:nodes].tolist()]
        edges = spanning_tree(nodes, hops, generator)
        directed = edges + [(end, begin) for begin, end in edges]
        neighbours: list[list[str]] = [[] for _ in labels]
        for i in generator.permutation(len(directed)).tolist():
            begin, end = directed[i]
            neighbours[begin].append(labels[end])
        order = generator.permutation(nodes).tolist()
        sections = (f"{labels[node]}:{','.join(neighbours[node])}" for node in order)
        return f"{labels[0]}>{labels[hops]}#{'-'.join(sections)}=", ">".join(labels[: hops + 1])

    def answer(self, prompt: str) -> str | None:
        """The path from start to goal; None for a prompt of another form, or a graph that is not a tree."""
        read = _PROMPT.fullmatch(prompt)
        if read is None or read[1] == read[2]:
            return None
        sections = [(section[0], section[2:].split(",")) for section in read[3].split("-")]
        tree = dict(sections)
        edges = {(node, other) for node, others in sections for other in others}
        listed = sum(len(others) for _, others in sections)
        if not len(edges) == listed == 2 * len(sections) - 2 or any((b, a) not in edges for a, b in edges):
            return None
        before, waiting = {read[1]: ""}, [read[1]]
        while waiting:
            node = waiting.pop()
            for other in tree.get(node, ()):
                if other not in before:
                    before[other] = node
                    waiting.append(other)
        if len(before) < len(sections) or read[2] not in before:
            return None
        path = [read[2]]
        while before[path[-1]]:
            path.append(before[path[-1]])
        return ">".join(reversed(path))

    def correct(self, prompt: str, answer: str) -> bool:
        """Whether `answer` is the path; a tree has one, so no other answer is valid."""
        return self.answer(prompt) == answer

    def longest(self, difficulty: int) -> int:
        """6·nodes + 2·hops + 1 characters, always. Raises DataError as `example` does."""
        nodes, hops = self._size(difficulty)
        return 6 * nodes + 2 * hops + 1

    def _size(self, difficulty: int) -> tuple[int, int]:
        """Nodes and hops of this difficulty."""
        if self.nodes is not None:
            check_difficulty(self.name, difficulty, f"hops among {self.nodes} nodes", 1, self.nodes - 1)
            return self.nodes, difficulty
        assert self.hops is not None
        check_difficulty(self.name, difficulty, f"nodes around {self.hops} hops", self.hops + 1, len(LABELS))
        return difficulty, self.hops


def maze(nodes: int = 30) -> Maze:
    """Harder by hops, 1 to nodes − 1. Raises DataError unless 2 ≤ nodes ≤ 99."""
    if not 2 <= nodes <= len(LABELS):
        raise DataError(f"maze: nodes is {nodes}; a maze has 2 to {len(LABELS)}")
    return Maze("maze", nodes=nodes)


def maze_nodes(hops: int = 9) -> Maze:
    """Harder by nodes, hops + 1 to 99. Raises DataError unless 1 ≤ hops ≤ 98."""
    if not 1 <= hops < len(LABELS):
        raise DataError(f"maze-nodes: hops is {hops}; a path has 1 to {len(LABELS) - 1}")
    return Maze("maze-nodes", hops=hops)


def spanning_tree(nodes: int, hops: int, generator: np.random.Generator) -> list[tuple[int, int]]:
    """The nodes − 1 edges of a spanning tree of the complete graph on 0 … nodes − 1 that holds the path 0 … hops.

    Wilson's algorithm, rooted in the path: from each node outside the tree a random walk runs until it meets the tree
    and is added with its loops erased. Uniform over all such trees; over all spanning trees for hops = 0.
    """
    edges = [(node, node + 1) for node in range(hops)]
    inside = [node <= hops for node in range(nodes)]
    onward = [0] * nodes  # where the walk last left a node: following it leaves the loops out
    steps = _uniform(nodes - 1, generator)
    for start in range(hops + 1, nodes):
        node = start
        while not inside[node]:
            step = next(steps)
            onward[node] = step + (step >= node)  # any node but this one
            node = onward[node]
        node = start
        while not inside[node]:
            inside[node] = True
            edges.append((node, onward[node]))
            node = onward[node]
    return edges


def _uniform(below: int, generator: np.random.Generator) -> Iterator[int]:
    """Endless uniform integers, drawn in blocks: one by one they cost ten times as much."""
    while True:
        yield from generator.integers(below, size=2 * below).tolist()
