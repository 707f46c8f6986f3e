"""What a process asks of its system: descriptors, signals, users, files, memory."""
