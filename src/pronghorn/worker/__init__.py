"""One process that serves, and what it tells its supervisor."""
