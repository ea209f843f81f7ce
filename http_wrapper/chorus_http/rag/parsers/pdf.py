"""PDF's text page by page, by pypdf, whose own limits on inflated streams stand."""

from __future__ import annotations

import io
import re

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

from chorus_http.rag.documents import BlockKind, Parsed
from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused, TextBuilder

_LOCKED = "The PDF is protected by a password: save it without one."
_HYPHEN = re.compile(r"(\w)-\n(?=[a-zß-ÿ])")
_ENDS = (".", "!", "?", ":", "。", "”", '"')


def parse_pdf(raw: bytes, limits: ParseLimits) -> Parsed:
    """Paragraphs with their pages. Raises Refused: locked, damaged, over the page limit, or pictures of text only."""
    built = TextBuilder(limits)
    notices: list[str] = []
    try:
        reader = PdfReader(io.BytesIO(raw), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refused(Refusal.UNREADABLE, _LOCKED)
        pages = len(reader.pages)
        if pages > limits.pages:
            raise Refused(Refusal.UNREADABLE, f"The PDF has {pages} pages; the limit is {limits.pages}.")
        empty = 0
        for number, page in enumerate(reader.pages, 1):
            before = built.blocks
            for paragraph in _paragraphs(page.extract_text()):
                built.add(BlockKind.PARAGRAPH, paragraph, page=number)
            empty += built.blocks == before
        title = str(reader.metadata.title or "") if reader.metadata is not None else ""
    except (FileNotDecryptedError, DependencyError):
        raise Refused(Refusal.UNREADABLE, _LOCKED) from None
    except RecursionError:
        raise Refused(Refusal.UNREADABLE, "The PDF is nested too deeply to be read.") from None
    except (PyPdfError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        # What pypdf raises for damage is of many types; its message may quote the file, so only the type is told.
        raise Refused(Refusal.UNREADABLE, f"The PDF is damaged ({type(error).__name__}).") from None
    if not built.blocks:
        raise Refused(Refusal.UNREADABLE, "The PDF holds no text, only pictures: run it through OCR first.")
    if empty:
        notices.append(f"{empty} of {pages} pages hold no text")
    return built.parsed(title=title[:200], notices=tuple(notices))


def _paragraphs(text: str) -> list[str]:
    """Lines joined again: a paragraph ends at a blank line, or at a short line that ends a sentence."""
    lines = _HYPHEN.sub(r"\1", text).split("\n")
    longest = max((len(line) for line in lines), default=0)
    found: list[str] = []
    open_lines: list[str] = []
    for line in (line.strip() for line in lines):
        if line:
            open_lines.append(line)
        if open_lines and (not line or (len(line) < longest * 0.7 and line.endswith(_ENDS))):
            found.append(" ".join(open_lines))
            open_lines = []
    if open_lines:
        found.append(" ".join(open_lines))
    return found
