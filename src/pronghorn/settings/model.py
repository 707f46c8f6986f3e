"""Settings of the concurrency model and of the number of workers."""

from __future__ import annotations

from typing import Annotated, Literal

from pronghorn.settings.fields import Option
from pronghorn.settings.sockets import Sockets

AUTO = "auto"
PREFORKED = 8
MODELS = tuple("auto iterative fork prefork thread pool select poll epoll kqueue asyncio uvloop gevent".split())


class Model(Sockets, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one worker serves, and how many there are."""

    model: Annotated[
        str,
        "How one worker serves many connections; auto chooses by the handler's style. 'pronghorn models' tells them "
        "apart.",
        Option(short="-k", choices=MODELS),
    ] = "auto"
    workers: Annotated[
        int | Literal["auto"] | None,
        "Worker processes. Without this, 1; under prefork, 8. auto goes by the processors it may use.",
        Option(short="-w", metavar="N", ge=1),
    ] = None
    pool_size: Annotated[int, "Threads per worker under the pool model.", Option(ge=1)] = 16
    max_threads: Annotated[int, "Most threads per worker under the thread model.", Option(ge=1)] = 1000
    max_children: Annotated[int, "Most children per worker under the fork model.", Option(ge=1)] = 200
    max_process_cpu: Annotated[
        float,
        "CPU time that a process may use for one connection, in whole seconds, before the kernel ends it (SIGXCPU): "
        "under fork, prefork and iterative. 0 is no limit.",
        Option(unit="time", ge=0),
    ] = 0.0
    max_process_memory: Annotated[
        int,
        "Address space that a process may have while it serves a connection (ulimit -v), what it has imported "
        "included: under fork, prefork and iterative. 0 is no limit.",
        Option(unit="size", ge=0),
    ] = 0

    def effective_workers(self, model: str, processors: int = 1) -> int:
        """The number of workers: what was set, or the model's own default. For `auto`, so many as use all `processors`:
        workers of prefork serve one connection each and wait most of the time; one of fork leaves the work to its
        children."""
        if self.workers is None:
            return PREFORKED if model == "prefork" else 1
        if isinstance(self.workers, int):
            return self.workers
        return {"fork": 1, "prefork": max(PREFORKED, 2 * processors + 1)}.get(model, processors)
