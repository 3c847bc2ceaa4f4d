"""Traffic at a steady rate, as programs of their own: ``echo ADDRESS`` and ``send FROM TO PACKETS_PER_SECOND``.

The sender goes on until its standard input is closed, waits for what is under way, and prints as JSON: when each packet
was sent (``time.monotonic`` seconds), which came back and when.  Nothing is imported that is slow to load.
"""

import json
import select
import socket
import struct
import sys
import time

PORT = 7777
PATIENCE = 1.0  # seconds without an answer, until no more are waited for
LINGER = 0.1  # seconds in which a second answer to the same packet would be seen, once all have come
TICK = 0.005  # seconds: to be woken costs more than to send
_SEND_BUFFER_FORCE, _RECEIVE_BUFFER_FORCE = 32, 33
_FREEBIND = {socket.AF_INET: (socket.SOL_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}


def opened(address: str, port: int) -> socket.socket:
    """It need not be there yet: it moves."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setsockopt(*_FREEBIND[family], 1)
    made.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, 1 << 24)  # what was held comes at once
    made.setsockopt(socket.SOL_SOCKET, _SEND_BUFFER_FORCE, 1 << 26)  # and is charged to its sender, on one machine
    made.bind((address, port))
    return made


def echo(address: str) -> None:
    """Until killed."""
    server = opened(address, PORT)
    print("ready", flush=True)
    while True:
        octets, source = server.recvfrom(2048)
        try:
            server.sendto(octets, source)
        except OSError:  # blocked: the session is leaving
            continue


def send(source: str, destination: str, rate: float) -> None:
    """``rate`` in packets per second."""
    client = opened(source, 0)
    client.setblocking(False)
    sent: list[float] = []
    back: list[int] = []
    came: list[float] = []
    refused = 0
    begin = time.monotonic()
    print("ready", flush=True)
    last = None  # when something was sent or came last, once no more is sent
    while True:
        now = time.monotonic()
        # What is due is sent before the end is looked for: however late this process was woken, the rate holds.
        while last is None and len(sent) < (now - begin) * rate:
            sent.append(time.monotonic())
            try:
                client.sendto(struct.pack("!I", len(sent) - 1) + bytes(60), (destination, PORT))
            except OSError:
                refused += 1
        if last is None and select.select([sys.stdin], [], [], 0)[0]:
            last = time.monotonic()
        try:
            while True:
                back.append(struct.unpack_from("!I", client.recv(2048))[0])
                came.append(time.monotonic())
        except BlockingIOError:
            pass
        if last is not None:
            last = max([last, *came[-1:]])
            if time.monotonic() > last + (PATIENCE if len(back) < len(sent) else LINGER):
                break
        time.sleep(max(TICK, 0.5 / rate))
    print(json.dumps({"sent": sent, "back": back, "came": came, "refused": refused}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        send(sys.argv[2], sys.argv[3], float(sys.argv[4]))
