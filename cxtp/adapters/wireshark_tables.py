"""Wireshark's tables of IKEv2 and ESP keys, so that it decrypts what the contexts' sessions sent.

Names and columns are those of Wireshark 4.0's user tables ``ikev2_decryption_table`` and ``esp_sa``.  What Wireshark
has no algorithm for is named, not left out in silence.  The lines hold keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from contexts.algorithms import ENCRYPTION, INTEGRITY, CipherKind, ike_transforms, ipsec_transforms
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.keys import ike_key_generations
from contexts.session import RestoredSession
from contexts.values import IkeProposal, IpsecProposal, KeymatDerivation
from cxtp.constants import EncryptionAlgorithm as E
from cxtp.constants import IntegrityAlgorithm as I
from cxtp.constants import SecurityProtocol
from cxtp.errors import UnsupportedAlgorithm

_IKE_INTEGRITY: Mapping[int, str] = {
    0: "NONE [RFC4306]",
    I.HMAC_SHA1_96: "HMAC_SHA1_96 [RFC2404]",
    I.HMAC_SHA2_256_128: "HMAC_SHA2_256_128 [RFC4868]",
    I.HMAC_SHA2_384_192: "HMAC_SHA2_384_192 [RFC4868]",
    I.HMAC_SHA2_512_256: "HMAC_SHA2_512_256 [RFC4868]",
    I.AES_XCBC_96: "ANY 96-bits of Authentication [No Checking]",
    I.AES_CMAC_96: "ANY 96-bits of Authentication [No Checking]",
}
_IKE_KINDS = {
    CipherKind.AES_CBC: "AES-CBC-{bits} [RFC3602]",
    CipherKind.AES_CTR: "AES-CTR-{bits} [RFC5930]",
    CipherKind.AES_CCM: "AES-CCM-{bits} with {icv} octet ICV [RFC5282]",
    CipherKind.AES_GCM: "AES-GCM-{bits} with {icv} octet ICV [RFC5282]",
    CipherKind.TRIPLE_DES_CBC: "3DES [RFC2451]",
}
_ESP_ENCRYPTION: Mapping[int, str] = {
    E.NULL: "NULL",
    E.TRIPLE_DES: "TripleDES-CBC [RFC2451]",
    E.AES_CBC: "AES-CBC [RFC3602]",
    E.AES_CTR: "AES-CTR [RFC3686]",
    E.AES_GCM_8: "AES-GCM with 8 octet ICV [RFC4106]",
    E.AES_GCM_12: "AES-GCM with 12 octet ICV [RFC4106]",
    E.AES_GCM_16: "AES-GCM with 16 octet ICV [RFC4106]",
}
_ESP_INTEGRITY: Mapping[int, str] = {
    0: "NULL",
    I.HMAC_SHA1_96: "HMAC-SHA-1-96 [RFC2404]",
    I.HMAC_SHA2_256_128: "HMAC-SHA-256-128 [RFC4868]",
    I.HMAC_SHA2_384_192: "HMAC-SHA-384-192 [RFC4868]",
    I.HMAC_SHA2_512_256: "HMAC-SHA-512-256 [RFC4868]",
    I.AES_XCBC_96: "ANY 96 bit authentication [no checking]",
    I.AES_CMAC_96: "ANY 96 bit authentication [no checking]",
}
_UNCHECKED = "ANY {bits} bit authentication [no checking]"


@dataclass
class WiresharkTables:
    """Lines of either table, each once and in the contexts' order; ``withheld`` says which SAs Wireshark can't
    decrypt, and why."""

    ikev2: list[str] = field(default_factory=list, repr=False)
    esp: list[str] = field(default_factory=list, repr=False)
    withheld: list[str] = field(default_factory=list)


def wireshark_tables(contexts: Iterable[IkeSaContext | IpsecSaContext]) -> WiresharkTables:
    """The keys of all SAs.  Raises RemoteError where contexts do not fit each other or lack a parameter."""
    tables = WiresharkTables()
    known = _known_here(tables, tuple(contexts))
    restored = RestoredSession.restore(known)
    for context in known:
        if isinstance(context, IkeSaContext):
            _add_ike(tables, context)
        else:
            _add_ipsec(tables, context, restored)
    tables.ikev2[:] = dict.fromkeys(tables.ikev2)
    tables.esp[:] = dict.fromkeys(tables.esp)
    return tables


def _known_here(
    tables: WiresharkTables, contexts: tuple[IkeSaContext | IpsecSaContext, ...]
) -> list[IkeSaContext | IpsecSaContext]:
    """Those whose keys can be derived; of the others (Camellia, say) it is said that they can't."""
    lost: dict[object, str] = {}
    for context in contexts:
        try:
            if isinstance(context, IkeSaContext):
                ike_transforms(context.proposal)
            else:
                ipsec_transforms(context.proposal)
        except UnsupportedAlgorithm as error:
            lost[id(context)] = str(error)
            if isinstance(context, IkeSaContext):
                lost[context.spis] = f"its keys come from an IKE_SA whose {error}"
    known: list[IkeSaContext | IpsecSaContext] = []
    for context in contexts:
        why = lost.get(id(context))
        if isinstance(context, IpsecSaContext) and isinstance(context.keying, KeymatDerivation):
            why = why or lost.get(context.keying.ike_spis)
        if why is None:
            known.append(context)
        elif isinstance(context, IkeSaContext):
            tables.withheld.append(f"IKE_SA {context.spis}: no keys, {why}")
        else:
            tables.withheld.append(f"CHILD_SA {context.inbound_spi:08x}_{context.outbound_spi:08x}: no keys, {why}")
    return known


