"""Links in the documents lead somewhere, and what they call a test is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROMISES = [f"P{number}" for number in range(1, 13)]


def links(document: Path) -> list[tuple[str, str]]:
    """(text, target) of every link, code blocks left out."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    return re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", prose)


def anchors(document: Path) -> set[str]:
    """The anchors of a document: of its headings, and explicit ones."""
    written = document.read_text()
    headings = re.findall(r"^#+ (.+)$", written, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', written))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for text, target in links(document):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"[{text}]({target})"
        if anchor:
            assert anchor in anchors(found), f"[{text}]({target})"


def test_a_link_with_the_name_of_a_test_leads_to_it() -> None:
    for document in DOCUMENTS:
        for text, target in links(document):
            name = text.strip("`")
            if name.startswith(("test_", "Test")):
                code = (document.parent / target).resolve().read_text()
                assert re.search(rf"(def|class) {name}\b", code), f"{document.name}: [{text}]({target})"


def test_each_promise_is_explained_and_linked_to_tests() -> None:
    guarantees = (ROOT / "docs/guarantees.md").read_text()
    sections = dict(re.findall(r'<a id="(p\d+)"></a>\n\n### (.+?)(?=\n<a id=|\n## |\Z)', guarantees, re.S))
    assert list(sections) == [promise.lower() for promise in PROMISES]
    for promise in PROMISES:
        section = sections[promise.lower()]
        assert section.startswith(f"{promise}: ")
        assert re.search(r"\]\(\.\./(tests|agentspan/testing)/", section), f"{promise} names no test"


def test_nobody_promises_exactly_once_without_saying_what() -> None:
    for document in DOCUMENTS:
        for match in re.finditer(r"exactly[ -]once", document.read_text(), re.I):
            around = document.read_text()[max(0, match.start() - 60) : match.end() + 60].lower()
            assert "record" in around, f"{document.name}: …{around}…"
