"""The contract between Chorus's processes: wire protocol, domain values, errors, settings and what they share."""

__version__ = "0.1.0"

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""The range of link protocols this version speaks; proto/README.md says when the number grows."""
