"""Thoughts apart from the answer: pure incremental splitters over the text that a model writes."""
