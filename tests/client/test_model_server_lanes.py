"""Generations that join and leave a batch get what they would get alone, whatever kinds of attention the model has."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from chorus_client.engines.transformers import missing

if missing():
    pytest.skip("needs the extra transformers", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what torch and transformers warn of themselves
    import torch

    transformers = importlib.import_module("transformers")  # most of it has no types

from transformers.configuration_utils import PreTrainedConfig

from chorus_client.model_server.lanes import Lanes, new_cache
from chorus_proto.errors import LoadFailed

_SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}
_KINDS: dict[str, Callable[[], PreTrainedConfig]] = {
    "all layers see everything": lambda: transformers.LlamaConfig(**_SMALL),
    "all layers see a window": lambda: transformers.MistralConfig(**_SMALL, sliding_window=6),
    "both kinds of layers": lambda: transformers.Gemma3TextConfig(
        **_SMALL, sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "gpt-oss's windows and sinks": lambda: transformers.GptOssConfig(
        **_SMALL,
        sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        num_local_experts=2,
        num_experts_per_tok=1,
    ),
}


class Small:
    """A model of random weights, and one lane of it computed in one piece."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType] - torch does not say of what type a seed is
        torch.set_num_threads(1)
        self.model = transformers.AutoModelForCausalLM.from_config(_KINDS[kind]()).eval()

    def scores(self, tokens: torch.Tensor, positions: torch.Tensor, mask: object, cache: object) -> torch.Tensor:
        found = self.model(input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=cache)
        return cast("torch.Tensor", found.logits[:, -1].float())

    def alone(self, tokens: Sequence[int]) -> torch.Tensor:
        return cast("torch.Tensor", self.model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1])


class Batch:
    """Lanes and, for each, the tokens that it has read."""

    def __init__(self, small: Small) -> None:
        self.small = small
        self.lanes = Lanes(torch.device("cpu"))
        self.read: list[list[int]] = []

    def join(self, prompt: list[int], *, pieces: int = 1) -> None:
        cache = new_cache(self.small.model.config)
        size = -(-len(prompt) // pieces)
        scores = torch.empty(0)
        for start in range(0, len(prompt), size):
            piece = prompt[start : start + size]
            positions = torch.arange(start, start + len(piece)).unsqueeze(0)
            scores = self.small.scores(torch.tensor([piece]), positions, None, cache)
        assert torch.allclose(scores[0], self.small.alone(prompt), atol=1e-4)
        self.lanes.join(cache, len(prompt))
        self.read.append(list(prompt))

    def step(self) -> None:
        """One more token in each lane; every lane must score as it would alone."""
        tokens = [(7 * len(one) + one[0]) % 64 for one in self.read]
        positions, mask = self.lanes.next_inputs()
        scores = self.small.scores(torch.tensor([[token] for token in tokens]), positions, mask, self.lanes.cache)
        for row, (one, token) in enumerate(zip(self.read, tokens, strict=True)):
            one.append(token)
            assert torch.allclose(scores[row], self.small.alone(one), atol=1e-4), f"lane {row} of {len(tokens)}"

    def keep(self, rows: list[int]) -> None:
        self.lanes.keep(rows)
        self.read = [self.read[row] for row in rows]


@pytest.mark.parametrize("kind", list(_KINDS))
def test_lanes_that_join_and_leave_score_as_they_would_alone(kind: str) -> None:
    with torch.inference_mode():
        batch = Batch(Small(kind))
        batch.join([1, 2, 3])
        batch.step()
        batch.join(list(range(1, 24)), pieces=4)
        batch.join([9])
        for _ in range(9):
            batch.step()
        batch.keep([0, 2])  # the longest leaves: the others' padding goes with it
        for _ in range(3):
            batch.step()
        batch.join([5, 6, 7, 8])
        batch.keep([2, 1])
        for _ in range(4):
            batch.step()
        batch.keep([])
        assert len(batch.lanes) == 0
        batch.join([4, 4, 4])
        batch.step()


def test_room_for_more_tokens_is_made_in_time() -> None:
    with torch.inference_mode():
        batch = Batch(Small("all layers see everything"))
        batch.join(list(range(60)) * 5)
        batch.join([1, 2])
        for _ in range(3):
            batch.step()
        for _ in range(520):
            positions, mask = batch.lanes.next_inputs()
            batch.small.scores(torch.tensor([[3], [3]]), positions, mask, batch.lanes.cache)
            for one in batch.read:
                one.append(3)
        batch.step()


def test_a_model_that_keeps_another_state_is_refused() -> None:
    config = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)
    with pytest.raises(LoadFailed, match="only keys and values"):
        new_cache(config)
