"""A handler's own metrics: counters, gauges and histograms that are summed over all workers, and exported.

    orders = pronghorn.metrics.counter("orders_total", "Orders that were taken.", labels=("kind",))

    @pronghorn.message(pronghorn.lines)
    def take(line):
        orders.labels("new").inc()

Law: declared where modules are imported, counted anywhere: in every style, under every model, by every thread. Nothing
raises because a server has no room: what is too much is dropped, counted, and told once. In a worker the values stand
in memory that the server's processes share (`attach`); anywhere else, as in a unit test, in this process alone.
"""

from __future__ import annotations

import math
import re
import sys
import time
import warnings
from _thread import RLock
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

import msgspec

from pronghorn import identity
from pronghorn.errors import as_text

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_BUCKETS, MOST_LABELS, LONGEST_NAME, LONGEST_HELP, LONGEST_VALUE = 40, 8, 100, 200, 120
NAME, LABEL = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*"), re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
ACROSS = ("sum", "min", "max")
ENDINGS = ("_total", "_created", "_bucket", "_sum", "_count", "_info")


class Description(msgspec.Struct, frozen=True, array_like=True):
    """What a metric is, whatever it counts. `buckets` are the bounds of a histogram; `across` says how a gauge is put
    together of the workers': sum, min or max."""

    kind: str
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: str = "sum"

    @property
    def width(self) -> int:
        """How many values one series has: of a histogram those of the buckets, of what is beyond, and the sum."""
        return len(self.buckets) + 2 if self.kind == HISTOGRAM else 1

    def fault(self) -> str:
        """Why it cannot be exported; empty if it can."""
        if not NAME.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            return f"{self.name!r} is no name of a metric: letters, digits, _ and :, no digit first"
        if self.name.startswith("pronghorn_"):
            return f"{self.name!r} begins as the server's own metrics do; leave pronghorn_ out"
        if self.name.endswith(ENDINGS) if self.kind != COUNTER else not self.name.endswith("_total"):
            return f"{self.name!r} ends as another kind of metric does, or a part of one"
        if len(self.labels) > MOST_LABELS or len(set(self.labels)) < len(self.labels):
            return f"{self.name!r} has labels twice, or more than {MOST_LABELS}"
        for label in self.labels:
            reserved = label.startswith("__") or (label == "le" and self.kind == HISTOGRAM) or label == "quantile"
            if not LABEL.fullmatch(label) or reserved:
                return (
                    f"{label!r} is no name of a label: letters, digits and _; no digit or __ first; not le or quantile"
                )
        ascending = all(one < two for one, two in zip(self.buckets, self.buckets[1:], strict=False))
        finite = all(abs(each) < float("inf") for each in self.buckets)
        if self.kind == HISTOGRAM and not (0 < len(self.buckets) <= MOST_BUCKETS and ascending and finite):
            return f"{self.name!r} needs 1 to {MOST_BUCKETS} buckets, finite and ascending"
        return "" if self.across in ACROSS else f"across is {self.across!r}; it is one of {', '.join(ACROSS)}"


class Store(Protocol):
    """Where values stand. A place is a number; a metric's series has `width` values from its place on."""

    def place(self, metric: Description, values: tuple[str, ...], /) -> int: ...
    def add(self, place: int, amount: float, /) -> None: ...
    def set(self, place: int, value: float, /) -> None: ...
    def observe(self, place: int, bucket: int, total: int, value: float, /) -> None: ...
    def get(self, place: int, /) -> float: ...


class Memory:
    """Values in the memory of this process."""

    __slots__ = ("_guard", "_places", "_values")

    def __init__(self) -> None:
        self._values = [0.0]  # place 0 is nobody's
        self._places: dict[tuple[str, tuple[str, ...]], int] = {}
        self._guard = RLock()

    def place(self, metric: Description, values: tuple[str, ...]) -> int:
        with self._guard:
            if (metric.name, values) not in self._places:
                self._places[metric.name, values] = len(self._values)
                self._values += [0.0] * metric.width
            return self._places[metric.name, values]

    def add(self, place: int, amount: float) -> None:
        with self._guard:
            self._values[place] += amount

    def set(self, place: int, value: float) -> None:
        self._values[place] = value

    def observe(self, place: int, bucket: int, total: int, value: float) -> None:
        with self._guard:
            self._values[place + bucket] += 1.0
            self._values[place + total] += value

    def get(self, place: int) -> float:
        return self._values[place]


