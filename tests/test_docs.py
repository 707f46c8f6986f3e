"""The documents name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [each for each in (ROOT / "docs").glob("*.md") if each.name != "house.md"] + [*ROOT.glob("[CRS]*.md")]
FOLDERS = (ROOT / "src" / "pronghorn", ROOT, ROOT / "docs")
NAMED = re.compile(r"`(\w+(?:/\w+)*/|(?:\w+/)+\w+\.py|(?:framing|errors|events|peers|server)\.py)`")
LINKED = re.compile(r"\]\(([^):#]+)[^):]*\)")


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = {each for each in NAMED.findall(text) if not any((folder / each).exists() for folder in FOLDERS)}
    linked = {each for each in LINKED.findall(text) if not (page.parent / each).exists()}
    assert not named | linked


def test_twenty_questions_are_answered() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("Where do I open")[2].partition("\n## ")[0]
    answers = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(answers) >= 20
    assert all(NAMED.search(each) for each in answers)
