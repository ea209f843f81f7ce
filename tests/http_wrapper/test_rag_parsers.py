"""Mirrors chorus_http/rag/parsers/ and parser_process.py: every kind of file, good and hostile, in the real child."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import psutil
import pytest

from chorus_http.rag.documents import BlockKind, Kind, Parsed
from chorus_http.rag.parser_process import Parser, refusal_of
from chorus_http.rag.parsers.kinds import kind_of
from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused
from chorus_proto.errors import ClusterError, ErrorCode, ExpandedTooLarge, InvalidRequest, UnreadableDocument
from tests.support.documents import docx, pdf, zip_of_many, zipped, zipped_link
from tests.support.patience import granted_s

LIMITS = ParseLimits()


def typed_kind(name: str, raw: bytes) -> Kind:
    """As an upload's kind is told: before the child, with the same errors."""
    try:
        return kind_of(name, raw)
    except Refused as error:
        raise refusal_of(error) from None


def parsed(name: str, raw: bytes, limits: ParseLimits = LIMITS, within_s: float = 30.0) -> Parsed:
    """As an upload is read: its kind by its bytes, then the child."""

    async def run() -> Parsed:
        parser = Parser(limits, within_s=within_s)
        try:
            return await parser.parse(typed_kind(name, raw), raw)
        finally:
            await parser.close()

    return asyncio.run(run())


def refused(name: str, raw: bytes, limits: ParseLimits = LIMITS) -> ClusterError:
    with pytest.raises(ClusterError) as error:
        parsed(name, raw, limits)
    return error.value


