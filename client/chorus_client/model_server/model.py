"""Loads a checked folder through transformers and computes with it. Only the computing process imports this."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig

from chorus_client.model_server.frames import Load
from chorus_client.model_server.lanes import new_cache
from chorus_proto.dialects.strict_json import JsonObject, load_object
from chorus_proto.errors import InvalidJson, LoadFailed

SLOW_CPU_TYPES_UP_TO_BYTES = 2 << 30
"""Smaller 16-bit models are computed in 32 bits on a CPU.

Most CPUs emulate 16-bit arithmetic: 8 streams of the tiny model ran at 3,500 tokens/s in 32 bits and 1,700 in 16
(measured). A large model would need twice its file's memory, so it stays as it is stored.
"""

_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|return|>", "<|call|>", "<|endoftext|>")
"""Special tokens that end a turn; some models do not list all of theirs (llama.cpp's llama-vocab.cpp, EOG tokens)."""
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NEED_ACCELERATE = frozenset({"balanced", "balanced_low_0", "sequential"})


class ChatTokenizer(Protocol):
    """What of transformers' fast tokenizers is used."""

    backend_tokenizer: Tokenizer
    chat_template: object
    eos_token_id: int | None
    all_special_tokens: list[str]

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool, **kwargs: object
    ) -> str: ...


class _Scores(Protocol):
    logits: Tensor


class _CausalModel(Protocol):
    config: PreTrainedConfig
    forward: Callable[..., object]

    def __call__(self, **inputs: object) -> _Scores: ...
    def eval(self) -> object: ...
    def to(self, device: torch.device) -> object: ...
    def get_input_embeddings(self) -> torch.nn.Embedding: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What generation_config.json recommends; a caller's own wish comes first."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedText:
    """A model that computes, and its tokenizer."""

    model: TextModel
    tokenizer: ChatTokenizer
    end_tokens: tuple[int, ...]
    defaults: Defaults


class TextModel:
    """The forward pass. `vocabulary` is the width of the scores, `table` the number of tokens it can read."""

    def __init__(self, model: _CausalModel) -> None:
        self._model = model
        self._last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        table = model.get_input_embeddings().weight
        self.device = table.device
        self.dtype = str(table.dtype).removeprefix("torch.")
        self.table = table.shape[0]
        self.vocabulary = 0
        self.vocabulary = self._warm_up()

    def new_cache(self) -> Cache:
        return new_cache(self._model.config)

    def scores(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
        """The scores after the last of `tokens` (rows, new tokens): (rows, vocabulary) in float32."""
        keep: dict[str, object] = {"logits_to_keep": 1} if self._last_only else {}
        found = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **keep,
        )
        return found.logits[:, -1].float()

    def _warm_up(self) -> int:
        """One token through the model, so that what it lacks shows at load time. Raises LoadFailed."""
        zero = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        with torch.inference_mode():
            return self.scores(zero, zero, None, self.new_cache()).shape[-1]


class StreamDecoder:
    """`TokenDecoder` of a fast tokenizer; `context` are the tokens before the answer."""

    def __init__(self, tokenizer: Tokenizer, *, keep_special: bool, context: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._stream = DecodeStream(ids=list(context), skip_special_tokens=not keep_special)

    def step(self, token: int) -> str | None:
        return self._stream.step(self._tokenizer, token)

    def rest(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=not self._keep_special)


def load(order: Load, file_bytes: int, tell: Callable[[str], None]) -> LoadedText:
    """Load what `order` names. Raises LoadFailed; torch and transformers raise what they like."""
    warnings.simplefilter("ignore")
    if order.threads:
        torch.set_num_threads(order.threads)
    transformers = importlib.import_module("transformers")  # its lazy top level has no types
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    device, device_map = _placed(order.device_map)
    dtype: torch.dtype | str = _DTYPES.get(order.dtype, "auto")
    if order.dtype == "auto" and device.type == "cpu" and file_bytes <= SLOW_CPU_TYPES_UP_TO_BYTES:
        dtype = torch.float32
    tell("reading the tokenizer")
    safe = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = cast("ChatTokenizer", transformers.AutoTokenizer.from_pretrained(order.folder, **safe))
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise LoadFailed("tokenizer.json does not hold a fast tokenizer, which is needed here.")
    tell("reading the weights")
    model = cast(
        "_CausalModel",
        transformers.AutoModelForCausalLM.from_pretrained(
            order.folder, use_safetensors=True, dtype=dtype, device_map=device_map, **safe
        ),
    )
    model.eval()
    if device_map is None:
        model.to(device)
    tell("computing a first token")
    text = TextModel(model)
    recommended = _generation_config(Path(order.folder))
    return LoadedText(
        model=text,
        tokenizer=tokenizer,
        end_tokens=_end_tokens(recommended, model.config, tokenizer),
        defaults=_defaults(recommended),
    )


def _placed(wanted: str) -> tuple[torch.device, str | None]:
    """The device to compute on, and transformers' device map when it shall spread the model. Raises LoadFailed."""
    accelerate = importlib.util.find_spec("accelerate") is not None
    if wanted == "auto":
        if torch.cuda.is_available():
            spread = accelerate and torch.cuda.device_count() > 1
            return torch.device("cuda"), "auto" if spread else None
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu"), None
    if wanted in _NEED_ACCELERATE:
        if not accelerate:
            raise LoadFailed(f"--device-map {wanted} needs the package accelerate: pip install accelerate.")
        return torch.device("cuda"), wanted
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise LoadFailed(f"--device-map {wanted} cannot be used on this PC: {reason}") from None
    return device, None


def _generation_config(folder: Path) -> JsonObject:
    try:
        return load_object((folder / "generation_config.json").read_bytes())
    except (OSError, InvalidJson):
        return {}  # it only recommends


def _defaults(recommended: JsonObject) -> Defaults:
    found = Defaults()
    temperature, top_p, top_k = (recommended.get(name) for name in ("temperature", "top_p", "top_k"))
    return Defaults(
        temperature=float(temperature) if isinstance(temperature, int | float) else found.temperature,
        top_p=float(top_p) if isinstance(top_p, int | float) and 0 < top_p <= 1 else found.top_p,
        top_k=top_k if type(top_k) is int and top_k > 0 else found.top_k,
    )


def _end_tokens(recommended: JsonObject, config: PreTrainedConfig, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    listed = recommended.get("eos_token_id")
    of_config: object = getattr(getattr(config, "text_config", config), "eos_token_id", None)
    found: list[object] = [tokenizer.eos_token_id]
    for one in (listed, of_config):
        found += cast("list[object]", one) if isinstance(one, list) else [one]
    special = {added.content: token for token, added in tokenizer.backend_tokenizer.get_added_tokens_decoder().items()}
    found += [special.get(name) for name in _ENDS]
    return tuple(sorted({token for token in found if type(token) is int}))
