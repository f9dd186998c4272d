"""Where the runs of a study are trained; a new engine is one file here and one line in `ENGINES`."""

from dataclasses import dataclass

from nanogrove.errors import StudyError, nearest
from nanogrove.studies.engines.cluster import train_on_ray
from nanogrove.studies.engines.contract import Engine
from nanogrove.studies.engines.local import train_here
from nanogrove.studies.packing import Pack, alone, fastest, stacked


@dataclass(frozen=True)
class Choice:
    """An engine by its name: how runs are packed into jobs, and where these are trained."""

    pack: Pack
    train: Engine


ENGINES = {
    "auto": Choice(fastest, train_here),
    "stacked": Choice(stacked, train_here),
    "processes": Choice(alone, train_here),
    "ray": Choice(alone, train_on_ray),
}


def check_engine(name: str, address: str) -> None:
    """Raises StudyError for an engine that does not exist, and for an address that it would not use."""
    if name not in ENGINES:
        near = nearest(name, ENGINES)
        raise StudyError(f"engine {name}: must be one of {', '.join(ENGINES)}" + (f"; {near}" if near else ""))
    if address and name != "ray":
        raise StudyError("--address is of a Ray cluster; add --engine ray")
