"""One process that serves: what it is made from, how it starts and ends, and its messages with the supervisor."""
