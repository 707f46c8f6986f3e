"""The page of settings, and the keywords of serve, are made from their fields; nobody has to remember to make them."""

from __future__ import annotations

from pathlib import Path

import pytest

import make_keywords
import make_settings
from pronghorn.settings import fields
from pronghorn.settings.fields import Field

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "settings.md").read_text() == make_settings.page(), "Run: make docs"


def test_the_keywords_of_serve_are_up_to_date() -> None:
    assert make_keywords.FILE.read_text() == make_keywords.source(), "Run: make docs"


@pytest.mark.parametrize("field", fields(), ids=lambda field: field.name)
def test_every_setting_is_one_row_of_it(field: Field) -> None:
    rows = [line for line in (DOCS / "settings.md").read_text().splitlines() if line.startswith(f"| `{field.flag}`")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 5
