"""A handler that was written for socketserver: it counts words, and needs no change.

    pronghorn serve examples/words_socketserver.py:handler
    python examples/words_socketserver.py

The second command runs it as its author did, one client at a time. The first gives it any model with a flow of control
per connection: thread, unless told otherwise.
"""

import socketserver


class WordCounter(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        host, port = self.client_address[:2]
        self.wfile.write(f"hello {host} at {port}\n".encode())
        total = 0
        for line in self.rfile:
            total += len(line.split())
            self.wfile.write(b"%d words so far\n" % total)


handler = WordCounter

if __name__ == "__main__":
    with socketserver.TCPServer(("127.0.0.1", 8000), WordCounter) as server:
        server.serve_forever()
