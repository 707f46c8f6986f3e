"""A side process that does what it is told on its line, for tests."""

from __future__ import annotations

import os
import sys
import time
from select import select

from pronghorn.system.side_boot import begin


def open_descriptors() -> list[int]:
    return [fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")]


def main() -> None:
    side = begin()
    side.ready()
    side.send(
        {
            "pid": os.getpid(),
            "uid": os.getuid(),
            "settings": side.settings,
            "fds": open_descriptors() if os.getuid() == os.stat("/proc/self").st_uid else [],
        }
    )
    while not side.ended:
        if side.settings.get("beats"):
            side.beat()
        select([side], [], [], 0.02 if side.settings.get("beats") else None)
        for message in side.take():
            match message:
                case {"say": text}:
                    side.say("info", text)
                case {"print": text}:
                    print(text, flush=True)
                case {"dots": count}:
                    for _ in range(count // 4096):  # a signal may cut a write short, and the rest of it is lost
                        print("." * 4096, end="", flush=True)
                case {"write": text}:
                    os.write(side.descriptors["file"], text.encode())
                case {"raise": text}:
                    raise RuntimeError(text)
                case {"rubbish": text}:
                    side.line.sendall(text.encode() + b"\n")
                case {"hang": seconds}:
                    time.sleep(seconds)
                case {"exit": status}:
                    sys.exit(status)
                case _:
                    side.send({"echo": message})
    while os.path.exists(side.settings.get("while", "")):
        time.sleep(0.01)
    side.send({"last": "words"})


if __name__ == "__main__":
    main()