def blocks(document: Parsed) -> list[tuple[BlockKind, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


def test_text_is_parted_by_blank_lines_and_stays_as_it_is() -> None:
    document = parsed("a.txt", b"One line\nand its next.\r\n\r\nAnother.\n")
    assert [text for _, text in blocks(document)] == ["One line\nand its next.", "Another."]


def test_markdown_knows_headings_lists_tables_and_code() -> None:
    front = b"---\ntitle: The Guide\n---\n"
    raw = front + b"# One\n\ntext\n\n- a\n- b\n\n```py\n# no heading\n\nx = 1\n```\n\nTwo\n---\n\n| a | b |\n"
    document = parsed("a.md", raw)
    assert document.title == "The Guide"
    assert [kind for kind, _ in blocks(document)] == [
        *(BlockKind.HEADING, BlockKind.PARAGRAPH, BlockKind.LINES, BlockKind.LINES, BlockKind.HEADING, BlockKind.LINES)
    ]
    assert "x = 1" in blocks(document)[3][1]
    assert [block.level for block in document.blocks if block.kind is BlockKind.HEADING] == [1, 2]


def test_html_loses_scripts_styles_and_navigation() -> None:
    raw = (
        b"<!doctype html><title>Page</title><nav>Menu</nav><h1>Head</h1><script>alert(1)</script><style>x{}</style>"
        b"<p>Some <b>bold</b>\n text &amp; more</p><ul><li>first<li>second</ul><table><tr><td>a<td>b</tr></table>"
        b"<p>last"
    )
    document = parsed("a.html", raw)
    assert document.title == "Page"
    assert [text for _, text in blocks(document)] == [
        *("Head", "Some bold text & more", "- first\n- second", "a | b", "last")
    ]


def test_a_csv_row_names_its_columns_whatever_parts_them() -> None:
    document = parsed("a.csv", b'name;price\napple;1,20\n"pear, green";2\n')
    assert document.text == "name: apple; price: 1,20\nname: pear, green; price: 2"


def test_a_pdf_tells_the_page_of_each_paragraph() -> None:
    document = parsed("a.pdf", pdf(["First page text.", "Second page text."], title="Report"))
    assert document.title == "Report"
    assert [(block.page, document.text[block.start : block.end]) for block in document.blocks] == [
        *((1, "First page text."), (2, "Second page text."))
    ]


def test_a_word_document_has_its_headings_and_paragraphs() -> None:
    document = parsed("a.docx", docx(("Heading1", "Chapter"), ("Normal", "Some text."), ("Heading2", "Section")))
    assert [(kind, text) for kind, text in blocks(document)] == [
        *((BlockKind.HEADING, "Chapter"), (BlockKind.PARAGRAPH, "Some text."), (BlockKind.HEADING, "Section"))
    ]


def test_a_function_of_a_program_stays_together() -> None:
    document = parsed("a.py", b"import os\n\n\ndef one():\n    x = 1\n\n    return x\n\n\ndef two():\n    pass\n")
    assert [text for _, text in blocks(document)] == [
        *("import os", "def one():\n    x = 1\n\n    return x", "def two():\n    pass")
    ]


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-8-sig", False), ("utf-16", False), ("utf-16-le", False), ("cp1252", True), ("cp1251", True)],
)
def test_text_in_other_encodings_is_read_and_a_guess_is_told(encoding: str, told: bool) -> None:
    text = "Größe und Maß der Tür, für ältere Häuser über Österreich."
    if encoding == "cp1251":
        text = (
            "Каждый сотрудник получает двадцать семь дней отпуска в год, из них пять можно перенести на следующий год."
        )
    document = parsed("a.txt", text.encode(encoding))
    assert document.text.strip() == text.strip()
    assert bool(document.notices) is told


@pytest.mark.parametrize(
    ("name", "raw", "code"),
    [
        ("a.txt", b"", ErrorCode.UNREADABLE_DOCUMENT),
        ("a.txt", b"  \n\t\n", ErrorCode.UNREADABLE_DOCUMENT),
        ("a.md", b"\n\n\n", ErrorCode.UNREADABLE_DOCUMENT),
        ("a.html", b"<html><script>only()</script></html>", ErrorCode.UNREADABLE_DOCUMENT),
        ("a.pdf", pdf(["text"])[:200], ErrorCode.UNREADABLE_DOCUMENT),
        ("a.pdf", b"%PDF-1.4\n" + b"\xff" * 5000, ErrorCode.UNREADABLE_DOCUMENT),
        ("a.pdf", pdf(["secret"], password="x"), ErrorCode.UNREADABLE_DOCUMENT),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, ErrorCode.UNREADABLE_DOCUMENT),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("a.docx", docx(("Normal", "text"))[:-30], ErrorCode.UNREADABLE_DOCUMENT),
        ("a.docx", zipped(("content.xml", b"<x/>")), ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("a.txt", bytes(range(256)) * 40, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("a.txt", b"\x7fELF" + b"\0" * 100, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("a.svg", b"<svg onload='x()'></svg>", ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(name: str, raw: bytes, code: ErrorCode) -> None:
    assert refused(name, raw).code is code


def test_a_picture_that_is_html_is_refused() -> None:
    with pytest.raises(Refused) as error:
        kind_of("a.png", b"<html><script>x()</script></html>", media_type="image/png")
    assert error.value.reason is Refusal.UNSUPPORTED


def test_a_zip_bomb_is_refused_soon_and_without_the_memory_it_wants() -> None:
    raw = docx(("Normal", "x"), extra=[("word/bomb.xml", b"\0" * (300 * 2**20))])
    assert len(raw) < 2**20
    began_s = time.monotonic()
    before = psutil.Process().memory_info().rss
    assert isinstance(refused("a.docx", raw), ExpandedTooLarge)
    assert time.monotonic() - began_s <= granted_s(2)
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_a_zip_that_lies_about_its_size_is_counted_while_it_is_inflated() -> None:
    raw = bytearray(zipped(("word/document.xml", b"<a>" + b" " * (150 * 2**20) + b"</a>")))
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    error = refused("a.docx", bytes(raw))
    assert error.code in (ErrorCode.EXPANDED_TOO_LARGE, ErrorCode.UNREADABLE_DOCUMENT)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (zip_of_many(100_000), ExpandedTooLarge),
        (docx(("Normal", "x"), extra=[("inner.zip", zipped(("a", b"b")))]), ExpandedTooLarge),
        (docx(("Normal", "x"), extra=[("../../etc/cron.d/x", b"x")]), InvalidRequest),
        (docx(("Normal", "x"), extra=[("/etc/passwd", b"x")]), InvalidRequest),
        (docx(("Normal", "x"), extra=[("C:\\x", b"x")]), InvalidRequest),
        (zipped_link("word/document.xml", "/etc/passwd"), InvalidRequest),
    ],
    ids=["many", "nested", "slip", "absolute", "drive", "link"],
)
def test_hostile_archives_are_refused(raw: bytes, kind: type[ClusterError]) -> None:
    began_s = time.monotonic()
    assert isinstance(refused("a.docx", raw), kind)
    assert time.monotonic() - began_s <= granted_s(3)


def test_entities_of_a_word_document_are_not_expanded() -> None:
    xml = b'<!DOCTYPE a [<!ENTITY b "c"><!ENTITY x SYSTEM "file:///etc/passwd">]><a>&b;&x;</a>'
    assert isinstance(refused("a.docx", zipped(("word/document.xml", xml))), UnreadableDocument)


def test_a_pdf_of_a_million_pages_and_one_that_goes_in_circles_end() -> None:
    many = pdf(["x"]).replace(b"/Count 1", b"/Count 1000000").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")
    circle = pdf(["x"]).replace(b"trailer\n<<", b"trailer\n<< /Prev 9 ")
    for raw in (many, circle):
        began_s = time.monotonic()
        with contextlib.suppress(UnreadableDocument):
            parsed("a.pdf", raw)
        assert time.monotonic() - began_s <= 30


def test_a_pdf_over_the_page_limit_is_refused_with_both_numbers() -> None:
    error = refused("a.pdf", pdf(["x"] * 5), ParseLimits(pages=4))
    assert "5 pages" in error.message
    assert "4" in error.message


def test_html_that_nests_without_end_is_read_or_refused() -> None:
    raw = b"<html>" + b"<div>" * 200_000 + b"deep"
    assert "deep" in parsed("a.html", raw).text


CHILD = """
import sys, time
from chorus_http.rag import parse
real = parse.answered
def answered(kind, raw, limits):
    if b"hang" in raw: time.sleep(600)
    if b"spin" in raw:
        while True: pass
    if b"die" in raw: import os; os._exit(9)
    if b"eat" in raw: bytearray(2**31); return None
    if b"open" in raw: open("/etc/hostname")
    if b"write" in raw: open(parse.__file__, "a")
    if b"start" in raw:
        import subprocess; subprocess.run(["true"])
    if b"call" in raw:
        import socket; socket.socket()
    return real(kind, raw, limits)
def guarded(kind, raw, limits):
    try:
        return answered(kind, raw, limits)
    except (MemoryError, OSError) as error:
        return parse.Answer(refusal=parse.Refusal.UNREADABLE, message=type(error).__name__)
parse.answered = guarded
sys.exit(parse.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits of a process")
@pytest.mark.parametrize(
    ("act", "told"),
    [
        ("hang", "was not read within"),
        ("spin", "more memory or computing time"),
        ("die", "more memory or computing time"),
        ("eat", "MemoryError"),
        ("open", "PermissionError"),
        ("write", "PermissionError"),
        ("call", "PermissionError"),
        ("start", "PermissionError"),
    ],
)
def test_a_parser_that_misbehaves_is_ended_and_the_next_document_is_read(act: str, told: str, tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(CHILD, "utf-8")

    async def run() -> tuple[str, str]:
        limits = ParseLimits(cpu_s=1)
        parser = Parser(limits, within_s=4.0, command=(sys.executable, str(script)))
        try:
            async with parser.batch() as batch:
                try:
                    await batch.parse(Kind.TEXT, act.encode())
                    said = "nothing"
                except UnreadableDocument as error:
                    said = error.message
                return said, (await batch.parse(Kind.TEXT, b"good text")).text
        finally:
            await parser.close()

    said, text = asyncio.run(run())
    assert told in said
    assert text == "good text"
    assert not [child for child in psutil.Process().children() if str(script) in " ".join(child.cmdline())]
