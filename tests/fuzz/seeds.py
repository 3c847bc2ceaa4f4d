"""Write the corpus's first inputs: real messages and the formats' worked examples (``python -m fuzz.seeds``)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from context_examples import VALUES
from message_strategies import worked_examples

from contexts.base import encode
from cxtp.adapters.capture import read_packets, udp_datagrams
from cxtp.adapters.context_file import FileSession, write_context_file
from cxtp.messages import EncodedContext
from cxtp.roles import MobileNode, PreviousRouter
from cxtp.roles.events import Outgoing
from cxtp.wire import IcmpMessage, build, build_icmp

from .targets import CONTEXTS, CORPUS, KEY, MN, ROUTERS, TRACES, _scratch


class _Counting:
    def getrandbits(self, k: int, /) -> int:
        return 7

    def random(self) -> float:
        return 0.5


def _sent() -> list[Outgoing]:
    """A CTD, a PCTD and a CTAR of ours."""
    a, b = ROUTERS.values()
    found = []
    for key in (b"", KEY):
        role = PreviousRouter(ROUTERS, _Counting())
        if key:
            role.predict(MN, b, CONTEXTS, 7, key, 0.0)
        else:
            role.transfer(MN, b, CONTEXTS, 7, 0.0)
        found += role.to_send(0.0)
    mobile = MobileNode(_Counting())
    mobile.activate(MN, a, b, 0.0, KEY, predictive=True)
    return found + mobile.to_send(0.0)


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Target, name, octets."""
    for name, octets in worked_examples().items():
        yield "message", name, octets
    for outgoing in _sent():
        octets = build(outgoing.message)
        name = outgoing.message.short_name.lower()
        yield "message", f"sent-{name}", octets
        yield "roles", f"one-{name}", b"\0" + len(octets).to_bytes(2, "big") + octets + b"\x80\x81\x82\x83"
    story = b"".join(b"\1" + len(o).to_bytes(2, "big") + o for o in (build(s.message) for s in _sent()))
    yield "roles", "story", b"\xa0\xa3" + story + b"\x83"
    yield "icmp", "ctar", build_icmp(IcmpMessage(41, build(_sent()[-1].message)))
    for name, value in VALUES.items():
        encoded: EncodedContext = encode(value)
        head = struct.pack(">HI", encoded.feature_profile_type, encoded.presence_vector or 0)
        yield "context", name, head + encoded.data
    for trace in ("v5-plain", "v3-plain", "cert-auth", "v5-mlkem-addke3"):
        path = TRACES / trace / "ha.pcap"
        if not path.exists():
            continue
        datagrams = [datagram.payload for datagram in udp_datagrams(path)]
        for number, octets in enumerate(datagrams[:6]):
            yield "ha-message", f"{trace}-{number}", octets
        yield "ha-session", trace, b"".join(len(o).to_bytes(2, "big") + o for o in datagrams[:12])
    outer = TRACES / "v5-plain" / "outer.pcap"
    yield "capture", "outer", outer.read_bytes()[:3000]
    for number, frame in enumerate(list(read_packets(outer))[:6]):
        yield "packet", f"v5-plain-{number}", frame.octets[14:]
    path = _scratch() / "seed.ctx"
    path.unlink(missing_ok=True)
    write_context_file(path, [FileSession(MN, tuple(VALUES.values())[:2])], None, True)
    yield "context-file", "plain", path.read_bytes()
    for dump in sorted(TRACES.glob("*/xfrm-*.bin"))[:4]:
        yield "xfrm", f"{dump.parent.name}-{dump.stem}", dump.read_bytes()[:600]
    yield "sctp-notification", "association-up", bytes.fromhex("0180000014000000000000000100010004000000")
    yield "sctp-notification", "send-failed", struct.pack("=HHII", 0x800D, 0, 32, 0) + bytes(16) + struct.pack("=i", 3)


def main() -> None:
    for target, name, octets in seeds():
        directory = CORPUS / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(octets)


if __name__ == "__main__":
    main()
