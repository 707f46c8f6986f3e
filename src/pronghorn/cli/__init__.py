"""The command line: one file per command.

Law: no worker ever imports this package. A command reads and checks what a person typed, and calls packages that know
neither click nor rich.
"""

import signal as _signal
import sys as _sys


def _leave(number: int, frame: object) -> None:
    _signal.signal(number, _signal.SIG_IGN)
    _sys.exit(0)


if _sys.argv[1:2] == ["serve"]:
    # Before anything else is imported: a signal that an operator may send to a server does not kill one that starts.
    # The signal stays pending until the server can obey it, and TERM ends the start in order.
    _signal.signal(_signal.SIGTERM, _leave)
    _signal.pthread_sigmask(
        _signal.SIG_BLOCK, {getattr(_signal, f"SIG{name}") for name in "HUP USR1 USR2 TTIN TTOU".split()}
    )
