"""The options that serve, check and config share: HANDLER, `--exec`, `--config`, every setting.

Law: this file knows no setting by name. Its options are a loop over `settings.fields()`, and each value goes into
`Layers` as it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import msgspec
import rich_click as click
from click.core import ParameterSource

from pronghorn import settings
from pronghorn.errors import BadSetting, PronghornError
from pronghorn.settings.fields import ENVIRONMENT_PREFIX, Field
from pronghorn.settings.layers import Layers, absolute, find
from pronghorn.settings.source import BUILT_IN, Source

EXEC = "--exec"
COMMAND = "pronghorn.exec"
CONFIG = f"{ENVIRONMENT_PREFIX}CONFIG"
NEARLY = 0.8  # of difflib's ratio
SAME_OPTIONS = "Every option of serve is taken here too; pronghorn serve --help tells them."
JSON_HELP = "The result, or the error, as JSON on standard output."
takes_json = click.option("--json", "as_json", is_flag=True, help=JSON_HELP)


class Option(click.RichOption):
    """An option that leaves its value as it was typed: `settings.settle` converts and checks it."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return value

    def value_from_envvar(self, ctx: click.Context) -> Any:
        return self.resolve_envvar_value(ctx)


def option(field: Field, hidden: bool) -> Option:
    """One setting as an option, with its variable and its default in the help, unless it is `hidden` there."""
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
        hidden=hidden,
    )


def _shown_default(field: Field) -> Any:
    """The default as the help shows it; `given` does not use it."""
    if isinstance(field.default, bool | tuple):
        return field.default
    return field.shown(field.default) or None


class LayersCommand(click.RichCommand):
    """A command whose `--exec` takes the rest of the line as it stands."""

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


def takes_layers(
    name: str, epilog: str = SAME_OPTIONS, *, tells_settings: bool = False
) -> Callable[[Callable[..., Any]], click.RichCommand]:
    """Makes a command that takes a handler and settings: its function gets the Layers of both, and its own options'
    values. With `as_json` among these, an error is JSON too. `tells_settings`: the help shows every setting."""

    def decorate(function: Callable[..., Any]) -> click.RichCommand:
        def call(ctx: click.RichContext, /, handler: str | None, config: str | None, **values: Any) -> Any:
            own = {key: values.pop(key) for key in list(values) if key not in names}
            try:
                return function(given(ctx, handler, config, values), **own)
            except PronghornError as error:
                if not own.get("as_json"):
                    raise
                print_json({"error": error.parts()})
                return error.exit_code

        names = {field.name for field in settings.fields()}
        call.__doc__ = function.__doc__
        call.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        made: click.RichCommand = click.command(name, cls=LayersCommand, epilog=epilog)(click.pass_context(call))
        made.params = [
            *_common(),
            *made.params,
            *(option(field, hidden=not tells_settings) for field in settings.fields()),
        ]
        return made

    return decorate


def _common() -> list[click.Parameter]:
    return [
        click.RichArgument(
            ["handler"],
            required=False,
            help=f"module:name, path/file.py:name, or a built-in: {', '.join(BUILT_IN)}. [default: {Source().name}]",
            panel="Handler",
        ),
        click.RichOption(
            [EXEC, "unused"],
            metavar="CMD...",
            expose_value=False,
            help="Serve a program instead: each connection is its standard input and output. Comes last and takes the "
            "rest of the line as it stands.",
            panel="Handler",
        ),
        click.RichOption(
            ["-c", "--config"],
            metavar="FILE",
            envvar=CONFIG,
            show_envvar=True,
            help="Settings file. Without this, pronghorn.toml in the working folder, or [tool.pronghorn] in its "
            "pyproject.toml.",
            panel="Handler",
        ),
    ]


def given(ctx: click.Context, handler: str | None, config: str | None, values: dict[str, Any]) -> Layers:
    """What the line and the environment give, and the file that was found; raises BadSetting for two handlers."""
    program = ctx.meta[COMMAND]
    if program is not None and (not program or not program[0]):
        raise BadSetting(f"{EXEC} names no program.", hint="For example: pronghorn serve --exec tr a-z A-Z")
    if program is not None and handler is not None:
        raise BadSetting(
            f"There are two handlers: {handler} and {EXEC} {' '.join(program)}.",
            "A server has one handler.",
            f"Leave out {handler}, or {EXEC} and all that follows it.",
        )
    origins: dict[str, str] = {}
    for field in settings.fields():
        origin = ctx.get_parameter_source(field.name)
        if origin is ParameterSource.COMMANDLINE:
            origins[field.name] = field.flag
            if field.hides(values[field.name]):
                refuse_secret(field)
        elif origin is ParameterSource.ENVIRONMENT:
            origins[field.name] = field.variable
    for stray, near in strays(os.environ):
        click.echo(f"Warning: nothing reads the variable {stray}. Did you mean {near}?", err=True)
    source = Source(command=program) if program else Source(name=handler) if handler else None
    file = absolute(config) if config else find()
    return Layers({name: values[name] for name in origins}, origins, source, file)


def refuse_secret(field: Field) -> None:
    """Raises BadSetting for a password on the command line."""
    raise BadSetting(
        f"{field.flag} has a password in it.",
        "ps shows a command line to everybody on this machine, and a shell keeps it.",
        f"Leave it out there, and name a file that holds it: {field.flag}-password-file PATH. Or give the whole URL as "
        f"{field.variable}, or in the settings file.",
    )


def strays(environment: Iterable[str]) -> list[tuple[str, str]]:
    """Variables whose name is nearly a setting's variable, each with that variable. Others with the prefix are left
    out: Kubernetes makes PRONGHORN_PORT and the like for a service of that name."""
    prefix = ENVIRONMENT_PREFIX
    known = [variable.removeprefix(prefix) for variable in (*(field.variable for field in settings.fields()), CONFIG)]
    found: list[tuple[str, str]] = []
    for name in sorted(environment):
        word = name.removeprefix(prefix)
        if word not in (name, *known):
            found += [(name, prefix + near) for near in get_close_matches(word, known, n=1, cutoff=NEARLY)]
    return found


def print_json(value: Any) -> None:
    """JSON on standard output, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
