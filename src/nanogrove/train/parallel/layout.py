"""How a training state lies over ranks while they train it together.

| layout       | a rank trains                              | the whole state, up to date after each `gather` |
|--------------|--------------------------------------------|-------------------------------------------------|
| `Replicated` | all of it, on its rows of each batch       | on every rank, at any time                      |
| `ByMember`   | a copy of its members of a population      | on every rank                                   |
| `Sharding`   | its shard of every tensor, on its device   | on rank 0, in the memory of the CPU             |

Data flow one way: the whole state is spread, each rank trains its part, and the parts are gathered into the whole
state, which is scored, saved, sampled and bred.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from nanogrove.train.state import TrainState


class Layout(Protocol):
    """What each of the layouts does; all ranks call it together."""

    def spread(self, state: TrainState) -> AbstractContextManager[TrainState]:
        """The part of a whole `state` that this rank trains within the context, at whose end `state` is up to date."""

    def gather(self) -> None:
        """Brings the state that is spread at present up to date. Does nothing where none is."""


@dataclass(frozen=True)
class Replicated:
    """Each rank trains the whole state, and makes the same updates as all others."""

    @contextmanager
    def spread(self, state: TrainState) -> Iterator[TrainState]:
        """The state itself, on every rank."""
        yield state

    def gather(self) -> None:
        """Nothing to bring together."""


REPLICATED = Replicated()
