"""A database file of one process: how it is opened, written by one thread, and how its failures are told."""
