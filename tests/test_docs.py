"""The documentation keeps its word: its programs run and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_PROGRAMS = [path for path in PAGES if BLOCK.search(path.read_text(encoding="utf-8"))]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_pages_exist():
    assert {"README.md", "docs/index.md"} <= {page_id(path) for path in PAGES}


@pytest.mark.parametrize(
    "path", [path for path in PAGES if BLOCK.search(path.read_text(encoding="utf-8"))], ids=page_id
)
def test_programs_run(path, tmp_path, monkeypatch):
    """The blocks of one page run one after another in one namespace."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__page__"}
    text = path.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        lines_before = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines_before + block.group(1), str(path), "exec"), namespace)


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_somewhere(path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page_id(path)} links to {target}."
