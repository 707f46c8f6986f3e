"""A worker ends as a Python program ends: what its handler has begun is done, written and put away."""

from __future__ import annotations

import gzip
import importlib.util
import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from launch import Launched, launched_code, lives, script, text_of, wait_for

pytestmark = pytest.mark.slow  # a stop that waits, each
LASTING = """
import atexit, concurrent.futures, gzip, logging, logging.handlers, os, sqlite3, tempfile, threading, time, weakref
import pronghorn

rows = open("rows.csv", "a")
rows.write("header\\n")
packed = gzip.open(f"packed-{os.getpid()}.gz", "wt")
logger = logging.getLogger("tracker")
logger.setLevel(logging.INFO)
logger.propagate = False
logger.addHandler(logging.handlers.MemoryHandler(1000, target=logging.FileHandler("tracker.log")))
folder = tempfile.TemporaryDirectory(prefix="scratch-", dir=".")
file = tempfile.NamedTemporaryFile(prefix="scratch-", dir=".")
executor = concurrent.futures.ThreadPoolExecutor(2)


def note(text):
    with open("notes", "a") as notes:
        notes.write(f"{text} {os.getpid()}\\n")


class Thing:
    pass


thing = Thing()
weakref.finalize(thing, note, "finalizer")
atexit.register(note, "exit function")


def store(text):
    time.sleep(0.5 if "thread" in text else 0.2)
    with sqlite3.connect("jobs.db", timeout=10) as table:
        table.execute("create table if not exists jobs (name)")
        table.execute("insert into jobs values (?)", [text])


@pronghorn.message(pronghorn.lines)
def handler(line):
    text = line.decode()
    rows.write(text + "\\n")
    packed.write(text + "\\n")
    logger.info("%s", text)
    executor.submit(store, f"executor {text}")
    threading.Thread(target=store, args=[f"thread {text}"]).start()
    return b"queued"
"""
MODELS = ["epoll", "thread"]
MODELS += [each for each in ("uvloop", "gevent") if importlib.util.find_spec(each)]


def jobs(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "jobs.db") as table:
        return sorted(name for (name,) in table.execute("select name from jobs"))


def served(server: Launched, questions: int) -> None:
    for number in range(questions):
        assert server.ask(b"%d\n" % number) == b"queued\n"


@pytest.mark.parametrize("model", MODELS)
def test_a_worker_ends_as_a_program(tmp_path: Path, model: str) -> None:
    with launched_code(tmp_path, LASTING, model=model) as server:
        (worker,) = server.ready()
        served(server, 2)
        assert server.stop() == 0, server.log
    assert jobs(tmp_path) == ["executor 0", "executor 1", "thread 0", "thread 1"], server.log
    assert (tmp_path / "rows.csv").read_text().replace("header\n", "") == "0\n1\n"
    assert gzip.open(tmp_path / f"packed-{worker}.gz", "rt").read() == "0\n1\n"
    assert (tmp_path / "tracker.log").read_text() == "0\n1\n"
    assert sorted((tmp_path / "notes").read_text().splitlines()) == [f"exit function {worker}", f"finalizer {worker}"]
    assert not list(tmp_path.glob("scratch-*")), "of the worker, or of the probe"


def test_a_child_of_fork_ends_as_a_program(tmp_path: Path) -> None:
    with launched_code(tmp_path, LASTING, model="fork") as server:
        (worker,) = server.ready()
        served(server, 2)
        wait_for(lambda: not psutil.Process(worker).children(), "the end of the children")
        assert jobs(tmp_path) == ["executor 0", "executor 1", "thread 0", "thread 1"]
        assert sorted((tmp_path / "rows.csv").read_text().split()) == ["0", "1", "header", "header"], "the probe's too"
        assert sorted((tmp_path / "tracker.log").read_text().split()) == ["0", "1"]
        assert not (tmp_path / "notes").exists(), "exit functions of the import are the worker's"
        assert list(tmp_path.glob("scratch-*")), "as are temporary folders"
        assert server.stop() == 0
    assert not list(tmp_path.glob("scratch-*"))


