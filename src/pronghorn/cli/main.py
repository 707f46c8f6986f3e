"""`pronghorn`: the group of commands, and where an error becomes words and an exit status.

Law: a command raises; only this file prints errors. A command's file is imported when that command is called.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import rich_click as click

from pronghorn import __version__
from pronghorn.builds import build
from pronghorn.errors import PronghornError, nearest
from pronghorn.system.stdio import complain, keep_standard_descriptors

COMMANDS = (
    "serve",
    "ctl",
    "top",
    "why",
    "health",
    "doctor",
    "check",
    "config",
    "connect",
    "bench",
    "dev-cert",
    "models",
)
QUICK_START = f"""\
Pronghorn {__version__}: an application server for TCP.

  pronghorn serve                     answer in upper case on 127.0.0.1:8000
  pronghorn serve module:handler      serve your own (or file.py:handler)
  pronghorn serve --exec tr a-z A-Z   serve any program
  pronghorn serve -k fork -w 2        choose the model, and how many workers
  pronghorn connect 8000              talk to a server
  pronghorn ctl status                how a running server is; reload, stop ...
  pronghorn top                       watch a running server
  pronghorn why 8000                  who holds that port, and what to do
  pronghorn check module:handler      would it serve? binds nothing
  pronghorn bench module:handler      which model is best for it, measured
  pronghorn --help                    also: models config dev-cert health doctor

A handler is a function of one message, a Protocol, def handle(conn), async def
handle(reader, writer), or a program. More: pronghorn serve --help"""

HELP = {
    "theme": "default-slim",
    "text_markup": None,
    "options_table_column_types": ["opt_all_metavar", "help"],
    "options_table_help_sections": ["help", "default", "envvar"],
    "append_metavars_help_string": "{}",
    "default_string": r"\[default: {}]",
    "envvar_string": r"\[${}]",
}


class Commands(click.RichGroup):
    """The commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"pronghorn.cli.{cmd_name.replace('-', '_')}").command
        command.short_help = command.short_help or re.split(r"[.:;(]", command.help or "", maxsplit=1)[0].strip()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in COMMANDS and not word.startswith("-"):
            raise PronghornUsage(f"There is no command {word!r}.", hint=_meant(word))
        return super().resolve_command(ctx, args)


class PronghornUsage(PronghornError):
    """The command line cannot be understood."""

    exit_code = 2


def _meant(word: str) -> str:
    if ":" in word or word.endswith(".py"):
        return f"To serve that handler: pronghorn serve {word}"
    return nearest(word, COMMANDS)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message=f"pronghorn %(version)s ({build()})")
@click.rich_config(HELP)
@click.pass_context
def group(ctx: click.Context) -> None:
    """An application server for TCP: any handler, under any concurrency model."""
    if ctx.invoked_subcommand is None:
        click.echo(QUICK_START)


def main() -> NoReturn:
    """The console script's entry."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, after any error has been printed."""
    keep_standard_descriptors()
    _keep_standard_output()
    try:
        status = group.main(arguments, prog_name="pronghorn", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except PronghornError as error:
        return complain(error)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help_line = f"Try '{context.command_path} --help'." if context else ""
        complain(PronghornError(error.format_message(), hint=help_line))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Nobody reads standard output any more. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f": {error.filename}" if error.filename else "."
        return complain(PronghornError(f"{error.strerror or error}{place}"))


def _keep_standard_output() -> None:
    """Gives a closed one a place where nothing is read; and one of an encoding that does not have all letters, `?` in
    place of those."""
    if sys.stdout is None:  # as Python has it when 1 was closed
        sys.stdout = open(1, "w", closefd=False)
    elif isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