class _Dropped(Memory):
    """Takes what there is no room for."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self._values *= MOST_BUCKETS + 3

    def get(self, place: int) -> float:
        return 0.0


class _Unlabelled(Memory):
    """Of a metric with labels, where none of its series was chosen."""

    __slots__ = ("_says",)

    def __init__(self, metric: Description) -> None:
        super().__init__()
        self._says = f"{metric.name} has labels: count by .labels({', '.join(metric.labels)}), one value for each"

    def add(self, place: int, amount: float) -> None:
        raise TypeError(self._says)

    def set(self, place: int, value: float) -> None:
        self.add(place, value)

    def observe(self, place: int, bucket: int, total: int, value: float) -> None:
        self.add(place, value)


_dropped = _Dropped()
_store: Store = Memory()
_declared: dict[str, Metric] = {}
_places: dict[str, str] = {}
"""Where each was declared first: file and line."""
_told: set[str] = set()
_guard = RLock()


class Metric:
    """What counters, gauges and histograms share: a description, and a series for each combination of label values."""

    __slots__ = ("_place", "_series", "_store", "description")

    def __init__(self, description: Description, store: Store | None = None, place: int = 0) -> None:
        if type(description) is not Description:  # who knows prometheus_client writes Counter(name, help)
            kind = type(self).__name__
            raise TypeError(f"a {kind} is declared by pronghorn.metrics.{kind.lower()}({description!r}, ...)")
        self.description = description
        self._store, self._place = store or _Unlabelled(description), place
        self._series: dict[tuple[str, ...], Self] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description.name}>"

    def labels(self, *values: object, **named: object) -> Self:
        """The series with these values, in the order of the labels or by their names: the same object each time. A
        value is written as text, of 120 characters at most. TypeError for other labels than the metric has."""
        if named or len(values) != len(self.description.labels):
            values = self._by_name(values, named)
        texts = values if all(type(each) is str for each in values) else tuple(map(as_text, values))
        found = self._series.get(texts)  # type: ignore[arg-type]  # they are texts
        return found if found is not None else self._new(texts)

    def _by_name(self, values: tuple[object, ...], named: dict[str, object]) -> tuple[object, ...]:
        wanted = self.description.labels
        if values or not wanted or named.keys() != {*wanted}:
            given = [*map(repr, values), *(f"{name}={value!r}" for name, value in named.items())]
            have, got = (", ".join(each) or "none" for each in (wanted, given))
            raise TypeError(f"{self.description.name} has these labels: {have}; got {got}")
        return tuple(named[each] for each in wanted)

    def _new(self, values: tuple[object, ...]) -> Self:
        texts = tuple(_clean(each, LONGEST_VALUE) for each in values)
        with _guard:
            if (found := self._series.get(texts)) is None:
                found = type(self)(self.description, *_placed(self.description, texts))
                if found._store is not _dropped:  # else each would take memory
                    self._series[texts] = found
            return found

    def _move(self) -> None:
        """From now on the values stand in the store of this process."""
        if not self.description.labels:
            self._store, self._place = _placed(self.description, ())
        for texts, series in self._series.items():
            series._store, series._place = _placed(self.description, texts)


class Counter(Metric):
    """A number that only grows."""

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        """Count. ValueError for what is less than 0, or no finite number."""
        if not 0.0 <= amount < 1e300:
            raise ValueError(f"a counter only grows; got {amount!r}")
        self._store.add(self._place, amount)

    @property
    def value(self) -> float:
        """What this worker has counted, or this process outside of a server."""
        return self._store.get(self._place)


class Gauge(Metric):
    """A number that goes up and down. It ends with its worker."""

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        self._store.add(self._place, float(amount))

    def dec(self, amount: float = 1.0) -> None:
        self._store.add(self._place, -float(amount))

    def set(self, value: float) -> None:
        self._store.set(self._place, float(value))

    @property
    def value(self) -> float:
        """This worker's, or this process's outside of a server."""
        return self._store.get(self._place)


class Histogram(Metric):
    """How many values were not beyond each of some bounds, and the sum of all."""

    __slots__ = ()

    def observe(self, value: float) -> None:
        """Count a value, which is not less than 0. ValueError for one that is, or no finite number."""
        if not 0.0 <= value < 1e300:
            raise ValueError(f"a histogram takes what is not less than 0; got {value!r}")
        bounds = self.description.buckets
        self._store.observe(self._place, bisect_left(bounds, value), len(bounds) + 1, value)

    def time(self) -> Timing:
        """`with histogram.time():` observes how many seconds the block took, whatever it raised; as a decorator, how
        many each call of the function takes, or of the coroutine function until its coroutine is done."""
        return Timing(self)

    @property
    def count(self) -> int:
        """How many values this worker has observed, or this process outside of a server."""
        return int(sum(self._store.get(self._place + each) for each in range(len(self.description.buckets) + 1)))

    @property
    def sum(self) -> float:
        """The sum of these values."""
        return self._store.get(self._place + len(self.description.buckets) + 1)


class Timing:
    """See Histogram.time."""

    __slots__ = ("_began", "_histogram")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._histogram.observe(max(0.0, time.perf_counter() - self._began))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if iscoroutinefunction(function):

            @wraps(function)
            async def timed(*args: P.args, **kwargs: P.kwargs) -> Any:
                with Timing(self._histogram):
                    return await function(*args, **kwargs)

            return cast("Callable[P, R]", timed)

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with Timing(self._histogram):  # of its own: calls may overlap
                return function(*args, **kwargs)

        return called


M = TypeVar("M", Counter, Gauge, Histogram)


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    """Declare a counter; the name ends in `_total`, which is added where it is missing. Declared twice alike, it is
    the same object. ValueError for a name or a label that cannot be exported, or that is another metric's."""
    whole = name if name.endswith("_total") else f"{name}_total"
    return _declare(Counter, Description(COUNTER, whole, _clean(help, LONGEST_HELP), _names(labels)))


