"""Calls that threads pass on to a loop: none is lost, and each thread's come in their order."""

from __future__ import annotations

import select
import threading
from functools import partial

from pronghorn.serving.event_loop import A_TURN, PassedOn

THREADS, EACH = 4, 5000


def test_no_call_is_lost_however_threads_and_loop_meet() -> None:
    queue, got = PassedOn(), [[] for _ in range(THREADS)]  # type: tuple[PassedOn, list[list[int]]]

    def pass_on(mine: list[int]) -> None:
        for number in range(EACH):
            queue.add(partial(mine.append, number))

    threads = [threading.Thread(target=pass_on, args=(each,)) for each in got]
    poller = select.poll()
    poller.register(queue, select.POLLIN)
    for each in threads:
        each.start()
    while sum(map(len, got)) < THREADS * EACH:
        assert poller.poll(10_000), "calls are in the queue, and nothing wakes the loop"
        queue.run(lambda call: call())
    for each in threads:
        each.join()
    assert got == [list(range(EACH))] * THREADS
    queue.run(lambda call: call())
    assert not poller.poll(0)


def test_a_turn_has_an_end() -> None:
    queue, got = PassedOn(), list[int]()
    for number in range(A_TURN + 1):
        queue.add(partial(got.append, number))
    queue.run(lambda call: call())
    assert len(got) == A_TURN
    poller = select.poll()
    poller.register(queue, select.POLLIN)
    assert poller.poll(0), "there is more"
    queue.run(lambda call: call())
    assert len(got) == A_TURN + 1 and not poller.poll(0)


def test_a_call_that_comes_while_the_loop_looks_leaves_no_wake_up_behind() -> None:
    queue, got = PassedOn(), list[str]()
    clear = queue._wake.clear

    class MeetsAThread:
        """A thread passes on a call just before the loop clears the descriptor."""

        set, fileno = queue._wake.set, queue._wake.fileno

        def clear(self) -> None:
            queue.add(lambda: got.append("meanwhile"))
            clear()

    queue._wake = MeetsAThread()  # type: ignore[assignment]
    queue.add(lambda: got.append("first"))
    queue.run(lambda call: call())
    assert got == ["first", "meanwhile"]
    queue.add(lambda: got.append("later"))
    poller = select.poll()
    poller.register(queue, select.POLLIN)
    assert poller.poll(0), "a call is in the queue, and nothing wakes the loop"
