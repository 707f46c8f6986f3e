"""A chat room: what one says, all others hear.

    pronghorn serve examples/chat.py:handler

The room is a set in memory, and sets are not shared between processes: one worker, and not the fork or prefork model.
"""

import pronghorn

room: set["Member"] = set()


class Member(pronghorn.Protocol):
    def connection_made(self, transport: pronghorn.Transport) -> None:
        self.transport = transport
        self.cutter = pronghorn.lines.cutter(1024)  # feeds on bytes, gives lines; a longer one ends the connection
        self.name = ""
        self.behind = False
        transport.write(b"What is your name?\n")

    def data_received(self, data: bytes) -> None:
        for line in self.cutter.feed(data):
            text = line.decode(errors="replace").strip()
            if self.name:
                self.tell(f"{self.name}: {text}")
            elif text.isalnum():
                self.name = text
                names = ", ".join(sorted(member.name for member in list(room))) or "nobody"
                room.add(self)  # before the welcome: whoever has read it is here, and all others know
                self.tell(f"* {text} came")
                self.transport.write(f"Welcome. Here now: {names}.\n".encode())
            else:
                self.transport.write(b"Letters and digits only. What is your name?\n")

    def tell(self, text: str) -> None:
        for member in list(room):
            if member is not self and not member.behind:
                member.transport.write(text.encode() + b"\n")

    def pause_writing(self) -> None:
        self.behind = True  # it does not read: it misses what is said, instead of filling our memory

    def resume_writing(self) -> None:
        self.behind = False

    def handed_over(self, transport: pronghorn.Transport, state: object) -> None:
        if self.name:  # with --on-reload handover: a new worker's room is empty until its members have come
            room.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self in room:
            room.discard(self)
            self.tell(f"* {self.name} left")


handler = Member
