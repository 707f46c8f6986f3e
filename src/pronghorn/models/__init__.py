"""The concurrency models, a page each."""
