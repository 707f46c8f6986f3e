"""Handlers: recognised, loaded, and brought into two shapes."""
