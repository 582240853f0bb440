"""Signals: the first is remembered, the second leaves, and whatever stood there before is called at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rtx_lab.core.signals import Stopped, StopSignal, exit_code


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_is_remembered(signum):
    before = signal.getsignal(signum)
    previous = signal.signal(signum, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            stop.check()
            os.kill(os.getpid(), signum)
            assert stop.signum == signum
            with pytest.raises(Stopped, match=signal.Signals(signum).name):
                stop.check()
        assert signal.getsignal(signum) == signal.SIG_IGN
    finally:
        signal.signal(signum, previous)
    assert signal.getsignal(signum) == before


def test_exit_codes():
    assert [exit_code(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, None)] == [143, 130, 0, 0]


def test_the_earlier_handler_is_called_once_all_is_saved():
    order = []
    previous = signal.signal(signal.SIGUSR1, lambda signum, frame: order.append(signum))
    try:
        with StopSignal():
            os.kill(os.getpid(), signal.SIGUSR1)
            order.append("saved")
        assert order == ["saved", signal.SIGUSR1]
        with StopSignal():
            pass
        assert len(order) == 2
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_the_signal_of_submitit_is_caught_where_submitit_is():
    order = []
    previous = signal.signal(signal.SIGUSR2, lambda signum, frame: order.append(signum))
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop.signum == signal.SIGUSR2
            order.append("saved")
        assert order == ["saved", signal.SIGUSR2]
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with StopSignal():
            assert signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_pythons_own_handler_is_not_called():
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.signum == signal.SIGINT  # and no KeyboardInterrupt


def test_other_threads_are_left_alone():
    failures = []

    def work():
        before = signal.getsignal(signal.SIGTERM)
        with StopSignal() as stop:
            failures.append(stop.signum is not None or signal.getsignal(signal.SIGTERM) is not before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == [False]


CHILD = """
import sys, time
from rtx_lab.core.signals import StopSignal, exit_code
with StopSignal() as stop:
    print("ready", flush=True)
    while stop.signum is None or sys.argv[1] == "deaf":
        time.sleep(0.01)
sys.exit(exit_code(stop.signum))
"""


def child(mode, signals, pause=0.1, **environment):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, mode], stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for signum in signals:
        process.send_signal(signum)
        time.sleep(pause)
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0)])
def test_one_signal_ends_in_order_and_two_at_once(signum, code):
    assert child("listening", [signum]).wait(timeout=20) == code
    assert child("deaf", [signum, signum]).wait(timeout=20) == code


def test_the_echo_of_torchrun_is_no_second_wish():
    process = child("deaf", [signal.SIGINT, signal.SIGINT], TORCHELASTIC_RUN_ID="x")
    try:
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
