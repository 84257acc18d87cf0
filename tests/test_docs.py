"""The documentation names what there is, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tersor.backend import backend_names
from tersor.spec import pass_names

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", [*pass_names(), *backend_names()])
def test_every_pass_and_backend_has_a_place(name: str) -> None:
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if f"`{name}`" in path.read_text(encoding="utf-8")]
    assert pages, f"no page of docs/ mentions `{name}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in local if not (page.parent / link).exists()] == []
