"""`pronghorn serve`: check what was typed, then become the lean supervisor.

Law: this file knows no setting by name. Its options are a loop over `settings.fields()`. The process that imported
click serves nobody: it replaces itself, by execv(3), with an interpreter that imports only what serving needs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import rich_click as click
from click.core import ParameterSource

from pronghorn import settings
from pronghorn.errors import BadSetting
from pronghorn.settings import Field, Settings

if TYPE_CHECKING:
    from pronghorn.server import Boot

EXEC = "--exec"
COMMAND = "pronghorn.exec"


class Option(click.RichOption):
    """An option that leaves its value as it was typed: `settings.settle` converts and checks, and has better words."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return value

    def value_from_envvar(self, ctx: click.Context) -> Any:
        return self.resolve_envvar_value(ctx)


def option(field: Field) -> Option:
    """One setting as an option, with its variable and its default in the help."""
    flag = field.flag
    if field.type is bool:
        flag = f"{flag}/--no-{flag[2:]}"
    return Option(
        [*filter(None, [field.short]), flag, field.name],
        help=field.help + (f" One of: {', '.join(field.choices)}." if field.choices else ""),
        type=click.Choice(field.choices) if field.choices else None,
        metavar=field.metavar or None,
        is_flag=field.type is bool,
        multiple=field.type == tuple[str, ...],
        default=_shown_default(field),
        envvar=field.variable,
        show_envvar=True,
        show_default=True,
        panel=field.panel,
    )


def _shown_default(field: Field) -> Any:
    """For the help alone: `given` takes nothing from it."""
    if isinstance(field.default, bool | tuple):
        return field.default
    return field.shown(field.default) or None


class Serve(click.RichCommand):
    """The command, whose `--exec` takes the rest of the line as it stands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args, ctx.meta[COMMAND] = split(args)
        return super().parse_args(ctx, args)


def split(args: list[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """What stands before `--exec`, and the command after it (None when there is no `--exec`)."""
    for place, word in enumerate(args):
        if word == "--":
            break
        if word == EXEC:
            return args[:place], tuple(args[place + 1 :])
        if word.startswith(f"{EXEC}="):
            return args[:place], (word[len(EXEC) + 1 :], *args[place + 1 :])
    return args, None


@click.command(
    "serve",
    cls=Serve,
    epilog="Each setting is also an environment variable, the one in brackets; the command line wins. "
    "Ctrl-C or SIGTERM stops accepting and lets open connections finish; a second Ctrl-C ends at once.",
)
@click.argument(
    "handler",
    required=False,
    help="module:name, path/file.py:name, or a built-in: upper, echo, discard, chargen, daytime. [default: upper]",
    panel="Handler",
)
@click.option(
    EXEC,
    "unused",
    metavar="CMD...",
    expose_value=False,
    help="Serve a program instead: each connection is its standard input and output. Comes last and takes the rest "
    "of the line as it stands.",
    panel="Handler",
)
@click.pass_context
def command(ctx: click.RichContext, /, handler: str | None, **values: Any) -> None:
    """Serve HANDLER, or a program, to every client that connects."""
    program = ctx.meta[COMMAND]
    if program is not None and (not program or not program[0]):
        raise BadSetting(f"{EXEC} names no program.", hint="For example: pronghorn serve --exec tr a-z A-Z")
    if program is not None and handler is not None:
        raise BadSetting(
            f"There are two handlers: {handler} and {EXEC} {' '.join(program)}.",
            "A server has one handler.",
            f"Leave out {handler}, or {EXEC} and all that follows it.",
        )
    boot_settings = given(ctx, values)
    import msgspec

    from pronghorn.handlers import Source
    from pronghorn.server import Boot
    from pronghorn.settings.layers import Layers

    source = Source(command=program) if program else Source(name=handler or "upper")
    become_supervisor(Boot(Layers(given=msgspec.structs.asdict(boot_settings), source=source)))


command.params.extend(option(field) for field in settings.fields())


def given(ctx: click.Context, values: dict[str, Any]) -> Settings:
    """The settings that the line and the environment give, checked; raises BadSetting with their source."""
    origins: dict[str, str] = {}
    for field in settings.fields():
        source = ctx.get_parameter_source(field.name)
        if source is ParameterSource.COMMANDLINE:
            origins[field.name] = field.flag
        elif source is ParameterSource.ENVIRONMENT:
            origins[field.name] = field.variable
    return settings.settle({name: values[name] for name in origins}, origins)


def become_supervisor(boot: Boot) -> NoReturn:
    """Replace this process by the server; the settings travel in a descriptor, so that they show in no `ps`."""
    import msgspec

    from pronghorn.program import anonymous_file, server_command

    try:
        fd = anonymous_file(msgspec.json.encode(boot))
    except UnicodeEncodeError as error:
        raise BadSetting(
            f"{error.object!r} is not UTF-8.", hint="Give it another name, such as a link to it."
        ) from None
    _make_importable()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os.execv(sys.executable, server_command(fd))


def _make_importable() -> None:
    """See that `-P` finds this package also when it was found beside the script, or in the working folder."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    beside = not sys.flags.safe_path and sys.path and os.path.abspath(sys.path[0]) == home
    if beside and home not in (os.path.abspath(entry) for entry in sys.path[1:]):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
