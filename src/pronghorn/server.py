"""The facade: from a handler and settings to a server that serves, and its exit status.

Law: everything that can be refused is refused before anything is bound; then the listeners are opened, and the
supervisor has the rest. Only this room puts observers together. Run as `python -P -m pronghorn.server FD` it is the
lean process that the command line turns itself into: it imports no command line, and the user's handler never.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from pronghorn import events, models, worker
from pronghorn.errors import AddressInUse, BadHandler, IncompatibleHandler, PronghornError
from pronghorn.events import Observer
from pronghorn.handlers import Facts, Source
from pronghorn.listener import Listener, open_listeners
from pronghorn.models.base import Model
from pronghorn.observers import Observers
from pronghorn.observers.log import LogObserver
from pronghorn.settings import Settings, settle
from pronghorn.supervisor import Supervisor
from pronghorn.worker import Plan

if TYPE_CHECKING:
    from pronghorn.certificates import Certificates

SPARE_DESCRIPTORS = 16  # of those that are free at the start, for what is no connection: the loop's, the handler's


class Boot(msgspec.Struct):
    """What the command line hands to the server, as JSON.

    `report_fd`, if it is one, is told once how the start went: `{"listening": [...], "model": ..., "pid": ...}` or
    `{"error": {"what", "why", "hint", "exit_code"}}`, one line, and is closed then. `argv0` is the program's name that
    the handler finds in `sys.argv`.
    """

    settings: Settings
    source: Source
    report_fd: int = -1
    argv0: str = "pronghorn"


class Starter:
    """Whoever started the server and waits on a descriptor to hear how it went; -1 is nobody."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd
        if fd >= 0:
            os.set_inheritable(fd, False)

    def tell(self, record: dict[str, Any]) -> None:
        """Says it and hangs up; nothing can be said after that."""
        if self._fd >= 0:
            try:
                os.write(self._fd, msgspec.json.encode(record) + b"\n")
            except OSError:
                pass  # nobody waits any more
        self.close()

    def failed(self, error: PronghornError) -> None:
        parts = {"what": error.what, "why": error.why, "hint": error.hint, "exit_code": error.exit_code}
        self.tell({"error": parts})

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Server:
    """One server: a handler (an object, a name, or a Source) and its settings.

    `alone` says that the process has no other purpose: it may then be renamed and adopt orphans. `starter` hears when
    the server serves.
    """

    def __init__(
        self,
        handler: object = "upper",
        settings: Settings | None = None,
        *,
        alone: bool = False,
        starter: Starter | None = None,
    ) -> None:
        self.source = Source(name=handler) if isinstance(handler, str) else handler
        self.settings = settings if settings is not None else Settings()
        self._alone = alone
        self._starter = starter if starter is not None else Starter()

    def run(self) -> int:
        """Serves until a signal ends it; the exit status is 0, 6 when the drain deadline cut connections, 128 + n when
        signal n ended it at once.

        Raises PronghornError for everything that keeps it from serving; nothing is left bound or running then. Only
        for the main thread, whose signal handlers are as before afterwards.
        """
        if threading.current_thread() is not threading.main_thread():
            raise PronghornError("A server runs in the main thread only.", "Signals are delivered there.")
        self._raise_limit()
        facts = self._facts()
        model, why = self._model(facts)
        certificates = self._certificates(facts)
        log = LogObserver(self.settings.log_level)
        observe = Observers(log)
        listeners: list[Listener] = []
        try:
            listeners = self._listeners(observe)
            plan = Plan(self.source, self.settings, model, listeners, observe, certificates)

            def announce() -> None:
                observe(self._started(facts, model, why))
                for event in certificates.events() if certificates is not None else ():
                    observe(event)
                addresses = [listener.address for listener in listeners]
                self._starter.tell({"listening": addresses, "model": model.name, "pid": os.getpid()})

            return Supervisor(plan, announce, [self._starter], alone=self._alone).run()
        finally:
            for listener in listeners:
                listener.close()
            if certificates is not None:
                certificates.close()
            log.close()

    def _raise_limit(self) -> None:
        """Raises the soft limit of descriptors to the hard one; programs get the original one back."""
        from pronghorn.kernel.limits import raise_descriptor_limit

        original, _ = raise_descriptor_limit()
        if isinstance(self.source, Source) and self.source.command:
            from pronghorn.handlers import programs

            programs.original_descriptors = original

    def _facts(self) -> Facts:
        if isinstance(self.source, Source) and self.source.is_users_code:
            from pronghorn import probe

            return probe.ask(self.source, self.settings)
        return worker.load_handler(self.source, self.settings).facts

    def _model(self, facts: Facts) -> tuple[Model, str]:
        """The model, and why that one; raises IncompatibleHandler and MissingExtra."""
        name, why = self.settings.model, "as asked"
        if name == "auto":
            name, why = models.choose(facts)
        model = models.load(name)
        model.check(facts)
        return model, why

    def _certificates(self, facts: Facts) -> Certificates | None:
        """The certificates, if there is to be TLS; raises BadSetting, BadCertificate and IncompatibleHandler."""
        settings = self.settings
        if not (settings.tls_cert or settings.tls_key or settings.tls_client_ca or settings.tls_alpn):
            return None
        from pronghorn.certificates import Certificates

        if facts.style == "program":
            raise IncompatibleHandler(
                f"{facts.name!r} is of program style, which TLS cannot reach.",
                "A program has the connection itself as its input and output, and would read sealed bytes.",
                "Leave out --tls-cert, or put a program that speaks TLS in front.",
            )
        return Certificates(settings)

    def _listeners(self, observe: Observer) -> list[Listener]:
        try:
            return open_listeners(self.settings, observe)
        except AddressInUse as error:
            from pronghorn.kernel import owners

            holder = owners.explain(error.address)
            why = f"{holder[:1].upper()}{holder[1:]}." if holder else error.why
            if holder.startswith(owners.NOBODY) and self.settings.reuse_address:
                why += " That server ran without SO_REUSEADDR, which holds up even those who have it."
            raise AddressInUse(error.what, why, error.hint, error.address) from None

    def _started(self, facts: Facts, model: Model, why: str) -> events.ServerStarted:
        from pronghorn.kernel.limits import free_descriptors

        workers = self.settings.effective_workers(model.name)
        each, why_limit = model.capacity(self.settings, max(1, free_descriptors() - SPARE_DESCRIPTORS))
        return events.ServerStarted(facts.name, facts.style, model.name, why, workers, each * workers, why_limit)


