"""The user's handlers: imported, recognised by their style, and brought into two shapes for the models."""
