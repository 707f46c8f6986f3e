"""The status page with 10,000 connections open: is it still live, and how soon does the death of a worker show?

Law: a real browser, a real server, clients in processes of their own. Printed are the seconds between two views (as the
page receives them), the seconds that the page takes to load, those until a worker that was killed stands in the first
line, and the processor time that the admin process and the workers use meanwhile, with the page open and without. The
exit status is 1 if a view was late by more than a second, or the death took longer than two.

    python proof/status_page.py                   # 10,000 connections
    python proof/status_page.py 2000
"""

from __future__ import annotations

import itertools
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from selenium import webdriver

from pronghorn.testing.served import Served, serving

CLIENT = """
import socket, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held = [socket.create_connection((host, port)) for _ in range(count)]
print("open", flush=True)
began = time.monotonic()
while not sys.stdin.closed:
    for place in range(0, len(held), 50):
        try:
            held[place].sendall(b"hello\\n"); held[place].recv(100)
        except OSError:
            held[place] = socket.create_connection((host, port))
        time.sleep(0.01)
"""
WATCH = """
window.views = []
new MutationObserver(() => window.views.push(performance.now() / 1000))
    .observe(document.getElementById("about"), {childList: true, characterData: true, subtree: true})
"""
LEVEL = "return document.querySelector('header').dataset.level"


@contextmanager
def clients(address: Any, count: int, processes: int = 4) -> Iterator[None]:
    """So many connections that are open, a few of them talking."""
    started = []
    for _ in range(processes):
        command = [sys.executable, "-c", CLIENT, str(address[0]), str(address[1]), str(count // processes)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    try:
        for each in started:
            assert each.stdout is not None and each.stdout.readline() == "open\n"
        yield
    finally:
        for each in started:
            each.kill()
            each.wait()


def admin_of(served: Served) -> tuple[str, psutil.Process]:
    """The address of the page, and the process that serves it."""
    line = next(each for each in served.log().splitlines() if "admin port is at" in each)
    children = psutil.Process(served.pid).children()
    return line.rpartition(" ")[2], next(
        each for each in children if "pronghorn.admin" in " ".join(each.cmdline()) or "admin" in each.name()
    )


def used(processes: list[psutil.Process], seconds: float) -> float:
    """Processor time of the processes in so many seconds from now, as a part of one processor."""
    before = sum(sum(each.cpu_times()[:2]) for each in processes)
    time.sleep(seconds)
    return (sum(sum(each.cpu_times()[:2]) for each in processes) - before) / seconds


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    with (
        tempfile.TemporaryDirectory() as profile,
        serving("upper", workers=4, model="epoll", admin="127.0.0.1:0") as served,
    ):
        for each in ("headless=new", "no-sandbox", f"user-data-dir={profile}", "window-size=1280,1000"):
            options.add_argument(f"--{each}")
        url, admin = admin_of(served)
        workers = [psutil.Process(pid) for pid in served.worker_pids() if pid != admin.pid]
        with clients(served.address, count):
            alone = used(workers, 10), used([admin], 10)
            driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
            try:
                began = time.monotonic()
                driver.get(url)
                while driver.execute_script("return document.getElementById('live').textContent") != "live":
                    time.sleep(0.01)
                loaded = time.monotonic() - began
                driver.execute_script(WATCH)
                watched = used(workers, 10), used([admin], 10)
                views = driver.execute_script("return window.views")
                gaps = [late - early for early, late in itertools.pairwise(views)]
                began = time.monotonic()
                workers[0].send_signal(signal.SIGKILL)
                while driver.execute_script(LEVEL) != "bad":
                    time.sleep(0.01)
                told = time.monotonic() - began
                verdict = driver.execute_script("return document.getElementById('verdict').textContent")
            finally:
                driver.quit()
    print(f"{count:,} connections: loaded in {loaded:.2f} s, a view every {min(gaps):.2f} to {max(gaps):.2f} s")
    print(f"a killed worker stood there after {told:.2f} s: {verdict}")
    for what, before, after in zip(("the workers", "the admin process"), alone, watched, strict=True):
        print(f"{what} used {before:.1%} of a processor without a viewer, {after:.1%} with one")
    return int(max(gaps) > 2.0 or told > 2.0)


if __name__ == "__main__":
    sys.exit(main())
