"""The keywords of `pronghorn.serve` for type checkers: each setting, and what may be given for it.

Law: made by `make docs` from the fields of Settings. Nothing imports this file while a server runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypedDict


class Listener(TypedDict, total=False):
    """A listener with settings of its own, for `listeners` of `pronghorn.serve`; the rest is as for the server.
    `handler` is a name as the command takes it, or the handler itself; `exec` is a program and its arguments."""

    name: str
    bind: str | Iterable[str]
    handler: str | Callable[..., object]
    exec: str | Iterable[str]
    backlog: int
    keepalive: float | str
    user_timeout: float | str
    unix_mode: str
    unix_owner: str
    style: Literal["auto", "message", "protocol", "asyncio", "blocking", "program"]
    framing: str
    max_message_size: int | str
    factory: bool
    allow: str | Iterable[str]
    deny: str | Iterable[str]
    proxy_from: str | Iterable[str]
    max_connections: int | None
    max_connections_per_source: int
    accept_rate: int
    accept_rate_per_source: int
    message_rate_per_source: int
    handshake_timeout: float | str
    idle_timeout: float | str
    message_timeout: float | str
    write_timeout: float | str
    max_connection_age: float | str
    write_high_water: int | str
    max_write_buffer: int | str
    tls: Literal["on", "off", "starttls"]
    tls_cert: str | Iterable[str]
    tls_key: str | Iterable[str]
    tls_key_pass_file: str
    tls_key_pass_env: str
    tls_min_version: Literal["1.2", "1.3"]
    tls_client_ca: str
    tls_client_cert: Literal["required", "optional", "none"]
    tls_alpn: str | Iterable[str]
    tls_max_hello: int | str
    tls_watch: bool


class Keywords(TypedDict, total=False):
    """Each setting as a keyword. A duration or a size may be a text with a unit (`30s`, `64KiB`)."""

    listeners: Iterable[Listener]
    bind: str | Iterable[str]
    backlog: int
    reuse_address: bool
    reuse_port: bool
    keepalive: float | str
    user_timeout: float | str
    unix_mode: str
    unix_owner: str
    model: Literal[
        "auto",
        "iterative",
        "fork",
        "prefork",
        "thread",
        "pool",
        "select",
        "poll",
        "epoll",
        "kqueue",
        "asyncio",
        "uvloop",
        "gevent",
    ]
    workers: int | Literal["auto"] | None
    pool_size: int
    max_threads: int
    max_children: int
    max_process_cpu: float | str
    max_process_memory: int | str
    style: Literal["auto", "message", "protocol", "asyncio", "blocking", "program"]
    framing: str
    max_message_size: int | str
    factory: bool
    drain_timeout: float | str
    drain_quiet: float | str
    drain_spread: float | str
    on_reload: Literal["keep", "spread", "handover"]
    reload_drain_timeout: float | str
    max_generations: int
    start_timeout: float | str
    worker_silence: float | str
    slow_callback: float | str
    max_connections_per_worker: int
    max_worker_age: float | str
    max_worker_memory: int | str
    reload: bool
    allow: str | Iterable[str]
    deny: str | Iterable[str]
    proxy_from: str | Iterable[str]
    max_connections: int | None
    max_connections_per_source: int
    accept_rate: int
    accept_rate_per_source: int
    shared_limits: Literal["off", "bus"]
    message_rate_per_source: int
    crash_penalty: float | str
    handshake_timeout: float | str
    idle_timeout: float | str
    message_timeout: float | str
    write_timeout: float | str
    max_connection_age: float | str
    write_high_water: int | str
    max_write_buffer: int | str
    tls: Literal["on", "off", "starttls"]
    tls_cert: str | Iterable[str]
    tls_key: str | Iterable[str]
    tls_key_pass_file: str
    tls_key_pass_env: str
    tls_min_version: Literal["1.2", "1.3"]
    tls_client_ca: str
    tls_client_cert: Literal["required", "optional", "none"]
    tls_alpn: str | Iterable[str]
    tls_max_hello: int | str
    tls_watch: bool
    name: str
    control_socket: str
    control_group: str
    user: str
    group: str
    new_privileges: bool
    umask: str
    chdir: str
    preload: str | Iterable[str]
    env_file: str | Iterable[str]
    pid_file: str
    log_file: str
    log_format: Literal["text", "json"]
    log_config: str
    access_log: str
    access_log_format: str
    log_level: Literal["debug", "info", "warning", "error"]
    observer: str | Iterable[str]
    statsd: str
    statsd_prefix: str
    statsd_tags: str
    otel: bool
    admin: str | Iterable[str]
    admin_write: bool
    admin_token_file: str
    agent_check: str | Iterable[str]
    agent_check_drain: bool
    drain_delay: float | str
    bus: str
    bus_password_file: str
    bus_required: bool
    bus_socket: str
    bus_max_message: int | str
    bus_slow: Literal["close", "drop-oldest"]
