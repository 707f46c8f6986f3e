"""The catalogue of the server's own metrics: the name, kind, labels and meaning of each; docs/metrics.md has them all.

Law: names follow Prometheus's conventions: base units, `_total` for counters. A label has few values: a worker is its
slot, never a process id, and all generations but the serving one are `old`.
"""

from __future__ import annotations

from typing import NamedTuple

from pronghorn.scoreboard.details import DURATION, FIRST_BYTE, SERVICE
from pronghorn.scoreboard.histograms import OF_CONNECTIONS, OF_FIRST_BYTES, OF_MESSAGES

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Declared(NamedTuple):
    """One metric: its kind, its help, and the names of its labels."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


def _of(kind: str, labels: str, **helps: str) -> dict[str, Declared]:
    return {f"pronghorn_{name}": Declared(kind, help, tuple(labels.split())) for name, help in helps.items()}


SERVER = {
    **_of(GAUGE, "version build python model style name", build_info="What is running; the value is 1."),
    **_of(
        GAUGE,
        "state",
        state="1 for the state that the server is in: starting, serving, stopping (--drain-delay), draining, drained.",
    ),
    **_of(
        GAUGE,
        "",
        start_time_seconds="When the supervisor began, in seconds since 1970; an upgrade begins anew.",
        generation="The number of the generation that serves; each reload and upgrade makes one.",
        max_connections="The setting --max-connections; not there without it.",
    ),
    **_of(
        COUNTER,
        "result",
        reloads_total="Reloads, by result: done, or failed (nothing has changed then).",
        upgrades_total="Upgrades, by result: done or failed.",
    ),
    **_of(
        COUNTER,
        "",
        resizes_total="Changes of the number of workers while the server ran.",
        supervisor_faults_total="Faults of the supervisor itself, which it survived.",
        observer_failures_total="Failures of an observer: a user's, or in the supervisor the log and systemd.",
        suspected_sources_total="Sources that were suspected of having workers die (--crash-penalty).",
        certificates_refused_total="Certificates that changed on disk and could not be used.",
    ),
}
CONNECTIONS = {
    **_of(
        COUNTER,
        "",
        connections_accepted_total="Connections that were accepted.",
        connection_probes_total="Connections that ended without a byte from either side, as those of health checks.",
        connections_moved_total="Connections that went on in another worker (--on-reload handover).",
        messages_total="Messages that a framing has cut.",
        received_bytes_total="Bytes received from clients.",
        sent_bytes_total="Bytes sent to clients.",
        handler_errors_total="Exceptions that handlers raised.",
        loop_failures_total="Exceptions that reached the loop of a worker, which went on.",
        slow_callbacks_total="Times that a handler held up its worker's loop (--slow-callback).",
    ),
    **_of(COUNTER, "reason", connections_refused_total="Connections that were closed unserved, by the limit."),
    **_of(
        COUNTER,
        "reason",
        shared_limits_refused_total="Of the refused, those that this host alone would have let in (--shared-limits).",
    ),
    **_of(
        GAUGE,
        "",
        shared_limits_up="1 while limits are shared with other hosts; 0 where the broker does not answer.",
        shared_limits_hosts="Hosts that share limits, this one included.",
        shared_limits_sources="Sources of which this host tells the others.",
    ),
    **_of(COUNTER, "", shared_limits_failures_total="Times that the broker has not taken what this host has."),
    **_of(COUNTER, "reason", connections_closed_total="Connections that have ended, by the reason."),
    **_of(COUNTER, "result", tls_handshakes_total="TLS handshakes, by result: done, or why not."),
    **_of(GAUGE, "", connections_open="Connections that are open now."),
    **_of(GAUGE, "", handover_pause_max_seconds="How long a connection that moved was held up at most, so far."),
    **_of(
        HISTOGRAM,
        "",
        connection_duration_seconds="How long connections lasted that have ended.",
        first_byte_seconds="How long it took until the first byte was sent, from accept(2) on, of ended connections.",
        message_service_seconds="How long the handler took for one message; one in 64 is timed.",
    ),
}
LISTENERS = {
    **_of(
        COUNTER,
        "listener",
        listener_connections_accepted_total="Connections that were accepted, by listener.",
        listener_connections_refused_total="Connections that were closed unserved, by listener.",
        listener_messages_total="Messages that a framing has cut, by listener.",
        listener_received_bytes_total="Bytes received, by listener.",
        listener_sent_bytes_total="Bytes sent, by listener.",
        listener_handler_errors_total="Exceptions that handlers raised, by listener.",
    ),
    **_of(COUNTER, "listener reason", listener_connections_closed_total="Ended connections, by listener and reason."),
    **_of(GAUGE, "listener", listener_connections_open="Connections that are open now, by listener."),
    **_of(
        GAUGE,
        "listener address",
        listener_accept_queue_length="Connections that wait for accept(2) in the kernel's queue of an address.",
        listener_accept_queue_limit="How many that queue takes (the backlog, within somaxconn).",
    ),
    **_of(
        GAUGE,
        "listener certificate",
        tls_certificate_expiry_timestamp_seconds="When a certificate in use ends, in seconds since 1970.",
    ),
    **_of(
        COUNTER,
        "",
        kernel_listen_overflows_total="Connections that came to a full accept queue, of all programs of the host.",
        kernel_listen_drops_total="Connections that the kernel dropped at a listener, of all programs of the host.",
    ),
}
WORKERS = {
    **_of(GAUGE, "", workers_wanted="How many workers there are to be."),
    **_of(GAUGE, "state", workers="Workers by state: starting, serving, leaving, draining, orphaned."),
    **_of(COUNTER, "", worker_starts_total="Workers that were forked."),
    **_of(COUNTER, "kind", worker_exits_total="Workers that are gone, by kind: wanted, signal (killed), error."),
    **_of(
        COUNTER,
        "",
        worker_start_failures_total="Attempts at a worker that did not become ready.",
        workers_silent_total="Workers that fell silent and were killed (--worker-silence).",
        workers_doomed_total="Workers that were killed for what they told their supervisor.",
        workers_retired_total="Workers that were replaced because they were worn out.",
    ),
    **_of(
        GAUGE,
        "worker",
        worker_connections_open="Connections that are open, by worker of the serving generation.",
        worker_heartbeat_age_seconds="For how long a worker's loop has given no sign of life.",
        worker_start_time_seconds="When the worker began, in seconds since 1970.",
    ),
    **_of(
        COUNTER,
        "worker",
        worker_connections_accepted_total="Connections that this worker has accepted; from 0 on with its successor.",
        worker_messages_total="Messages that this worker has cut; from 0 on with its successor.",
    ),
    **_of(
        GAUGE,
        "generation",
        generation_workers="Workers by generation: serving, or old (those that go on after a reload).",
        generation_connections_open="Open connections by generation: serving, or old.",
    ),
}
PROCESSES = {
    **_of(
        COUNTER,
        "process worker",
        process_cpu_seconds_total="Processor time of a process: supervisor, worker (of the serving generation), admin.",
    ),
    **_of(
        GAUGE,
        "process worker",
        process_resident_memory_bytes="Memory that a process has in use.",
        process_open_descriptors="Descriptors that a process has open; not there where the system does not tell.",
        process_max_descriptors="How many descriptors a process may have.",
    ),
    **_of(COUNTER, "process", side_process_restarts_total="Times that a process beside the workers was started anew."),
    **_of(COUNTER, "log", log_records_dropped_total="Records that a log did not take, by log: error, access."),
    **_of(
        COUNTER,
        "",
        own_metrics_dropped_total="Series of a handler's own metrics that there was no room for, each time.",
    ),
}
BUS = {
    **_of(
        COUNTER,
        "",
        bus_publications_total="Messages that were published here, by handlers and by clients at the bus socket.",
        bus_deliveries_total="How many times a connection of this server has taken a message, from wherever it came.",
        bus_broker_losses_total="How often the broker of the bus went away.",
    ),
    **_of(COUNTER, "outcome", bus_questions_total="Questions that were asked here, by what became of them."),
    **_of(
        COUNTER,
        "reason",
        bus_messages_dropped_total="Messages that were dropped, since slow_connection, slow_worker or slow_broker.",
    ),
    **_of(
        GAUGE,
        "",
        bus_names="Names that connections of this server have joined.",
        bus_members="Connections of this server that have joined, once for each name.",
        bus_links="Connections to the hub: of workers that use the bus, and of clients at the bus socket.",
        bus_broker_up="1 while the broker of the bus is there, 0 while it is away; not there without a broker.",
    ),
}
METRICS: dict[str, Declared] = {**SERVER, **CONNECTIONS, **LISTENERS, **WORKERS, **PROCESSES, **BUS}
HISTOGRAMS = {
    "pronghorn_connection_duration_seconds": (DURATION, OF_CONNECTIONS),
    "pronghorn_first_byte_seconds": (FIRST_BYTE, OF_FIRST_BYTES),
    "pronghorn_message_service_seconds": (SERVICE, OF_MESSAGES),
}
