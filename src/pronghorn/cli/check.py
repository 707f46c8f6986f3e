"""`pronghorn check`: would it serve? Everything that can be found out without binding an address.

Law: nothing is bound, not even for a moment: to open and close a listener beside a running server can cost that one
its clients (nginx, ticket 1300).
"""

from __future__ import annotations

import rich_click as click

from pronghorn.cli._layers import takes_layers
from pronghorn.cli.config import handler_of
from pronghorn.settings.layers import Layers


@takes_layers("check")
def command(layers: Layers) -> None:
    """Check settings and handler as serve would: the handler is imported, and nothing is bound. The exit status is 0,
    2 for a wrong setting or a model that cannot run the handler, 4 for a handler that cannot be imported."""
    settled = layers.settle()
    from pronghorn import models, probe
    from pronghorn.worker import load_handler

    source, settings = settled.source, settled.settings
    asks = source.is_users_code
    facts = probe.ask(source, settings) if asks else load_handler(source, settings).facts
    name, why = (settings.model, "as asked") if settings.model != "auto" else models.choose(facts)
    model = models.load(name)
    model.check(facts)
    workers = settings.effective_workers(model.name)
    click.echo(f"{handler_of(settled)} would be served: {facts.style} style, under {model.name} ({why}), ", nl=False)
    click.echo(f"{workers} worker{'s' if workers > 1 else ''}, at {', '.join(settings.bind)}")
