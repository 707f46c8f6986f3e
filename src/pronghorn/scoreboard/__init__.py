"""Memory that all processes of a server share: what they count, and the limits that are kept by it."""
