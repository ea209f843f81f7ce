"""The chorus command: puts coordinator, HTTP wrapper and agent together."""
