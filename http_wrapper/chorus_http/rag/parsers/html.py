"""HTML's text by its elements. Scripts, styles, forms and what is hidden are left out; nothing is fetched."""

from __future__ import annotations

from html.parser import HTMLParser

from chorus_http.rag.documents import BlockKind, Parsed
from chorus_http.rag.parsers.outcome import ParseLimits, TextBuilder

_UNREAD = frozenset(
    ("script", "style", "template", "noscript", "svg", "math", "iframe", "object", "nav", "select", "button", "canvas")
)
_BREAKS = frozenset(
    (
        *("p", "div", "section", "article", "main", "header", "footer", "aside", "blockquote", "figure", "figcaption"),
        *("ul", "ol", "dl", "dt", "dd", "table", "form", "fieldset", "address", "hr", "body", "html", "title"),
    )
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


class _Reader(HTMLParser):
    def __init__(self, limits: ParseLimits) -> None:
        super().__init__(convert_charrefs=True)
        self.built = TextBuilder(limits)
        self.title = ""
        self._parts: list[str] = []
        self._kind = BlockKind.PARAGRAPH
        self._level = 0
        self._unread: list[str] = []
        self._in_title = False
        self._verbatim = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._unread:
            if tag == self._unread[-1]:
                self._unread.append(tag)
            return
        if tag in _UNREAD:
            self._unread.append(tag)
        elif tag in _HEADINGS:
            self.flush()
            self._kind, self._level = BlockKind.HEADING, _HEADINGS[tag]
        elif tag == "pre":
            self.flush()
            self._kind, self._verbatim = BlockKind.LINES, True
        elif tag in ("ul", "ol", "table"):
            self.flush()
            self._kind = BlockKind.LINES
        elif tag in ("li", "tr"):
            self._parts.append("\n- " if tag == "li" else "\n")
        elif tag in ("td", "th"):
            self._parts.append(" | ")
        elif tag == "br":
            self._parts.append("\n")
        elif tag == "title":
            self._in_title = True
        elif tag in _BREAKS and self._kind is BlockKind.PARAGRAPH:
            self.flush()

    def handle_endtag(self, tag: str) -> None:
        if self._unread:
            if tag == self._unread[-1]:
                self._unread.pop()
            return
        if tag == "title":
            self._in_title = False
        elif (
            tag in _HEADINGS
            or tag in ("pre", "ul", "ol", "table")
            or (tag in _BREAKS and self._kind is BlockKind.PARAGRAPH)
        ):
            self.flush()

    def handle_data(self, data: str) -> None:
        if self._unread:
            return
        if self._in_title:
            self.title += data[: 200 - len(self.title)]
        else:
            self._parts.append(data if self._verbatim else _one_spaced(data))

    def flush(self) -> None:
        text = "".join(self._parts)
        if not self._verbatim:
            text = "\n".join(line.strip(" |") for line in text.split("\n") if line.strip(" |-"))
        self.built.add(self._kind, text, level=self._level)
        self._parts.clear()
        self._kind, self._level, self._verbatim = BlockKind.PARAGRAPH, 0, False


def parse_html(text: str, limits: ParseLimits) -> Parsed:
    """Headings, paragraphs, lists, tables and preformatted text. Raises Refused."""
    reader = _Reader(limits)
    reader.feed(text)
    reader.close()
    reader.flush()
    return reader.built.parsed(title=reader.title)


def _one_spaced(text: str) -> str:
    """HTML's own rule: white space of any kind and length is one space."""
    words = " ".join(text.split())
    if not words:
        return " " if text else ""
    return f"{' ' if text[0].isspace() else ''}{words}{' ' if text[-1].isspace() else ''}"
