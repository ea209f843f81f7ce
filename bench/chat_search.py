"""What a search over chats costs: `python -m bench.chat_search [MESSAGES]`, run from the project's root.

One person's sessions are filled with made-up messages whose words are as unequally frequent as those of a language,
beside as many of somebody else's. Printed are the messages written per second, and p50 and p99 of searches for a rare
word, for two words, for a beginning, and for a word that nearly every message holds.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench.load import percentile
from chorus_http.chats.records import (
    ChatMessage,
    ChatSession,
    MessageId,
    Role,
    TitleFrom,
    new_message_id,
    new_session_id,
)
from chorus_http.chats.store import ChatStore

MESSAGES = 20_000
OF_ONE_SESSION = 1000
WORDS_OF_ONE_MESSAGE = 60
VOCABULARY = 20_000
SEARCHES = 100
OWNERS = ("ann", "ben")

_SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def vocabulary(chance: random.Random) -> list[str]:
    """Made-up words, each once."""
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(chance.choice(_SYLLABLES) for _ in range(chance.randint(2, 5)))] = None
    return list(words)


def session_of(owner: str, texts: list[str]) -> tuple[ChatSession, list[ChatMessage]]:
    messages: list[ChatMessage] = []
    parent: MessageId | None = None
    for number, text in enumerate(texts):
        role = Role.ASSISTANT if number % 2 else Role.USER
        messages.append(ChatMessage(id=new_message_id(), parent_id=parent, role=role, content=text, created_unix_s=1.0))
        parent = messages[-1].id
    session = ChatSession(
        id=new_session_id(),
        owner=owner,
        title=texts[0][:60],
        title_from=TitleFrom.QUESTION,
        model=None,
        system="",
        head=parent,
        revision=1,
        created_unix_s=1.0,
        updated_unix_s=1.0,
    )
    return session, messages


async def measure(store: ChatStore, messages: int) -> None:
    chance = random.Random(1)
    words = vocabulary(chance)
    shares = [1 / (rank + 3) for rank in range(VOCABULARY)]
    began_s = time.perf_counter()
    for at in range(0, messages, OF_ONE_SESSION):
        texts = [
            " ".join(chance.choices(words, shares, k=WORDS_OF_ONE_MESSAGE))
            for _ in range(min(OF_ONE_SESSION, messages - at))
        ]
        await store.add(*session_of(OWNERS[at // OF_ONE_SESSION % len(OWNERS)], texts))
    took_s = time.perf_counter() - began_s
    print(f"{messages} messages of {len(OWNERS)} owners, {messages / took_s:,.0f} written a second")
    some = words[200:2000]
    kinds: dict[str, Callable[[], str]] = {
        "a rare word": lambda: chance.choice(words[5000:]),
        "two words": lambda: " ".join(chance.sample(some, 2)),
        "a beginning": lambda: chance.choice(some)[:4],
        "a frequent word": lambda: chance.choice(words[:5]),
    }
    for name, query in kinds.items():
        taken_s: list[float] = []
        found = 0
        for _ in range(SEARCHES):
            text = query()
            began_s = time.perf_counter()
            found += len(await store.search(OWNERS[0], text, limit=20))
            taken_s.append(time.perf_counter() - began_s)
        print(
            f"{name:<16} p50 {percentile(taken_s, 0.50) * 1e3:6.1f} ms   "
            f"p99 {percentile(taken_s, 0.99) * 1e3:6.1f} ms   {found / SEARCHES:.1f} shown"
        )


def main() -> int:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    with (
        tempfile.TemporaryDirectory(prefix="chorus-bench-") as folder,
        closing(ChatStore.open(Path(folder, "chats.sqlite"))) as store,
    ):
        asyncio.run(measure(store, messages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
