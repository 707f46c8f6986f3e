"""Framings: the same messages and the same error however the bytes were split, and the mark put back."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pronghorn import framing
from pronghorn.errors import BadMessage, BadSetting, MessageTooLong
from pronghorn.framing import (
    Framing,
    counted,
    delimited,
    fixed,
    lines,
    marked,
    netstring,
    octet_counted,
    prefixed,
    stream,
    varint,
)
from pronghorn.framing.rule import LONGEST_HEADER, PlaceCutter

LIMIT = 6
MARKED = [
    lines,
    delimited(b"\n"),
    delimited(b"\r\n"),
    delimited(b"aab"),
    delimited(b"aa"),
    delimited(b"\0end\0\0\0\0\0"),
]
LENGTHS = [
    *(prefixed(width) for width in (1, 2, 3, 4, 8)),
    *(prefixed(width, "little") for width in (1, 2, 3, 4, 8)),
    prefixed(2, adjust=-2),
    prefixed(1, start=b"xx", trailer=b"\r\n"),
    varint,
    netstring,
    octet_counted,
    octet_counted(newline=False),
]
FRAMINGS = [*MARKED, *LENGTHS]

Outcome = tuple[list[bytes], bool, bool]


def outcome(rule: Framing, pieces: list[bytes], limit: int = LIMIT) -> Outcome:
    """The messages, whether one was too long, and whether an unfinished one was dropped."""
    cutter = rule.cutter(limit)
    messages: list[bytes] = []
    try:
        for piece in pieces:
            messages += cutter.feed(piece)
        partial, rest = cutter.partial, cutter.finish()
    except BadMessage as error:
        return messages + error.complete, True, False
    assert not cutter.partial
    return messages + rest, False, partial and not rest


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def wire(alphabet: bytes) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), max_size=60).map(bytes)


@pytest.mark.parametrize("rule", FRAMINGS, ids=lambda rule: rule.name)
@settings(max_examples=30)
@given(data=st.data())
def test_a_split_changes_nothing(rule: Framing, data: st.DataObject) -> None:
    mark = rule.mark if isinstance(rule, framing.Delimited) else b"\r\n\0\1\2\7:,3 "
    raw = data.draw(wire(mark + b"ax"))
    pieces = split(raw, data.draw(st.lists(st.integers(0, 60))))
    whole = outcome(rule, [raw])
    assert outcome(rule, pieces) == whole
    assert outcome(rule, split(raw, list(range(len(raw))))) == whole


@pytest.mark.parametrize("mark", [b"\n", b"\r\n", b"aab", b"aa"])
@given(raw=wire(b"\r\nabx"))
@example(raw=b"x" * LIMIT + b"\r\n")
@example(raw=b"x" * LIMIT + b"\r")
@example(raw=b"x" * (LIMIT + 1) + b"aa")
def test_marks_cut_as_the_simplest_code_would(mark: bytes, raw: bytes) -> None:
    *messages, rest = raw.split(mark)
    long = [at for at, message in enumerate(messages) if len(message) > LIMIT]
    got, too_long, dropped = outcome(delimited(mark), [raw])
    if long:
        assert (got, too_long) == (messages[: long[0]], True)
    elif too_long:
        assert got == messages
        assert len(rest) > LIMIT
    else:
        assert (got, dropped) == (messages, bool(rest))


@pytest.mark.slow
@given(messages=st.lists(st.binary(max_size=LIMIT)), rule=st.sampled_from(FRAMINGS), cuts=st.lists(st.integers(0, 99)))
def test_what_was_framed_comes_back(messages: list[bytes], rule: Framing, cuts: list[int]) -> None:
    if rule in MARKED:
        marks = b"\r\n" if rule == lines else rule.frame(b"")
        messages = [bytes(byte for byte in message if byte not in marks) for message in messages]
    raw = b"".join(map(rule.frame, messages))
    assert outcome(rule, split(raw, cuts)) == (messages, False, 0)


@pytest.mark.parametrize("rule", FRAMINGS, ids=lambda rule: rule.name)
def test_the_limit_counts_the_payload(rule: Framing) -> None:
    exact, over = rule.frame(b"x" * LIMIT), rule.frame(b"x" * (LIMIT + 1))
    assert outcome(rule, [exact]) == ([b"x" * LIMIT], False, 0)
    assert outcome(rule, split(exact, list(range(99)))) == ([b"x" * LIMIT], False, 0)
    good = rule.frame(b"good")
    with pytest.raises(MessageTooLong) as caught:
        rule.cutter(LIMIT).feed(good + good + over)
    assert caught.value.complete == [b"good", b"good"]


def test_lines_take_both_ends_and_answer_with_one() -> None:
    cutter = lines.cutter(100)
    assert cutter.feed(b"one\ntwo\r\nthree\r\r\n\n\r\n") == [b"one", b"two", b"three\r", b"", b""]
    assert cutter.feed(b"four\r") == []
    assert cutter.feed(b"\n") == [b"four"]
    assert lines.frame(b"five") == b"five\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_of_exactly_the_limit_passes_with_either_end(end: bytes) -> None:
    raw = b"x" * LIMIT + end
    for cut in range(len(raw) + 1):
        assert outcome(lines, [raw[:cut], raw[cut:]]) == ([b"x" * LIMIT], False, 0)


def test_a_line_that_must_be_too_long_fails_before_it_ends() -> None:
    cutter = lines.cutter(LIMIT)
    assert cutter.feed(b"x" * LIMIT + b"\r") == []
    with pytest.raises(MessageTooLong):
        cutter.feed(b"y")
    assert not cutter.partial


def test_a_declared_length_over_the_limit_fails_at_once() -> None:
    cutter = prefixed(4).cutter(LIMIT)
    assert cutter.feed(b"\0\0\0") == []
    with pytest.raises(MessageTooLong) as caught:
        cutter.feed(b"\7")
    assert caught.value.complete == []


@pytest.mark.parametrize("rule", FRAMINGS, ids=lambda rule: rule.name)
def test_partial_says_whether_a_message_has_begun(rule: Framing) -> None:
    cutter = rule.cutter(LIMIT)
    raw = rule.frame(b"x")
    steps = [(cutter.feed(piece), cutter.partial) for piece in (b"", raw[:1], raw[1:])]
    assert steps == [([], False), ([], True), ([b"x"], False)]


def test_the_end_delivers_an_unfinished_line_and_drops_other_messages() -> None:
    assert outcome(lines, [b"a\nb"]) == ([b"a", b"b"], False, 0)
    assert outcome(lines, [b"a\r"]) == ([b"a"], False, 0)
    assert outcome(delimited(b"||"), [b"a||b|"]) == ([b"a"], False, 1)
    assert outcome(prefixed(2), [b"\0\1a\0"]) == ([b"a"], False, 1)
    assert outcome(prefixed(2), [b"\0\1a\0\1"]) == ([b"a"], False, 1)
    assert outcome(prefixed(2), [b"\0\1a"]) == ([b"a"], False, 0)


def test_a_stream_gives_what_arrives_and_never_more_than_the_limit() -> None:
    cutter = stream.cutter(4)
    assert cutter.feed(b"abcd") == [b"abcd"]
    assert cutter.feed(b"abcdefghi") == [b"abcd", b"efgh", b"i"]
    assert cutter.feed(b"") == []
    assert cutter.finish() == []
    assert not cutter.partial
    assert stream.frame(b"as it is") == b"as it is"


def test_empty_messages() -> None:
    assert lines.cutter(1).feed(b"\n") == [b""]
    assert delimited(b"::").cutter(1).feed(b"::::") == [b"", b""]
    assert prefixed(2).cutter(1).feed(b"\0\0\0\0") == [b"", b""]
    assert prefixed(2).frame(b"") == b"\0\0"


def test_a_reply_that_does_not_fit_its_prefix() -> None:
    assert prefixed(1).frame(b"x" * 255) == b"\xff" + b"x" * 255
    with pytest.raises(ValueError, match=r"256 bytes does not fit prefixed\(1\), which takes 255 at most"):
        prefixed(1).frame(b"x" * 256)
    with pytest.raises(ValueError, match="65535 at most"):
        prefixed(2).frame(b"x" * 65536)


@pytest.mark.parametrize("rule", [lines, delimited(b"\r\n"), prefixed(4)], ids=lambda rule: rule.name)
def test_what_is_unfinished_takes_little_more_than_its_bytes(rule: Framing) -> None:
    size = 100_000
    cutter = rule.cutter(size)
    raw = rule.frame(b"x" * size)
    for at in range(0, size, 2):
        assert cutter.feed(raw[at : at + 2]) == []
    assert sys.getsizeof(cutter._unfinished) < 1.25 * size


def test_framings_are_values() -> None:
    assert delimited(b"x") == delimited(b"x") != delimited(b"y")
    assert len({lines, lines, prefixed(4), prefixed(4), prefixed(2)}) == 3
    with pytest.raises(AttributeError):
        prefixed(4).width = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="at least one byte"):
        delimited(b"")
    with pytest.raises(TypeError, match="bytes, not str"):
        delimited("x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1, 2, 3, 4 or 8 bytes, not 5"):
        prefixed(5)


MARKS = (b"\\'\"(x)\x80 ", b"b';'", b'b"x"', b"b''", b"b'\"'", b"b'\\x62'", b"\x62'\n'", b"()", b"'", b"\n", b" ")


OTHERS = [
    stream,
    *(delimited(each) for each in MARKS),
    *(marked(each, b"b'=, '") for each in MARKS),
    lines(max=9, keep_ends=True),
    lines(encoding="latin-1"),
    prefixed(3, "little", offset=4, adjust=-1, strip=2, start=b", ="),
    counted(b"\r\n", start=b"$", adjust=2, trailer=b"b", zeros=True),
    fixed(7),
]


@pytest.mark.parametrize("rule", [*FRAMINGS, *OTHERS], ids=lambda rule: rule.name)
def test_a_name_is_what_the_command_line_takes(rule: Framing) -> None:
    assert framing.parse(rule.name) == rule


@given(mark=st.binary(min_size=1))
def test_every_mark_can_be_named(mark: bytes) -> None:
    assert framing.parse(delimited(mark).name) == delimited(mark)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (r"delimited(\r\n)", delimited(b"\r\n")),
        (r"delimited(\t\0\x1F\\n)", delimited(b"\t\0\x1f\\n")),
        (r'delimited(b"\r\n")', delimited(b"\r\n")),
        ("delimited(b';')", delimited(b";")),
        ("delimited())", delimited(b")")),
        ("delimited( )", delimited(b" ")),
        ("delimited(·)", delimited(b"\xc2\xb7")),
        (" lines ", lines),
        ("prefixed( 2 )", prefixed(2)),
        ("prefixed(2, order=little, offset=4)", prefixed(2, "little", offset=4)),
        (r"marked(\x0b, \x1c\r)", marked(b"\x0b", b"\x1c\r")),
        ("lines(max=10)", lines(max=10)),
        ("octet_counted(newline=no)", octet_counted(newline=False)),
    ],
)
def test_parse(text: str, rule: Framing) -> None:
    assert framing.parse(text) == rule


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("line", "Did you mean 'lines'?"),
        ("prefix(4)", "Did you mean 'prefixed'?"),
        ("json", "Choose one of: stream, lines, delimited, prefixed, varint,"),
        ("", "Choose one of"),
        ("lines(4)", "'4' is none of max=, keep_ends=, encoding="),
        ("prefixed", "prefixed needs width"),
        ("prefixed(5)", "1, 2, 3, 4 or 8 bytes"),
        ("prefixed(four)", "width is a number, not 'four'"),
        ("prefixed(2, endian=big)", "'endian=big' is none of width=, order="),
        ("prefixed(2, order=middle)", "big or little"),
        ("prefixed(2, offset=1, start=abc)", "lies within start"),
        ("prefixed(2, offset=2, strip=4)", "it may be 0"),
        ("varint()", "takes nothing in brackets"),
        ("marked(<)", "marked needs start and end"),
        ("counted(1)", "does not begin with one"),
        ("fixed(0)", "at least one byte"),
        ("lines(max=0)", "at least one byte"),
        ("lines(encoding=utf-16)", "no encoding in which LF is one byte"),
        ("lines(keep_ends=1)", "yes or no"),
        ("chosen", "@message(chosen(function))"),
        ("delimited", "at least one byte"),
        ("delimited()", "at least one byte"),
        (r"delimited(\q)", r"\q is unknown"),
        (r"delimited(\x1)", r"\x is unknown"),
        ("delimited(\\", "There is no framing"),
    ],
)
def test_a_wrong_framing_names_the_right_word(text: str, said: str) -> None:
    with pytest.raises(BadSetting) as caught:
        framing.parse(text)
    assert said in str(caught.value)
    assert "--framing" in caught.value.what


def test_one_that_says_where_a_message_lies_cuts_as_the_fast_cutters_do() -> None:
    for rule in (lines, delimited(b"\r\n"), prefixed(2)):
        raw = b"".join(map(rule.frame, [b"a", b"", b"bcdef"]))
        for cut in range(len(raw)):
            slow = PlaceCutter(rule, LIMIT)
            assert slow.feed(raw[:cut]) + slow.feed(raw[cut:]) == [b"a", b"", b"bcdef"]


def test_lines_with_their_ends_as_text_and_of_their_own_limit() -> None:
    assert outcome(lines(keep_ends=True), [b"a\r\nb\nc"], 9)[0] == [b"a\r\n", b"b\n", b"c"]
    assert lines(keep_ends=True).frame(b"a\r\n") == b"a\r\n"
    text = lines(encoding="utf-8")
    assert text.cutter(9).feed("zwölf\r\n".encode()) == ["zwölf"]
    assert text.frame("zwölf") == "zwölf\n".encode()
    with pytest.raises(BadMessage, match="utf-8"):
        text.cutter(9).feed(b"\xff\n")
    assert outcome(lines(max=3), [b"abc\nabcd\n"], 9) == ([b"abc"], True, False)
    assert outcome(lines(max=3, encoding="ascii"), [b"abcd\n"], 9)[1]
    assert lines() == lines


def test_a_header_that_is_not_stripped_is_the_handlers_and_its_length_is_filled_in() -> None:
    rule = prefixed(2, offset=4)
    raw = b"\0\1\0\0\0\2ab"
    assert rule.cutter(99).feed(raw + raw) == [raw, raw]
    assert rule.frame(b"\0\1\0\0\xff\xffabc") == b"\0\1\0\0\0\3abc"
    with pytest.raises(ValueError, match="lacks the header"):
        rule.frame(b"\0\1")
    itself = prefixed(2, adjust=-2)
    assert itself.frame(b"abc") == b"\0\5abc"
    with pytest.raises(BadMessage, match="its length is 1, and cannot be less than 2"):
        itself.cutter(9).feed(b"\0\1")


def test_a_rule_that_never_finds_an_end_does_not_fill_the_memory() -> None:
    class Endless(Framing, frozen=True):
        def place(self, data: bytes | bytearray, start: int, searched: int, limit: int) -> None:
            return None

    cutter = Endless().cutter(10)
    with pytest.raises(MessageTooLong):
        for _ in range(LONGEST_HEADER // 100):
            cutter.feed(b"x" * 101)
