"""A line between a client and a server that can be cut without either noticing."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Line:
    """Forwards TCP from a port of this machine. While it is cut, bytes are held back, in both
    directions, and no connection is closed.
    """

    port: int
    _open: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def run_line(server: str) -> Iterator[Line]:
    """A line to the Unix socket `server`."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        line = Line(door.getsockname()[1])
        line.mend()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    near, _ = door.accept()
                    far = socket.socket(socket.AF_UNIX)
                    far.connect(server)
                    for ends in ((near, far), (far, near)):
                        threading.Thread(target=line.pump, args=ends, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield line
        finally:
            line.mend()
            door.shutdown(socket.SHUT_RDWR)
