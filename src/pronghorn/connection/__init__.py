"""One accepted connection: its states, its two shapes (one may block, one never does), and how it is closed."""
