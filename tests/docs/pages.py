"""The docs as text: their examples, what they say is shown, their links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r'^```(?P<language>\w+)?(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")

SHOWN = "shown"
"""The title of the block that says what the page receives, line by line."""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    title: str
    text: str


class Document:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        self.blocks = [
            Block(match["language"] or "", match["title"] or "", match["text"])
            for match in _FENCE.finditer(self.text)
        ]

    @property
    def files(self) -> dict[str, str]:
        """The complete apps of the page: file name → source."""
        return {
            block.title: block.text
            for block in self.blocks
            if block.language == "python" and block.title
        }

    @property
    def fragments(self) -> list[str]:
        """Python that is no app."""
        return [b.text for b in self.blocks if b.language == "python" and not b.title]

    @property
    def shown(self) -> list[str]:
        """What the page receives, as the document says it."""
        return [
            line for b in self.blocks if b.title == SHOWN for line in b.text.splitlines() if line
        ]

    @property
    def links(self) -> list[str]:
        """Links to other files of the project."""
        return _LINK.findall(_FENCE.sub("", self.text))

    def extract(self, folder: Path) -> None:
        """Write the apps to files."""
        for name, source in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source)


def documents() -> dict[str, Document]:
    """The pages of ``docs/``, by name."""
    return {path.stem: Document(path) for path in sorted(DOCS.glob("*.md"))}


def with_examples() -> dict[str, Document]:
    """Those that have an app to run."""
    return {name: document for name, document in documents().items() if document.files}
