"""The status page as HTML: whole without JavaScript, so that its script only writes into what stands there.

Law: every text is escaped where it is put in, whatever it has been through before. The page asks for no file but its
own style, script and icon, which lie beside this file; CSP forbids everything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from pronghorn.admin.page.history import History
from pronghorn.admin.page.tables import CONNECTIONS, GENERATIONS, LISTENERS, RECORDS, WORKERS, table
from pronghorn.admin.page.verdict import Problem
from pronghorn.admin.page.view import NONE, View, rate, text
from pronghorn.control.quantities import size, span

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
LEVELS = {
    "good": ("#1f9d5b", "M9 17l5 5 10-11"),
    "warn": ("#d9920d", "M16 8v10M16 23v1"),
    "bad": ("#d03a3a", "M10 10l12 12M22 10L10 22"),
}
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="{}"/>'
    '<path d="{}" fill="none" stroke="#fff" stroke-width="4" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)

LISTS = {
    "longest": ("Longest-lived", "by age"),
    "slowest": ("Slowest", "by unsent bytes, then by round trip"),
    "busiest": ("Busiest", "by bytes a second since accepted"),
}
CHARTS = (  # title, unit, kind, series; the first series of a line fills its area
    ("Open connections", "count", "line", "open"),
    ("New connections a second", "count", "line", "accepted"),
    ("Messages a second", "count", "line", "messages"),
    ("Latency of a message", "seconds", "line", "p50 p99"),
    ("Bytes a second", "bytes", "line", "bytes_in bytes_out"),
    ("Ended a second, by reason", "count", "stack", "ended.*"),
    ("Refused a second, by reason", "count", "stack", "refused.*"),
    ("CPU of all workers", "percent", "line", "cpu"),
)


OWN = {name: (Path(__file__).parent / name).read_bytes() for name in "page.html page.css page.js change.html".split()}
"""The page's own files, read with the package: later this process may be a user who cannot."""


def file(name: str) -> bytes:
    """One of the page's files: page.css, page.js, icon-good.svg."""
    if name.startswith("icon-"):
        return ICON.format(*LEVELS[name.removeprefix("icon-").removesuffix(".svg")]).encode()
    return OWN[name]


@cache
def build() -> str:
    """A text that changes with the page's own files."""
    return hashlib.sha256(b"".join(OWN.values())).hexdigest()[:16]


FILES = {
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    **{f"/icon-{level}.svg": "image/svg+xml" for level in LEVELS},
}
"""What the page asks for, and its type."""


def page(view: View, history: History, facts: Mapping[str, str], *, write: bool) -> bytes:
    """The whole page. `facts` are of the build and the settings, in short; with `write` it has buttons."""
    template = Template(file("page.html").decode())
    return template.substitute(
        title=escape(view.title),
        name=escape(view.title.partition(" · ")[2]),
        build=view.build,
        level=view.level,
        verdict=escape(view.verdict),
        problems="".join(map(_problem, view.problems)),
        about=escape(view.about),
        change=file("change.html").decode() if write else "",
        charts="\n".join(_chart(*each, history) for each in CHARTS),
        tables=_tables(view, write=write) + _facts(facts),
        footer="Times are UTC; bytes are counted as the handler sees them.",
    ).encode()


def _problem(problem: Problem) -> str:
    return f'<li data-level="{problem.level}">{escape(problem.text)}</li>'


def _chart(title: str, unit: str, kind: str, series: str, history: History) -> str:
    """What the script makes a chart of: without it, the figures of now and of the last minute."""
    names = [each for name in series.split() for each in (history.names(name[:-1]) if name.endswith("*") else [name])]
    values = {name: history.columns().get(name, [None])[-1] for name in names}
    if kind == "stack":
        now = rate(sum(value or 0.0 for value in values.values()))
        past = ", ".join(
            f"{name.partition('.')[2]} {round(count):,}" for name in names if (count := history.lately(name))
        )
        past = f"last minute: {past or 'none'}"
    else:
        now = " / ".join(NONE if value is None else _figure(value, unit) for value in values.values())
        known = [value for name in names[-1:] for value in history.columns().get(name, ()) if value is not None]
        past = f"at most {_figure(max(known), unit)} in 5 min" if known else ""
    return (
        f'<figure class="card chart" data-unit="{unit}" data-kind="{kind}" data-series="{series}"><h2>{title}</h2>'
        f'<div class="now">{escape(now)}</div><div class="past">{escape(past)}</div></figure>'
    )


def _figure(value: float, unit: str) -> str:
    if unit == "seconds":
        return f"{value * 1e3:.3g} ms" if value < 1 else span(value)
    return size(round(value)) if unit == "bytes" else f"{value:.0f} %" if unit == "percent" else rate(value)


def _tables(view: View, *, write: bool) -> str:
    choices = "".join(
        f'<label title="{about}" hidden><input type="radio" name="list" value="part-{which}"{checked}>'
        f"<span>{head}</span></label>"
        for (which, (head, about)), checked in zip(LISTS.items(), (" checked", "", ""), strict=True)
    )
    lists = "".join(
        f'<div id="part-{which}"><h3>{head}, {about}</h3>'
        + table(
            which, f"{head} connections", CONNECTIONS, view.tables.get(which, ()), "No connection is open.", ends=write
        )
        + "</div>"
        for which, (head, about) in LISTS.items()
    )
    return (
        _card("Listeners", table("listeners", "Listeners", LISTENERS, view.tables["listeners"], "None is known."))
        + _card("Workers", table("workers", "Workers", WORKERS, view.tables["workers"], "There is no worker."))
        + f'<section class="card"><div class="tabs"><h2>Connections</h2>{choices}</div>{lists}</section>'
        + '<div class="pair">'
        + _card(
            "The log's last warnings and errors",
            table("records", "Records", RECORDS, view.tables["records"], "None since the start.", kind="log"),
        )
        + _card("Generations", table("generations", "Generations", GENERATIONS, view.tables["generations"], "None."))
        + "</div>"
    )


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(text(name))}</dt><dd>{escape(text(value, 300))}</dd>" for name, value in facts.items())
    return _card("Build and settings", f"<dl>{rows}</dl>")


def _card(head: str, inner: str) -> str:
    return f'<section class="card"><h2>{head}</h2>{inner}</section>'
