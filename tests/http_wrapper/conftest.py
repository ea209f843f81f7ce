"""A real PostgreSQL with pgvector, once for all tests that keep documents in one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Its address; whoever uses it begins by dropping the schema."""
    folder = postgres.bundled_bin()
    if folder is None:
        pytest.skip(postgres.NO_PGVECTOR)
    with postgres.server(folder) as url:
        yield url
