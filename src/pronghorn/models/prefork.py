"""A fixed number of processes, forked before the first client comes, each serving one connection after the other.

This is `--workers N` with the iterative model, and no more: the supervisor forks the workers, they share the listener,
and each takes the next client when it is free (UNP, chapter 30). What iterative could not do, serve a second client
while the first is idle, it does N times; the next one waits in the kernel's queue.
"""

from __future__ import annotations

import msgspec

from pronghorn.models import iterative

MODEL = msgspec.structs.replace(
    iterative.MODEL,
    name="prefork",
    purpose="Blocking handlers that want a process each, at a steady load; crashes stay apart.",
    cost="A process per connection that is served at the same time; idle clients hold one.",
)
