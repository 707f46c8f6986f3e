"""`--env-file`: files of environment variables for handlers, in the form of systemd's EnvironmentFile=.

Law: no value is in any message, since these files hold secrets. A line is NAME=VALUE. Empty lines and those that begin
with # or ; are skipped, and so is `export ` before a name. What stands in "double quotes" may go on over lines, and
takes a backslash before a double quote, a backslash, $ and a backtick; 'single quotes' take all as it stands; elsewhere
a backslash takes the next character as it stands, or joins the next line. Nothing is expanded (systemd.exec(5)).

The supervisor reads them with its own rights, at the start and for each reload, so a file may be closed to the user
whom workers serve as. Where another user may change the path, root reads it as that user (trusted_paths.py).
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable

from pronghorn.errors import BadSetting
from pronghorn.settings import Settings, fields, unreadable
from pronghorn.system import trusted_paths

LONGEST = 1024 * 1024  # bytes
NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
SKIPPED = re.compile(r"[ \t]*(?:[#;].*)?(?:\n|\Z)")
PIECE = re.compile(r"""(?s:"((?:\\.|[^"\\])*)"|'([^']*)'|\\(.))|([^"'\\\n]+)""")
ESCAPED = re.compile(r'\\(?:(\n)|(["\\$`]))')


def read(settings: Settings) -> dict[str, str]:
    """The variables of all files, of which a later one wins. Raises BadSetting, which names the file and the line."""
    found: dict[str, str] = {}
    for path in settings.env_file:
        found |= parsed(_text(path), path)
    return found


def exposed(paths: Iterable[str]) -> list[str]:
    """The files that every user of the machine may read."""
    found = []
    for path in paths:
        try:
            if os.stat(path).st_mode & stat.S_IROTH:
                found.append(path)
        except OSError:
            pass
    return found


def apply(variables: dict[str, str]) -> None:
    """These variables are in the environment of this process from now on."""
    os.environ.update(variables)
    if "TZ" in variables:
        time.tzset()


def parsed(text: str, path: str) -> dict[str, str]:
    """The variables of a file's text; `path` is for messages."""
    found: dict[str, str] = {}
    settings = {field.variable for field in fields()}
    place = 0
    while place < len(text):
        if skipped := SKIPPED.match(text, place):
            place = skipped.end()
            continue
        line = text.count("\n", 0, place) + 1
        head = NAME.match(text, place)
        if head is None:
            raise BadSetting(_where(path, line), "It is no NAME=VALUE.", "A comment begins with #.")
        if head[1] in settings:
            why = f"{head[1]} is a setting of the server, and these variables are for handlers."
            raise BadSetting(_where(path, line), why, "Give it to the server by its own environment, or as a setting.")
        found[head[1]], place = _value(text, head.end(), path, line)
    return found


def _value(text: str, place: int, path: str, line: int) -> tuple[str, int]:
    """The value that begins at a place, and where the next line begins."""
    pieces: list[tuple[str, bool]] = []  # and whether blanks at the ends stay
    while place < len(text) and text[place] != "\n":
        piece = PIECE.match(text, place)
        if piece is None:
            raise BadSetting(_where(path, line), "A quote is not closed.", "Close it, or write a backslash before it.")
        double, single, escaped, plain = piece.groups()
        if double is not None:
            pieces.append((ESCAPED.sub(lambda each: each[2] or "", double), True))
        elif plain is not None:
            pieces.append((plain, False))
        else:
            pieces.append(("" if escaped == "\n" else single if escaped is None else escaped, True))
        place = piece.end()
    if pieces and not pieces[0][1]:
        pieces[0] = pieces[0][0].lstrip(" \t\r"), False
    if pieces and not pieces[-1][1]:
        pieces[-1] = pieces[-1][0].rstrip(" \t\r"), False
    return "".join(each for each, _ in pieces), place + 1


def _text(path: str) -> str:
    what = f"--env-file is {path!r}."
    try:
        raw = trusted_paths.read(path, LONGEST + 1)
    except OSError as error:
        raise BadSetting(what, unreadable.why(path, error), "Name a file that the server may read.") from None
    if len(raw) > LONGEST:
        raise BadSetting(what, f"It has more than {LONGEST:,} bytes.", "Name a file of variables.")
    if b"\0" in raw:
        raise BadSetting(what, "It holds a NUL, which no variable can.", "Name a text file.")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadSetting(what, "It is no UTF-8.", "Write it in UTF-8.") from None


def _where(path: str, line: int) -> str:
    return f"Line {line} of the --env-file {path} cannot be read."
