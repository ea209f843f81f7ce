"""Nodes for servers that have no agent of ours: anything that speaks OpenAI's API can be one."""

from chorus_client.backends.node import BackendRules
from chorus_client.backends.runner import BackendNodes

__all__ = ["BackendNodes", "BackendRules"]
