"""The command line: what it understands, what it says when it does not, and what it hands over."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pronghorn
import pronghorn.testing
from pronghorn import settings
from pronghorn.builds import build
from pronghorn.cli import main
from pronghorn.cli.layers import split, strays
from pronghorn.models import registry
from pronghorn.settings import fields

ROOT = Path(__file__).parents[2]
PRONGHORN = [sys.executable, "-m", "pronghorn"]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in settings.fields():
        monkeypatch.delenv(field.variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What `serve` would have become, instead of becoming it."""
    boots: list[Any] = []
    monkeypatch.setattr("pronghorn.cli.serve.become_supervisor", boots.append)
    yield boots


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PRONGHORN, *arguments], capture_output=True, text=True, timeout=30, **options)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that a wrong command line gets; it always ends with 2, and says nothing on standard output."""
    assert main.run(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    return errors.splitlines()


def test_alone_it_is_a_quick_start() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 16
    assert max(map(len, lines)) <= 80
    for command in main.COMMANDS:
        assert (
            f"pronghorn {command}" in done.stdout or command in lines[-4].partition("also")[2].replace(",", "").split()
        )


@pytest.mark.slow
def test_a_closed_output_is_no_error() -> None:
    for command in ("models", "config"):
        closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *PRONGHORN, command], capture_output=True, timeout=30)
        assert (closed.returncode, closed.stderr) == (0, b"")


def test_what_an_encoding_does_not_have_is_shown_as_a_question_mark() -> None:
    variables = {**os.environ, "PYTHONIOENCODING": "ascii", "PRONGHORN_NAME": "\u30b7\u30e7\u30c3\u30d7"}
    done = subprocess.run([*PRONGHORN, "config"], capture_output=True, timeout=30, env=variables)
    assert done.returncode == 0 and b"????" in done.stdout


def test_version() -> None:
    assert run("--version").stdout == f"pronghorn {pronghorn.__version__} ({build()})\n"


@pytest.mark.parametrize(
    "command", [(), *((each,) for each in main.COMMANDS)], ids=lambda words: " ".join(words) or "-"
)
def test_help_fits_the_terminal_and_has_no_colours_in_a_pipe(command: tuple[str, ...]) -> None:
    done = run(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_imports_no_server() -> None:
    """So that it is there at once."""
    command = (
        "import sys; from pronghorn.cli.main import run; run(['serve', '-h']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=30, check=True)
    heavy = {"pronghorn.server", "pronghorn.handlers", "pronghorn.models", "asyncio", "subprocess", "prompt_toolkit"}
    assert not heavy & set(done.stderr.split())


@pytest.mark.parametrize("field", settings.fields(), ids=lambda field: field.name)
def test_help_of_serve_tells_every_setting(field: fields.Field, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["serve", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert field.flag in words
    assert f"[${field.variable}]" in words
    assert f"{field.panel}:" in words
    assert field.short in words
    for choice in field.choices:
        assert choice in words


def test_help_of_check_and_config_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("check", "config"):
        assert main.run([command, "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) < 40
        assert "Every option of serve is taken here too" in " ".join(lines)


def test_help_of_serve_explains_its_kinds_of_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["serve", "--help"]) == 0
    words = capsys.readouterr().out
    for kind in {field.metavar for field in settings.fields()} & {"DURATION", "SIZE", "NETWORK", "RULE", "MODE"}:
        assert f"\n{kind} is " in words


def test_panels_have_names_of_their_own_and_stand_together() -> None:
    panels = [field.panel for field in settings.fields()]
    blocks = [panel for before, panel in zip(["", *panels], panels, strict=False) if panel != before]
    assert len(blocks) == len(set(blocks))
    assert not [(one, other) for one in blocks for other in blocks if one != other and one in other]


def test_typos_in_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "serv") == ["Error: There is no command 'serv'.", "Did you mean 'serve'?"]
    assert complaint(capsys, "mine.py:handle")[1] == "To serve that handler: pronghorn serve mine.py:handle"
    assert complaint(capsys, "zzz")[1] == f"Choose one of: {', '.join(main.COMMANDS)}."


def test_typos_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    what, try_help = complaint(capsys, "serve", "--wrokers", "2")
    assert "--wrokers" in what and "--workers" in what
    assert try_help == "Try 'pronghorn serve --help'."
    assert complaint(capsys, "serve", "--bind")[0] == "Error: Option '--bind' requires an argument."
    assert "extra" in complaint(capsys, "serve", "one", "two")[0]


def test_a_wrong_setting_is_three_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert complaint(capsys, "serve", "-w", "many") == [
        "Error: --workers cannot be 'many'.",
        "It takes a whole number, at least 1, or auto.",
        "--workers: Worker processes. Without this, 1; under prefork, 8. auto goes by the processors it may use.",
    ]
    monkeypatch.setenv("PRONGHORN_REUSE_PORT", "maybe")
    assert complaint(capsys, "serve")[:2] == ["Error: PRONGHORN_REUSE_PORT cannot be 'maybe'.", "It takes yes or no."]


def test_settings_come_from_the_line_then_the_environment(
    handed_over: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRONGHORN_BIND", "127.0.0.1:1, [::1]:2")
    monkeypatch.setenv("PRONGHORN_WORKERS", "5")
    monkeypatch.setenv("PRONGHORN_REUSE_PORT", "yes")
    monkeypatch.setenv("PRONGHORN_POOL_SIZE", "")
    assert main.run(["serve", "--workers", "2", "--no-reuse-address", "--drain-timeout", "1m"]) == 0
    boot = handed_over[0]
    assert boot.layers.settle().settings == settings.settle(
        {
            "bind": ("127.0.0.1:1", "[::1]:2"),
            "workers": 2,
            "reuse_port": True,
            "reuse_address": False,
            "drain_timeout": 60.0,
        }
    )
    assert (boot.layers.settle().source.name, boot.layers.settle().source.command) == ("upper", ())


def test_bind_may_be_repeated(handed_over: list[Any]) -> None:
    main.run(["serve", "-b", ":1", "-b", "unix:/with,comma", "module:handler"])
    assert handed_over[0].layers.settle().settings.bind == (":1", "unix:/with,comma")
    assert handed_over[0].layers.source.name == "module:handler"


def test_exec_takes_the_rest_of_the_line(handed_over: list[Any]) -> None:
    main.run(["serve", "--model", "fork", "--exec", "sh", "-c", "cat", "--", "--model", "x", "--help", "--exec"])
    assert handed_over[0].layers.settle().settings.model == "fork"
    assert handed_over[0].layers.source.command == ("sh", "-c", "cat", "--", "--model", "x", "--help", "--exec")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (["-w", "1"], (["-w", "1"], None)),
        (["--exec"], ([], ())),
        (["a", "--exec", "b"], (["a"], ("b",))),
        (["--exec=tr", "a", "b"], ([], ("tr", "a", "b"))),
        (["--", "--exec"], (["--", "--exec"], None)),
    ],
)
def test_where_the_line_is_split(line: list[str], parts: object) -> None:
    assert split(line) == parts


def test_exec_and_a_handler_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "serve", "echo", "--exec", "cat", "-n") == [
        "Error: There are two handlers: echo and --exec cat -n.",
        "A server has one handler.",
        "Leave out echo, or --exec and all that follows it.",
    ]
    assert complaint(capsys, "serve", "--exec")[0] == "Error: --exec names no program."
    assert complaint(capsys, "serve", "--exec=")[0] == "Error: --exec names no program."


def test_names_that_are_no_text_are_refused() -> None:
    done = subprocess.run([*PRONGHORN, b"serve", b"--exec", b"cat", b"\xff"], capture_output=True, timeout=30)
    assert done.returncode == 2
    assert b"is not UTF-8" in done.stderr and b"Traceback" not in done.stderr


def becomes(*arguments: str, flags: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
    """The process that `serve` turns into, stopped short: how it was started, and whether it finds the package."""
    stand_in = (
        "import os, runpy, sys\n"
        "def execv(path, arguments):\n"
        "    check = 'import sys, pronghorn.server; print(*sys.modules)'\n"
        "    flags = arguments[1 : arguments.index('-m')]\n"
        "    import json, subprocess\n"
        "    done = subprocess.run([path, *flags, '-c', check], capture_output=True, text=True)\n"
        "    boot = os.read(int(arguments[-1]), 10**6).decode()\n"
        "    print(json.dumps({'arguments': arguments, 'boot': boot, 'modules': done.stdout, 'errors': done.stderr,\n"
        "                      'inheritable': os.get_inheritable(int(arguments[-1]))}))\n"
        "    sys.exit(0)\n"
        "os.execv = execv\n"
        "sys.argv[0] = 'pronghorn'\n"
        "import pronghorn.cli.main\n"
        "pronghorn.cli.main.main()\n"
    )
    done = subprocess.run(
        [sys.executable, *flags, "-c", stand_in, "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        **options,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_variable_that_is_nearly_a_settings_is_told_of(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("PRONGHORN_WROKERS", "3")
    monkeypatch.setenv("PRONGHORN_PORT_8000_TCP_ADDR", "10.0.0.1")  # as Kubernetes makes them
    assert main.run(["config"]) == 0
    warning = "Warning: nothing reads the variable PRONGHORN_WROKERS. Did you mean PRONGHORN_WORKERS?\n"
    assert capsys.readouterr().err == warning
    names = (
        "PRONGHORN_PORT PRONGHORN_SERVICE_HOST PRONGHORN_NAME PRONGHORN_CONFIG PRONGHORN_HOME PRONGHORN_ HOME WORKER"
    )
    assert strays(names.split()) == []
    assert strays(["PRONGHORN_CONFG"]) == [("PRONGHORN_CONFG", "PRONGHORN_CONFIG")]


def test_an_interpreter_that_cannot_be_started_is_told() -> None:
    code = (
        "import sys; import pronghorn.cli.main; from pronghorn.cli import serve\n"
        "sys.executable, sys.argv = '/nowhere/python', ['pronghorn', 'serve']\n"
        "pronghorn.cli.main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "/nowhere/python, cannot be started: No such file or directory." in done.stderr


def test_it_becomes_a_lean_interpreter() -> None:
    result = becomes("echo", "-w", "2", flags=("-X", "utf8", "-W", "default"))
    assert result["arguments"][0] == sys.executable
    assert result["arguments"][-3:-1] == ["-m", "pronghorn.server"]
    assert {"-P", "-Wdefault", "utf8"} <= set(result["arguments"])
    assert result["inheritable"]
    assert '"workers":"2"' in result["boot"] and '"name":"echo"' in result["boot"]
    assert not {"click", "rich", "rich_click"} & set(result["modules"].split()), result["errors"]


def test_what_it_becomes_finds_the_package_in_the_working_folder() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = becomes(cwd=ROOT / "src", env=environment)
    assert result["errors"] == ""
    assert "pronghorn.server" in result["modules"].split()


def test_closed_standard_streams_are_no_trap() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m pronghorn serve nosuch <&- >&-', sys.executable], capture_output=True, timeout=30
    )
    assert done.returncode == 4
    assert b"There is no built-in handler 'nosuch'." in done.stderr and b"Traceback" not in done.stderr


def test_a_full_disk_is_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*PRONGHORN, "models"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device.\n")


def test_models_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["models"]) == 0
    output = capsys.readouterr().out
    words = " ".join(output.split())
    assert max(map(len, output.splitlines())) <= 80
    for model in registry.pages():
        assert re.search(rf"^{model.name} ", output, re.MULTILINE)
        assert model.purpose.split()[0] in words


def test_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in rows] == list(registry.MODELS)
    for each, model in zip(rows, registry.pages(), strict=True):
        assert each == {
            "name": model.name,
            "purpose": model.purpose,
            "cost": model.cost,
            "styles": registry.styles(model),
            "missing": model.missing(),
        }


def test_a_table_does_not_mind_a_reader_that_leaves() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m pronghorn models | head -n 1', sys.executable],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("Model")
    assert done.stderr == ""


def test_public_names_are_there() -> None:
    for name in pronghorn.__all__:
        assert getattr(pronghorn, name) is not None
    assert set(pronghorn.__all__) <= set(dir(pronghorn))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pronghorn.nonsense  # noqa: B018


@pytest.mark.parametrize("package", [pronghorn, pronghorn.testing], ids=lambda package: package.__name__)
def test_type_checkers_see_the_public_names_where_they_are(package: ModuleType) -> None:
    tree = ast.parse(Path(package.__file__ or "").read_text())
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    typed = {each.asname: node.module for node in imports for each in node.names if each.asname}
    assert sorted(typed) == [name for name in package.__all__ if name != "__version__"]
    for name, module in typed.items():
        assert getattr(importlib.import_module(module or ""), name) is getattr(package, name)


README = (ROOT / "README.md").read_text()


def test_the_model_table_of_the_readme_is_that_of_the_pages() -> None:
    styles = {model.name: registry.styles(model) for model in registry.pages()}
    every = max(styles.values(), key=len)
    rows = [
        f"| `{model.name}` | {model.purpose} | {model.cost} | "
        f"{'all' if styles[model.name] == every else ', '.join(styles[model.name])} |"
        for model in registry.pages()
    ]
    table = "\n".join(rows)
    assert table in README, f"the table in README.md should be:\n{table}"


def test_the_handlers_of_the_readme_are_of_the_styles_it_says() -> None:
    block = re.search(r"```python\n(import pronghorn.*?)```", README, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block[1]), names)
    from pronghorn.handlers.recognise import recognise

    found = {
        name: recognise(names[name], settings.Settings(), name).facts.style for name in ("shout", "Echo", "copy", "ask")
    }
    assert found == {"shout": "message", "Echo": "protocol", "copy": "asyncio", "ask": "blocking"}
