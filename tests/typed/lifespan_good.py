"""Lifespans that are right, and servers of libraries."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from types import TracebackType

import pronghorn


def numbers() -> Iterator[int]:
    yield 1


async def later() -> AsyncIterator[str]:
    yield "later"


@contextlib.contextmanager
def managed() -> Generator[None]:
    yield


@contextlib.asynccontextmanager
async def managed_later() -> AsyncGenerator[None]:
    async with pronghorn.adopt():
        yield


class Pool:
    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        return None


@pronghorn.lifespan(Pool)
@pronghorn.message(pronghorn.lines)
def shout(line: bytes) -> bytes:
    return line.upper()


loud: bytes = pronghorn.lifespan(numbers)(shout)(b"hello")


@pronghorn.lifespan(later)
class Echo(pronghorn.Protocol):
    pass


echo: Echo = Echo()
pronghorn.lifespan(managed)(Echo)
pronghorn.serve(pronghorn.adopted(managed_later), model="asyncio")
pronghorn.serve(pronghorn.adopted(later), model="asyncio")
