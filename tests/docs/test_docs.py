"""The docs as text: nothing is missing, and nothing leads nowhere."""

import ast
import re
from pathlib import Path

import pytest

import dash_dispatch
from tests.docs.pages import ROOT, Document, documents

DOCUMENTS = {
    **{f"docs/{name}.md": document for name, document in documents().items()},
    **{name: Document(ROOT / name) for name in ("README.md", "CHANGELOG.md", "worker/README.md")},
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = DOCUMENTS[name]
    for link in document.links:
        target, _, anchor = link.partition("#")
        path = document.path.parent / target if target else document.path
        assert path.exists(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(path), f"{name}: no heading for {link}"


def anchors(path: Path) -> set[str]:
    """Headings, as they are named in links."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_in_it_is_python(name: str) -> None:
    document = DOCUMENTS[name]
    for source in [*document.files.values(), *document.fragments]:
        ast.parse(source)


def test_every_page_is_in_the_index() -> None:
    linked = set(DOCUMENTS["docs/index.md"].links)
    assert {f"{name}.md" for name in documents()} - linked == {"index.md"}


def test_every_page_says_what_is_not_promised_or_not_there() -> None:
    for name, document in documents().items():
        if document.files and name != "errors":
            headings = re.findall(r"^## (.+)$", document.text, re.MULTILINE)
            assert any("not" in title or "different" in title for title in headings), name


@pytest.mark.parametrize("name", dash_dispatch.__all__)
def test_every_public_name_is_in_the_docs(name: str) -> None:
    pattern = re.compile(rf"`[^`\n]*\b{name}\b[^`\n]*`")
    assert any(pattern.search(document.text) for document in documents().values())
