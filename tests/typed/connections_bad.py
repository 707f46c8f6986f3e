"""What both checkers refuse of connections: each statement with `# wrong`, and no other."""

import pronghorn


class Confused(pronghorn.Protocol):
    def connection_made(self, transport: pronghorn.Connection) -> None:  # wrong: a blocking connection
        transport.sendall(b"hello")


class Wordy(pronghorn.Protocol):
    def connection_made(self, transport: pronghorn.Transport) -> None:
        transport.write("hello")  # wrong: text


class Deaf(pronghorn.Protocol):
    def data_received(self, data: str) -> None:  # wrong: bytes come
        print(data)


def blocking(conn: pronghorn.Connection) -> None:
    conn.sendall("hello")  # wrong: text


def sends(conn: pronghorn.Connection) -> None:
    conn.write(b"hello")  # wrong: a transport has this, and a socket has not


def begins(conn: pronghorn.Connection) -> None:
    conn.start_tls(after="go")  # wrong: text


def certain(conn: pronghorn.Connection) -> str:
    return conn.tls.version  # wrong: there may be none


def named(conn: pronghorn.Connection) -> str:
    return conn.peername  # wrong: no such name


def no_words(conn: pronghorn.Connection) -> None:
    conn.start_tls(after="go ahead")  # wrong: bytes


def sealed(tls: pronghorn.TlsFacts) -> int:
    return tls.version  # wrong: a text


def kind(header: pronghorn.ProxyHeader) -> str:
    return header.extensions  # wrong: bytes
