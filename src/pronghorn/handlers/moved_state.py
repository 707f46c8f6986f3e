"""The state of a connection's handler object, as bytes for another process and back, by pickle.

Law: what belongs to the server is never pickled: a reference to the connection, the protocol, the lifespan's value, the
drain, the running asyncio loop or the handler's class becomes a name, which stands for the other process's own. So the
class is that of the code which that process has imported. Bytes come from processes of this server alone.

A handler object is made by its class's `__new__`, never by `__init__`, which may greet the client. Its state is what
`__getstate__` gave, put back by `__setstate__` or as pickle does it, and then `handed_over(conn, state)` is called, if
the class has it.
"""

from __future__ import annotations

import inspect
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, cast

from pronghorn.connection.asked import awaits_answer
from pronghorn.connection.channel import AnyChannel
from pronghorn.handlers.handler import Handler
from pronghorn.handlers.message_connection import MessageConnection
from pronghorn.handlers.message_protocol import MessageProtocol
from pronghorn.lifespans import current_lifespan

PROTOCOL = 5  # of pickle: the oldest Python that is supported reads it
PLAIN = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset)
"""What is the same object in two places by chance."""


class CannotMove(Exception):
    """The state stays where it is, for the reason that the exception says."""


class NotNow(CannotMove):
    """It may move a little later: the handler is in the middle of something."""


def movable(handler: Handler) -> str:
    """Why no connection of a handler can move; empty if they can, as far as can be told in advance."""
    if not handler.facts.moves:
        return f"a handler of {handler.facts.style} style"
    made = handler.made
    if isinstance(made, type) and getattr(made, "handed_over", ...) is None:
        return f"{made.__qualname__}.handed_over is None"
    return ""


def written(handler: Handler, channel: AnyChannel) -> bytes:
    """The state of the handler's protocol over a channel that holds still. Raises CannotMove."""
    state: Any = channel.protocol
    if awaits_answer(channel.number):
        raise NotNow("somebody waits for its answer on the bus")
    if handler.facts.style != "protocol":
        state = _state_of_messages(handler, channel)
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, handler, channel).dump(state)
    except Exception as error:
        where = _culprit(handler, channel)
        raise CannotMove(f"its state does not pickle: {error or type(error).__name__}{where}") from error
    return buffer.getvalue()


def _culprit(handler: Handler, channel: AnyChannel) -> str:
    """The attribute of the handler's object that does not pickle, as words to be added; empty if none is to blame."""
    protocol = _cutting(channel.protocol)
    made = protocol.object if protocol is not None else channel.protocol
    try:
        state = made.__getstate__()
    except Exception:  # this is what has failed
        return ""
    for part in state if isinstance(state, tuple) else (state,):
        for name, value in part.items() if isinstance(part, dict) else ():
            try:
                _Pickler(io.BytesIO(), handler, channel).dump(value)
            except Exception:
                return f", in its attribute {name!r}"
    return ""


def _state_of_messages(handler: Handler, channel: AnyChannel) -> Any:
    protocol = _cutting(channel.protocol)
    if protocol is None:
        raise NotNow("it has only just begun, or another protocol has taken the connection over")
    if why := protocol.busy:
        raise NotNow(why)
    if protocol.has_timers and getattr(handler.made, "handed_over", None) is None:
        raise CannotMove("it has timers, and no handed_over(conn, state) that would start them again")
    state = protocol.state()
    if state[0] is None:
        raise CannotMove("its framing keeps the begin of a message where nobody else can read it")
    return *state, protocol.style.framing.name


def _cutting(protocol: Any) -> MessageProtocol | None:
    """What cuts the input into messages: of a coroutine's, there is a protocol of asyncio's streams around it."""
    return protocol if isinstance(protocol, MessageProtocol) else getattr(protocol, "inner", None)


def read(handler: Handler, channel: AnyChannel, data: bytes, joined: Iterable[bytes] = ()) -> Any:
    """The protocol that goes on over a new channel; one of callbacks joins these names of the bus, as the state of a
    message handler has its own. Raises whatever the user's code raises, and CannotMove."""
    unpickler = _Unpickler(io.BytesIO(data), handler, channel)
    whole, conn, made = unpickler.whole, None, None
    if whole is not None:
        channel.set_protocol(whole)
        state = unpickler.load()
        if not isinstance(state, tuple):
            raise CannotMove("the state is that of a handler of another style")
        if (state[3] is None) is isinstance(handler.made, type):
            raise CannotMove("of the old handler and the new one only one is a class")
        *state, before = state
        if before != (now := unpickler.protocol.style.framing.name):  # its client speaks as it did
            raise CannotMove(f"its framing is {before}, and that of the new handler {now}")
        unpickler.protocol.take_over(channel, tuple(state))
        made, conn = unpickler.protocol.object, unpickler.protocol.style.connect(unpickler.protocol)
    else:
        made = whole = unpickler.load()
        if isinstance(made, tuple) or not hasattr(type(made), "data_received"):
            raise CannotMove("the state is that of a handler of another style")
        channel.set_protocol(whole)
        conn = channel
        for name in joined:
            channel.join(name)
    tell = getattr(made, "handed_over", None)
    _await_later(unpickler.protocol, tell(conn, unpickler.state) if tell is not None else None)
    return whole


