"""The child process that reads documents: `python -m chorus_http.rag.parse LIMITS`, with LIMITS as JSON.

Frames come on standard input and go out on standard output: a length (4 bytes, big-endian), then that many bytes. Each
document is two frames, its `Order` as JSON and its bytes; each answer is one frame, an `Answer` as JSON. Before the
first document the process takes all rights from itself that it can: memory, CPU time, files, sockets, children.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import BinaryIO

import msgspec

from chorus_http.rag.documents import Kind, Parsed
from chorus_http.rag.parsers.confined import allow_cpu_s, confine
from chorus_http.rag.parsers.csv_rows import parse_csv
from chorus_http.rag.parsers.decode import decoded
from chorus_http.rag.parsers.docx import parse_docx
from chorus_http.rag.parsers.html import parse_html
from chorus_http.rag.parsers.markdown import parse_markdown
from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused
from chorus_http.rag.parsers.plain import parse_code, parse_text


class Order(msgspec.Struct, frozen=True):
    kind: Kind


class Answer(msgspec.Struct, frozen=True):
    """Either `parsed`, or why not."""

    parsed: Parsed | None = None
    refusal: Refusal | None = None
    message: str = ""


def parse(kind: Kind, raw: bytes, limits: ParseLimits) -> Parsed:
    """The text of one document. Raises Refused."""
    match kind:
        case Kind.PDF:
            # The hub imports this module too, and reads no PDF: the library for them takes 20 MB of memory.
            from chorus_http.rag.parsers.pdf import parse_pdf

            parsed = parse_pdf(raw, limits)
        case Kind.DOCX:
            parsed = parse_docx(raw, limits)
        case _:
            text, notices = decoded(raw)
            parsed = msgspec.structs.replace(_of_text(kind, text, limits), notices=notices)
    if not parsed.blocks:
        raise Refused(Refusal.UNREADABLE, "The document holds no text.")
    return parsed


def _of_text(kind: Kind, text: str, limits: ParseLimits) -> Parsed:
    match kind:
        case Kind.MARKDOWN:
            return parse_markdown(text)
        case Kind.HTML:
            return parse_html(text, limits)
        case Kind.CSV:
            return parse_csv(text, limits)
        case Kind.CODE:
            return parse_code(text)
        case _:
            return parse_text(text)


def answered(kind: Kind, raw: bytes, limits: ParseLimits) -> Answer:
    """`parse`, with a refusal as a value."""
    try:
        return Answer(parsed=parse(kind, raw, limits))
    except Refused as refused:
        return Answer(refusal=refused.reason, message=refused.message)
    except MemoryError:
        return Answer(refusal=Refusal.UNREADABLE, message="The document needs more memory than a document may.")
    except RecursionError:
        return Answer(refusal=Refusal.UNREADABLE, message="The document is nested too deeply to be read.")
    except Exception as error:  # noqa: BLE001 - a library that stumbles over a hostile file must not end the batch
        return Answer(refusal=Refusal.UNREADABLE, message=f"The document cannot be read ({type(error).__name__}).")


def read_frame(source: BinaryIO) -> bytes | None:
    """None at the end of input."""
    head = source.read(4)
    if len(head) < 4:
        return None
    return source.read(int.from_bytes(head, "big"))


def write_frame(sink: BinaryIO, raw: bytes) -> None:
    sink.write(len(raw).to_bytes(4, "big"))
    sink.write(raw)
    sink.flush()


def main() -> int:
    limits = msgspec.json.decode(sys.argv[1], type=ParseLimits)
    import_module("chorus_http.rag.parsers.pdf")  # as long as files may be read
    confine(limits)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    write_frame(sink, b"ready")
    while (head := read_frame(source)) is not None:
        order = msgspec.json.decode(head, type=Order)
        raw = read_frame(source)
        if raw is None:
            break
        allow_cpu_s(limits.cpu_s)
        write_frame(sink, msgspec.json.encode(answered(order.kind, raw, limits)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