def serve(handler: object = "upper", **settings: Any) -> None:
    """Serve from a script what the command would serve; returns when the server was stopped in order.

    `handler` is the handler itself, or its name as the command takes it. Each setting is a keyword; `bind` is an
    address or a list of them. Whatever goes wrong is printed as the command prints it and ends the script: SystemExit
    with the exit code. Signal handlers are as before afterwards.
    """
    if worker.loading:
        raise BadHandler(
            "serve() is called while the handler is imported.",
            "The module that holds the handler starts a server as soon as it is imported.",
            'Put the call under: if __name__ == "__main__":',
        )
    try:
        status = Server(handler, settle(settings, {name: name for name in settings})).run()
    except PronghornError as error:
        complain(error)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 130
    if status:
        raise SystemExit(status)


def complain(error: PronghornError) -> None:
    """Say on standard error what happened, why, and what to do."""
    head = "Error:"
    if sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        head = f"\x1b[1;31m{head}\x1b[0m"
    try:
        print(head, error, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # closed or full: the exit code says it


def main() -> int:
    """What `python -m pronghorn.server FD` does; FD holds a Boot as JSON. Returns the exit status."""
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        complain(PronghornError("This is a part of Pronghorn.", hint="Start a server with: pronghorn serve"))
        return 2
    keep_standard_descriptors()
    faulthandler.enable(file=2)
    with open(int(sys.argv[1]), "rb") as file:
        boot = msgspec.json.decode(file.read(), type=Boot)
    sys.argv = [boot.argv0]
    starter = Starter(boot.report_fd)
    try:
        return Server(boot.source, boot.settings, alone=True, starter=starter).run()
    except PronghornError as error:
        starter.failed(error)
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def keep_standard_descriptors() -> None:
    """Whoever started us may have closed 0, 1 or 2: the next socket would get that number, and a stray print would be
    sent to a client."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


if __name__ == "__main__":
    sys.exit(main())
