"""One module for each API that callers know."""
