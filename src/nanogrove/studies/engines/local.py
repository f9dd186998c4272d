"""Jobs in processes of this machine, each on one core, as many at a time as the place has workers.

A process that dies, for lack of memory or since somebody killed it, is replaced, and its job goes on from the folders
of its runs. A job whose process dies three times without a step more is given up. Processes are out of the terminal's
reach: at Ctrl-C they are asked to save and end, and waited for.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO

from nanogrove.errors import StudyError
from nanogrove.studies.engines.contract import Happened, Job, Place
from nanogrove.train.signals import end_as_signalled, stop_signals
from nanogrove.waits import waiting

ATTEMPTS = 3  # of a job, without a step more
SIGNAL_SECONDS = 0.5  # after which Ctrl-C is answered, at most
LOG_BYTES = 10_000  # of what a process wrote last
Answers = queue.Queue[tuple["_Worker", str | None]]


def train_here(jobs: Sequence[Job], place: Place) -> Iterator[Happened]:
    """Trains jobs in processes of this machine.

    Raises StudyError where a run cannot be trained, and after Ctrl-C or SIGTERM, when all runs are saved,
    KeyboardInterrupt or SystemExit.
    """
    with stop_signals() as stopped:
        yield from _train(deque(_Attempt(job) for job in jobs), place, stopped)
    end_as_signalled(stopped)


def _train(left: "deque[_Attempt]", place: Place, stopped: Sequence[int]) -> Iterator[Happened]:
    answers, workers = Answers(), list[_Worker]()
    try:
        while not stopped and (left or any(worker.attempt for worker in workers)):
            while left and sum(worker.attempt is not None for worker in workers) < place.workers:
                free = next((worker for worker in workers if worker.attempt is None), None)
                if free is None:
                    free = _Worker(answers)
                    workers.append(free)
                free.give(left.popleft(), place)
            try:
                worker, line = answers.get(timeout=SIGNAL_SECONDS)
            except queue.Empty:
                continue
            attempt = worker.attempt
            if line is None:
                workers.remove(worker)
                death = worker.death()
                worker.close()
                if attempt is not None:
                    attempt.failures += 1
                    if attempt.failures >= ATTEMPTS:
                        raise StudyError(f"{attempt.job.label}: {death}, {ATTEMPTS} times without a step more")
                    left.appendleft(attempt)
            elif attempt is not None:
                happened = worker.read(line)
                if happened is not None:
                    yield happened
    finally:
        _stop(workers)


@dataclass
class _Attempt:
    """A job, the last step that each of its runs reached, by number, and how often it failed since."""

    job: Job
    reached: dict[int, int] = field(default_factory=dict)
    failures: int = 0


@dataclass(eq=False)
class _Worker:
    """A process that trains one job after the other."""

    answers: Answers
    attempt: _Attempt | None = None
    log: IO[bytes] = field(default_factory=TemporaryFile)
    process: subprocess.Popen[str] = field(init=False)
    listener: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanogrove.studies.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            encoding="utf-8",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        """Hands on what the process says, and at last that it is gone."""
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.answers.put((self, line))
        self.process.wait()
        self.answers.put((self, None))

    def give(self, attempt: _Attempt, place: Place) -> None:
        """Gives it a job; where it is gone, that is said as an answer."""
        self.attempt = attempt
        runs = attempt.job.described(place.study)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"allow_code": place.allow_code, "runs": runs}) + "\n")
            self.process.stdin.flush()

    def read(self, line: str) -> Happened | None:
        """What a line of it says; None at the end of its job. Raises StudyError for a run that cannot be trained."""
        message, attempt = json.loads(line), self.attempt
        assert attempt is not None
        if "error" in message:
            raise StudyError(f"{attempt.job.label}: {message['error']}")
        if "done" in message:
            self.attempt = None
            return None
        number, step = message["run"], message["step"]
        if step > attempt.reached.get(number, 0):
            attempt.reached[number], attempt.failures = step, 0
        return Happened(attempt.job.runs[number], message["kind"], step, message["text"])

    def death(self) -> str:
        """How the process ended, in words, with the last line that it wrote."""
        code = self.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(self.log.tell() - LOG_BYTES, 0))
        lines = self.log.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"its process ended with {how}" + (f" ({last.strip()})" if last else "")

    def close(self) -> None:
        """Waits for the process, and closes what led to it."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # so that one without a job ends
        self.process.wait()
        self.listener.join()
        self.log.close()


def _stop(workers: Sequence[_Worker]) -> None:
    """Asks all processes to save and end, and waits for them."""
    for worker in workers:
        if worker.attempt is not None:
            worker.process.terminate()
    with waiting("waiting for runs to be saved"):
        for worker in workers:
            worker.close()
