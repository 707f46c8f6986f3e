"""Every setting: declared once, converted, checked, and wrong values told in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronghorn.errors import BadSetting, nearest
from pronghorn.settings import Settings, fields, settle
from pronghorn.settings.bus import CLOSE, DROP_OLDEST
from pronghorn.settings.fields import Field
from pronghorn.settings.handler import STYLES
from pronghorn.settings.lifecycle import ON_RELOAD
from pronghorn.settings.logs import LOG_FORMATS, LOG_LEVELS
from pronghorn.settings.model import MODELS
from pronghorn.settings.tls import CLIENT_CERTIFICATES, TLS_VERSIONS, TLS_WHEN
from pronghorn.settings.values import UNITS, quantity

EVERY = pytest.mark.parametrize("field", fields(), ids=lambda field: field.name)


def told(values: dict[str, Any], origins: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(BadSetting) as caught:
        settle(values, origins)
    return [caught.value.what, caught.value.why, caught.value.hint]


def test_nothing_given_is_the_defaults() -> None:
    assert settle({}) == Settings()


@EVERY
def test_every_setting_is_described(field: Field) -> None:
    assert field.help.endswith(".") and field.help[0].isupper()
    assert field.panel
    assert field.flag == "--" + field.name.replace("_", "-")
    assert field.variable == f"PRONGHORN_{field.name.upper()}"


@EVERY
def test_every_panel_is_a_class_in_a_file_of_its_name(field: Field) -> None:
    (panel,) = (each for each in Settings.__mro__ if each.__name__ == field.panel)
    assert panel.__module__ == f"pronghorn.settings.{field.panel.lower()}"


@EVERY
def test_a_default_survives_being_shown_and_taken_back(field: Field) -> None:
    shown = field.shown(field.default)
    if shown:
        assert getattr(settle({field.name: shown}), field.name) == field.default


@EVERY
def test_a_nonsense_object_is_refused_by_every_setting(field: Field) -> None:
    what, why, hint = told({field.name: object}, {field.name: "the origin"})
    assert what.startswith("the origin cannot be ")
    assert field.takes in why
    assert hint


def test_settings_cross_a_process_boundary_as_json() -> None:
    settings = settle({"workers": 3, "bind": ["[::1]:0", "unix:/run/x"], "drain_timeout": "1m"})
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("bind", "a:1, b:2", ("a:1", "b:2")),
        ("allow", [], ()),
        ("deny", "10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
        ("proxy_from", "unix", ("unix",)),
        ("unix_mode", "0660", "0660"),
        ("bind", ["unix:/with,comma"], ("unix:/with,comma",)),
        ("workers", "4", 4),
        ("workers", None, None),
        ("drain_timeout", "500ms", 0.5),
        ("drain_timeout", ".5s", 0.5),
        ("drain_timeout", "1.5m", 90.0),
        ("drain_timeout", 2, 2.0),
        ("drain_timeout", "0", 0.0),
        ("max_message_size", "64KiB", 65536),
        ("max_message_size", "10 MB", 10_000_000),
        ("max_message_size", "1.5k", 1500),
        ("reuse_port", "yes", True),
        ("reuse_port", "Off", False),
        ("reuse_address", False, False),
        ("model", "epoll", "epoll"),
        ("framing", "delimited(,)", "delimited(,)"),
    ],
)
def test_right_values(name: str, text: Any, value: Any) -> None:
    assert getattr(settle({name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("workers", "many", "It takes a whole number, at least 1, or auto."),
        ("workers", "0", "It takes a whole number, at least 1, or auto."),
        ("workers", "1.5", "It takes a whole number, at least 1, or auto."),
        ("workers", "2k", "It takes a whole number, at least 1, or auto."),
        ("workers", "9" * 400, "It takes a whole number, at least 1, or auto."),
        ("workers", True, "It takes a whole number, at least 1, or auto."),
        ("pool_size", None, "It takes a whole number, at least 1."),
        ("backlog", 2**31, "It takes a whole number, at least 0, at most 2147483647."),
        ("bind", "", "It takes one ADDRESS or more, separated by commas."),
        ("bind", [], "It takes one ADDRESS or more, separated by commas."),
        ("allow", "", "It takes one NETWORK or more, separated by commas."),
        ("bind", ["a:1", ""], "It takes one ADDRESS or more, separated by commas."),
        ("bind", 8000, "It takes one ADDRESS or more, separated by commas."),
        ("allow", "10.0.0.0/33", "'10.0.0.0/33' has no prefix length from 0 to 32. It takes one NETWORK or more, sep"),
        ("deny", "10.0.0.1/8", "'10.0.0.1/8' has bits beyond its prefix: write 10.0.0.0/8. It takes one NETWORK or m"),
        ("allow", "unix", "'unix' is no address in figures. It takes one NETWORK or more, separated by commas."),
        ("proxy_from", "unix,lo", "'lo' is no address in figures. It takes one NETWORK or more, separated by commas."),
        ("unix_mode", "rw-rw----", "'rw-rw----' is no mode. It takes three figures from 0 to 7, such as 027."),
        ("unix_mode", "888", "'888' is no mode. It takes three figures from 0 to 7, such as 027."),
        ("unix_mode", 660, "It takes three figures from 0 to 7, such as 027."),
        ("reuse_port", "maybe", "It takes yes or no."),
        ("reuse_port", 1, "It takes yes or no."),
        ("framing", 4, "It takes text."),
    ],
)
def test_wrong_values(name: str, value: Any, why: str) -> None:
    assert told({name: value})[1].startswith(why)


def test_a_comma_parts_networks_and_names_wherever_they_are_given_and_no_paths() -> None:
    given = {"allow": ["10.0.0.0/8, 192.0.2.1", "::1"], "observer": ("a:b,c.py:d",), "env_file": ["a,b"]}
    settings = settle(given)
    assert settings.allow == ("10.0.0.0/8", "192.0.2.1", "::1")
    assert (settings.observer, settings.env_file) == (("a:b", "c.py:d"), ("a,b",))


@pytest.mark.parametrize("value", ["5x", "-1", "", "s", "1e3", "1 2", float("inf"), float("nan"), -0.5])
def test_wrong_durations(value: Any) -> None:
    assert told({"drain_timeout": value})[1].startswith("It takes a duration (500ms, 30s, 2m, 1h;")


def test_a_bound_that_excludes_its_limit() -> None:
    assert told({"start_timeout": 0})[1].endswith("more than 0.")


@pytest.mark.parametrize("value", ["5x", "1.0001", "0", "1tib", 0])
def test_wrong_sizes(value: Any) -> None:
    assert told({"max_message_size": value})[1].startswith("It takes a size (65536, 64KiB,")


def test_the_source_of_a_wrong_value_is_named() -> None:
    assert told({"workers": "x"})[0] == "--workers cannot be 'x'."
    assert told({"workers": "x"}, {"workers": "PRONGHORN_WORKERS"})[0] == "PRONGHORN_WORKERS cannot be 'x'."


def test_typos_get_the_nearest_word() -> None:
    assert told({"model": "epol"})[2] == "Did you mean 'epoll'?"
    assert told({"model": "EPOLL"})[2] == "Did you mean 'epoll'?"
    assert told({"model": "zzz"})[2].startswith("--model: ")
    assert told({"wrokers": 1}) == ["There is no setting 'wrokers'.", "", "Did you mean 'workers'?"]
    assert nearest("qqq", ["one", "two"]) == "Choose one of: one, two."
    assert nearest("kill", ["skill-level", "kill-connection"]) == "Did you mean 'kill-connection'?"


def test_choices_are_those_of_the_fields() -> None:
    choices = {field.name: field.choices for field in fields() if field.choices}
    log = {"log_level": LOG_LEVELS, "log_format": LOG_FORMATS}
    log |= {"tls_client_cert": CLIENT_CERTIFICATES, "tls_min_version": TLS_VERSIONS}
    log |= {"bus_slow": (CLOSE, DROP_OLDEST), "shared_limits": ("off", "bus")}
    assert choices == {"model": MODELS, "style": STYLES, "tls": TLS_WHEN, "on_reload": ON_RELOAD, **log}


def test_models_are_those_that_have_a_page() -> None:
    from pronghorn.models import registry

    assert list(MODELS) == ["auto", *(page.name for page in registry.pages())]


@pytest.mark.parametrize(("model", "workers"), [("prefork", 8), ("epoll", 1), ("fork", 1)])
def test_the_number_of_workers(model: str, workers: int) -> None:
    assert Settings().effective_workers(model) == workers
    assert settle({"workers": 3}).effective_workers(model) == 3


def test_a_quantity_names_its_units() -> None:
    with pytest.raises(ValueError, match=r"^expected a number, with or without a unit \(ms, s, m, h\)$"):
        quantity("1 day", "time")
    with pytest.raises(ValueError, match=r"^expected a number$"):
        quantity("x", "")


@given(st.integers(1, 10**15), st.sampled_from([*UNITS["size"]]), st.sampled_from(["", " "]))
def test_sizes_are_exact(number: int, unit: str, space: str) -> None:
    if number * UNITS["size"][unit] < 2**53:
        assert settle({"max_message_size": f"{number}{space}{unit}"}).max_message_size == number * UNITS["size"][unit]


@given(
    st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary()), st.sampled_from(fields())
)
def test_whatever_is_given_is_taken_or_refused(value: Any, field: Field) -> None:
    try:
        settings = settle({field.name: value})
    except BadSetting as error:
        assert error.what and error.why and error.hint
    else:
        assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings
