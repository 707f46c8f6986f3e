"""Threads that hold one conversation after the other: what the next client finds, and when a thread leaves."""

from __future__ import annotations

import socket

import psutil
import pytest

from pronghorn.testing.served import Served, serving
from pronghorn.testing.talk import exchange, until

HERE = "threads_under_test"
pytestmark = pytest.mark.slow


def ask(server: Served, word: bytes) -> str:
    with server.connect() as client:
        client.sendall(word)
        client.shutdown(socket.SHUT_WR)
        return exchange(client).decode()


def facts(told: str) -> dict[str, str]:
    return dict(each.split("=") for each in told.split(";"))


def test_a_thread_serves_the_next_client_who_finds_nothing_of_the_last() -> None:
    with serving(f"{HERE}:tell", model="thread") as server:
        told: list[dict[str, str]] = []

        def is_one_thread() -> bool:  # unless the second comes before the thread has done with the first
            told[:] = [facts(ask(server, words)) for words in (b"context name", b"local", b"local")]
            return told[0]["thread"] == told[1]["thread"]

        until(is_one_thread, "a thread serves two clients, one after the other")
        _, second, third = told
        assert second["context"] == second["local"] == ""
        assert second["name"] != "renamed"
        assert third["thread"] != second["thread"], "what the second kept for its thread ends with it"
        assert third["local"] == ""


def test_socketservers_handlers_are_served_by_a_thread_that_was_there() -> None:
    with serving(f"{HERE}:Teller", model="thread") as server:
        until(lambda: ask(server, b"x") == ask(server, b"x"), "a thread serves two clients, one after the other")


def test_threads_that_wait_leave_after_a_moment() -> None:
    with serving("upper", model="thread") as server:
        (pid,) = server.worker_pids()
        until(server.is_at_rest, "all threads of the start have begun")
        at_rest = psutil.Process(pid).num_threads()
        clients = [server.connect() for _ in range(40)]
        for client in clients:
            assert exchange(client, b"hello", expect=5) == b"HELLO"
        for client in clients:
            client.close()
        until(lambda: psutil.Process(pid).num_threads() <= at_rest, "the threads have left")
        assert ask(server, b"hello") == "HELLO"
