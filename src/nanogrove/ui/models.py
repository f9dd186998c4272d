"""Models that pages write with: loaded when they are first asked for, and kept up to a limit of memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from torch import nn

from nanogrove.errors import RunError
from nanogrove.evaluate.reward import RewardModel, load_reward
from nanogrove.language_model import LanguageModel, load
from nanogrove.memory import free_bytes, shown_bytes
from nanogrove.train.checkpoint import ROTATION
from nanogrove.ui.votes import read_voters

KEPT_BYTES = 2 << 30  # of weights, at most, beside the model that was asked for last
BEST, WEIGHTS, STATE = "best", "*.safetensors", "state.json"
T = TypeVar("T")


@dataclass(frozen=True)
class _Kind(Generic[T]):
    """What may be kept of a run: its checkpoints that are looked at, how they are read, and what takes memory then."""

    name: str
    folders: tuple[str, ...]
    read: Callable[[Path], T]
    modules: Callable[[T], Iterable[nn.Module]]


@dataclass(frozen=True)
class _Loaded:
    """What was read, its bytes, and the stamp of the files that it was read from."""

    value: object
    size: int
    stamp: tuple[int, ...]


MODEL = _Kind[LanguageModel]("model", (BEST,), lambda run: load(run), lambda lm: _modules(lm))
REWARD = _Kind[RewardModel]("reward", (BEST,), load_reward, lambda reward: [reward.model])
VOTERS = _Kind[list[LanguageModel]]("voters", ROTATION, read_voters, lambda voters: [lm.model for lm in voters])


class Models:
    """The models of runs; for one thread at a time."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, Path], _Loaded] = {}  # the one that was asked for last is the last

    def load(self, run: Path) -> LanguageModel:
        """The best model of a run as it is on the disk now.

        Raises CheckpointError where it has none, and RunError where memory does not hold it.
        """
        return self._kept(MODEL, run)

    def load_reward(self, run: Path) -> RewardModel:
        """The best reward model of a run as it is on the disk now. Raises as `load` does."""
        return self._kept(REWARD, run)

    def load_voters(self, run: Path) -> list[LanguageModel]:
        """The members of a run as they were last saved; none where it has one model alone. Raises as `load` does."""
        return self._kept(VOTERS, run)

    def _kept(self, kind: _Kind[T], run: Path) -> T:
        key = (kind.name, run)
        known, stamp = self._loaded.pop(key, None), _stamp(run, kind.folders)
        if known is None or known.stamp != stamp:
            known = self._read(kind, run, stamp)
        self._loaded[key] = known
        return cast(T, known.value)

    def _read(self, kind: _Kind[T], run: Path, stamp: tuple[int, ...]) -> _Loaded:
        sizes = [path.stat().st_size for path in _files(run, kind.folders, WEIGHTS)]
        needed = 2 * sum(sizes)  # the file, and the model made from it
        self._forget(max(KEPT_BYTES - needed // 2, 0))
        if needed > (free := free_bytes()):
            self._forget(0)
            free = free_bytes()
        if needed > free:
            raise RunError(
                f"{run}: loading its model takes {shown_bytes(needed)}, and {shown_bytes(free)} are free; close other "
                "programs"
            )
        value = kind.read(run)
        return _Loaded(value, _bytes(kind.modules(value)), stamp)

    def _forget(self, limit: int) -> None:
        """Forgets models until the others take `limit` bytes or less, those first that were not asked for longest."""
        while self._loaded and sum(each.size for each in self._loaded.values()) > limit:
            del self._loaded[next(iter(self._loaded))]


def _modules(lm: LanguageModel) -> list[nn.Module]:
    return [lm.model, *([lm.heads] if lm.heads is not None else [])]


def _bytes(modules: Iterable[nn.Module]) -> int:
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())


def _files(run: Path, names: tuple[str, ...], pattern: str) -> Iterator[Path]:
    """Files of the first of these checkpoints that is there; of any, where none is, as where none was scored yet."""
    known = [run / "checkpoints" / name for name in names if (run / "checkpoints" / name).is_dir()]
    folders = known[:1] or (run / "checkpoints").glob("*/")
    return (path for folder in folders for path in sorted(folder.glob(pattern)) if path.is_file())


def _stamp(run: Path, names: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers that change with the checkpoint of a run, which is never changed in place."""
    states = (path.stat() for path in _files(run, names, STATE))
    return tuple(number for each in states for number in (each.st_ino, each.st_mtime_ns))
