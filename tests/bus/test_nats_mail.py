"""Under NATS: messages in parts, names and hosts as parts of subjects, and a route that finds no host: pure."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronghorn.bus import nats_routes
from pronghorn.bus.carrier import Away

nats_mail = pytest.importorskip("pronghorn.bus.nats_mail", reason="nats-py is not installed")


class Paper:
    """A connection that keeps what is sent."""

    longest = 100

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def publish(self, subject: str, data: bytes, reply: str = "") -> bool:
        self.sent.append(data)
        return True


def parts_of(data: bytes) -> list[bytes]:
    mail, paper = nats_mail.Mail("a", "p"), Paper()
    mail.connection = paper
    mail.to_host("b", data)
    assert all(len(each) <= paper.longest for each in paper.sent)
    return paper.sent


@given(st.binary(max_size=1000))
def test_what_is_cut_is_put_together(data: bytes) -> None:
    mail = nats_mail.Mail("b", "p")
    heard = [mail.whole(each) for each in parts_of(b"D" + data)]
    assert heard[-1] == b"D" + data and not any(heard[:-1])


def test_a_message_whose_first_part_was_not_heard_is_none() -> None:
    mail = nats_mail.Mail("b", "p")
    assert [mail.whole(each) for each in parts_of(bytes(1000))[1:]] == [b""] * len(parts_of(bytes(1000))[1:])


def test_what_is_never_finished_is_bounded() -> None:
    mail = nats_mail.Mail("b", "p")
    large = bytes(nats_mail.MOST_UNFINISHED // 2)
    heads = [parts_of(number.to_bytes(2, "big") * 100)[0] for number in range(5)]
    for number, each in enumerate(heads):  # each of another sender
        mail.whole(each[:1] + each[1:3] + bytes([each[3], number]) + each[5:] + large)
    assert mail._unfinished <= nats_mail.MOST_UNFINISHED + len(large)


@given(st.binary(min_size=1, max_size=255))
def test_any_name_is_one_part_of_a_subject(name: bytes) -> None:
    text = nats_mail.token(name)
    assert not set(text) & set(".*> \t\r\n\0") and text.isascii() and nats_mail.name_of(text) == name


@pytest.mark.parametrize("host", ["", "a b", "a.b", ">", "a\r\nPUB x 0\r\n", "ä", "a" * 65])
def test_what_is_no_id_of_a_host_is_sent_to_nobody(host: str) -> None:
    mail, paper, heard = nats_mail.Mail("b", "p"), Paper(), list[int]()
    mail.connection = paper
    mail.to_host(host, b"x", lambda how, data: bool(heard.append(how)))
    assert not paper.sent and heard == [nats_mail.NOBODY]


def test_a_fault_in_finding_a_host_leaves_no_message_waiting(caplog: pytest.LogCaptureFixture) -> None:
    class Office:
        def latest(self, name: bytes) -> str:
            return ""

        async def find(self, name: bytes) -> str:
            raise KeyError("a fault")

    async def main() -> None:
        routes = nats_routes.Routes(Office())
        for _ in range(2):
            with pytest.raises(Away, match="not found out"):
                await asyncio.wait_for(routes.put(b"device", b"x"), 10)

    asyncio.run(main())
    gc.collect()
    assert "a fault" in caplog.text
