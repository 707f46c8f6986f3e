"""The operating system: processes, signals, users, descriptors, files, memory."""
