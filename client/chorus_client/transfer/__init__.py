"""Model files that come onto this PC's disk: from a registry, from a URL, or from another node."""
