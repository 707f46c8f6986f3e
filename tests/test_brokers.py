"""The tests' brokers end with the process that has started them, even if that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from brokers import program
from launch import lives, wait_for

KILLED = """
import os, signal, sys
from pathlib import Path
import brokers
broker = brokers.redis(Path(sys.argv[1]))
broker.start()
print(broker.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the kernel tells no child of a death")
def test_a_broker_ends_when_the_tests_are_killed(tmp_path: Path) -> None:
    program("redis-server")
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=os.path.dirname(__file__), stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -signal.SIGKILL
    with contextlib.suppress(psutil.NoSuchProcess):
        broker = psutil.Process(int(done.stdout))
        wait_for(lambda: not lives(broker), "the end of redis-server")
