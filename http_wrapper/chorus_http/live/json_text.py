"""The JSON module that the Socket.IO library is given: Python's own, without its one failure that is no ValueError."""

from __future__ import annotations

import json
from typing import Any


def dumps(value: object, **options: Any) -> str:  # Any: the library's options are json's
    return json.dumps(value, **options)


def loads(text: str, **options: Any) -> Any:  # Any: see above; a packet may hold any value
    """Raises ValueError, also for what is nested too deep: a connection must not die of it without being closed."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deep") from None
