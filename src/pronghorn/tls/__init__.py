"""TLS, below connections of both shapes."""
