"""The documents as the tests see them: pages, their fenced blocks, sections and tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = (README, *sorted(DOCS.glob("*.md")))

_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    @property
    def name(self) -> str:
        """What a test is called that is about this block."""
        return f"{self.page.stem}: {self.text.strip().splitlines()[0][:60]}"

    @property
    def file(self) -> str | None:
        """The file that the reader is to write, if the block begins with its name: `# feeds.py`."""
        found = re.match(r"# ([\w.-]+\.\w+)\n", self.text)
        return found[1] if found else None


def page(name: str) -> str:
    """Return a page of docs/."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(language: str, *pages: Path) -> list[Block]:
    """Return the fenced blocks of a language, in the order of the pages."""
    return [
        Block(each, language, "\n".join(line.removeprefix(indent) for line in text.splitlines()) + "\n")
        for each in pages or PAGES
        for indent, found, text in _FENCE.findall(each.read_text(encoding="utf-8"))
        if found == language
    ]


def sections(text: str, level: int = 2) -> dict[str, str]:
    """Return what stands under each heading of a level, deeper headings included."""
    mark = "#" * level
    parts = re.split(rf"^#{{1,{level}}} (.+)$", re.sub(_FENCE, "", text), flags=re.MULTILINE)
    known = set(re.findall(rf"^{mark} (.+)$", text, re.MULTILINE))
    return {title: body for title, body in zip(parts[1::2], parts[2::2], strict=True) if title in known}


def table(text: str, first: str) -> list[tuple[str, ...]]:
    """Return the rows of the one table whose first column has this heading."""
    found = re.findall(rf"^\| {first} \|.*\n\|[-|: ]+\|\n((?:\|.*\n?)+)", text, re.MULTILINE)
    assert len(found) == 1, f"{len(found)} tables begin with a column {first}"
    return [tuple(cell.strip() for cell in row.strip("| ").split(" | ")) for row in found[0].strip().splitlines()]


def code(cell: str) -> list[str]:
    """Return what a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def names(text: str, first: str) -> list[str]:
    """Return all that the first column of a table has in backticks."""
    return [name for row in table(text, first) for name in code(row[0])]
