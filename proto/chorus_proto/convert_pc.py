"""PCs and the models on their disks: wire messages to domain values and back.

Values that a newer peer may add to an enumeration are read leniently: an unknown engine is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import StrEnum
from typing import TypeVar

from chorus_proto import common_pb2
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, Gpu, Hardware, ModelFile, ModelShape, ThinkingStyle

log = logging.getLogger(__name__)

Known = TypeVar("Known", bound=StrEnum)


def known_or(kind: type[Known], value: str, otherwise: Known) -> Known:
    """The member of `kind`, or `otherwise` for a value that only a newer peer knows."""
    return kind(value) if value in {member.value for member in kind} else otherwise


def of_engines(names: Iterable[str]) -> tuple[EngineKind, ...]:
    known = {kind.value for kind in EngineKind}
    return tuple(EngineKind(name) for name in names if name in known)


def gpu_message(gpu: Gpu) -> common_pb2.Gpu:
    return common_pb2.Gpu(
        name=gpu.name,
        vendor=gpu.vendor,
        memory_bytes=gpu.memory_bytes,
        memory_free_bytes=gpu.memory_free_bytes,
        bandwidth_bytes_per_s=gpu.bandwidth_bytes_per_s,
        flops_per_s=gpu.flops_per_s,
        shares_host_memory=gpu.shares_host_memory,
        unusable=not gpu.usable,
    )


def of_gpu(message: common_pb2.Gpu) -> Gpu:
    return Gpu(
        name=message.name,
        vendor=message.vendor,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        memory_free_bytes=message.memory_free_bytes if message.HasField("memory_free_bytes") else None,
        bandwidth_bytes_per_s=message.bandwidth_bytes_per_s if message.HasField("bandwidth_bytes_per_s") else None,
        flops_per_s=message.flops_per_s if message.HasField("flops_per_s") else None,
        shares_host_memory=message.shares_host_memory,
        usable=not message.unusable,
    )


def hardware_message(hardware: Hardware) -> common_pb2.Hardware:
    return common_pb2.Hardware(
        os=hardware.os,
        arch=hardware.arch,
        cpu_model=hardware.cpu_model,
        physical_cores=hardware.physical_cores,
        logical_cores=hardware.logical_cores,
        ram_bytes=hardware.ram_bytes,
        ram_available_bytes=hardware.ram_available_bytes,
        disk_free_bytes=hardware.disk_free_bytes,
        gpus=[gpu_message(gpu) for gpu in hardware.gpus],
        memory_bandwidth_bytes_per_s=hardware.memory_bandwidth_bytes_per_s,
        cpu_flops_per_s=hardware.cpu_flops_per_s,
        bench_tokens_per_s=hardware.bench_tokens_per_s,
        fingerprint=hardware.fingerprint,
    )


def of_hardware(message: common_pb2.Hardware) -> Hardware:
    has = message.HasField
    return Hardware(
        os=message.os,
        arch=message.arch,
        cpu_model=message.cpu_model if has("cpu_model") else None,
        physical_cores=message.physical_cores if has("physical_cores") else None,
        logical_cores=message.logical_cores if has("logical_cores") else None,
        ram_bytes=message.ram_bytes if has("ram_bytes") else None,
        ram_available_bytes=message.ram_available_bytes if has("ram_available_bytes") else None,
        disk_free_bytes=message.disk_free_bytes if has("disk_free_bytes") else None,
        gpus=tuple(of_gpu(gpu) for gpu in message.gpus),
        memory_bandwidth_bytes_per_s=(
            message.memory_bandwidth_bytes_per_s if has("memory_bandwidth_bytes_per_s") else None
        ),
        cpu_flops_per_s=message.cpu_flops_per_s if has("cpu_flops_per_s") else None,
        bench_tokens_per_s=message.bench_tokens_per_s if has("bench_tokens_per_s") else None,
        fingerprint=message.fingerprint,
    )


def shape_message(shape: ModelShape) -> common_pb2.ModelShape:
    return common_pb2.ModelShape(
        architecture=shape.architecture,
        layers=shape.layers,
        embedding_length=shape.embedding_length,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        key_length=shape.key_length,
        value_length=shape.value_length,
        vocabulary=shape.vocabulary,
        trained_context_tokens=shape.trained_context_tokens,
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        sliding_window_tokens=shape.sliding_window_tokens,
        sliding_layers=shape.sliding_layers,
    )


def of_shape(message: common_pb2.ModelShape) -> ModelShape:
    has = message.HasField
    return ModelShape(
        architecture=message.architecture,
        layers=message.layers,
        embedding_length=message.embedding_length,
        heads=message.heads,
        kv_heads=message.kv_heads,
        key_length=message.key_length,
        value_length=message.value_length,
        vocabulary=message.vocabulary,
        trained_context_tokens=message.trained_context_tokens,
        parameters=message.parameters,
        active_parameters=message.active_parameters if has("active_parameters") else None,
        sliding_window_tokens=message.sliding_window_tokens if has("sliding_window_tokens") else None,
        sliding_layers=message.sliding_layers if has("sliding_layers") else None,
    )


def model_file_message(file: ModelFile) -> common_pb2.ModelFile:
    return common_pb2.ModelFile(
        name=file.name,
        digest=file.digest,
        file_bytes=file.file_bytes,
        engine=file.engine,
        shape=None if file.shape is None else shape_message(file.shape),
        embedding=file.embedding,
        owners=file.owners,
        thinking=file.thinking or "",
        thinking_optional=file.thinking_optional,
        tools=file.tools,
        fetched=file.fetched,
        copy_digest=file.copy_digest,
        copy_bytes=file.copy_bytes,
    )


def model_file_messages(files: Iterable[ModelFile]) -> list[common_pb2.ModelFile]:
    """Each model that a message can hold. What is told of a model is read from files and servers of others: an odd
    number or name among it must cost that model, and not the node its link."""
    messages: list[common_pb2.ModelFile] = []
    for file in files:
        try:
            messages.append(model_file_message(file))
        except ValueError as error:  # protobuf's for numbers out of range, and for text that is not UTF-8
            log.warning("model %r is left out, no message can hold it: %s", file.name, error)
    return messages


def of_model_files(messages: Iterable[common_pb2.ModelFile]) -> tuple[ModelFile, ...]:
    """Models of an engine this version does not know are left out: nothing here could route to them."""
    known = {kind.value for kind in EngineKind}
    return tuple(
        ModelFile(
            name=ModelName(message.name),
            digest=message.digest,
            file_bytes=message.file_bytes,
            engine=EngineKind(message.engine),
            shape=of_shape(message.shape) if message.HasField("shape") else None,
            embedding=message.embedding,
            owners=message.owners,
            thinking=known_or(ThinkingStyle, message.thinking, ThinkingStyle.TAGS) if message.thinking else None,
            thinking_optional=message.thinking_optional,
            tools=message.tools,
            fetched=message.fetched,
            copy_digest=message.copy_digest,
            copy_bytes=message.copy_bytes,
        )
        for message in messages
        if message.engine in known
    )
