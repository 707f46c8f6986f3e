"""Settings of the model and the handler."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import option
from pronghorn.settings.sockets import Sockets

MODELS = tuple("auto iterative fork prefork thread pool select poll epoll kqueue asyncio uvloop gevent".split())
STYLES = tuple("auto message protocol asyncio blocking program".split())


class Serving(Sockets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who serves, and how many at once."""

    model: Annotated[
        str,
        option(
            "How one worker serves many connections; auto chooses by the handler's style. "
            "'pronghorn models' tells them apart.",
            "Model",
            short="-k",
            of=MODELS,
        ),
    ] = "auto"
    workers: Annotated[
        int | None, option("Worker processes. Without this, 1; under prefork, 8.", "Model", short="-w", ge=1)
    ] = None
    pool_size: Annotated[int, option("Threads per worker under the pool model.", "Model", ge=1)] = 16
    max_threads: Annotated[int, option("Most threads per worker under the thread model.", "Model", ge=1)] = 1000
    max_children: Annotated[int, option("Most children per worker under the fork model.", "Model", ge=1)] = 200

    style: Annotated[str, option("Convention that the handler follows; auto recognises it.", "Handler", of=STYLES)] = (
        "auto"
    )
    framing: Annotated[
        str,
        option(
            "Rule that cuts bytes into messages: stream (as they come), lines, delimited(MARK), or prefixed(1), "
            "prefixed(2), prefixed(4): a length of so many bytes first.",
            "Handler",
            metavar="RULE",
        ),
    ] = ""
    max_message_size: Annotated[
        int,
        option("Longest message, its mark or prefix not counted; a longer one ends its connection.", "Handler",
               unit="size", ge=1),
    ] = 1024 * 1024  # fmt: skip
    factory: Annotated[
        bool, option("HANDLER is called once in each worker, and what it returns is the handler.", "Handler")
    ] = False
