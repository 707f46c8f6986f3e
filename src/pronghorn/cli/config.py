"""`pronghorn config`: every setting as it would count, and where it comes from."""

from __future__ import annotations

from typing import Any

import msgspec

from pronghorn import settings
from pronghorn.cli import _layers
from pronghorn.settings.layers import DEFAULT, HANDLER, Layers, Settled


@_layers.takes_layers("config")
@_layers.as_json
def command(layers: Layers, as_json: bool) -> None:
    """Show each setting that serve would run with, and where it comes from; binds and imports nothing."""
    settled = layers.settle()
    if as_json:
        _layers.print_json(rows(settled))
    else:
        show(settled, layers.file)


def handler_of(settled: Settled) -> str:
    """The handler as it was named, or the program's command."""
    return " ".join(settled.source.command) or settled.source.name


def rows(settled: Settled) -> dict[str, dict[str, Any]]:
    """Value and origin of the handler and of each setting."""
    values = {HANDLER: handler_of(settled)} | msgspec.structs.asdict(settled.settings)
    return {name: {"value": values[name], "origin": settled.origins[name]} for name in settled.origins}


def show(settled: Settled, file: str) -> None:
    """The table on standard output; what was set stands out."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("Setting", no_wrap=True)
    table.add_column("Value", overflow="fold")
    table.add_column("Comes from", overflow="fold")
    shown = {HANDLER: handler_of(settled)}
    shown |= {each.name: each.shown(getattr(settled.settings, each.name)) for each in settings.fields()}
    for name, origin in settled.origins.items():
        table.add_row(name, shown[name], origin, style="dim" if origin == DEFAULT else "bold")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nSettings file: {file or 'none'}", soft_wrap=True)
