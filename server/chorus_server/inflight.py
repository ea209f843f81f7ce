"""What runs on one replica now, counted where it was sent from: polled figures would send everybody to one node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Stream:
    prompt_tokens: float
    expected_tokens: float
    prompt_until_s: float | None
    """When its prompt is expected to be read; None once it writes."""
    tokens: int
    began_at: float
    """Of the area under the number of streams, when it began to write."""
    began_s: float


class InFlight:
    """The streams of one replica, by the numbers of their tickets. Times are on the coordinator's monotonic clock."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._reading: dict[int, _Stream] = {}
        self.context_tokens = 0.0
        """Of all streams together."""
        self.tokens_left = 0.0
        """That all streams together are expected to write yet."""
        self._read_until_s = 0.0
        self._area = 0.0
        self._area_at_s = 0.0

    def __len__(self) -> int:
        return len(self._streams)

    def _grow_area(self, now_s: float) -> None:
        self._area += len(self._streams) * (now_s - self._area_at_s)
        self._area_at_s = now_s

    def begin(
        self, number: int, *, prompt_tokens: float, expected_tokens: float, prompt_s: float, now_s: float
    ) -> None:
        """`prompt_s`: what reading its prompt is expected to take, once those before it are read."""
        self._grow_area(now_s)
        until_s = now_s + self.prompts_s(now_s) + prompt_s
        stream = _Stream(prompt_tokens, expected_tokens, until_s, 0, self._area, now_s)
        self._streams[number] = self._reading[number] = stream
        self._read_until_s = until_s
        self.context_tokens += prompt_tokens
        self.tokens_left += expected_tokens

    def wrote(self, number: int, tokens: int, now_s: float) -> None:
        stream = self._streams[number]
        if stream.prompt_until_s is not None:
            self._grow_area(now_s)
            stream.prompt_until_s, stream.began_at, stream.began_s = None, self._area, now_s
            self._no_longer_reads(number)
        before = _left(stream)
        stream.tokens += tokens
        self.context_tokens += tokens
        self.tokens_left += _left(stream) - before

    def end(self, number: int, now_s: float) -> float:
        """Returns how many streams ran on average while this one wrote, itself included."""
        self._grow_area(now_s)
        stream = self._streams.pop(number)
        self._no_longer_reads(number)
        self.context_tokens -= stream.prompt_tokens + stream.tokens
        self.tokens_left -= _left(stream)
        if not self._streams:
            self.context_tokens = self.tokens_left = 0.0
        wrote_s = now_s - stream.began_s
        return (self._area - stream.began_at) / wrote_s if wrote_s > 0 else 1.0

    def prompts_s(self, now_s: float) -> float:
        """Until all prompts that were given to it are expected to be read."""
        left_s = self._read_until_s - now_s
        return left_s if left_s > 0 else 0.0

    def _no_longer_reads(self, number: int) -> None:
        if self._reading.pop(number, None) is not None:
            self._read_until_s = max((one.prompt_until_s or 0.0 for one in self._reading.values()), default=0.0)


def _left(stream: _Stream) -> float:
    """An answer that is longer than expected goes on for a fifth of what it has already, as far as anybody knows."""
    return max(stream.expected_tokens - stream.tokens, 0.2 * stream.tokens)
