"""How this installation was built: pure Python, or with its hot modules compiled (docs/compiled.md)."""

from __future__ import annotations

import json
import os
from importlib.machinery import EXTENSION_SUFFIXES

HERE = os.path.dirname(os.path.abspath(__file__))
NOTE = os.path.join(HERE, "compiled.json")
PURE = "pure Python"


def build(note: str = NOTE) -> str:
    """`compiled by Cython 3.3.1`, or `pure Python`: what this interpreter takes of the modules that may be compiled."""
    try:
        with open(note) as file:
            told = json.load(file)
    except OSError:
        return PURE
    packages = os.path.dirname(os.path.dirname(note))
    for module in told["modules"]:
        path = os.path.join(packages, *module.split("."))
        if not any(os.path.exists(path + suffix) for suffix in EXTENSION_SUFFIXES):
            return PURE
    return f"compiled by {told['by']}"
