"""The queue of messages with descriptors, and the token that one process of many takes."""

from __future__ import annotations

import os

import pytest

from pronghorn.system.descriptor_queue import DescriptorQueue, Token


@pytest.fixture
def queue():  # type: ignore[no-untyped-def]
    made = DescriptorQueue.create()
    yield made
    made.close()


def test_a_message_and_its_descriptors_are_taken_once_and_in_order(queue: DescriptorQueue) -> None:
    reader, writer = os.pipe()
    assert queue.take() is None
    assert queue.put(b"first", [writer]) and queue.put(b"second", [])
    os.close(writer)
    message, (theirs,) = queue.take() or (b"", [])
    assert message == b"first" and not os.get_inheritable(theirs)
    os.write(theirs, b"x")
    assert os.read(reader, 10) == b"x"
    assert queue.take() == (b"second", []) and queue.take() is None
    for fd in (reader, theirs):
        os.close(fd)


def test_a_full_queue_says_so_and_has_room_again(queue: DescriptorQueue) -> None:
    count = 0
    while queue.put(b"x" * 1000, []):
        count += 1
    assert count > 10
    while queue.take() is not None:
        count -= 1
    assert count == 0 and queue.put(b"x", [])


def test_of_many_processes_one_takes_the_token_even_if_it_dies_then() -> None:
    token = Token.make()
    results, end = os.pipe()
    for _ in range(4):
        if os.fork() == 0:
            os.write(end, b"1" if token.take() else b"0")
            os._exit(0)
    for _ in range(4):
        os.wait()
    assert sorted(os.read(results, 100)) == sorted(b"1000")
    assert not token.take()
    for fd in (results, end):
        os.close(fd)
    token.close()
    token.close()
