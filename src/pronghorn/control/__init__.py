"""The control socket of a running server, and the client that asks it."""
