"""The tables in PostgreSQL, and how they come about. Blocking.

They lie in a schema of their own, `chorus_rag`, so that the database may hold other things. The row of `schema_version`
counts the migrations applied; one that has been released is never changed, the next change is appended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import LiteralString, TypeAlias

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from chorus_proto.errors import ClusterError, InsufficientStorage, InternalError, StoreUnavailable, VersionMismatch

Connection: TypeAlias = "psycopg.Connection[TupleRow]"

CONNECT_WITHIN_S = 10
LEAST_PGVECTOR = (0, 7)
"""The first with `halfvec`."""
_LOCK = 7_265_710_021
"""Any number, the same in every Chorus: two that start at once migrate one after the other."""

MIGRATIONS: tuple[tuple[LiteralString, ...], ...] = (
    (
        """CREATE TABLE chorus_rag.collection (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            owner text NOT NULL,
            name text NOT NULL,
            embedder_digest text NOT NULL,
            dimensions integer NOT NULL,
            created_unix_s double precision NOT NULL,
            UNIQUE (owner, name)
        )""",
        """CREATE TABLE chorus_rag.document (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            id text COLLATE "C" NOT NULL UNIQUE,
            collection bigint NOT NULL REFERENCES chorus_rag.collection ON DELETE CASCADE,
            title text NOT NULL,
            kind text NOT NULL,
            digest text NOT NULL,
            size_bytes bigint NOT NULL,
            created_unix_s double precision NOT NULL,
            updated_unix_s double precision NOT NULL,
            complete boolean NOT NULL,
            source text,
            metadata jsonb NOT NULL,
            notices jsonb NOT NULL,
            UNIQUE (collection, source)
        )""",
        """CREATE TABLE chorus_rag.chunk (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            document bigint NOT NULL REFERENCES chorus_rag.document ON DELETE CASCADE,
            collection bigint NOT NULL,
            ordinal integer NOT NULL,
            start integer NOT NULL,
            "end" integer NOT NULL,
            page integer,
            headings jsonb NOT NULL,
            context text NOT NULL,
            text text NOT NULL,
            digest bytea NOT NULL,
            units bytea NOT NULL,
            vector halfvec NOT NULL,
            words tsvector GENERATED ALWAYS AS (to_tsvector('english', context || ' ' || text)) STORED
        )""",
        "CREATE INDEX ON chorus_rag.chunk (document, ordinal)",
        "CREATE INDEX ON chorus_rag.chunk (collection)",
        "CREATE INDEX ON chorus_rag.chunk USING gin (words)",
    ),
)


def connect(url: str) -> Connection:
    """Raises as `translated`. The address is never part of a message: it may hold a password."""
    with translated():
        connection = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_WITHIN_S, application_name="chorus")
        # More than the default 40, for a recall that the tests check; a filter makes the index go on looking.
        connection.execute("SET hnsw.ef_search = 200")
        connection.execute("SET hnsw.iterative_scan = 'strict_order'")
        return connection


def migrate(connection: Connection) -> None:
    """Raises as `translated`, and StoreUnavailable without pgvector, VersionMismatch for a newer schema."""
    _need_pgvector(connection)
    with translated(), connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        connection.execute("CREATE SCHEMA IF NOT EXISTS chorus_rag")
        connection.execute("CREATE TABLE IF NOT EXISTS chorus_rag.schema_version (version integer NOT NULL)")
        row = connection.execute("SELECT version FROM chorus_rag.schema_version").fetchone()
        version = int(row[0]) if row is not None else 0
        if version > len(MIGRATIONS):
            raise VersionMismatch(
                f"The PostgreSQL database was written by a newer Chorus (schema {version}, this one knows "
                f"{len(MIGRATIONS)}): upgrade this one."
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute("DELETE FROM chorus_rag.schema_version")
        connection.execute("INSERT INTO chorus_rag.schema_version VALUES (%s)", (len(MIGRATIONS),))


def _need_pgvector(connection: Connection) -> None:
    with translated():
        row = connection.execute("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'").fetchone()
        if row is None:
            raise StoreUnavailable(
                "The PostgreSQL server has no pgvector: install it there (Debian: postgresql-NN-pgvector)."
            )
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except errors.InsufficientPrivilege:
            raise StoreUnavailable(
                "The PostgreSQL user may not set up pgvector: let an administrator run CREATE EXTENSION vector."
            ) from None
        row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    found = tuple(int(part) for part in str(row[0]).split(".")[:2]) if row is not None else (0,)
    if found < LEAST_PGVECTOR:
        raise StoreUnavailable("The PostgreSQL server's pgvector is older than 0.7: upgrade it.")


@contextlib.contextmanager
def translated() -> Generator[None]:
    """PostgreSQL's errors as typed ones (its manual, appendix A). An InternalError is a bug here."""
    try:
        yield
    except psycopg.Error as error:
        raise _as_cluster_error(error) from error


def _as_cluster_error(error: psycopg.Error) -> ClusterError:
    match error:
        case errors.DiskFull():
            return InsufficientStorage("The disk of the PostgreSQL server is full.", retry_after_s=30)
        case errors.InvalidPassword() | errors.InvalidAuthorizationSpecification():
            return StoreUnavailable("The PostgreSQL server refuses the user or password of rag_database.")
        case errors.InsufficientPrivilege() | errors.ReadOnlySqlTransaction():
            return StoreUnavailable("The PostgreSQL user of rag_database may not write there.")
        case psycopg.OperationalError() | psycopg.InterfaceError():
            return StoreUnavailable("The PostgreSQL server cannot be reached; see rag_database.", retry_after_s=5)
        case psycopg.ProgrammingError() if error.sqlstate is None:
            return StoreUnavailable("rag_database is no address of a PostgreSQL database: postgresql://USER@HOST/NAME.")
        case _:
            return InternalError(f"PostgreSQL: {error.sqlstate} {type(error).__name__}")