def _await_later(protocol: Any, found: Any) -> None:
    """What `handed_over` has returned, if that is to be awaited, which a coroutine handler's own task does."""
    if found is not None and inspect.isawaitable(found):
        if not hasattr(protocol, "handed_over"):
            raise CannotMove("handed_over is a coroutine function, and the handler runs without an asyncio loop")
        protocol.handed_over = found


def depart(protocol: Any) -> None:
    """The protocol's connection is another process's: it is told nothing, but does nothing more."""
    leave = getattr(protocol, "depart", None)
    if leave is not None and isinstance(_cutting(protocol), MessageProtocol):
        leave()


def go_on(protocol: Any, channel: AnyChannel) -> None:
    """The connection is this process's, and the protocol, which `read` has made, goes on."""
    if isinstance(protocol, MessageProtocol):
        if protocol.partial and not channel._throttled:
            protocol.resume_writing()
    elif _cutting(protocol) is not None:
        protocol.connection_made(channel)


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, handler: Handler, channel: AnyChannel) -> None:
        super().__init__(buffer, PROTOCOL)
        protocol = _cutting(channel.protocol)
        self._object = protocol.object if protocol is not None else channel.protocol
        ours: dict[str, Any] = {"transport": channel, "drain": channel.own_drain, "process": channel.process_drain}
        ours |= {"lifespan": current_lifespan(), "class": handler.made}
        ours.update(restore=_restore, protocol=protocol, loop=_running_loop())
        self._names = {id(each): name for name, each in ours.items() if not isinstance(each, PLAIN)}
        self._ours = ours  # so that no id is another's

    def persistent_id(self, found: Any) -> str | None:
        if isinstance(found, MessageConnection):
            return "conn" if found._protocol is self._ours.get("protocol") else None
        return self._names.get(id(found))

    def reducer_override(self, found: Any) -> Any:
        if found is not self._object or isinstance(found, type):
            return NotImplemented
        reduced = found.__reduce_ex__(PROTOCOL)
        if not isinstance(reduced, tuple) or len(reduced) > 5:
            return NotImplemented
        return (*reduced, *(None,) * (5 - len(reduced)), _restore)


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, handler: Handler, channel: AnyChannel) -> None:
        super().__init__(buffer)
        self._handler, self._channel = handler, channel
        style = handler.facts.style
        self.whole = cast(Any, None if style == "protocol" else handler.protocol())
        self.protocol: Any = self.whole.take_messages() if style == "asyncio" else self.whole
        self.state: Any = None

    def persistent_load(self, name: str) -> Any:
        if name == "class":
            if not isinstance(self._handler.made, type):
                raise CannotMove("the new handler is no class, and has no place for the state of an object")
            return self._handler.made
        if name == "conn":
            return self.protocol.style.connect(self.protocol)
        ours: dict[str, Callable[[], Any]] = {
            "transport": lambda: self._channel,
            "drain": lambda: self._channel.drain,
            "process": lambda: self._channel.process_drain,
            "lifespan": current_lifespan,
            "restore": lambda: self._restored,
            "protocol": lambda: self.protocol,
            "loop": _running_loop,
        }
        if (found := ours[name]()) is None:
            raise CannotMove(f"the new worker has no {name}")
        return found

    def _restored(self, made: Any, state: Any) -> None:
        self.state = state
        _restore(made, state)


def _restore(made: Any, state: Any) -> None:
    """As pickle does it: the state of a new object is put back."""
    if (setstate := getattr(made, "__setstate__", None)) is not None:
        setstate(state)
        return
    slots = None
    if isinstance(state, tuple) and len(state) == 2:
        state, slots = state
    if state:
        made.__dict__.update(state)
    for name, value in (slots or {}).items():
        setattr(made, name, value)


def _running_loop() -> Any:
    asyncio = sys.modules.get("asyncio")
    return asyncio._get_running_loop() if asyncio is not None else None
