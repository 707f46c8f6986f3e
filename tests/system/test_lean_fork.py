"""fork(2) without what Python does about other threads, and with it where there are some."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging, os, random, threading
from pronghorn.system.drain import Drain
from pronghorn.system.lean_fork import LeanFork

called = []
os.register_at_fork(before=lambda: called.append("before"), after_in_parent=lambda: called.append("parent"),
                    after_in_child=lambda: called.append("child"))
fork = LeanFork(drain := Drain(1.0))

def tell(how, fork, then=lambda: None):
    called.clear()
    lock, number = threading._active_limbo_lock, random.random
    if fork() == 0:
        put_right = threading._active_limbo_lock is not lock
        whole = threading.current_thread() is threading.main_thread() and threading.active_count() == 1
        free = logging._lock.acquire(blocking=False)
        mine = drain.owner == os.getpid() or fork is os.fork
        print(how, *called, put_right, whole and free and mine, flush=True)
        then()
        os._exit(0)
    os.wait()
    assert drain.owner == os.getpid() or how == "below"
    print(how, *called, flush=True)

random.seed(1)
same = random.random()
tell("lean", fork, lambda: tell("below", os.fork))
tell("later", os.fork)
ended = threading.Event()
beside = threading.Thread(target=ended.wait)
beside.start()
tell("threads", fork)
ended.set()
beside.join()
random.seed(1)
if fork() == 0:
    print("random", random.random() == same, flush=True)
    os._exit(0)
os.wait()
os.register_at_fork(before=lambda: called.append("new"))
tell("new", fork)
print(logging._lock.acquire(blocking=False), flush=True)
"""


def test_only_a_process_with_one_thread_leaves_out_what_is_done_about_threads_and_only_that() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"lean before child {not sys.platform.startswith('linux')} True",
        "below before child True True",
        "below before parent",
        "lean before parent",
        "later before child True True",
        "later before parent",
        "threads before child True True",
        "threads before parent",
        "random False",
        f"new new before child {not sys.platform.startswith('linux')} True",
        "new new before parent",
        "True",
    ]
