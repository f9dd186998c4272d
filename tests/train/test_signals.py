"""Signals are collected while a run waits for them, and the process has its own handlers afterwards."""

import signal

import pytest

from nanogrove.train.signals import stop_signals


@pytest.fixture
def handler() -> object:
    return signal.getsignal(signal.SIGTERM)


def test_a_signal_is_collected_and_the_second_is_the_process_s_own(handler: object) -> None:
    with stop_signals() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
    assert signal.getsignal(signal.SIGTERM) is handler


def test_runs_that_overlap_all_hear_and_leave_the_process_its_handler(handler: object) -> None:
    first, second = stop_signals(), stop_signals()
    heard = [first.__enter__(), second.__enter__()]
    first.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is not handler
    signal.raise_signal(signal.SIGTERM)
    assert heard == [[], [signal.SIGTERM]]
    second.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is handler
