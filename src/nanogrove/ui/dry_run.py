"""What a run would take, as `nanogrove train --dry-run` says it."""

import json

from nanogrove.config.preset import Preset
from nanogrove.ui.command import Commands, Output

LONGEST_SECONDS = 120.0  # of a dry run, which may have much data to read


class DryRuns:
    """Dry runs, one at a time, until `close`."""

    def __init__(self) -> None:
        self._commands = Commands("dry run")

    def close(self) -> None:
        """Ends the one under way."""
        self._commands.close()

    def figures(self, preset: Preset) -> Output:
        """What a run of a preset would take, or why that cannot be; functions that it names are not run."""
        try:
            asked = json.dumps(preset.model_dump(mode="json"))
            printed, problem, _ = self._commands.run(("train", "-", "--dry-run"), LONGEST_SECONDS, asked)
        except TimeoutError as error:
            return Output(f"not known: {error}", "")
        return Output("" if problem else printed.strip(), problem)
