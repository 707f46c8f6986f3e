"""Why a file that a setting names cannot be read: for a lack of rights, with the user and what that user may not do."""

from __future__ import annotations

import errno
import os


def why(path: str, error: OSError) -> str:
    """The sentence for an error message. For EACCES it names this process's user, and the first folder on the way to
    `path` that the user may not enter, or says that it is the file itself (path_resolution(7))."""
    if error.errno != errno.EACCES:
        return f"{error.strerror}."
    effective = os.access in os.supports_effective_ids
    folder, closed = os.path.dirname(os.path.abspath(path)), ""
    while True:
        if not os.access(folder, os.X_OK, effective_ids=effective):
            closed = folder
        if folder == (folder := os.path.dirname(folder)):
            break
    return f"{error.strerror}: user {_user()} may not {f'enter the folder {closed}' if closed else 'read it'}."


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
