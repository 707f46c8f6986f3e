"""`pronghorn check`: would serve start? Everything that can be found out without binding an address.

Law: nothing is bound, not even for a moment: a listener that is opened and closed beside a running server can lose that
server's clients (nginx, ticket 1300). Nor are a running server's files written: its log and its process id file.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import rich_click as click

from pronghorn.cli.config import handler_of
from pronghorn.cli.layers import print_json, takes_json, takes_layers
from pronghorn.errors import BadSetting
from pronghorn.settings.layers import Layers, Settled


@takes_layers("check")
@takes_json
def command(layers: Layers, as_json: bool) -> None:
    """Check settings and handler as serve would: the handler is imported, its lifespan is not entered, and nothing is
    bound. The exit status is 0, 2 for a wrong setting or a model that cannot run the handler, 3 for an import that
    takes too long, 4 for a handler that cannot be imported, 5 for an address that can never be bound."""
    found = examined(layers.settle())
    if as_json:
        print_json(found)
    else:
        click.echo(sentence(found))


def examined(settled: Settled) -> dict[str, Any]:
    """What would be served; raises PronghornError for the first thing that would keep serve from starting."""
    from pronghorn.handlers.loading import load_handler
    from pronghorn.listening.binding import check_binds
    from pronghorn.supervisor.planning import certified, judged
    from pronghorn.system import env_file, log_config
    from pronghorn.system.processors import processors
    from pronghorn.system.startup import ProcessSetup
    from pronghorn.worker_process import probe

    source, settings = settled.source, settled.settings
    with ProcessSetup(msgspec.structs.replace(settings, log_file="", pid_file="")):
        variables = env_file.read(settings)
        if source.is_users_code:
            facts = probe.ask(source, settings, environment=variables)
        else:
            facts = load_handler(source, settings).facts
        model, why = judged(facts, settings)
        certificates = certified(facts, settings)
        check_binds(settings)
        for name in ("log_file", "pid_file"):
            refuse_missing_folder(name, getattr(settings, name))
        if settings.log_config:
            log_config.read(settings.log_config)
    return {
        "handler": handler_of(settled),
        "style": facts.style,
        "lifespan": facts.lifespan or None,
        "model": model.name,
        "why": why,
        "workers": settings.effective_workers(model.name, processors().usable),
        "bind": settings.bind,
        "certificates": [] if certificates is None else certificates.described,
    }


def refuse_missing_folder(name: str, path: str) -> None:
    """Raises BadSetting for a file whose folder does not exist."""
    folder = os.path.dirname(os.path.abspath(path))
    if path and not os.path.isdir(folder):
        flag = f"--{name.replace('_', '-')}"
        raise BadSetting(f"{flag} is {path!r}.", f"There is no folder {folder}.", "Make it, or name another file.")


def sentence(found: dict[str, Any]) -> str:
    """What `examined` found, as one line for a person."""
    handler = f"{found['handler']} ({found['style']} style"
    handler += f", with {'an async' if found['lifespan'] == 'async' else 'a'} lifespan)" if found["lifespan"] else ")"
    workers = f"{found['workers']} worker{'s' if found['workers'] > 1 else ''}"
    line = f"Would serve {handler} under {found['model']} ({found['why']}): {workers}, at {', '.join(found['bind'])}"
    names = dict.fromkeys(name for each in found["certificates"] for name in each.names)
    return line + (f", with TLS for {', '.join(names) or 'no name'}" if found["certificates"] else "")