def _add_ike(tables: WiresharkTables, context: IkeSaContext) -> None:
    spis = f"{context.spis.initiator:016x},{context.spis.responder:016x}"
    names = _ike_names(context.proposal)
    if names is None:
        tables.withheld.append(f"IKE_SA {spis.replace(',', '_')}: Wireshark has no {context.proposal.name}")
        return
    encryption, integrity = names
    # RFC 9370 makes several generations under the same SPIs, and Wireshark 4.0 takes the last line that has them.
    for keys in ike_key_generations(context.keying, context.proposal, context.spis):
        mac = f"{keys.sk_ai.hex()},{keys.sk_ar.hex()}" if keys.sk_ai else '"",""'
        tables.ikev2.append(f'{spis},{keys.sk_ei.hex()},{keys.sk_er.hex()},"{encryption}",{mac},"{integrity}"')


def _ike_names(proposal: IkeProposal) -> tuple[str, str] | None:
    cipher = ENCRYPTION.get(proposal.encryption)
    name = _IKE_KINDS.get(cipher.kind) if cipher is not None else None
    integrity = _IKE_INTEGRITY.get(proposal.integrity)
    if cipher is None or name is None or integrity is None:
        return None
    return name.format(bits=proposal.encryption_key_length, icv=cipher.icv_octets), integrity


def _add_ipsec(tables: WiresharkTables, context: IpsecSaContext, restored: RestoredSession) -> None:
    spis = f"{context.inbound_spi:08x}_{context.outbound_spi:08x}"
    if context.proposal.protocol == SecurityProtocol.AH:
        return  # nothing of it is encrypted
    names = _esp_names(context.proposal)
    if names is None:
        tables.withheld.append(f"CHILD_SA {spis}: Wireshark has no {context.proposal.name}")
        return
    keys = restored.ipsec_keys(context.inbound_spi)
    for spi, encryption, integrity in (
        (context.inbound_spi, keys.inbound_encryption, keys.inbound_integrity),
        (context.outbound_spi, keys.outbound_encryption, keys.outbound_integrity),
    ):
        # Any address: a peer's may change (MOBIKE, NAT), and the SPIs tell them apart.
        ends = f'"IPv{context.remote_host.address.version}","*","*","0x{spi:08x}"'
        tables.esp.append(f'{ends},"{names[0]}","{_hex(encryption)}","{names[1]}","{_hex(integrity)}"')


def _esp_names(proposal: IpsecProposal) -> tuple[str, str] | None:
    encryption = None if proposal.encryption is None else _ESP_ENCRYPTION.get(proposal.encryption)
    integrity = _ESP_INTEGRITY.get(proposal.integrity)
    if integrity is not None and proposal.integrity and proposal.extended_sequence_numbers:
        # The ICV covers 32 bits more than are sent (RFC 4303, 2.2.1), for which Wireshark 4.0 has no column: it would
        # call each one wrong.  An AEAD's can't be left unchecked.
        integrity = _UNCHECKED.format(bits=8 * INTEGRITY[proposal.integrity].icv_octets)
    return None if encryption is None or integrity is None else (encryption, integrity)


def _hex(key: bytes) -> str:
    return f"0x{key.hex()}" if key else ""
