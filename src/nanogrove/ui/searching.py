"""A regular expression from a page as a reward: searched in a process of its own, which is ended where that takes long.

A search backtracks, cannot be interrupted, and lets no other thread run meanwhile: one pattern of a few stars on a long
text, within the server, would stop all of its pages.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

from nanogrove.errors import PresetError
from nanogrove.evaluate.reward import Reward
from nanogrove.settings import shown

SECONDS = 5.0  # of all searches of a step, at most
# The alarm ends it, where the system has one, when the server was killed meanwhile.
SCRIPT = """
import json, re, signal, sys
pattern, texts, seconds = json.load(sys.stdin)
if hasattr(signal, "alarm"):
    signal.alarm(seconds)
print(json.dumps([float(re.search(pattern, text) is not None) for text in texts]))
"""


def pattern_reward(pattern: str) -> Reward:
    """1 for a text in which `pattern`, checked by RewardConfig, is found, else 0; raises PresetError after SECONDS."""

    def searched(texts: Sequence[str]) -> list[float]:
        asked = json.dumps([pattern, list(texts), int(2 * SECONDS) + 1])
        command = [sys.executable, "-I", "-S", "-c", SCRIPT]
        try:
            done = subprocess.run(command, input=asked.encode(), stdout=subprocess.PIPE, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise PresetError(
                f"pattern {shown(pattern)} takes more than {SECONDS:g} seconds on this text; write one with fewer "
                "repeats, or a shorter prompt"
            ) from None
        return [float(each) for each in json.loads(done.stdout)]

    return searched