def gauge(name: str, help: str, labels: Sequence[str] = (), across: str = "sum") -> Gauge:
    """Declare a gauge. Of the values that the workers have, the `sum`, `min` or `max` is exported. Else as counter."""
    return _declare(Gauge, Description(GAUGE, name, _clean(help, LONGEST_HELP), _names(labels), (), across))


def histogram(name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = BUCKETS) -> Histogram:
    """Declare a histogram; `buckets` are the bounds, ascending, and what is beyond them counts too. Else as counter."""
    bounds = tuple(map(float, buckets))
    bounds = bounds[:-1] if bounds and bounds[-1] == math.inf else bounds  # it is there anyhow
    return _declare(Histogram, Description(HISTOGRAM, name, _clean(help, LONGEST_HELP), _names(labels), bounds))


def attach(store: Store) -> None:
    """In a worker: from now on values stand there; what was counted before, as at an import, is left behind."""
    global _store
    _store = store
    for metric in [*_declared.values()]:
        metric._move()


def detach() -> None:
    """The values stand in this process alone from now on, from 0: as in a process that a handler has forked."""
    global _guard
    _guard = RLock()  # a thread that is not here may hold the other
    attach(Memory())


def _clean(value: object, most: int) -> str:
    """As text that can be written, cut short."""
    return as_text(value)[:most].encode("utf-8", "replace").decode()


def _names(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise ValueError(f"labels are a tuple of names; got {labels!r}. One label: labels=({labels!r},)")
    return tuple(labels)


def _declare(kind: type[M], description: Description) -> M:
    if fault := description.fault():
        raise ValueError(fault)
    frame = sys._getframe(2)  # of who has called counter() and its like
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    with _guard:
        if (known := _declared.get(description.name)) is None:
            known = _declared[description.name] = kind(description)
            _places[description.name] = place
            if not description.labels:
                known._move()
    if not isinstance(known, kind) or known.description != description:
        where = _places.get(description.name, "?")
        raise ValueError(
            f"{description.name!r} is declared already, {_differs(known.description, description)}: {where}"
        )
    return known


def _differs(known: Description, new: Description) -> str:
    """In what two declarations of one name differ."""
    if known.kind != new.kind:
        return f"as a {known.kind}"
    for name in ("labels", "buckets", "across"):
        if (was := getattr(known, name)) != getattr(new, name):
            return f"with {name} {was!r}" if was else f"without {name}"
    return f"with the help {known.help!r}"


def _placed(description: Description, values: tuple[str, ...]) -> tuple[Store, int]:
    """Where a series counts."""
    place = _store.place(description, values)
    if place > 0:
        return _store, place
    if description.name not in _told:
        _told.add(description.name)
        warnings.warn(
            f"there is no room for more series of the metric {description.name}: what they count is dropped. "
            "Labels are for what has few values.",
            RuntimeWarning,
            stacklevel=4,
        )
    return _dropped, 1


if identity.metrics_store is not None:
    attach(identity.metrics_store())
