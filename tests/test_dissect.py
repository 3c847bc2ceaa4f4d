"""``cxtp dissect`` over every transport; the captures are scapy's, the messages made by hand from RFC 4067's boxes."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest
from node_helpers import recorded_contexts
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, wrpcap

from cxtp.cli import main
from cxtp.dissect import Transport, plain_sighting, sightings, text_sighting
from cxtp.manifest import plan_parts
from cxtp.messages import (
    ContextTransferActivateRequest,
    ContextTransferCancel,
    ContextTransferData,
    PredictiveContextTransferData,
)
from cxtp.wire import IcmpMessage, build, build_icmp

# CTC: Vers 1, Type 6 | V=1 | Length 8 | 192.0.2.100
CANCEL = bytes.fromhex("26 80 0008 c0000264")
# CTAR over IPv6: Vers 1, Type 1 | V=0, A=1 | Length 44 | MN | AR | Sequence Number | Token
ACTIVATE = bytes.fromhex(
    "21 40 002c"
    " 20010db8000000000000000000000001 20010db8000000000000000000000002"
    " 01020304 a1a2a3a4"
)
MN = ip_address("192.0.2.100")


def ip(payload: Packet, ttl: int = 64) -> Packet:
    return Ether() / IP(src="192.0.2.1", dst="192.0.2.2", ttl=ttl) / payload


def test_every_transport(tmp_path: Path) -> None:
    data = SCTPChunkData(beginning=1, ending=1, delay_sack=0, proto_id=0x43585450, tsn=1, data=CANCEL)
    icmp4 = bytes.fromhex("29 00 0000 01 000000") + CANCEL
    icmp6 = build_icmp(IcmpMessage(150, ACTIVATE), (ip_address("2001:db8::1"), ip_address("2001:db8::2")))
    checksummed = build_icmp(IcmpMessage(41, CANCEL))
    assert checksummed[:2] + checksummed[4:] == icmp4[:2] + icmp4[4:]
    packets = [
        ip(UDP(sport=5091, dport=5091) / Raw(CANCEL)),
        ip(TCP(sport=40000, dport=5091, flags="S", seq=99)),
        ip(TCP(sport=40000, dport=5091, flags="PA", seq=100) / Raw(CANCEL[:3])),
        ip(TCP(sport=40000, dport=5091, flags="PA", seq=103) / Raw(CANCEL[3:] + CANCEL)),
        ip(SCTP(sport=5091, dport=5091, tag=1) / data),
        ip(Raw(checksummed), ttl=255),
        Ether() / IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=255, nh=58) / Raw(icmp6),
        ip(UDP(sport=53, dport=53) / Raw(CANCEL)),  # another port: none of ours
        ip(ICMP(type=8)),
    ]
    packets[5][IP].proto = 1
    path = tmp_path / "all.pcap"
    wrpcap(str(path), packets)
    found = list(sightings(path))
    assert [(s.packet, s.transport) for s in found] == [
        (1, Transport.UDP),
        (4, Transport.TCP),
        (4, Transport.TCP),
        (5, Transport.SCTP),
        (6, Transport.ICMP),
        (7, Transport.ICMP),
    ]
    cancel = ContextTransferCancel(mn_previous_address=MN)
    assert [s.message for s in found[:5]] == [cancel] * 5
    activate = found[5].message
    assert isinstance(activate, ContextTransferActivateRequest)
    assert (activate.sequence_number, activate.acknowledge) == (0x01020304, True)
    assert "CTAR" in text_sighting(found[5])


def test_pcapng_and_another_port(tmp_path: Path) -> None:
    path = tmp_path / "some.pcapng"
    writer = PcapNgWriter(str(path))
    writer.write(ip(UDP(sport=6000, dport=6000) / Raw(CANCEL)))
    writer.close()
    assert list(sightings(path)) == []
    (found,) = sightings(path, 6000)
    assert found.message == ContextTransferCancel(mn_previous_address=MN)


def test_contexts_are_decoded_and_keys_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = bytes(range(0xC0, 0xD4))
    (blocks,) = plan_parts(recorded_contexts(), transfer_id=0x01020304, generation=7)
    message = PredictiveContextTransferData(mn_previous_address=MN, elapsed_time=5, blocks=blocks, key=key)
    path = tmp_path / "pctd.pcap"
    wrpcap(str(path), [ip(UDP(sport=5091, dport=5091) / Raw(build(message)))])
    assert main(["dissect", str(path), "--json"]) == 0
    hidden = capsys.readouterr().out
    assert main(["dissect", str(path), "--json", "--show-keys"]) == 0
    shown = capsys.readouterr().out
    assert main(["dissect", str(path)]) == 0
    text = capsys.readouterr().out
    assert key.hex() in shown
    assert key.hex() not in hidden + text
    (plain,) = json.loads(hidden)["messages"]
    manifest, ike_sa, ipsec_sa = plain["message"]["contexts"]
    assert (manifest["transfer_id"], manifest["generation"]) == (0x01020304, 7)
    assert (ike_sa["kind"], ipsec_sa["kind"]) == ("ike_sa", "ipsec_sa")
    assert plain["message"]["key"] == {"hidden": True, "octets": 20}


def test_what_is_no_message_is_shown_with_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pcap"
    packets = [ip(UDP(sport=5091, dport=5091) / Raw(octets)) for octets in (CANCEL[:-1], b"", b"\x46" + CANCEL[1:])]
    wrpcap(str(path), packets)
    assert main(["dissect", str(path), "--json"]) == 1
    errors = [item["error"] for item in json.loads(capsys.readouterr().out)["messages"]]
    assert [error.split(" at ")[0] for error in errors[:1]] == ["length"]
    assert "version" in errors[-1]
    assert main(["dissect", str(path)]) == 1
    assert "not a CXTP message" in capsys.readouterr().out


def test_a_context_that_is_malformed_is_shown_with_its_error(tmp_path: Path) -> None:
    (blocks,) = plan_parts(recorded_contexts()[:1], transfer_id=1, generation=1)
    octets = bytearray(build(ContextTransferData(mn_previous_address=MN, elapsed_time=0, blocks=blocks)))
    octets[12 + 48 + 8] = 9  # the IKE_SA context's format version
    path = tmp_path / "context.pcap"
    wrpcap(str(path), [ip(UDP(sport=5091, dport=5091) / Raw(bytes(octets)))])
    (found,) = sightings(path)
    plain = plain_sighting(found)
    assert "version" in plain["message"]["contexts"][1]["error"].lower()
    assert "IKE_SA" in text_sighting(found)