STUCK = """
import threading, time, pronghorn

@pronghorn.message(pronghorn.lines)
def handler(line):
    threading.Thread(target=for_ever, name="writer").start()
    open("late.txt", "a")
    handler.file = open("late.txt", "a")
    handler.file.write("written")
    return b"begun"

def for_ever():
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize("model", ["epoll", "fork"])
def test_a_thread_that_never_ends_is_named_and_left(tmp_path: Path, model: str) -> None:
    with launched_code(tmp_path, STUCK, model=model, drain_timeout="1s") as server:
        assert server.ask(b"go\n") == b"begun\n"
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
        assert re.search(r"lost: thread 'writer' \(for_ever, at mine.py:\d+\)", server.log), server.log
    assert (tmp_path / "late.txt").read_text() == "written"


CHILDREN = """
import concurrent.futures, multiprocessing, os, subprocess, time, pronghorn

context = multiprocessing.get_context("fork")
kept = []

def sleep():
    time.sleep(600)

@pronghorn.message(pronghorn.lines)
def handler(line):
    kind = line.decode()
    if kind == "executor":
        pool = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
        pool.submit(os.getpid).result()
        kept.append(pool)
    elif kind == "pool":
        kept.append(context.Pool(2))
    elif kind == "daemon":
        process = context.Process(target=sleep, daemon=True)
        process.start()
    elif kind == "process":
        context.Process(target=sleep).start()
    elif kind == "fork":
        if not os.fork():
            sleep()
    elif kind == "program":
        kept.append(subprocess.Popen(["sleep", "600"]))
    elif kind == "detached":
        kept.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        return b"%d" % kept[-1].pid
    return b"begun"
"""


def below(server: Launched) -> list[psutil.Process]:
    return psutil.Process(server.pid).children(recursive=True)


@pytest.mark.parametrize("kinds", ["executor pool", "daemon fork program"])
def test_child_processes_end_with_their_worker(tmp_path: Path, kinds: str) -> None:
    with launched_code(tmp_path, CHILDREN, model="epoll") as server:
        (worker,) = server.ready()
        for kind in kinds.split():
            assert server.ask(kind.encode() + b"\n") == b"begun\n"
        family = psutil.Process(worker).children(recursive=True)
        assert family
        server.send(signal.SIGHUP)
        server.ready(2)
        wait_for(lambda: not any(map(lives, family)), "the end of the old worker's child processes")
        for kind in kinds.split():
            assert server.ask(kind.encode() + b"\n") == b"begun\n"
        family = below(server)
        assert server.stop() == 0, server.log
        assert not any(map(lives, family))


def test_a_process_that_python_waits_for_has_until_the_drain_deadline(tmp_path: Path) -> None:
    with launched_code(tmp_path, CHILDREN, model="thread", drain_timeout="1s") as server:
        assert server.ask(b"process\n") == b"begun\n"
        family = below(server)
        assert server.stop() == 0, server.log
        assert not any(map(lives, family))
        assert "lost: process 'ForkProcess-1'" in server.log


@pytest.mark.parametrize("model", ["epoll", "fork"])
def test_what_was_detached_on_purpose_lives_on(tmp_path: Path, model: str) -> None:
    with launched_code(tmp_path, CHILDREN, model=model) as server:
        pid = int(server.ask(b"detached\n"))
        detached = psutil.Process(pid)
        try:
            began = time.monotonic()
            assert server.stop() == 0, server.log
            assert time.monotonic() - began < 10
            assert lives(detached)
        finally:
            detached.kill()


def test_exit_functions_of_what_a_script_imported_belong_to_the_worker_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("""
import atexit, os, shutil, tempfile, weakref

def note(who):
    with open("exits", "a") as file:
        file.write(f"{who} {os.getpid()}\\n")

class Thing:
    pass

thing = Thing()
weakref.finalize(thing, note, "finalizer")
atexit.register(note, "module")
os.mkdir("folder")
atexit.register(shutil.rmtree, "folder")

def handler(conn):
    conn.sendall(b"%d" % os.path.isdir("folder"))
""")
    text = """
import atexit, app, pronghorn
def own():
    app.note("script")
if __name__ == "__main__":
    atexit.register(own)
    pronghorn.serve(app.handler, bind="127.0.0.1:0")
