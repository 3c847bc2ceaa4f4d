"""What the session tests stand on: contexts of any suite, and the recorded traces as contexts and packets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from scapy.utils import RawPcapReader

from contexts.algorithms import ENCRYPTION, INTEGRITY
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.values import (
    AntiReplayWindow,
    ConfiguredCredentials,
    CounterKnowledge,
    HostAddress,
    Identification,
    IkeExtension,
    IkeKeying,
    IkeProposal,
    IkeSpis,
    IpComp,
    IpsecKeying,
    IpsecKeys,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    MessageIds,
    Nonces,
    RekeyedFrom,
    SequenceNumbers,
    SharedSecret,
    TrafficSelector,
)
from cxtp.constants import IdentificationType, SecurityProtocol

LOCAL = ip_address("192.0.2.1")
REMOTE = ip_address("192.0.2.100")
SPIS = IkeSpis(0x0123456789ABCDEF, 0xFEDCBA9876543210)
NONCES = Nonces(bytes(range(32)), bytes(range(100, 140)))
INBOUND_SPI = 0xC0FFEE01
OUTBOUND_SPI = 0xBADCAB1E

TRACES = Path(__file__).resolve().parent.parent / "pcaps" / "strongswan"


def octets(count: int, start: int = 0) -> bytes:
    """Some octets, different at each place and for each start."""
    return bytes((start + 7 * n) % 256 for n in range(count))


def ike_context(
    proposal: IkeProposal, keying: IkeKeying, *, initiator: bool = False, spis: IkeSpis = SPIS, port: int = 500
) -> IkeSaContext:
    return IkeSaContext(
        initiator=initiator,
        local_host=HostAddress(LOCAL, port),
        remote_host=HostAddress(REMOTE, port),
        spis=spis,
        message_ids=MessageIds(0, 0),
        keying=keying,
        proposal=proposal,
        extensions=IkeExtension.NONE,
        local_identity=Identification(IdentificationType.FQDN, b"gw.example.org"),
        remote_identity=Identification(IdentificationType.FQDN, b"client.example.org"),
        credentials=ConfiguredCredentials("net1"),
    )


def ipsec_context(
    proposal: IpsecProposal,
    keying: IpsecKeying,
    *,
    sequence_numbers: SequenceNumbers = SequenceNumbers(),
    window: AntiReplayWindow = AntiReplayWindow(64),
    mode: IpsecMode = IpsecMode.TUNNEL,
    ipcomp: IpComp | None = None,
    inbound_spi: int = INBOUND_SPI,
    outbound_spi: int = OUTBOUND_SPI,
    local: HostAddress = HostAddress(LOCAL),
    remote: HostAddress = HostAddress(REMOTE),
) -> IpsecSaContext:
    selector = TrafficSelector(ip_address("10.1.0.0"), ip_address("10.1.0.255"))
    return IpsecSaContext(
        ike_spis=SPIS,
        local_host=local,
        remote_host=remote,
        inbound_spi=inbound_spi,
        outbound_spi=outbound_spi,
        ipcomp=ipcomp,
        sequence_numbers=sequence_numbers,
        window=window,
        mode=mode,
        local_selectors=(selector,),
        remote_selectors=(selector,),
        proposal=proposal,
        keying=keying,
    )


def esp_proposals(*, extended: bool = False) -> Iterator[IpsecProposal]:
    """Every encryption algorithm with every key length; each integrity algorithm at least once."""
    macs = sorted(INTEGRITY)
    for count, cipher in enumerate(ENCRYPTION.values()):
        for key_octets in cipher.key_octets:
            bits = key_octets * 8 if len(cipher.key_octets) > 1 else 0
            if cipher.aead:
                yield IpsecProposal(SecurityProtocol.ESP, cipher.number, bits, 0, 0, extended)
                continue
            for mac in macs if cipher.number in (11, 12) and bits in (0, 128) else [macs[count % len(macs)]]:
                yield IpsecProposal(SecurityProtocol.ESP, cipher.number, bits, mac, 0, extended)


def ah_proposals(*, extended: bool = False) -> Iterator[IpsecProposal]:
    for mac in INTEGRITY:
        yield IpsecProposal(SecurityProtocol.AH, None, 0, mac, 0, extended)


def keys_for(proposal: IpsecProposal) -> IpsecKeys:
    """Keys of the right lengths, all different."""
    encryption = 0
    if proposal.encryption is not None:
        encryption = ENCRYPTION[proposal.encryption].key_length(proposal.encryption_key_length)
    integrity = INTEGRITY[proposal.integrity].key_octets if proposal.integrity else 0
    return IpsecKeys(octets(encryption, 1), octets(integrity, 50), octets(encryption, 100), octets(integrity, 150))


# --- the recorded traces ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trace:
    """One recording with its true keys."""

    name: str
    true_keys: dict[str, Any]

    def ike_contexts(self) -> list[IkeSaContext]:
        true = {(sa["spi_i"], sa["spi_r"]): sa for sa in self.true_keys["ike_sas"]}
        return [_recorded_ike(sa, true) for sa in self.true_keys["ike_sas"]]

    def ipsec_contexts(self) -> list[IpsecSaContext]:
        parents = {(sa["spi_i"], sa["spi_r"]): sa for sa in self.true_keys["ike_sas"]}
        return [
            _recorded_child(sa, _parent(sa, self.true_keys["ike_sas"]), parents) for sa in self.true_keys["child_sas"]
        ]

    def ip_packets(self, name: str = "outer.pcap") -> Iterator[bytes]:
        """The IP packets of a capture, link-layer header off."""
        with RawPcapReader(str(TRACES / self.name / name)) as reader:
            ethernet = reader.linktype == 1
            for frame, _ in reader:
                if not ethernet:
                    yield frame
                elif frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
                    yield frame[14:]


def traces() -> list[Trace]:
    """All recordings that have their true keys beside them."""
    return [
        Trace(path.parent.name, json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(TRACES.glob("*/keys.json"))
    ]


def _host(address: str | None, port: int) -> HostAddress:
    return HostAddress(ip_address(address or "192.0.2.1"), port)


def _recorded_ike(sa: dict[str, Any], all_sas: dict[tuple[str, str], dict[str, Any]]) -> IkeSaContext:
    rekeyed_from = None
    if sa["rekey_of"]:
        old = all_sas[sa["rekey_of"]["spi_i"], sa["rekey_of"]["spi_r"]]
        rekeyed_from = RekeyedFrom(old["prf"], bytes.fromhex(old["sk_d"]))
    keying = SharedSecret(
        bytes.fromhex(sa["dh_shared_secret"]),
        Nonces(bytes.fromhex(sa["nonce_i"]), bytes.fromhex(sa["nonce_r"])),
        rekeyed_from,
    )
    proposal = IkeProposal(sa["encr"], sa["encr_len"] or 0, sa["integ"] or 0, 0, sa["prf"], sa["dh"])
    spis = IkeSpis(int(sa["spi_i"], 16), int(sa["spi_r"], 16))
    remote = sa["remote_addr"]
    local = "2001:db8::1" if ":" in remote["addr"] else "192.0.2.1"
    context = ike_context(proposal, keying, initiator=bool(sa["gateway_is_initiator"]), spis=spis)
    return _at(context, _host(local, remote["port"]), _host(remote["addr"], remote["port"]))


def _at(context: IkeSaContext, local: HostAddress, remote: HostAddress) -> IkeSaContext:
    return replace(context, local_host=local, remote_host=remote)


def _parent(sa: dict[str, Any], ike_sas: list[dict[str, Any]]) -> dict[str, Any]:
    return next(ike for ike in ike_sas if (ike["spi_i"], ike["spi_r"]) == (sa["ike_spi_i"], sa["ike_spi_r"]))


def _recorded_child(
    sa: dict[str, Any], parent: dict[str, Any], parents: dict[tuple[str, str], dict[str, Any]]
) -> IpsecSaContext:
    keying = KeymatDerivation(
        IkeSpis(int(sa["ike_spi_i"], 16), int(sa["ike_spi_r"], 16)),
        bool(sa["gateway_is_initiator"]),
        Nonces(bytes.fromhex(sa["nonce_i"]), bytes.fromhex(sa["nonce_r"])),
        bytes.fromhex(sa["dh_shared_secret"]),
    )
    proposal = IpsecProposal(
        SecurityProtocol.ESP, sa["encr"], sa["encr_len"] or 0, sa["integ"] or 0, 0, bool(sa["esn"]), sa["dh"] or 0
    )
    remote = parent["remote_addr"]["addr"]
    local = "2001:db8::1" if ":" in remote else "192.0.2.1"
    return ipsec_context(
        proposal,
        keying,
        sequence_numbers=SequenceNumbers(knowledge=CounterKnowledge.UNKNOWN),
        mode=IpsecMode(sa["mode"]),
        inbound_spi=int(sa["spi_in"], 16),
        outbound_spi=int(sa["spi_out"], 16),
        local=_host(local, 4500),
        remote=_host(remote, 4500),
    )
