"""A session's work: its thread, its targets, its results, and what is done with them."""
