"""Messages in parts, and names as parts of subjects: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
