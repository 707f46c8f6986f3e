"""What the supervisor calls in the server that it works for: one protocol, given at construction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol


class NewProgram(NamedTuple):
    """What an upgrade starts: `boot` is a Boot as JSON, `passed` are the descriptors that the new program inherits,
    `folder` is where it starts."""

    boot: bytes
    passed: list[int]
    folder: str


class Callbacks(Protocol):
    """All of them are called in the supervisor's thread, and none may wait."""

    def serves(self) -> None:
        """Once: the first worker is ready, or all of them after an upgrade. What this raises ends the start."""

    def started(self, ready: int, wanted: int) -> None:
        """Once: it is known of each of the first workers whether it has started; `ready` have, of those `wanted`."""

    def kept(self) -> Iterable[int]:
        """The server's descriptors that no worker and no helper shall keep."""

    def turn(self, now: float) -> None:
        """About once a second, with the monotonic clock."""

    def reopen(self) -> None:
        """Logs have been renamed: open them anew."""

    def reloaded(self, sources: Sequence[Any], files: Sequence[str], since: int) -> None:
        """A reload that began at `since` (ns of the wall clock) is over, whether it succeeded or failed: it asked for
        the handlers of these `sources`, and for these `files` of environment variables."""

    def new_program(self, generation: int) -> NewProgram:
        """What an upgrade starts, whose first generation has this number. Raises PronghornError if this server cannot
        be upgraded."""

    def readiness_changed(self) -> None:
        """Whether the server takes new clients may be another than a moment ago."""

    def handed_over(self) -> None:
        """The new program of an upgrade serves: what has a name in the file system is the new program's now."""
