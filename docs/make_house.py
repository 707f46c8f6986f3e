"""Writes docs/house.md, from the source and the order in tests/house.py: `make docs`. A test compares the two."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from house import DEPTH, ORDER, SOURCE, files, name, package, packages, tree
from make_settings import cell, rows

PAGE = Path(__file__).with_name("house.md")
HEAD = """\
# The files, from the top down

<!-- Made by `make docs`: the order stands in tests/house.py, the words are the first lines of the files -->

Every file of `src/pronghorn/`. A package, or a file beside the packages, imports only what stands below it. What the
packages may do and what they must not know is in [the plan of the house](design.md).

"""


def page() -> str:
    """The whole page."""
    sections = []
    for line in ORDER:
        beside = [each for each in line.split() if (SOURCE / f"{each}.py").is_file()]
        sections += [section(each) for each in line.split() if each not in beside]
        if beside:
            title = ", ".join(f"{each}.py" for each in beside)
            sections.append(f"## {title}\n\n{table(SOURCE / f'{each}.py' for each in beside)}")
    return HEAD + picture() + "\n" + "\n".join(sections)


def section(which: str) -> str:
    """One package: what it is, what it imports, and its files."""
    inside = [path for path in files() if package(path) == which]
    below = ", ".join(each for each in order() if each in imported()[which])
    says = textwrap.fill(f"{first_line(SOURCE / which / '__init__.py')} Imports {below}.", 120)
    return f"## {which}/\n\n{says}\n\n{table(each for each in inside if tree(each).body[1:])}"


def table(paths: Iterable[Path]) -> str:
    return rows(("file", "is"), *((f"`{name(path)}`", cell(first_line(path))) for path in paths))


def first_line(path: Path) -> str:
    return (ast.get_docstring(tree(path)) or "").partition("\n")[0]


def order() -> list[str]:
    return " ".join(ORDER).split()


@cache
def imported() -> dict[str, set[str]]:
    """What each package, or file beside the packages, imports of those below it."""
    graph: dict[str, set[str]] = {each: set() for each in DEPTH}
    for path in files():
        graph[package(path)] |= {each for each in packages(path) if DEPTH[each] > DEPTH[package(path)]}
    return graph


def picture() -> str:
    """An arrow for each import that no way over other arrows leads to already."""
    graph, reached = imported(), dict[str, set[str]]()
    for each in reversed(order()):
        reached[each] = graph[each].union(*(reached[below] for below in graph[each]))
    arrows = [
        f"    {start}[{label(start)}] --> {end}[{label(end)}]"
        for start in order()
        for end in order()
        if end in graph[start] and not any(end in reached[other] for other in graph[start])
    ]
    return "\n".join(["```mermaid", "flowchart TD", *arrows, "```"]) + "\n"


def label(each: str) -> str:
    return f'"{each}.py"' if (SOURCE / f"{each}.py").is_file() else f'"{each}/"'


if __name__ == "__main__":
    PAGE.write_text(page())
