"""Parts of a document that are written from code, each between a pair of comments; the rest is written by hand."""

from __future__ import annotations

from thunderstone.errors import ThunderstoneError


class DocumentError(ThunderstoneError):
    """A document does not hold the pair of comments between which a generated part goes, or is not this project's."""


def with_part(document: str, begin: str, end: str, text: str, *, part: str, name: str) -> str:
    """`document` with what stands between two comments replaced.

    Args:
        document: Its text.
        begin: The comment before the part.
        end: The comment behind it.
        text: What is to stand between them, on lines of its own.
        part: What messages call the part.
        name: What they call the document.

    Raises:
        DocumentError: The two comments are not there, each once and in this order.
    """
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or begin in rest or end in before + after:
        raise DocumentError(
            f"{name} does not hold one pair of comments for the {part}. HINT: put these two lines where the {part} "
            f"should stand:\n{begin}\n{end}"
        )
    return f"{before}{begin}\n{text}\n{end}{after}"


def cell(text: str) -> str:
    """A text as one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
