"""A process that trains jobs: it reads one as a line of JSON, trains it, says what happens in lines of JSON, and so on.

    in    {"allow_code": false, "runs": [{"preset": {…}, "folder": "…"}, …]}
    out   {"run": 0, "kind": "step", "step": 12, "text": ""} …   {"done": true}   or   {"error": "…"}

What functions of a preset print goes to standard error. Where the reader is gone, the process ends at its next line.
"""

import json
import os
import sys
import time
from typing import TextIO

from nanogrove.errors import NanogroveError
from nanogrove.studies.engines.contract import LEAST_SECONDS
from nanogrove.studies.work import run_described


def serve(jobs: TextIO, answers: TextIO) -> None:
    """Trains jobs until there are no more."""
    for line in jobs:
        job = json.loads(line)
        answered = 0.0
        try:
            for number, event in run_described(job["runs"], job["allow_code"]):
                if event.kind == "step" and time.monotonic() - answered < LEAST_SECONDS:
                    continue
                answered = time.monotonic()
                text = str(event.values.get("text", ""))
                _say(answers, {"run": number, "kind": event.kind, "step": event.step, "text": text})
                if event.kind == "stop":
                    return
            _say(answers, {"done": True})
        except NanogroveError as error:
            _say(answers, {"error": str(error)})


def _say(answers: TextIO, message: object) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    serve(sys.stdin, pipe)
