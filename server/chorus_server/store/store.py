"""The coordinator's memory: nodes, assignments and what was measured."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sqlite.writer import Writer
from chorus_proto.values import EngineKind, Hardware, ModelFile
from chorus_server.store.aliases import AliasTable
from chorus_server.store.backends import BackendTable
from chorus_server.store.keys import KeyTable
from chorus_server.store.members import MemberTable
from chorus_server.store.records import Measurement, Opened, SavedNode
from chorus_server.store.schema import open_database

log = logging.getLogger(__name__)

BUSY_S = 5.0


class Store:
    """An open database. A method returns once its change is on the disk, and raises what `Writer.do` raises."""

    def __init__(self, writer: Writer, opened: Opened) -> None:
        self._writer = writer
        self.opened = opened
        self.keys = KeyTable(writer)
        self.backends = BackendTable(writer)
        self.aliases = AliasTable(writer)
        self.members = MemberTable(writer)

    @classmethod
    def open(cls, path: Path, *, busy_s: float = BUSY_S) -> Store:
        """Open or create. Blocks up to `busy_s` for another process's lock. Raises what `open_database` raises."""
        connection, opened = open_database(path, busy_s=busy_s)
        return cls(Writer(connection, path), opened)

    @property
    def epoch(self) -> int:
        """Grows by one with each opening, whatever happened before; tells the works of two coordinators apart."""
        return self.opened.epoch

    def close(self) -> None:
        """Write out and close. Blocks. A second call does nothing."""
        self._writer.close()

    async def save_node(
        self,
        *,
        node_id: NodeId,
        name: str,
        client_id: str,
        hardware: Hardware,
        score: float,
        seen_unix_s: float,
        address: str = "",
        mac_addresses: Sequence[str] = (),
        models: Sequence[ModelFile] = (),
        stopped: bool = False,
    ) -> None:
        """Add the node or overwrite all but the time it was first seen."""
        told = (msgspec.json.encode(hardware), score, seen_unix_s, seen_unix_s)
        away = (address, msgspec.json.encode(mac_addresses).decode(), msgspec.json.encode(models), int(stopped))
        row = (node_id, name, client_id, *told, *away)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"{_insert('node', SavedNode)} ON CONFLICT (node_id) DO UPDATE SET name = excluded.name,"
                " client_id = excluded.client_id, hardware = excluded.hardware, score = excluded.score,"
                " last_seen_unix_s = excluded.last_seen_unix_s, address = excluded.address,"
                " mac_addresses = excluded.mac_addresses, models = excluded.models, stopped = excluded.stopped",
                row,
            )

        await self._writer.do(work)

    async def nodes(self) -> list[SavedNode]:
        """Every node ever seen, in the order of their ids."""
        rows = await self._writer.do(lambda c: c.execute(f"{_select('node', SavedNode)} ORDER BY node_id").fetchall())
        nodes: list[SavedNode] = []
        for row in rows:
            saved = dict(zip(_columns(SavedNode), row, strict=True))
            try:
                for name in ("hardware", "mac_addresses", "models"):
                    saved[name] = msgspec.json.decode(saved[name])
                nodes.append(msgspec.convert(saved | {"stopped": bool(saved["stopped"])}, SavedNode))
            except msgspec.MsgspecError as error:
                # Costs nothing but history: the node tells it all again when it joins.
                log.warning("forgot node %s: what was saved of it cannot be read: %s", saved["node_id"], error)
        return nodes

    async def save_assignment(self, node_id: NodeId, model: ModelName | None, reason: str) -> None:
        """Remember which model a node holds; None forgets it."""

        def work(connection: sqlite3.Connection) -> None:
            if model is None:
                connection.execute("DELETE FROM assignment WHERE node_id = ?", (node_id,))
            else:
                connection.execute("INSERT OR REPLACE INTO assignment VALUES (?, ?, ?)", (node_id, model, reason))

        await self._writer.do(work)

    async def assignments(self) -> dict[NodeId, ModelName]:
        rows = await self._writer.do(lambda c: c.execute("SELECT node_id, model FROM assignment").fetchall())
        return {NodeId(node_id): ModelName(model) for node_id, model in rows}

    async def save_measurement(self, measurement: Measurement) -> None:
        """Add or overwrite the one of its node, model and engine."""
        row = dataclasses.astuple(measurement)

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_insert("measurement", Measurement, verb="INSERT OR REPLACE"), row)

        await self._writer.do(work)

    async def measurements(self) -> list[Measurement]:
        """All, in the order of node, model and engine. One of an engine this version does not know is left out."""
        known = {kind.value for kind in EngineKind}
        rows = await self._writer.do(
            lambda c: c.execute(f"{_select('measurement', Measurement)} ORDER BY node_id, model, engine").fetchall()
        )
        saved = [dict(zip(_columns(Measurement), row, strict=True)) for row in rows]
        return [msgspec.convert(one, Measurement) for one in saved if one["engine"] in known]


# Columns are named as the fields are, and always by name, so that a later migration may add some.


def _columns(kind: type[SavedNode | Measurement]) -> list[str]:
    return [one.name for one in dataclasses.fields(kind)]


def _insert(table: str, kind: type[SavedNode | Measurement], verb: str = "INSERT") -> str:
    columns = _columns(kind)
    return f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def _select(table: str, kind: type[SavedNode | Measurement]) -> str:
    return f"SELECT {', '.join(_columns(kind))} FROM {table}"
