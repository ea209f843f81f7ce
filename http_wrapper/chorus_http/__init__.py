"""The HTTP face of a cluster."""