"""
    with script(tmp_path, text) as server:
        (worker,) = server.ready()
        os.kill(worker, signal.SIGTERM)
        server.ready(2)
        assert server.ask(b"") == b"1"
        assert (tmp_path / "exits").read_text() == f"module {worker}\n"
        assert server.stop() == 0
    told = (tmp_path / "exits").read_text().splitlines()
    assert sorted(each.split()[0] for each in told if each.endswith(f" {server.pid}")) == [
        "finalizer",
        "module",
        "script",
    ]


TASKS = """
import asyncio, contextlib, pronghorn

def note(text):
    with open("notes", "a") as notes:
        notes.write(text + "\\n")

async def work(seconds):
    try:
        await asyncio.sleep(seconds)
        note("done")
    except asyncio.CancelledError:
        note("cancelled")
        raise
    finally:
        await asyncio.sleep(0.01)
        note("finally")

async def tick():
    while True:
        await asyncio.sleep(0.05)

async def handler(reader, writer):
    seconds = float(await reader.readline())
    handler.task = asyncio.create_task(work(seconds), name="audit")
    writer.write(b"accepted\\n")

@contextlib.asynccontextmanager
async def life():
    task = asyncio.create_task(tick())
    yield
    note("lifespan")
    assert not task.done()
    task.cancel()

async def living(reader, writer):
    await handler(reader, writer)

pronghorn.lifespan(life)(living)
"""
LOOPS = [("handler", each) for each in ("pool", "fork")] + [("living", "asyncio")]
LOOPS += [("living", "uvloop")] if importlib.util.find_spec("uvloop") else []


def notes(folder: Path) -> list[str]:
    return text_of(folder / "notes").split()


@pytest.mark.parametrize(("name", "model"), LOOPS)
def test_tasks_that_a_conversation_left_running_have_the_drain_time(tmp_path: Path, name: str, model: str) -> None:
    with launched_code(tmp_path, TASKS, name, model=model, pool_size="1") as server:
        assert server.ask(b"0.6\n") == b"accepted\n"
        assert server.ask(b"0.5\n") == b"accepted\n"  # a flow of control is not held by tasks
        began = time.monotonic()
        assert server.stop() == 0, server.log
        assert time.monotonic() - began < 15, "tasks of a lifespan are not waited for"
    told = notes(tmp_path)
    assert sorted(told) == ["done", "done", "finally", "finally", *["lifespan"] * (name == "living")]
    assert told[-1] == ("lifespan" if name == "living" else "finally")


@pytest.mark.parametrize(("name", "model"), [("living", "asyncio"), ("handler", "thread")])
def test_a_task_is_cancelled_at_the_drain_deadline(tmp_path: Path, name: str, model: str) -> None:
    with launched_code(tmp_path, TASKS, name, model=model, drain_timeout="1s") as server:
        assert server.ask(b"60\n") == b"accepted\n"
        assert server.stop() == 0, server.log
        assert "lost: task 'audit' (work)" in server.log
    assert notes(tmp_path) == ["cancelled", "finally"] + ["lifespan"] * (name == "living")


EXECUTOR = """
import asyncio, time, pronghorn

def work():
    time.sleep(0.4)
    open("done", "w").close()

def for_ever():
    time.sleep(3600)

@pronghorn.message(pronghorn.lines)
async def handler(line):
    asyncio.get_running_loop().run_in_executor(None, for_ever if line == b"for ever" else work)
    return b"begun"
"""


@pytest.mark.parametrize("model", ["asyncio", "thread"])
def test_jobs_of_a_loops_executor_are_done(tmp_path: Path, model: str) -> None:
    with launched_code(tmp_path, EXECUTOR, model=model) as server:
        assert server.ask(b"go\n") == b"begun\n"
        assert server.stop() == 0
    assert (tmp_path / "done").exists()
    if model == "thread":
        return
    with launched_code(tmp_path, EXECUTOR, model=model, drain_timeout="1s") as server:
        assert server.ask(b"for ever\n") == b"begun\n"
        assert server.stop() == 0, server.log
        assert "lost: thread 'asyncio_0'" in server.log
