"""Bound, listening sockets: where they come from, who holds an address, and who may have a path."""
