"""A greenlet for every connection: code that looks blocking, on one thread, switched by gevent whenever it would wait.

It costs about 10 KB per connection, and the standard library patched before the handler is imported. What thread could
not do: thousands of blocking conversations in one process, without a stack from the system for each.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import SimpleNamespace
from typing import Any

from pronghorn.models.model import Model
from pronghorn.serving.blocking import Flows
from pronghorn.serving.context import Context


def prepare() -> None:
    """Patch the standard library, so that a handler's blocking calls switch greenlets instead of stopping everybody."""
    from gevent import monkey

    monkey.patch_all()
    # What a handler starts as a thread is a daemon only if it says so: a greenlet's stand-in for a thread is one.
    threading._DummyThread.daemon = False


def connection_class() -> type[Any]:
    """A blocking connection whose socket is gevent's."""
    from pronghorn.connection.green import GreenConnection

    return GreenConnection


def serve(context: Context) -> None:
    import gevent

    gevent.get_hub().print_exception = _report  # type: ignore[method-assign, assignment]
    context.watch_callbacks(gevent.get_hub().loop.now)
    flows = Flows(context, connection_class())
    for conn in flows.accepted():
        conn.greenlet = gevent.spawn(flows.converse, conn)  # type: ignore[attr-defined]
    flows.finish()


def _report(context: Any, kind: Any, error: Any, place: Any) -> None:
    """A greenlet of the handler's failed: report it as Python reports an error that nothing catches."""
    if error is not None:
        raised = SimpleNamespace(exc_type=kind, exc_value=error, exc_traceback=place, err_msg=None, object=context)
        sys.unraisablehook(raised)


def missing() -> str | None:
    if importlib.util.find_spec("gevent") is not None:
        return None
    return "gevent is not installed: pip install gevent"


MODEL = Model(
    name="gevent",
    serve=serve,
    own_flow=True,
    purpose="Thousands of blocking conversations; handlers that use blocking libraries.",
    cost="Needs the gevent package, which patches the standard library; C code that blocks stops everybody.",
    runs_asyncio=False,
    missing=missing,
    prepare=prepare,
)
