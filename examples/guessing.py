"""Guess a number from 1 to 100: a conversation that remembers.

    pronghorn serve examples/guessing.py:handler

A class in place of the function is made once per connection, so each player looks for another number. It may speak
first.
"""

import random

import pronghorn


@pronghorn.message(pronghorn.lines)
class Game:
    def __init__(self, conn: pronghorn.MessageConnection) -> None:
        self.conn = conn
        self.secret = random.randint(1, 100)
        self.guesses = 0
        conn.send(b"I have a number from 1 to 100. Which is it?")

    def __call__(self, line: bytes) -> bytes:
        if not line.strip().isdigit():
            return b"A number, please."
        guess = int(line)
        self.guesses += 1
        if guess < self.secret:
            return b"Too low."
        if guess > self.secret:
            return b"Too high."
        self.conn.close()  # after the reply has been sent
        return b"Right, with guess number %d. Goodbye." % self.guesses


handler = Game
