"""Lifespans that both checkers refuse: each statement with `# wrong`, and no other."""

from collections.abc import Iterator

import pronghorn


def shout(line: bytes) -> bytes:
    return line.upper()


def table() -> dict[str, str]:
    return {}


def needs(folder: str) -> Iterator[str]:
    yield folder


def soon() -> Iterator[int]:
    yield 1


pronghorn.lifespan(needs)(shout)  # wrong: nobody gives an argument
pronghorn.lifespan(3)(shout)  # wrong: no function
pronghorn.lifespan(len)(shout)  # wrong: nobody gives an argument
pronghorn.adopted(soon)  # wrong: it has to be async
pronghorn.adopted(table)  # wrong: no lifespan
