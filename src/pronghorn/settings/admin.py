"""Settings of the admin process: where it answers, and who may change something there."""

from __future__ import annotations

from typing import Annotated

from pronghorn.settings.fields import NOW, RESTART, Option
from pronghorn.settings.metrics import Metrics


class Admin(Metrics, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How others learn how the server is."""

    admin: Annotated[
        tuple[str, ...],
        "Address of the admin port, HOST:PORT, [IPV6]:PORT or unix:PATH, where a process of its own answers HTTP: "
        "/livez and /readyz for probes, /metrics, /status.json and the status page; needs the extra admin. Whoever "
        "connects may read. May be given more than once.",
        Option(metavar="ADDRESS", at=RESTART),
    ] = ()
    admin_write: Annotated[
        bool,
        "Let whoever has the token of --admin-token-file reload, resize and drain the server and end connections, by "
        "the admin port and the status page. Without it nothing there changes anything.",
        Option(at=RESTART),
    ] = False
    admin_token_file: Annotated[
        str,
        "File with the token for --admin-write: one line of 16 to 512 printable characters. Read at the start.",
        Option(metavar="PATH", at=RESTART),
    ] = ""
    agent_check: Annotated[
        tuple[str, ...],
        "Address where HAProxy's agent-check is answered: how much of the load this server takes. May be given more "
        "than once.",
        Option(metavar="ADDRESS", at=RESTART),
    ] = ()
    agent_check_drain: Annotated[
        bool,
        "Have the agent check say the words drain, while the server takes no new clients, and ready, while it does, in "
        "place of a weight of 0: they set the administrative state in HAProxy, where they overrule what a person has "
        "set by hand.",
        Option(at=RESTART),
    ] = False
    drain_delay: Annotated[
        float,
        "Time for which a server that is told to stop, by TERM or by ctl stop, says that it is not ready (/readyz, "
        "--agent-check) and goes on accepting, so that load balancers have left before it refuses anybody; then it "
        "drains. A second signal ends the delay.",
        Option(unit="time", ge=0, at=NOW),
    ] = 0.0
