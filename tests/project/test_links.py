"""Links and pictures of the README, the docs and their neighbours lead somewhere."""

import re
from pathlib import Path

import pytest
from checkout import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """Text of a page without its blocks and spans of code."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(path: Path) -> list[str]:
    """Targets of a page's links and pictures that lie in this repository."""
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose(path))
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose(path), re.MULTILINE)
    targets += re.findall(r"<(?:img|a)\s[^>]*?(?:src|href)=[\"']([^\"']+)", prose(path))
    return [target for target in targets if not re.match(r"[a-z][a-z+.-]*:", target)]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^(```+).*?^\1", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        numbers = ["", *(f"-{n}" for n in range(1, 100))]
        found.add(next(slug + number for number in numbers if slug + number not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    dead = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        leads = path.is_relative_to(ROOT) and path.exists()
        if not leads or (anchor and anchor not in anchors(path)):
            dead.append(target)
    assert not dead, f"{relative(page)} links to {dead}"


def test_the_index_lists_every_page() -> None:
    """Records of benchmarks need not be there: a machine with a GPU writes more of them."""
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / target).resolve() for target in links(index)}
    pages = {page for page in PAGES if page.is_relative_to(index.parent) and page != index}
    assert {page for page in pages - listed if "benchmarks" not in page.parts} == set()


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    assert set((ROOT / "docs" / "pictures").iterdir()) <= shown


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` (c)!\n[x](other.md#a) ![y](z.png) [w](https://host/x.md) `[v](code.md)`\n"
        "```\n[u](block.md)\n```\n# A b c\n"
    )
    assert links(page) == ["other.md#a", "z.png"]
    assert anchors(page) == {"a-b-c", "a-b-c-1"}
