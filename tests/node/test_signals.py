"""An agent that is told to stop, stops, whichever of its threads the kernel told."""

from __future__ import annotations

import signal
import subprocess
import sys

WAITS = """
import signal, sys, threading
from i2node.node.daemon import until_signal

def end(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, end)
threading.Thread(target=threading.Event().wait, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # of the main thread alone
try:
    print("waits", flush=True)
    until_signal()
except KeyboardInterrupt:
    print("ended", flush=True)
"""


def test_a_signal_that_another_thread_was_given_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waits\n"
        process.send_signal(signal.SIGTERM)
        try:
            told, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (told, process.returncode) == (b"ended\n", 0)
