"""`pronghorn models`: the table of models, made from their pages.

Law: nothing about a model is written here; what a page does not say, the table does not show.
"""

from __future__ import annotations

from typing import Any

import rich_click as click

from pronghorn.cli.layers import print_json, takes_json
from pronghorn.models import registry
from pronghorn.models.model import Model


@click.command("models")
@takes_json
def command(as_json: bool) -> None:
    """Show the concurrency models: what each is for, what it costs, which styles it takes, and whether it runs here."""
    rows = [row(model) for model in registry.pages()]
    if as_json:
        print_json(rows)
    else:
        show(rows)


def row(model: Model) -> dict[str, Any]:
    """What one page says of its model; `missing` is None where the model can run."""
    return {
        "name": model.name,
        "purpose": model.purpose,
        "cost": model.cost,
        "styles": registry.styles(model),
        "missing": model.missing(),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table on standard output: plain in a pipe, as wide as the terminal otherwise."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, leading=1)
    table.add_column("Model", style="bold", no_wrap=True)
    table.add_column("What for, and at what cost", ratio=1)
    table.add_column("Handler styles", width=17)
    table.add_column("Here", no_wrap=True)
    every = max((each["styles"] for each in rows), key=len)
    for each in rows:
        words = Text(each["purpose"])
        words.append(f"\n{each['cost']}", style="dim")
        if each["missing"]:
            words.append(f"\nNot here: {each['missing']}.", style="yellow")
        styles = "all" if each["styles"] == every else ", ".join(each["styles"])
        table.add_row(each["name"], words, styles, "no" if each["missing"] else "yes")
    Console(highlight=False).print(table)
