"""A framing, tried without a server: every split gives the same messages, limits hold, and garbage ends it.

Law: no package but ours: the splits are all there are into two pieces, one byte at a time, and some hundred by chance
from a seed, so that a failure comes again.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pronghorn.errors import BadMessage, MessageTooLong
from pronghorn.framing import Framing

M = TypeVar("M")
Outcome = tuple[list[Any], str]
LIMIT = 64 * 1024
SHOWN = 120
ALL_HALVES = 400


def check_framing(
    framing: Framing[M, Any],
    messages: Sequence[M] = (),
    *,
    wire: Iterable[bytes] = (),
    garbage: Iterable[bytes] = (),
    limit: int = LIMIT,
    splits: int = 200,
    seed: int = 1,
) -> None:
    """Try a framing: one of Pronghorn's, or your own.

    `messages`, as a handler gets and returns them, must come back as they were: alone, and together in any split.
    `wire` holds bytes as they arrive, of any number of messages, whose outcome no split may change. Under a limit of
    one byte less than its size each of `messages` must raise MessageTooLong; under a limit of its size it must come.
    `garbage`, behind good messages and before them, must raise BadMessage (MessageTooLong is one) in every split, after
    the good messages and nothing else; another cutter of the framing goes on as if nothing was. Each of them is cut
    into two pieces at every place (of the first 400), byte by byte, and in `splits` ways by chance, from `seed`. If
    hypothesis is installed, it can make the messages; nothing here needs it.

    Raises AssertionError, which shows the bytes and the pieces.
    """
    chance = random.Random(seed)
    framed = [framing.frame(each) for each in messages]
    for each, raw in zip(messages, framed, strict=True):
        _same(framing, raw, ([each], ""), limit, [])
    whole = b"".join(framed)
    _same(framing, whole, (list(messages), ""), limit, _splits(whole, splits, chance))
    for came in wire:
        _same(framing, came, outcome(framing, [came], limit), limit, _splits(came, splits, chance))
    for each, raw in zip(messages, framed, strict=True):
        _check_limit(framing, each, raw, splits, chance)
    for bad in garbage:
        _check_garbage(framing, list(messages), whole, bad, limit, _splits(whole + bad, splits, chance))


def outcome(framing: Framing[Any], pieces: Iterable[bytes], limit: int = LIMIT) -> Outcome:
    """The messages that come of these pieces and the peer's end, and the name of the error that ends them, or ""."""
    cutter = framing.cutter(limit)
    messages: list[Any] = []
    try:
        for piece in pieces:
            messages += cutter.feed(piece)
        messages += cutter.finish()
    except BadMessage as error:
        return messages + error.complete, type(error).__name__
    if cutter.partial:
        raise AssertionError(f"{framing.name}: a message is unfinished behind the peer's end")
    return messages, ""


def _splits(raw: bytes, count: int, chance: random.Random) -> list[list[int]]:
    """Places to cut at: each alone, all, and some by chance."""
    places = range(1, len(raw))
    ways = [[place] for place in places[:ALL_HALVES]]
    if len(raw) <= LIMIT:
        ways.append(list(places))
    if places:
        ways += (sorted(chance.sample(places, chance.randint(1, min(len(places), 9)))) for _ in range(count))
    return ways


def _pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    return [raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)])]


def _same(framing: Framing[Any], raw: bytes, wanted: Outcome, limit: int, ways: Iterable[list[int]]) -> None:
    for cuts in ([], *ways):
        pieces = _pieces(raw, cuts)
        got = outcome(framing, pieces, limit)
        if got != wanted:
            raise AssertionError(
                f"{framing.name}: {_short(pieces)} gives {_told(got)}, and {_told(wanted)} was to come, limit {limit}"
            )


def _check_limit(framing: Framing[M, Any], message: M, raw: bytes, count: int, chance: random.Random) -> None:
    """A message comes under a limit of its size, and not under one less; what is not bytes has the size of
    which this is true."""
    if isinstance(message, bytes):
        size = len(message)
    else:
        size = bisect.bisect_left(range(len(raw)), True, key=lambda limit: outcome(framing, [raw], limit)[1] == "")
    _same(framing, raw, ([message], ""), max(size, 1), _splits(raw, count, chance))
    if size > 1:
        _same(framing, raw, ([], MessageTooLong.__name__), size - 1, _splits(raw, count, chance))


def _check_garbage(
    framing: Framing[M, Any], messages: list[M], whole: bytes, garbage: bytes, limit: int, ways: list[list[int]]
) -> None:
    for before, raw in (([], garbage), (messages, whole + garbage)):
        got = outcome(framing, [raw], limit)
        if got[0] != before or not got[1]:
            raise AssertionError(f"{framing.name}: {_short([raw])} gives {_told(got)}, and an error was to come of it")
        _same(framing, raw, got, limit, ways if before else _splits(raw, 0, random.Random()))
    bystander = framing.cutter(limit)
    half = len(whole) // 2
    came = bystander.feed(whole[:half])
    outcome(framing, [garbage], limit)
    if came + bystander.feed(whole[half:]) != messages:
        raise AssertionError(f"{framing.name}: {_short([garbage])} on one connection changes the messages of another")


def _told(result: Outcome) -> str:
    messages, error = result
    return f"{_short(messages)}{' and ' + error if error else ''}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
