"""Which of a question's words FTS5 is asked for: so many of the rarest as keep the search quick.

FTS5 scores every chunk that matches, some 2 to 4 µs each, and a common word matches most of a collection while it
hardly orders anything. So words are taken from the rarest on, while the chunks that hold them stay within a bound; the
rarest one at least, together with all the others where it is common itself.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Sequence

SCORED_LIMIT = 5_000
"""Chunks, more or less: one that holds several of the words counts several times."""
_STALE_AFTER = 2_000
"""Chunks that came or went; until then a count is near enough."""
_KNOWN_LIMIT = 50_000
_TOKENIZER = "porter unicode61 remove_diacritics 2"


class WordCounts:
    """How many chunks hold a word, by collection. For any thread, each with its own connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: Counter[int] = Counter()
        self._known: dict[tuple[int, str], tuple[int, int]] = {}

    def changed(self, collection: int, chunks: int) -> None:
        with self._lock:
            self._changes[collection] += chunks

    def query(self, reader: sqlite3.Connection, collection: int, words: Sequence[str]) -> str | None:
        """What MATCH is given; None when no chunk holds any of the words."""
        counted = [(self._count(reader, collection, stem), word) for word, stem in _stems(reader, words)]
        counted = sorted((count, word) for count, word in counted if count)
        if not counted:
            return None
        if counted[0][0] > SCORED_LIMIT:
            return " AND ".join(f'"{word}"' for _, word in counted)
        taken: list[str] = []
        room = SCORED_LIMIT
        for count, word in counted:
            room -= count
            if room < 0 and taken:
                break
            taken.append(word)
        return " OR ".join(f'"{word}"' for word in taken)

    def _count(self, reader: sqlite3.Connection, collection: int, stem: str) -> int:
        with self._lock:
            changes = self._changes[collection]
            count, counted_at = self._known.get((collection, stem), (0, changes - _STALE_AFTER - 1))
        if changes - counted_at <= _STALE_AFTER and count:
            return count
        counts = f"temp.counts_{collection}"
        reader.execute(f"CREATE VIRTUAL TABLE IF NOT EXISTS {counts} USING fts5vocab(main, words_{collection}, row)")
        row = reader.execute(f"SELECT doc FROM {counts} WHERE term = ?", (stem,)).fetchone()
        found = int(row[0]) if row is not None else 0
        with self._lock:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            self._known[collection, stem] = (found, changes)
        return found


def prepare(reader: sqlite3.Connection) -> None:
    """Once for each connection."""
    reader.execute("PRAGMA temp_store=MEMORY")
    reader.execute(f"CREATE VIRTUAL TABLE temp.asked USING fts5(words, tokenize='{_TOKENIZER}')")
    reader.execute("CREATE VIRTUAL TABLE temp.asked_stems USING fts5vocab(temp, asked, instance)")


def words_table(number: int) -> str:
    """The statement that makes a collection's full-text table. Its content stays in `chunk`."""
    return (
        f"CREATE VIRTUAL TABLE words_{number} USING fts5(context, text, content='chunk', content_rowid='id',"
        f" tokenize='{_TOKENIZER}')"
    )


def _stems(reader: sqlite3.Connection, words: Sequence[str]) -> list[tuple[str, str]]:
    """Each word with what FTS5's tokenizer makes of it, which nobody but FTS5 can tell; one word for each stem."""
    reader.execute("DELETE FROM temp.asked")
    reader.executemany("INSERT INTO temp.asked (rowid, words) VALUES (?, ?)", enumerate(words))
    rows: list[tuple[int, str]] = reader.execute("SELECT doc, term FROM temp.asked_stems ORDER BY doc").fetchall()
    return [(words[number], stem) for stem, number in {stem: number for number, stem in rows}.items()]
