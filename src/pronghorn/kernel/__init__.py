"""What the kernel knows: its limits, and who owns which socket.

Law: read, and say; nothing here serves a connection. Imported by the command line, the server and the observers only:
a worker has no need of it.
"""
