"""Word documents (ECMA-376 WordprocessingML), read as a stream out of their zip archive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from chorus_http.rag.documents import BlockKind, Parsed
from chorus_http.rag.parsers.archive import Counted, opened
from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused, TextBuilder

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT_W = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_HEADING = re.compile(r"heading ([1-9])$", re.IGNORECASE)


def parse_docx(raw: bytes, limits: ParseLimits) -> Parsed:
    """Headings by their styles, paragraphs, lists and tables; the text of deletions is left out. Raises Refused."""
    archive = opened(raw, limits)
    names = set(archive.namelist())
    if "word/document.xml" not in names:
        raise Refused(Refusal.UNSUPPORTED, "The file is a zip archive and no Word document.")
    levels = _heading_styles(Counted(archive, "word/styles.xml", limits)) if "word/styles.xml" in names else {}
    body = _Body(levels, limits)
    for event, element in _elements(Counted(archive, "word/document.xml", limits), ("start", "end")):
        body.take(event, _local(element), element)
    return body.parsed()


class _Body:
    """Blocks of the document, from the ends of its elements."""

    def __init__(self, levels: dict[str, int], limits: ParseLimits) -> None:
        self._built = TextBuilder(limits)
        self._levels = levels
        self._words: list[str] = []
        self._rows: list[str] = []
        self._cells: list[str] = []
        self._tables = 0
        self._doubles = 0
        self._level = 0
        self._listed = False
        self._title = ""
        self._is_title = False

    def take(self, event: str, name: str, element: Element) -> None:
        if name == "Fallback":
            self._doubles += 1 if event == "start" else -1
        if self._doubles:
            return  # the same again, for readers that do not know the newer form
        if event == "start":
            if name == "tbl" and not self._tables:
                self._close_list()
            self._tables += name == "tbl"
            return
        match name:
            case "t":
                self._words.append(element.text or "")
            case "tab":
                self._words.append("\t")
            case "br" | "cr":
                self._words.append("\n")
            case "pStyle":
                style = _value(element)
                self._level = self._levels.get(style, 0)
                self._is_title = style.lower() == "title"
            case "numPr":
                self._listed = True
            case "p":
                self._paragraph()
            case "tc":
                self._cells.append(" ".join("".join(self._words).split()))
                self._words.clear()
            case "tr":
                self._rows.append(" | ".join(self._cells))
                self._cells.clear()
            case "tbl":
                self._tables -= 1
                if not self._tables:
                    self._built.add(BlockKind.LINES, "\n".join(self._rows))
                    self._rows.clear()
            case _:
                pass
        if name in ("p", "tbl", "tr"):
            element.clear()

    def _paragraph(self) -> None:
        if self._tables:
            self._words.append(" ")
            return
        text = "".join(self._words)
        self._words.clear()
        if not self._listed:
            self._close_list()
        if self._is_title and not self._title:
            self._title = text.strip()[:200]
        if self._listed and text.strip():
            self._rows.append(f"- {text.strip()}")
        elif self._level:
            self._built.add(BlockKind.HEADING, text, level=self._level)
        else:
            self._built.add(BlockKind.PARAGRAPH, text)
        self._level, self._listed, self._is_title = 0, False, False

    def _close_list(self) -> None:
        self._built.add(BlockKind.LINES, "\n".join(self._rows))
        self._rows.clear()

    def parsed(self) -> Parsed:
        self._close_list()
        return self._built.parsed(title=self._title)


def _heading_styles(file: Counted) -> dict[str, int]:
    """Style id -> level. Ids are in Word's language, the names of built-in styles are not."""
    levels: dict[str, int] = {}
    for _, element in _elements(file, ("end",)):
        if _local(element) != "style":
            continue
        identity = element.get(f"{_W}styleId") or element.get(f"{_STRICT_W}styleId") or ""
        for child in element.iter():
            found = _HEADING.match(_value(child)) if _local(child) == "name" else None
            if found is not None:
                levels[identity] = int(found[1])
        element.clear()
    return levels


def _elements(file: Counted, events: tuple[str, ...]) -> Iterator[tuple[str, Element]]:
    try:
        yield from iterparse(file, events, forbid_dtd=True)
    except DefusedXmlException:
        raise Refused(
            Refusal.UNREADABLE, "The document's XML declares entities or a DTD, which Word never does."
        ) from None
    except (ParseError, ValueError, LookupError) as error:
        raise Refused(Refusal.UNREADABLE, f"The document's XML is damaged: {error}.") from None


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _value(element: Element) -> str:
    return element.get(f"{_W}val") or element.get(f"{_STRICT_W}val") or ""
