"""`pronghorn bench`: which model for a handler, and how it scales, measured on this machine.

Law: this package turns words into a Plan and findings into words; bench/ measures. A wrong word is an error before
anything is started.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import rich_click as click
from click.core import ParameterSource

from pronghorn.cli.bench.options import takes_options
from pronghorn.cli.layers import EXEC, split
from pronghorn.errors import BadSetting, PronghornError

if TYPE_CHECKING:
    from pronghorn.bench.findings import Findings

REST = "pronghorn.bench.rest"


class BenchCommand(click.RichCommand):
    """A command that leaves what follows `--`, or `--exec` and what follows, to serve."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, program = split(args)
        rest: list[str] = []
        if "--" in own:
            place = own.index("--")
            own, rest = own[:place], own[place + 1 :]
            rest, program = split(rest) if program is None else (rest, program)
        if program is not None:
            rest = [*rest, EXEC, *program]
        ctx.meta[REST] = rest
        try:
            return super().parse_args(ctx, own)
        except click.NoSuchOption as error:
            from pronghorn.settings import fields

            if error.option_name in {name for field in fields() for name in (field.flag, field.short)}:
                hint = f"Options of serve come after --: pronghorn bench HANDLER -- {error.option_name} ..."
                raise BadSetting(f"bench has no option {error.option_name}.", "It is one of serve's.", hint) from None
            raise


@click.command(
    "bench",
    cls=BenchCommand,
    epilog="""DURATION is 500ms, 30s, 2m, or a number of seconds.

What follows -- are options of serve: pronghorn bench mine.py:handler -- --idle-timeout 5s. A program: pronghorn bench
-- --exec CMD...

The exit status is 0, 1 where a --fail-if is broken or nothing could be measured, 2 for a wrong option or script, 4 for
a handler that cannot be imported, 130 after Ctrl-C, which still reports what was measured.""",
)
@takes_options
@click.pass_context
def command(ctx: click.Context, /, target: str | None, **words: Any) -> int:
    """Measure a handler under several models: throughput, latency, CPU and memory, and which model fits it best."""
    from pronghorn.cli.bench import asked

    for number in (signal.SIGTERM, signal.SIGHUP):  # what was started ends then, too
        signal.signal(number, _terminated)
    line = shlex.join(["pronghorn", *ctx.meta.get("pronghorn.argv", sys.argv[1:])])
    given = {word for word in words if ctx.get_parameter_source(word) is ParameterSource.COMMANDLINE}
    question = asked.question(target, ctx.meta[REST], words, given)
    findings = _measured(question, line)
    return _told(question, findings)


def _terminated(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _measured(question: Any, line: str) -> Findings:
    from pronghorn.bench import findings as found
    from pronghorn.bench.advice import recommend
    from pronghorn.bench.bounds import broken
    from pronghorn.bench.loads import LoadFailed
    from pronghorn.bench.measuring import measuring
    from pronghorn.cli.bench.view import view

    findings = found.Findings(
        handler=question.handler,
        command=line,
        plan=question.plan,
        machine=found.machine(),
        began=found.now(),
        skipped=question.skipped,
    )
    with view(findings, on_error=question.json_path == "-") as shown, measuring(question.plan, shown) as session:
        try:
            for _ in session.rounds():
                pass
        except KeyboardInterrupt:
            findings.interrupted = True
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is to end what was started, and to report
        except LoadFailed as error:
            if not session.cells:
                raise
            findings.stopped, findings.status = " ".join(str(error).splitlines()), error.exit_code
        findings.cells = list(session.cells.values())
        findings.unknown = session.unknown
    models = [each.name for each in question.plan.contenders if each.layers is not None]
    if models:
        findings.advice = recommend(findings.ordered(), models, findings.counted)
    findings.broken = broken(question.bounds, findings.ordered())
    shown.finish()
    return findings


def _told(question: Any, findings: Findings) -> int:
    """Writes what was asked for, and returns the exit status."""
    import msgspec

    if question.json_path:
        _write(question.json_path, msgspec.json.format(msgspec.json.encode(findings.plain()), indent=1) + b"\n")
    if findings.cells and (question.html_path or question.plots):
        from pronghorn.bench import plots, report

        drawn = plots.draw(findings)
        if question.html_path:
            _write(question.html_path, report.page(findings, drawn).encode())
        if question.plots:
            for path in plots.save(drawn, question.plots):
                click.echo(f"Wrote {path}", err=True)
    for sentence in findings.broken:
        click.echo(f"Failed: {sentence}.", err=True)
    if findings.interrupted:
        return 128 + signal.SIGINT
    if findings.stopped:
        click.echo(f"Error: {findings.stopped}", err=True)
        return findings.status
    return 1 if findings.broken or not findings.cells else 0


def _write(path: str, content: bytes) -> None:
    if path == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise PronghornError(f"{path} cannot be written.", f"{error.strerror}.") from None
    click.echo(f"Wrote {os.path.abspath(path)}", err=True)
