"""The routers' link over TLS 1.3, as ``cxtp node`` has it by default; Wireshark gets the secrets from the capture."""

from __future__ import annotations

import random
from datetime import datetime, timezone

from ..adapters.capture import PcapWriter
from ..constants import PORT
from ..messages import IPAddress
from .tls13 import Client, Server, Side, identities


class TlsLink:
    """One connection, from a port above 32767; made within three round trips from ``time``."""

    def __init__(
        self, writer: PcapWriter, rng: random.Random, time: float, ends: tuple[tuple[str, IPAddress], ...]
    ) -> None:
        (client_name, client), (server_name, server) = ends
        self._writer = writer
        now = datetime.fromtimestamp(int(time), timezone.utc)
        ours, theirs = identities(rng, (client_name, server_name), now)
        self._client, self._server = Client(ours, rng, server_name), Server(theirs, rng)
        self._addresses = client, server
        self._port = 32_768 + rng.randrange(28_232)  # of the range that Linux takes them from
        self._open(time)

    def carry(self, time: float, source: IPAddress, destination: IPAddress, octets: bytes) -> None:
        """A message, as application data."""
        from_client = source == self._addresses[0]
        side: Side = self._client if from_client else self._server
        self._write(time, side.send(octets), from_client=from_client)

    def close(self, time: float) -> None:
        """close_notify of both sides."""
        self._writer.comment = ""
        self._write(time, self._client.close(), from_client=True)
        self._write(time + self._writer.delay, self._server.close(), from_client=False)

    def _open(self, time: float) -> None:
        writer, delay = self._writer, self._writer.delay
        hello = self._client.hello()
        flight = self._server.answer(hello)
        finished = self._client.answer(flight)
        self._server.finish(finished)
        writer.write_secrets("".join(f"{line}\n" for line in self._client.key_log))
        writer.open_tcp(time, self._addresses[0], self._port, self._addresses[1], PORT)
        for number, (octets, from_client) in enumerate(((hello, True), (flight, False), (finished, True)), 2):
            self._write(time + number * delay, octets, from_client=from_client)

    def _write(self, time: float, octets: bytes, *, from_client: bool) -> None:
        client, server = self._addresses
        ends = (client, self._port, server, PORT) if from_client else (server, PORT, client, self._port)
        self._writer.write_tcp(time, *ends, octets)
