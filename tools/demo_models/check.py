"""Ask each demo model the questions it is known to answer: `python tools/demo_models/check.py [MODEL.gguf ...]`.

Prints the share of exact answers at temperature 0 for each topic, and ends with 1 when any of them is wrong, or when a
bundled file is not the one whose size and SHA-256 the catalogue has: no engine would get it. Run it after a model was
trained anew, or when the engine moves to another version of llama.cpp.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from chorus_proto.catalogue import bundled

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "client" / "chorus_client" / "models"
QUESTIONS = ROOT / "tests" / "data" / "known_answers.json"
SLOTS = 4
ANSWER_TOKENS = 120

Question = dict[str, str]


@contextmanager
def engine(model: Path) -> Generator[str]:
    """The bundled engine with this model, one thread; its base URL."""
    flags = ["-m", str(model), "--port", "0", "-np", str(SLOTS), "-c", str(SLOTS * 512), "-t", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "chorus_client.llama_cpp_server", *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening "):
                yield line.split()[1]
                return
        raise SystemExit(f"the engine did not start with {model}")
    finally:
        process.kill()
        process.wait(timeout=10)


async def wrong_answers(url: str, questions: list[Question]) -> list[tuple[Question, str]]:
    """The questions whose answer was not the known one, with what was said instead."""
    free = asyncio.Semaphore(SLOTS)
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def ask(question: Question) -> str:
            body = {
                "messages": [{"role": "user", "content": question["question"]}],
                "temperature": 0,
                "max_tokens": ANSWER_TOKENS,
            }
            async with free, session.post(f"{url}/v1/chat/completions", json=body) as reply:
                answer: dict[str, list[dict[str, dict[str, str]]]] = await reply.json()
                return answer["choices"][0]["message"]["content"]

        said = await asyncio.gather(*(ask(question) for question in questions))
    return [(question, text) for question, text in zip(questions, said, strict=True) if text != question["answer"]]


def check(model: Path, questions: list[Question]) -> int:
    """Print the result for one model; the number of wrong answers."""
    with engine(model) as url:
        wrong = asyncio.run(wrong_answers(url, questions))
    asked, missed = defaultdict[str, int](int), defaultdict[str, int](int)
    for question in questions:
        asked[question["topic"]] += 1
    for question, _ in wrong:
        missed[question["topic"]] += 1
    topics = ", ".join(f"{topic} {asked[topic] - missed[topic]}/{asked[topic]}" for topic in sorted(asked))
    print(f"{model.name}: {len(questions) - len(wrong)}/{len(questions)} exact ({topics})")
    for question, text in wrong[:10]:
        print(f"  {question['question']!r}: {text!r} instead of {question['answer']!r}")
    return len(wrong)


def strangers() -> int:
    """Print the bundled files that the catalogue does not know as they are; how many."""
    found = 0
    for entry in bundled():
        raw = (MODELS / str(entry.file)).read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        if (len(raw), digest) != (entry.file_bytes, entry.sha256):
            print(f'{entry.file}: the catalogue must say file_bytes = {len(raw)} and sha256 = "{digest}"')
            found += 1
    return found


def main(paths: list[str]) -> int:
    questions: list[Question] = json.loads(QUESTIONS.read_text(encoding="utf-8"))
    models = [Path(path) for path in paths] or sorted(MODELS.glob("demo-*.gguf"))
    return 1 if strangers() + sum(check(model, questions) for model in models) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
