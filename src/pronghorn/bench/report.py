"""The report of `pronghorn bench`: one HTML file with plots, all numbers in tables, and what it takes to repeat it.

Law: the file needs no other: no script, no font, no request. All text that comes from outside is escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

from pronghorn.bench import words
from pronghorn.bench.findings import Findings
from pronghorn.bench.plots import Plot
from pronghorn.bench.results import LOAD, PERCENTILES, Cell

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 72rem;
  padding: 1rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.verdict { font-size: 1.1rem; border-left: 4px solid #0072b2; padding: .4rem 0 .4rem .8rem; margin: 1rem 0; }
p.bad { border-left-color: #b00020; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #e2e2e2; }
th { font-weight: 600; border-bottom: 2px solid #888; white-space: normal; vertical-align: bottom; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
tr.first td { border-top: 1px solid #888; }
tr.bad td { color: #b00020; }
table.facts th, table.facts td { white-space: normal; text-align: left; font-weight: 400; vertical-align: top; }
table.facts th { color: #555; border-bottom: 1px solid #e2e2e2; padding-left: 0; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: .9rem; }
code { white-space: nowrap; }
pre code { white-space: pre-wrap; overflow-wrap: anywhere; }
li { overflow-wrap: anywhere; }
"""


def page(findings: Findings, plots: Sequence[Plot]) -> str:
    """The whole file."""
    parts = [
        f"<h1>{escape(findings.handler)}: which model, and how it scales</h1>",
        f"<p>Measured by pronghorn bench, {escape(findings.began)}.</p>",
        *_verdicts(findings),
        f"<p>{_text(findings.loop())}.</p>",
        '<div class="plots">',
        *map(_figure, plots),
        "</div>",
        "<h2>All numbers</h2>",
        _table(findings),
        *_list("Notes", findings.notes()),
        *_list("No candidates", [f"{name} {why}." for name, why in findings.advice.ruled_out.items()]),
        *_list("Not measured", [f"{name}: {why}" for name, why in (findings.skipped | findings.failed).items()]),
        "<h2>To repeat it</h2>",
        f"<pre><code>{escape(findings.command)}</code></pre>",
        _facts(findings),
    ]
    title = escape(f"pronghorn bench: {findings.handler}")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<title>{title}</title><style>{CSS}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    """Escaped, with options as code, which no line end cuts."""
    return re.sub(r"(?<![\w-])(--[a-z]+(?:-[a-z]+)*)", r"<code>\1</code>", escape(text))


def _verdicts(findings: Findings) -> Iterable[str]:
    if findings.interrupted or findings.stopped:
        why = escape(findings.stopped or "it was interrupted")
        yield f'<p class="verdict bad">Not all was measured: {why}.</p>'
    if findings.advice.sentence:
        kind = "verdict" if findings.advice.model else "verdict bad"
        yield f'<p class="{kind}">{escape(findings.advice.sentence)}</p>'
    for sentence in findings.broken:
        yield f'<p class="verdict bad">Failed: {escape(sentence)}.</p>'


def _figure(plot: Plot) -> str:
    """The figure as an image in the page, with its text for those who do not see it."""
    data = base64.b64encode(plot.drawn("svg")).decode()
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(plot.alt)}"></figure>'


def _table(findings: Findings) -> str:
    unit = findings.counted[:-1]
    headings = ["server", "clients", f"{unit}s/s", *(name for name, _ in PERCENTILES)]
    headings += [f"CPU/{unit}", "memory/connection", "errors", "without a reply"]
    lines = [_row(headings, "th")]
    before = ""
    for cell in findings.ordered():
        kinds = ["first"] * (cell.name != before and before != "") + ["bad"] * bool(cell.error_count + cell.unserved)
        lines.append(_row(_cells(cell), "td", " ".join(kinds)))
        before = cell.name
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _cells(cell: Cell) -> list[str]:
    return [
        cell.name,
        f"{cell.clients:,}",
        ("*" if cell.limit == LOAD else "") + words.rate(cell.throughput),
        *(words.duration(cell.quantile(part)) for _, part in PERCENTILES),
        words.duration(cell.cpu),
        words.memory(cell.memory),
        f"{cell.error_count:,}",
        f"{cell.unserved or cell.unanswered:,}",
    ]


def _row(texts: Iterable[str], tag: str, kind: str = "") -> str:
    cells = "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)
    return f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>"


def _list(title: str, sentences: Sequence[str]) -> Iterable[str]:
    if sentences:
        yield f"<h2>{title}</h2><ul>{''.join(f'<li>{_text(each)}</li>' for each in sentences)}</ul>"


def _facts(findings: Findings) -> str:
    plan = findings.plan
    facts = {
        **findings.machine,
        "Messages": findings.talk or (f"by the script {plan.script}" if plan.script else "-"),
        "Load": f"{findings.loop()}; {plan.seconds:g} s for each row, after {plan.warm_up:g} s of warm-up",
        "Rounds": f"{plan.rounds}, interleaved; medians are shown" if plan.rounds > 1 else "1",
        "Workers": ", ".join(f"{each.name} {each.workers}" for each in plan.contenders if each.layers) or "-",
        "CPU": "user and system time of the server's whole process tree, ended children included",
        "Memory": "anonymous pages of the tree, shared ones once, less the idle server's; the kernel's buffers not",
    }
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{_text(text)}</td></tr>" for name, text in facts.items())
    return f'<table class="facts">{rows}</table>'
