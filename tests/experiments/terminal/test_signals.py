"""Signals that ask to stop: collected once, then as before."""

import os
import signal

from experiments.terminal.signals import collected


def test_the_first_is_collected_and_a_second_takes_its_usual_effect():
    usual, told = [], []
    before = signal.signal(signal.SIGTERM, lambda signum, frame: usual.append(signum))
    try:
        with collected(lambda: told.append("then")) as caught:
            assert not caught
            os.kill(os.getpid(), signal.SIGTERM)
            assert (caught, told, usual) == ([signal.SIGTERM], ["then"], [])
            os.kill(os.getpid(), signal.SIGTERM)
            assert (caught, told, usual) == ([signal.SIGTERM], ["then"], [signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGTERM)
        assert (len(caught), len(usual)) == (1, 2)
    finally:
        signal.signal(signal.SIGTERM, before)
