"""Files that come as a form (RFC 7578): read, bounded, and never written under the name that they are sent with.

A name with a path (of a folder that a browser or `chorus rag add` sends) is the document's source as a whole.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from quart import request
from werkzeug.datastructures import MultiDict

from chorus_http.rag.bodies import UploadForm, read_metadata
from chorus_http.rag.ingest import Submission
from chorus_proto.dialects.fields import read_fields
from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.errors import InvalidRequest

FILES_LIMIT = 1000
_NAME_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class Upload:
    submissions: list[Submission]
    collection: str | None
    wait: bool


async def read_upload() -> Upload:
    """The form of this request. Raises InvalidRequest, UnknownParameter, and werkzeug's 408 and 413."""
    try:
        form = cast("MultiDict[str, str]", await request.form).to_dict()  # pyright: ignore[reportUnknownMemberType]  # untyped in Quart
        files = [file for _, some in (await request.files).lists() for file in some]
    except ValueError as error:
        raise InvalidRequest(f"This is no multipart form: {error}.", param="Content-Type") from None
    fields = read_fields(dict[str, JsonValue](form), UploadForm, refused={})
    if not files:
        raise InvalidRequest("The form holds no file: send each as a part with a file name.", param="file")
    if len(files) > FILES_LIMIT:
        raise InvalidRequest(f"The form holds more than {FILES_LIMIT} files.", param="file")
    for single, value in (("title", fields.title), ("source", fields.source)):
        if value and len(files) > 1:
            raise InvalidRequest(f"'{single}' is for one file; this form holds {len(files)}.", param=single)
    metadata = read_metadata(load_object(fields.metadata.encode()) if fields.metadata else None)
    submissions: list[Submission] = []
    for file in files:
        name = _clean(file.filename or "")
        submissions.append(
            Submission(
                raw=await asyncio.to_thread(file.read),
                name=name.rpartition("/")[2],
                title=_clean(fields.title),
                media_type=(file.content_type or "").partition(";")[0].strip(),
                source=_clean(fields.source) or name or None,
                metadata=metadata,
            )
        )
        file.close()
    return Upload(submissions, fields.collection or None, wait=fields.wait.lower() not in ("false", "0", "no"))


def _clean(name: str) -> str:
    """What a person can read; it is shown, and compared, and nothing else."""
    return "".join(c for c in name if c.isprintable())[:_NAME_CHARACTERS]
