"""The keys and values of several generations at once, one batch row (a lane) each; lanes join and leave between steps.

Rows are aligned at their right ends: the newest token of each lies in the same column, and shorter ones are padded on
the left, where a mask hides it. So one forward pass of the model extends them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.configuration_utils import PreTrainedConfig

from chorus_proto.errors import LoadFailed

_ROOM_TOKENS = 256
"""Room is made for so many tokens at once; transformers' own layer copies everything for each token."""


class GrowingLayer(DynamicLayer):
    """One layer that sees the whole context. `keys` and `values` are views of the used part of larger buffers."""

    _key_room: Tensor | None = None
    _value_room: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._key_room = _with_room(self._key_room, self.keys, key_states, start, end)
        self._value_room = _with_room(self._value_room, self.values, value_states, start, end)
        self._key_room[:, :, start:end] = key_states
        self._value_room[:, :, start:end] = value_states
        self.keys, self.values = self._key_room[:, :, :end], self._value_room[:, :, :end]
        return self.keys, self.values

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Replace what it holds."""
        self.keys, self.values = keys, values
        self._key_room = self._value_room = None


def _with_room(room: Tensor | None, held: Tensor | None, new: Tensor, start: int, end: int) -> Tensor:
    if room is not None and room.shape[-2] >= end:
        return room
    batch, heads, _, width = new.shape
    grown = torch.empty((batch, heads, end + _ROOM_TOKENS, width), dtype=new.dtype, device=new.device)
    if held is not None and start:
        grown[:, :, :start] = held
    return grown


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache with the layers that this model needs.

    Raises LoadFailed for a model that keeps another state than keys and values: lanes could not join or leave it.
    """
    cache = DynamicCache(config=config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = GrowingLayer()
        elif type(layer) is not DynamicSlidingWindowLayer:
            raise LoadFailed(
                f"The model keeps {type(layer).__name__} state between tokens; only keys and values can be served here."
            )
    return cache


class Lanes:
    """The running generations' cache. Whoever decodes keeps its own list in the same order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cache: Cache | None = None
        self._lengths: list[int] = []
        self._mask: Tensor | None = None
        self._positions = torch.empty((0, 1), dtype=torch.long, device=device)

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def cache(self) -> Cache:
        assert self._cache is not None
        return self._cache

    def next_inputs(self) -> tuple[Tensor, Tensor | None]:
        """Position ids (lanes, 1), and the mask (lanes, columns) or None when no lane is padded. Counts the step."""
        positions = self._positions
        self._positions = positions + 1
        self._lengths = [length + 1 for length in self._lengths]
        if self._mask is None:
            return positions, None
        columns = max(self._lengths)
        if columns > self._mask.shape[1]:
            more = torch.ones((len(self._lengths), _ROOM_TOKENS), dtype=torch.long, device=self._device)
            self._mask = torch.cat([self._mask, more], dim=1)
        return positions, self._mask[:, :columns]

    def join(self, cache: Cache, tokens: int) -> None:
        """Add a lane whose prompt of `tokens` is computed in `cache`, which it takes over."""
        if self._cache is None:
            self._cache = cache
        else:
            columns = max(tokens, max(self._lengths))
            for ours, theirs in zip(_layers(self._cache), _layers(cache), strict=True):
                keys = torch.cat([_padded(ours.keys, columns, ours), _padded(theirs.keys, columns, ours)])
                values = torch.cat([_padded(ours.values, columns, ours), _padded(theirs.values, columns, ours)])
                _hold(ours, keys, values, columns)
        self._lengths.append(tokens)
        self._laid_out()

    def keep(self, lanes: Sequence[int]) -> None:
        """Keep these lanes, in this order, and give the others' memory back."""
        if not lanes:
            self._cache, self._lengths = None, []
            self._laid_out()
            return
        self._lengths = [self._lengths[lane] for lane in lanes]
        columns = max(self._lengths)
        for layer in _layers(self.cache):
            stored = _stored(layer, columns)
            assert layer.keys is not None and layer.values is not None
            # A model may be spread over devices.
            rows = torch.tensor(lanes, dtype=torch.long, device=layer.keys.device)
            _hold(layer, layer.keys[rows, :, -stored:], layer.values[rows, :, -stored:], columns)
        self._laid_out()

    def _laid_out(self) -> None:
        self._positions = torch.tensor([[length] for length in self._lengths], dtype=torch.long, device=self._device)
        columns = max(self._lengths, default=0)
        if all(length == columns for length in self._lengths):
            self._mask = None
            return
        mask = torch.ones((len(self._lengths), columns + _ROOM_TOKENS), dtype=torch.long, device=self._device)
        for row, length in enumerate(self._lengths):
            mask[row, : columns - length] = 0
        self._mask = mask


def _layers(cache: Cache) -> Sequence[DynamicLayer]:
    """`new_cache` lets no others in."""
    return cast("Sequence[DynamicLayer]", cache.layers)


def _stored(layer: object, columns: int) -> int:
    """Columns that a layer keeps of a context of `columns` tokens."""
    if isinstance(layer, DynamicSlidingWindowLayer):
        return min(columns, layer.sliding_window - 1)
    return columns


def _padded(held: Tensor | None, columns: int, layer: object) -> Tensor:
    assert held is not None
    missing = _stored(layer, columns) - held.shape[-2]
    return torch.nn.functional.pad(held, (0, 0, missing, 0)) if missing else held


def _hold(layer: object, keys: Tensor, values: Tensor, columns: int) -> None:
    if isinstance(layer, GrowingLayer):
        layer.hold(keys, values)
    elif isinstance(layer, DynamicSlidingWindowLayer):
        layer.keys, layer.values, layer.cumulative_length = keys, values, columns
