"""The processor time and the memory of a process tree, beside what the processes themselves know."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pronghorn.bench.tree import family, held, settled

# A parent whose children compute: one that has ended and was reaped, one whose own child was, and one that lives.
TREE = """
import os, time
def compute(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
def child(*work):
    pid = os.fork()
    if not pid:
        for each in work: each()
        os._exit(0)
    return pid
os.waitpid(child(lambda: compute(0.1)), 0)
os.waitpid(child(lambda: os.waitpid(child(lambda: compute(0.1)), 0)), 0)
block = bytearray(os.urandom(1)) * 30_000_000
child(lambda: compute(0.1), lambda: print("done", flush=True), lambda: time.sleep(60))
time.sleep(60)
"""


@pytest.mark.slow
def test_a_tree_counts_the_living_and_the_dead_and_shared_memory_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, process_group=0)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"done\n"
        root, living = family(process.pid)
        assert root == process.pid
        assert 0.3 <= settled(root) < 0.8
        assert 30_000_000 < held(root) < 60_000_000
    finally:
        for pid in reversed(family(process.pid)):
            subprocess.run(["kill", "-9", str(pid)])
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert family(living) in ([], [living])  # a zombie of init's at most
    assert settled(process.pid) == 0.0
