"""What was asked of `pronghorn bench`: from the words of the command line to a Plan. Nothing is started here."""

from __future__ import annotations

import os
import re
import resource
import socket
from importlib.util import find_spec
from typing import Any

import msgspec

from pronghorn.bench.bounds import Bound, parse
from pronghorn.bench.measuring import Plan, unlike
from pronghorn.bench.servers import Contender, of_command, of_model
from pronghorn.bench.sockets import Address, connection
from pronghorn.cli.connect.address import CannotConnect
from pronghorn.cli.connect.address import parse as parse_address
from pronghorn.cli.layers import given
from pronghorn.errors import BadSetting, IncompatibleHandler, MissingExtra
from pronghorn.handlers.handler import HandlerFacts
from pronghorn.models import registry
from pronghorn.settings.layers import Layers
from pronghorn.settings.values import quantity
from pronghorn.system.descriptors import SPARE, raise_descriptor_limit

USUAL = {
    "blocking": "thread pool prefork fork gevent",
    "program": "fork prefork thread gevent",
    "asyncio": "asyncio uvloop epoll thread",
}
ADDRESS = re.compile(r"(?:tcp://)?(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]*):\d+|\d+|unix:.+")
RATE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(k?)", re.IGNORECASE)
LOOPS = "epoll asyncio uvloop thread gevent"
MOST_CLIENTS = 1_000_000
START = "Start the server first, or name a handler."


class Question(msgspec.Struct):
    """What to measure, what must not be, and where the findings go."""

    handler: str
    plan: Plan
    bounds: list[Bound]
    skipped: dict[str, str]
    json_path: str
    html_path: str
    plots: str


def question(target: str | None, rest: list[str], words: dict[str, Any], given: set[str]) -> Question:
    """`given` are the words that stood on the command line. Raises PronghornError for whatever is wrong, before
    anything is started."""
    _refuse_what_does_nothing(target, words, given)
    if words["html_path"] or words["plots"]:
        _refuse_without_plots()
    _check_places(words)
    clients = _clients(words["clients"])
    skipped: dict[str, str] = {}
    others = [of_command(each) for each in words["against"]]
    if is_address(target):
        assert target is not None
        if rest:
            raise BadSetting(
                f"{target} runs already.", "Options of serve have no effect on it.", "Leave out what follows --."
            )
        handler, contenders = target, [Contender(target, address=_resolved(target))]
    else:
        handler, contenders, skipped = _models(target, rest, words)
    contenders = list(unlike([*contenders, *others]))
    plan = Plan(
        contenders=tuple(contenders),
        clients=clients,
        size=_whole("--size", words["size"], "size", 2 if not words["message"] else 0),
        depth=_at_least_one("--depth", words["depth"]),
        seconds=_seconds("--duration", words["duration"]),
        warm_up=_seconds("--warm-up", words["warm_up"], least=0.0),
        rounds=_at_least_one("--rounds", words["rounds"]),
        connect=words["connect"],
        rate=_rate(words["rate"]) if "rate" in given else 0.0,
        timeout=_seconds("--timeout", words["timeout"]),
        loads=_loads(words["loads"]),
        script=_script(words["script"], words["message"]),
        message=_message(words["message"]),
    )
    if plan.connect and plan.depth > 1:
        raise BadSetting("--connect and --depth exclude each other.", "With --connect each connection has one message.")
    _refuse_too_many(max(clients), plan.loads or 1)
    names = [each.name for each in contenders]
    bounds = [parse(each, names) for each in words["fail_if"]]
    return Question(handler, plan, bounds, skipped, words["json_path"], words["html_path"], words["plots"])


def is_address(target: str | None) -> bool:
    return target is not None and ADDRESS.fullmatch(target) is not None


