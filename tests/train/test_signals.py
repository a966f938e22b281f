"""Signals that stop a run: at once, after the current step, or later if a library swallowed the exception."""

import signal

import pytest

from sft_cli.train.signals import StopRequested, collect_signals, raise_on_signal
from sft_cli.utils.processes import STOP_SIGNALS


@pytest.fixture(autouse=True)
def handlers():
    """Check that the previous signal handlers are restored."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_outside_the_loop_a_signal_raises(number):
    with pytest.raises(StopRequested) as caught_error, raise_on_signal():
        signal.raise_signal(number)
    assert caught_error.value.signal == number


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_in_the_loop_the_first_signal_is_collected_and_a_second_one_raises(number):
    with raise_on_signal(), collect_signals() as caught:
        signal.raise_signal(number)
        assert caught == [number]
        with pytest.raises(StopRequested):
            signal.raise_signal(number)


def test_two_different_signals_are_both_collected():
    with raise_on_signal(), collect_signals() as caught:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert caught == [signal.SIGUSR1, signal.SIGTERM]


def test_a_signal_whose_exception_was_swallowed_is_collected():
    with raise_on_signal():
        with pytest.raises(StopRequested):
            signal.raise_signal(signal.SIGINT)
        with collect_signals() as caught:
            assert caught == [signal.SIGINT]
