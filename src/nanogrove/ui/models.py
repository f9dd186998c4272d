"""Models that pages write with: loaded when they are first asked for, and kept up to a limit of memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nanogrove.errors import RunError
from nanogrove.language_model import LanguageModel, load
from nanogrove.memory import free_bytes, shown_bytes

KEPT_BYTES = 2 << 30  # of weights, at most, beside the model that was asked for last
BEST, WEIGHTS, STATE = "best", "*.safetensors", "state.json"


@dataclass(frozen=True)
class _Loaded:
    """A model, its bytes, and the stamp of the files that it was read from."""

    lm: LanguageModel
    size: int
    stamp: tuple[int, ...]


class Models:
    """The best models of runs; for one thread at a time."""

    def __init__(self) -> None:
        self._loaded: dict[Path, _Loaded] = {}  # the one that was asked for last is the last

    def load(self, run: Path) -> LanguageModel:
        """The best model of a run as it is on the disk now.

        Raises CheckpointError where it has none, and RunError where memory does not hold it.
        """
        known, stamp = self._loaded.pop(run, None), _stamp(run)
        if known is None or known.stamp != stamp:
            known = self._read(run, stamp)
        self._loaded[run] = known
        return known.lm

    def _read(self, run: Path, stamp: tuple[int, ...]) -> _Loaded:
        needed = 2 * sum(path.stat().st_size for path in _files(run, WEIGHTS))  # the file, and the model made from it
        self._forget(max(KEPT_BYTES - needed // 2, 0))
        if needed > (free := free_bytes()):
            self._forget(0)
            free = free_bytes()
        if needed > free:
            raise RunError(
                f"{run}: loading its model takes {shown_bytes(needed)}, and {shown_bytes(free)} are free; close other "
                "programs"
            )
        lm = load(run)
        return _Loaded(lm, _bytes(lm), stamp)

    def _forget(self, limit: int) -> None:
        """Forgets models until the others take `limit` bytes or less, those first that were not asked for longest."""
        while self._loaded and sum(each.size for each in self._loaded.values()) > limit:
            del self._loaded[next(iter(self._loaded))]


def _bytes(lm: LanguageModel) -> int:
    modules: list[nn.Module] = [lm.model, *([lm.heads] if lm.heads is not None else [])]
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())


def _files(run: Path, pattern: str) -> Iterator[Path]:
    """Files of the best checkpoint; of any, where none was scored yet."""
    best = run / "checkpoints" / BEST
    folders = [best] if best.is_dir() else (run / "checkpoints").glob("*/")
    return (path for folder in folders for path in sorted(folder.glob(pattern)) if path.is_file())


def _stamp(run: Path) -> tuple[int, ...]:
    """Numbers that change with the checkpoint of a run, which is never changed in place."""
    states = (path.stat() for path in _files(run, STATE))
    return tuple(number for each in states for number in (each.st_ino, each.st_mtime_ns))