def _resolved(text: str) -> Address:
    """The address as numbers. Raises PronghornError where nobody of that name is known, or nobody listens."""
    found = parse_address(text.removeprefix("tcp://"))
    if isinstance(found, str):
        try:
            connection(found, 5).close()
        except OSError as error:
            raise CannotConnect(f"Cannot connect to {text}.", f"{error.strerror or error}.", START) from None
        return found
    try:
        rows = socket.getaddrinfo(*found, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise CannotConnect(f"Cannot connect to {text}.", f"That name cannot be resolved: {error.strerror}.") from None
    places = [(str(row[4][0]), int(row[4][1])) for row in rows]
    for place in places:
        try:
            socket.create_connection(place, 5).close()
        except OSError:
            continue
        return place
    raise CannotConnect(f"Cannot connect to {text}.", "Nobody listens there.", START)


# Models


def _models(target: str | None, rest: list[str], words: dict[str, Any]) -> tuple[str, list[Contender], dict[str, str]]:
    """The handler's name, its models, and those that were asked for and cannot run it, with the reason."""
    layers = _layers(target, rest)
    name, facts = _facts(layers)
    skipped: dict[str, str] = {}
    usual = words["models"] == "auto"
    fit = []
    for model in _named(words["models"], facts):
        try:
            registry.check(registry.load(model), facts)
        except (MissingExtra, IncompatibleHandler) as error:
            if not usual:
                skipped[model] = error.why.partition("\n")[0] or error.what
            continue
        fit.append(model)
    if not fit and not words["against"]:
        why = " ".join(f"{model}: {reason}" for model, reason in skipped.items())
        raise BadSetting("None of these models can run the handler here.", why, "Choose others: pronghorn models")
    workers = None if words["workers"] is None else _at_least_one("--workers", words["workers"])
    return name, [of_model(model, layers, workers) for model in fit], skipped


def _layers(target: str | None, rest: list[str]) -> Layers:
    """What serve would be given."""
    from pronghorn.cli.serve import command as serve

    context = serve.make_context("pronghorn serve", [*filter(None, [target]), *rest])
    values = dict(context.params)
    layers = given(context, values.pop("handler"), values.pop("config"), values)
    for key, flag in (("model", "--models"), ("workers", "--workers")):
        if layers.origins.get(key, "").startswith("--"):
            raise BadSetting(f"{layers.origins[key]} is for bench itself.", f"Give it before --, as {flag}.")
    if layers.origins.get("bind", "").startswith("--"):
        raise BadSetting(
            "--bind cannot be chosen.", "Each server gets a free port, so that all can run beside each other."
        )
    return layers


def _facts(layers: Layers) -> tuple[str, HandlerFacts]:
    """The handler's name and what is known of it. Raises PronghornError as serve would."""
    from pronghorn.cli.check import looked_at
    from pronghorn.handlers.loading import Asked
    from pronghorn.system.startup import ProcessSetup

    settled = layers.settle()
    settings = msgspec.structs.replace(settled.settings, log_file="", pid_file="")
    if settings.tls_cert:
        raise BadSetting("bench speaks no TLS.", "--tls-cert is set.", "Measure the handler without TLS.")
    with ProcessSetup(settings):
        facts = looked_at([Asked(settled.source, settings, "")], settings)[0]
    return " ".join(settled.source.command) or settled.source.name, facts


def _named(text: str, facts: HandlerFacts) -> list[str]:
    if text == "auto":
        return USUAL.get(facts.style, LOOPS).split()
    if text == "all":
        return list(registry.MODELS)
    names = [each.strip() for each in text.split(",") if each.strip()]
    if not names:
        raise BadSetting("--models names none.", hint=f"For example: --models {LOOPS.replace(' ', ',')}")
    for each in names:
        registry.page(each)  # raises BadSetting
    return list(dict.fromkeys(names))


# Words and numbers


def _clients(text: str) -> tuple[int, ...]:
    try:
        found = sorted({int(each) for each in text.split(",") if each.strip()})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= MOST_CLIENTS:
        why = f"It takes whole numbers from 1 to {MOST_CLIENTS:,}, with commas."
        raise BadSetting(f"--clients cannot be {text!r}.", why, "For example: --clients 1,8,64,512")
    return tuple(found)


def _at_least_one(flag: str, value: int) -> int:
    if value < 1:
        raise BadSetting(f"{flag} cannot be {value}.", "It is 1 at least.")
    return value


def _seconds(flag: str, text: str, least: float = 0.05) -> float:
    try:
        found = quantity(text, "time")
    except ValueError as error:
        raise BadSetting(f"{flag} cannot be {text!r}.", f"{error}.".capitalize()) from None
    if not least <= found <= 86400:
        raise BadSetting(f"{flag} cannot be {text!r}.", f"It is from {least * 1000:g} ms to a day.")
    return found


def _whole(flag: str, text: str, unit: str, least: int) -> int:
    try:
        found = int(quantity(text, unit))
    except ValueError as error:
        raise BadSetting(f"{flag} cannot be {text!r}.", f"{error}.".capitalize()) from None
    if not least <= found <= 1 << 24:
        raise BadSetting(f"{flag} cannot be {text!r}.", f"It is from {least} bytes to 16 MiB.")
    return found


def _rate(text: str) -> float:
    match = RATE.fullmatch(text.strip())
    found = float(match[1]) * (1000 if match[2] else 1) if match else 0.0
    if not 0.1 <= found <= 1e7:
        raise BadSetting(
            f"--rate cannot be {text!r}.",
            "It is from 0.1 to 10,000,000 messages a second, such as 200 or 5k.",
            "Or no --rate, for the closed loop.",
        )
    return found


def _loads(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise BadSetting(f"--loads cannot be {text!r}.", "It takes auto, or a number from 1 to 256.")
    return int(text)


def _script(path: str, message: str) -> str:
    if path and message:
        raise BadSetting("--script and --message exclude each other.", "Both say what to send.")
    if path and not os.path.isfile(path):
        raise BadSetting(f"There is no script {path}.", "It is a Python file with request(n) and reply(n, received).")
    return os.path.abspath(path) if path else ""


def _message(text: str) -> bytes:
    """The text with its escapes, as bytes; what is beyond ASCII becomes UTF-8."""
    try:
        return text.encode().decode("unicode_escape").encode("latin-1") if text.isascii() else text.encode()
    except (UnicodeError, ValueError) as error:
        raise BadSetting(f"--message cannot be {text!r}.", f"{error}.") from None


def _refuse_what_does_nothing(target: str | None, words: dict[str, Any], given: set[str]) -> None:
    """Raises BadSetting for a word without effect, so that nobody takes a result for what it does not show."""
    for other in ("message", "script"):
        if {"size", other} <= given:
            raise BadSetting(f"--{other} and --size exclude each other.", f"--{other} says what to send, to the byte.")
    if "message" in given and not words["message"]:
        raise BadSetting("--message cannot be ''.", "It is a byte at least.", "Or no --message.")
    for word in sorted({"models", "workers"} & given):
        if is_address(target):
            raise BadSetting(f"{target} runs already.", f"--{word} has no effect on it.", f"Leave out --{word}.")


def _check_places(words: dict[str, Any]) -> None:
    """Raises BadSetting for a file that cannot be written, before a minute of measuring is lost."""
    for flag, path in (("--json", words["json_path"]), ("--html", words["html_path"])):
        folder = os.path.dirname(os.path.abspath(path))
        if path and path != "-" and (os.path.isdir(path) or not os.access(folder, os.W_OK)):
            why = "That is a folder." if os.path.isdir(path) else f"{folder} is no folder that can be written to."
            raise BadSetting(f"{flag} cannot be {path!r}.", why)
    if words["plots"] and os.path.exists(words["plots"]) and not os.path.isdir(words["plots"]):
        raise BadSetting(f"--plots cannot be {words['plots']!r}.", "That is a file, and no folder.")


def _refuse_without_plots() -> None:
    if find_spec("matplotlib") is None:
        raise MissingExtra(
            "The report needs matplotlib, which is not installed.",
            "Plots are drawn with it; the table and --json do without.",
            "Install it: pip install 'pronghorn[bench]'",
        )


def _refuse_too_many(clients: int, loads: int) -> None:
    """Raises the limit of descriptors as far as it goes, and BadSetting where that is not far enough."""
    raise_descriptor_limit()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and clients > limit - 4 * SPARE:
        raise BadSetting(
            f"--clients cannot be {clients:,}.",
            f"A process may have {limit:,} descriptors here, and the server needs one for each client.",
            "Raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd, --ulimit of a container.",
        )
