"""Signals that ask a run to stop: at once, behind the step, or later where a library swallowed them."""

import signal

import pytest

from sft_cli.train.signals import StopRequested, collect_signals, raise_on_signal
from sft_cli.utils.processes import STOP_SIGNALS


@pytest.fixture(autouse=True)
def handlers():
    """What handled the signals before does so afterwards."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_outside_the_loop_a_signal_ends_at_once(number):
    with pytest.raises(StopRequested) as asked, raise_on_signal():
        signal.raise_signal(number)
    assert asked.value.signal == number


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_in_the_loop_the_first_one_waits_and_a_second_one_ends(number):
    with raise_on_signal(), collect_signals() as caught:
        signal.raise_signal(number)
        assert caught == [number]
        with pytest.raises(StopRequested):
            signal.raise_signal(number)


def test_two_different_signals_are_both_remembered():
    with raise_on_signal(), collect_signals() as caught:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert caught == [signal.SIGUSR1, signal.SIGTERM]


def test_what_a_library_swallowed_stops_the_run_behind_its_first_step():
    with raise_on_signal():
        with pytest.raises(StopRequested):
            signal.raise_signal(signal.SIGINT)
        with collect_signals() as caught:
            assert caught == [signal.SIGINT]
