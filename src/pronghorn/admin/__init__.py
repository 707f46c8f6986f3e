"""The admin process: HTTP for people, probes and Prometheus, and what is sent to other systems, beside the server."""
