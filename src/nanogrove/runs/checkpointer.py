"""The checkpoints of a run as it goes: the current state, the best model so far, snapshots if asked for.

Rank 0 holds a `Checkpointer`; every other rank a `NullCheckpointer`, which saves nothing.
"""

import math
from dataclasses import dataclass
from typing import TypedDict

from nanogrove.config.preset import Preset
from nanogrove.record.events import Event
from nanogrove.record.folder import RunFolder
from nanogrove.record.measures import costs
from nanogrove.runs.circumstances import installed_version
from nanogrove.runs.longer import settings_of
from nanogrove.runs.setup import Setup
from nanogrove.train.checkpoint import STUDENT, Checkpoint
from nanogrove.train.saving import save_checkpoint
from nanogrove.train.state import TrainState


class Best(TypedDict):
    """The best evaluation so far; `member` is the one that was best when last scored, since slots change models."""

    step: int
    score: float
    member: int


@dataclass(frozen=True)
class Due:
    """What is to be done after a step; each of them needs the whole state."""

    sample: bool
    snapshot: bool
    save: bool

    def __bool__(self) -> bool:
        return self.sample or self.snapshot or self.save


def due(preset: Preset, step: int) -> Due:
    """Whether the preset asks for samples, a snapshot or a save after a step."""
    return Due(
        sample=bool(preset.sample.tokens) and not preset.model.scalar and step % preset.sample.every == 0,
        snapshot=preset.save.snapshots and step & (step - 1) == 0,
        save=step % preset.save.every == 0,
    )


@dataclass
class Checkpointer:
    """Saves the state of a run in its folder."""

    folder: RunFolder
    setup: Setup
    state: TrainState
    best: Best | None = None
    saved: int = -1  # the step of the newest `current`
    stale: int = 0  # evaluations since the best one

    def resume(self, checkpoint: Checkpoint) -> None:
        """Takes over what a checkpoint, to which the state was restored, knows of the run."""
        self.best, self.saved = checkpoint.state.get("best"), self.state.step
        self.stale = checkpoint.state.get("stale", 0)

    def save(self, name: str, member: int = 0) -> None:
        """Saves the state under `name`; best and snapshots hold weights only, of one model or of an ensemble."""
        alone = self.state.model.population is None or name == "current" or self.state.ensemble
        self._save(name, self.state, None if alone else member)

    def _save(self, name: str, state: TrainState, member: int | None) -> None:
        extra = {
            **self.folder.mark(),
            "best": self.best,
            "stale": self.stale,
            "budget": self.setup.budget,
            "settings": settings_of(self.setup.preset),
            "data": self.setup.corpus.describe()["fingerprint"],
            "nanogrove": installed_version(),
        }
        save_checkpoint(self.folder.checkpoints, name, state, self.setup.corpus.tokenizer, extra, member)

    def save_current(self) -> None:
        """Saves all that a resumed run needs, unless this step is saved already."""
        if self.saved < self.state.step:
            self.save("current")
            self.saved = self.state.step

    def save_due(self, due: Due) -> None:
        """Saves what is due after a step."""
        if due.snapshot:
            self.save(f"step-{self.state.step}")
        if due.save:
            self.save_current()

    def keep_best(self, event: Event) -> None:
        """Saves the model as `best` where its `eval` event scores better than all before; of a population its best."""
        scores = costs(event.values)
        member = min(range(len(scores)), key=scores.__getitem__)
        if self.best is None or scores[member] < self.best["score"]:
            self.best, self.stale = {"step": event.step, "score": scores[member], "member": member}, 0
            self.save("best", member)
        elif math.isfinite(self.best["score"]):  # else nothing was scored yet
            self.stale += 1
        self.best["member"] = member

    def keep_student(self, event: Event) -> None:
        """Saves the state's student where its `student` event says that it never scored better."""
        if event.values["best"] and self.state.student is not None:
            self._save(STUDENT, self.state.student, None)

    @property
    def out_of_patience(self) -> bool:
        """Whether `evaluate.patience` evaluations passed without a better one."""
        patience = self.setup.preset.evaluate.patience
        return patience is not None and self.stale >= patience

    @property
    def best_member(self) -> int:
        """The member that was best when last scored; samples are drawn from it."""
        return 0 if self.best is None else self.best["member"]

    def last_good(self) -> str:
        """The end of an error message: the checkpoint from which a run that diverged can be resumed."""
        newest = f"{self.folder.checkpoints / 'current'} (step {self.saved})" if self.saved >= 0 else "none yet"
        return f"; last good checkpoint: {newest}"

    def rescue(self, event: Event | None) -> str:
        """Saves a run whose data failed after `event`, where this rank holds the whole state without the others.

        Returns the end of an error message: the step from which the run can be resumed.
        """
        plan = self.setup.plan
        whole = plan.ranks.world == 1 or (self.state.model.population is None and not plan.sharded)
        if whole and event is not None and event.kind == "step" and event.step == self.state.step:
            self.save_current()
        newest = f"the run is saved at step {self.saved}" if self.saved >= 0 else "nothing is saved yet"
        return f"; {newest}, go on with --resume"


class NullCheckpointer:
    """The checkpointer of a rank that saves nothing."""

    best_member = 0
    out_of_patience = False

    def save_current(self) -> None:
        """Saves nothing."""

    def save_due(self, due: Due) -> None:
        """Saves nothing."""

    def keep_best(self, event: Event) -> None:
        """Keeps nothing."""

    def keep_student(self, event: Event) -> None:
        """Keeps nothing."""

    def last_good(self) -> str:
        """Names no checkpoint."""
        return ""

    def rescue(self, event: Event | None) -> str:
        """Saves nothing."""
        return ""
