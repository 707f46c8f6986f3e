"""Settings of the concurrency model and of the number of workers."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import Option
from pronghorn.settings.sockets import Sockets

MODELS = tuple("auto iterative fork prefork thread pool select poll epoll kqueue asyncio uvloop gevent".split())


class Model(Sockets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one worker serves, and how many there are."""

    model: Annotated[
        str,
        "How one worker serves many connections; auto chooses by the handler's style. 'pronghorn models' tells them "
        "apart.",
        Option(short="-k", choices=MODELS),
    ] = "auto"
    workers: Annotated[int | None, "Worker processes. Without this, 1; under prefork, 8.", Option(short="-w", ge=1)] = (
        None
    )
    pool_size: Annotated[int, "Threads per worker under the pool model.", Option(ge=1)] = 16
    max_threads: Annotated[int, "Most threads per worker under the thread model.", Option(ge=1)] = 1000
    max_children: Annotated[int, "Most children per worker under the fork model.", Option(ge=1)] = 200

    def effective_workers(self, model: str) -> int:
        """The number of workers: what was set, or the model's own default."""
        if self.workers is not None:
            return self.workers
        return 8 if model == "prefork" else 1
