"""Encryption between the PCs: the hub's own certificate authority, what it issues, and how the others verify it."""
