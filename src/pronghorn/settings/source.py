"""Where a handler comes from: a name, or a program's command."""

from __future__ import annotations

import msgspec

BUILT_IN = ("upper", "echo", "discard", "chargen", "daytime")


class Source(msgspec.Struct, frozen=True):
    """A built-in's name, `module:name`, `path/file.py:name`, `path/file.py`, or a program's command."""

    name: str = "upper"
    command: tuple[str, ...] = ()

    @property
    def is_users_code(self) -> bool:
        """Whether finding out about the handler imports code that is not ours."""
        return not self.command and (":" in self.name or self.name.endswith(".py") or "/" in self.name)
