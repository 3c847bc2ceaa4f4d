"""What a strongSwan daemon exports over its ``ha`` plugin, kept as sessions that can be moved.

Sans-IO: :meth:`HaTracker.apply` takes messages, :meth:`HaTracker.sessions` gives contexts.  The messages are
neither numbered nor confirmed, and a daemon repeats them on a resync: each is applied once, however often it comes,
and what does not fit (an update of an IKE_SA whose IKE_ADD was lost, say) is reported, never raised.
"""

from __future__ import annotations

import hmac
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from contexts.values import HostAddress, Identification, IkeSpis, IPAddress
from cxtp.adapters.capture import udp_datagrams
from cxtp.adapters.capture.files import PathLike

from .attributes import HA_PORT, Attribute, HaMessage, HaMessageType, IkeSaId
from .codec import PRIVATE_BIT, MalformedHaMessage, is_additional_key_exchange, parse_message
from .export import ExportedSession, sessions_of, why_not_exported, withheld_children
from .records import Refused, child_record, ike_record, required, same_child
from .state import INHERITED, ChildRecord, HaReport, HaReportKind, IkeRecord

__all__ = ["ExportedSession", "HaLimits", "HaReport", "HaReportKind", "HaTracker", "read_ha_capture"]

DEFAULT_WINDOW = 128
"""Anti-replay window of exported IPsec_SAs, in packets.

The messages do not tell it.  charon's default is 32, 128 is what its userspace ESP and ESN set-ups use: the larger
one refuses nothing that is valid, and since no sequence number is known either, none of it decides about a replay
before the true state was learned (:attr:`CounterKnowledge.UNKNOWN`).
"""


@dataclass(frozen=True)
class HaLimits:
    """What the other side may make us hold; all ours."""

    ike_sas: int = 65_536
    child_sas: int = 262_144
    reports: int = 4096
    """The latest are kept; counters count all."""
    forgotten: int = 4096
    """IKE_SAs that are gone and still known as such."""
    addresses: int = 255
    """Virtual and peer addresses of one IKE_SA, each."""
    additional_key_exchanges: int = 7
    """ADDKE1 to ADDKE7 (RFC 9370, 2.2.1)."""


class HaTracker:
    """The SAs that one daemon (or several, of one cluster) told of.

    ``keep_deleted``: deletes are not applied, so that a recording shows each SA as it stood while it lived.
    ``counters`` counts reports by kind, repetitions (which are not reported) among them; ``messages`` what was
    applied or tried, by type.
    """

    def __init__(
        self, *, keep_deleted: bool = False, window: int = DEFAULT_WINDOW, limits: HaLimits | None = None
    ) -> None:
        self.keep_deleted = keep_deleted
        self.window = window
        self.limits = limits or HaLimits()
        self.counters: Counter[HaReportKind] = Counter()
        self.messages: Counter[HaMessageType] = Counter()
        self._reports: deque[HaReport] = deque(maxlen=self.limits.reports)
        self._ike_sas: dict[IkeSpis, IkeRecord] = {}
        self._children: dict[int, ChildRecord] = {}
        self._child_by_spi: dict[int, ChildRecord] = {}
        self._gone: OrderedDict[IkeSpis, None] = OrderedDict()
        self._serial = 0
        self._handlers: dict[HaMessageType, Callable[[HaMessage, float], None]] = {
            HaMessageType.IKE_ADD: self._ike_add,
            HaMessageType.IKE_UPDATE: self._ike_update,
            HaMessageType.IKE_MID_INITIATOR: self._message_id,
            HaMessageType.IKE_MID_RESPONDER: self._message_id,
            HaMessageType.IKE_DELETE: self._ike_delete,
            HaMessageType.CHILD_ADD: self._child_add,
            HaMessageType.CHILD_DELETE: self._child_delete,
        }

    @property
    def reports(self) -> tuple[HaReport, ...]:
        """What was not applied and why, the latest :attr:`HaLimits.reports` of it."""
        return tuple(self._reports)

    def apply(self, message: HaMessage, time: float) -> None:
        """Take one message, received at ``time`` (seconds).  Messages about segments and IKEv1's IVs say nothing of
        an SA: they are counted alone."""
        self.messages[message.type] += 1
        handler = self._handlers.get(message.type)
        if handler is None:
            return
        try:
            handler(message, time)
        except Refused as refused:
            self.report(HaReport(refused.kind, time, refused.spis, refused.inbound_spi, refused.detail))

    def report(self, report: HaReport) -> None:
        """Count a report and keep it."""
        self.counters[report.kind] += 1
        if report.kind is not HaReportKind.REPEATED:
            self._reports.append(report)

    def sessions(self) -> tuple[ExportedSession, ...]:
        """What can be moved now; see :meth:`withheld` for the rest."""
        return tuple(sessions_of(self._ike_sas.values(), self._children.values(), self.window))

    def session_of(self, mn_address: IPAddress) -> ExportedSession | None:
        """What can be moved of one mobile node now."""
        near = {r.chain for r in self._ike_sas.values() if r.remote_host and r.remote_host.address == mn_address}
        ike_sas = [record for record in self._ike_sas.values() if record.chain in near]
        children = [child for child in self._children.values() if child.owner.chain in near]
        return next((s for s in sessions_of(ike_sas, children, self.window) if s.mn_address == mn_address), None)

    def address_of(self, spis: IkeSpis) -> IPAddress | None:
        """Where the peer of an IKE_SA is; None where it is not known."""
        record = self._ike_sas.get(spis)
        return record.remote_host.address if record is not None and record.remote_host is not None else None

    def addresses(self) -> set[IPAddress]:
        """The mobile nodes that are known."""
        return {record.remote_host.address for record in self._ike_sas.values() if record.remote_host is not None}

    def knows(self, spis: IkeSpis) -> bool:
        """Whether its IKE_ADD was seen, and no delete."""
        return spis in self._ike_sas

    def is_told(self, spis: IkeSpis) -> bool:
        """Whether all was told that an IKE_SA needs to be moved, or that it can't be."""
        record = self._ike_sas.get(spis)
        reason = None if record is None else why_not_exported(record)
        return record is not None and (reason is None or reason[0] is not HaReportKind.NOT_ESTABLISHED)

    def ike_spis(self) -> set[IkeSpis]:
        """The IKE_SAs that live, as far as was told."""
        return {spis for spis, record in self._ike_sas.items() if not record.deleted}

    def inbound_spis(self, spis: IkeSpis) -> set[int]:
        """The inbound SPIs of an IKE_SA's CHILD_SAs that live, as far as was told."""
        record = self._ike_sas.get(spis)
        if record is None:
            return set()
        return {child.inbound_spi for child in record.children.values() if not child.deleted}

    def drop(self, spis: IkeSpis) -> None:
        """An IKE_SA and its CHILD_SAs are gone, by another's word."""
        record = self._ike_sas.get(spis)
        if record is not None:
            for child in list(record.children.values()):
                self._remove_child(child)
            self._leave(spis)

    def drop_child(self, inbound_spi: int) -> None:
        """A CHILD_SA is gone, by another's word."""
        child = self._child_by_spi.get(inbound_spi)
        if child is not None:
            self._remove_child(child)

    def withheld(self) -> tuple[HaReport, ...]:
        """What :meth:`sessions` leaves out, and why: IKE_SAs with their CHILD_SAs, and CHILD_SAs alone."""
        reports = []
        for record in self._ike_sas.values():
            reason = why_not_exported(record)
            if reason is not None:
                children = f", nor its {len(record.children)} CHILD_SAs" if record.children else ""
                reports.append(HaReport(reason[0], record.time, record.spis, None, reason[1] + children))
        known = self._ike_sas.values()
        for child, detail in withheld_children(known, self._children.values()):
            kind, spis = HaReportKind.UNSUPPORTED, child.owner.spis
            reports.append(HaReport(kind, child.time, spis, child.inbound_spi, detail))
        return tuple(reports)

    # --- IKE_SAs ------------------------------------------------------------------------------------------------

    def _ike_add(self, message: HaMessage, time: float) -> None:
        identity = self._ike_id(message)
        if is_additional_key_exchange(message):
            self._additional_key_exchange(message, identity.spis)
            return
        record = self._ike_sas.get(identity.spis)
        old = message.first(Attribute.IKE_REKEY_ID)
        predecessor = self._ike_sas.get(old.spis) if isinstance(old, IkeSaId) else None
        made = ike_record(message, identity, time)
        if record is not None:
            if not (record.nonces == made.nonces and hmac.compare_digest(record.secret, made.secret)):
                raise Refused(HaReportKind.CONFLICT, "IKE_ADD with other keys for the same SPIs", identity.spis)
            self.counters[HaReportKind.REPEATED] += 1
        else:
            if len(self._ike_sas) >= self.limits.ike_sas:
                raise Refused(HaReportKind.LIMIT, f"more than {self.limits.ike_sas} IKE_SAs", identity.spis)
            record = made
            self._serial += 1
            record.chain = self._serial
            if predecessor is not None:
                record.chain = predecessor.chain
                _inherit(record, predecessor)
            self._ike_sas[record.spis] = record
            self._gone.pop(record.spis, None)
        if predecessor is not None and predecessor is not record:
            predecessor.chain = record.chain
            if predecessor.successor is None or predecessor.successor not in self._ike_sas:
                predecessor.successor = record.spis
            self._hand_over(predecessor, self._current(predecessor))
        elif isinstance(old, IkeSaId) and old.spis not in self._gone:
            raise Refused(HaReportKind.UNKNOWN_IKE_SA, f"rekeyed from {old.spis}, which is not known", record.spis)

    def _additional_key_exchange(self, message: HaMessage, spis: IkeSpis) -> None:
        """One more key exchange of an IKE_SA: SKEYSEED = prf(SK_d so far, SECRET | Ni | Nr) (RFC 9370, 2.2.2)."""
        record = self._known(spis)
        secret = required(message, Attribute.SECRET, bytes, spis)
        if any(hmac.compare_digest(secret, known) for known in (record.secret, *record.additional_secrets)):
            self.counters[HaReportKind.REPEATED] += 1
            return
        if len(record.additional_secrets) >= self.limits.additional_key_exchanges:
            raise Refused(HaReportKind.LIMIT, "more additional key exchanges than there can be", spis)
        record.additional_secrets.append(secret)

    def _ike_update(self, message: HaMessage, time: float) -> None:
        record = self._known(self._ike_id(message).spis)
        for attribute, (name, kind) in _UPDATES.items():
            value = message.first(attribute)
            if isinstance(value, kind):
                setattr(record, name, value)
        for attribute, names in _BIT_SETS.items():
            for value in message.all(attribute):
                if isinstance(value, int):
                    setattr(record, names[bool(value & PRIVATE_BIT)], value)
        for attribute, name in _ADDRESS_LISTS.items():
            hosts = tuple(value for value in message.all(attribute) if isinstance(value, HostAddress))
            if not hosts:
                continue
            if len(hosts) > self.limits.addresses:
                detail = f"{attribute.name}: {len(hosts)} addresses, the first {self.limits.addresses} are kept"
                self.report(HaReport(HaReportKind.LIMIT, time, record.spis, None, detail))
                hosts = hosts[: self.limits.addresses]
            peers = attribute is Attribute.PEER_ADDR
            setattr(record, name, hosts if peers else tuple(host.address for host in hosts))

    def _message_id(self, message: HaMessage, time: float) -> None:
        spis = self._ike_id(message).spis
        number = required(message, Attribute.MID, int, spis)
        if spis in self._gone:
            raise Refused(HaReportKind.STALE, "a Message ID for an IKE_SA that is gone", spis)
        record = self._known(spis)
        if record.deleted:
            raise Refused(HaReportKind.STALE, "a Message ID for an IKE_SA that is gone", spis)
        sent = message.type is HaMessageType.IKE_MID_INITIATOR
        name = "next_request_to_send" if sent else "next_request_expected"
        if number > getattr(record, name):  # Message IDs only rise: what is lower was repeated; 0 says nothing
            setattr(record, name, number)
        else:
            self.counters[HaReportKind.REPEATED] += 1

    def _ike_delete(self, message: HaMessage, time: float) -> None:
        spis = self._ike_id(message).spis
        if spis in self._gone:
            self.counters[HaReportKind.REPEATED] += 1
            return
        record = self._known(spis)
        if record.deleted:
            self.counters[HaReportKind.REPEATED] += 1
            return
        record.deleted = True
        heir = self._current(record)
        if heir is record and record.predecessor is not None:  # both sides rekeyed at once: this one lost
            heir = next((r for r in self._ike_sas.values() if _is_sibling(r, record)), record)
            predecessor = self._ike_sas.get(record.predecessor)
            if predecessor is not None and heir is not record:
                predecessor.successor = heir.spis
        self._hand_over(record, heir)
        for child in list(record.children.values()):
            self._remove_child(child)
        if not self.keep_deleted:
            self._leave(spis)

    def _leave(self, spis: IkeSpis) -> None:
        del self._ike_sas[spis]
        self._gone[spis] = None
        if len(self._gone) > self.limits.forgotten:
            self._gone.popitem(last=False)

    def _hand_over(self, record: IkeRecord, heir: IkeRecord) -> None:
        """CHILD_SAs that live follow a rekey (RFC 7296, 2.8)."""
        if heir is record:
            return
        for child in list(record.children.values()):
            if not child.deleted:
                del record.children[child.serial]
                heir.children[child.serial] = child
                child.owner = heir

    def _current(self, record: IkeRecord) -> IkeRecord:
        """The IKE_SA that took this one's place, itself where none did."""
        seen = {record.spis}
        while record.successor is not None and record.successor not in seen:
            following = self._ike_sas.get(record.successor)
            if following is None or (following.deleted and following.successor is None):
                break
            seen.add(following.spis)
            record = following
        return record

    def _known(self, spis: IkeSpis) -> IkeRecord:
        record = self._ike_sas.get(spis)
        if record is None:
            raise Refused(HaReportKind.UNKNOWN_IKE_SA, "its IKE_ADD was not seen", spis)
        return record

    @staticmethod
    def _ike_id(message: HaMessage) -> IkeSaId:
        value = message.first(Attribute.IKE_ID)
        if not isinstance(value, IkeSaId):
            raise Refused(HaReportKind.MISSING_ATTRIBUTE, f"{message.type.name} without IKE_ID", None)
        return value

    # --- CHILD_SAs ----------------------------------------------------------------------------------------------

    def _child_add(self, message: HaMessage, time: float) -> None:
        spis = self._ike_id(message).spis
        source = self._known(spis)
        child = child_record(message, source, time)
        known = self._child_by_spi.get(child.inbound_spi)
        if known is not None and same_child(known, child):
            self.counters[HaReportKind.REPEATED] += 1
            return
        if len(self._children) >= self.limits.child_sas:
            raise Refused(HaReportKind.LIMIT, f"more than {self.limits.child_sas} CHILD_SAs", spis, child.inbound_spi)
        if known is not None:
            if not known.deleted:
                detail = "its inbound SPI is used anew: a CHILD_DELETE was lost"
                self.report(HaReport(HaReportKind.CONFLICT, time, spis, child.inbound_spi, detail))
            self._remove_child(known)
        self._serial += 1
        child.serial = self._serial
        child.owner = self._current(source)
        child.owner.children[child.serial] = child
        self._children[child.serial] = child
        self._child_by_spi[child.inbound_spi] = child

    def _child_delete(self, message: HaMessage, time: float) -> None:
        spis = self._ike_id(message).spis
        inbound_spi = required(message, Attribute.INBOUND_SPI, int, spis)
        child = self._child_by_spi.get(inbound_spi)
        if child is None:
            raise Refused(HaReportKind.UNKNOWN_CHILD_SA, "its CHILD_ADD was not seen", spis, inbound_spi)
        named = self._ike_sas.get(spis)
        if named is None or named.chain != child.owner.chain:
            detail = f"CHILD_DELETE under another IKE_SA than its own, {child.owner.spis}"
            raise Refused(HaReportKind.CONFLICT, detail, spis, inbound_spi)
        if child.deleted:
            self.counters[HaReportKind.REPEATED] += 1
        self._remove_child(child)

    def _remove_child(self, child: ChildRecord) -> None:
        child.deleted = True
        if self.keep_deleted:
            return
        child.owner.children.pop(child.serial, None)
        self._children.pop(child.serial, None)
        if self._child_by_spi.get(child.inbound_spi) is child:
            del self._child_by_spi[child.inbound_spi]


# --- tables ---------------------------------------------------------------------------------------------------

_UPDATES: dict[Attribute, tuple[str, type]] = {
    Attribute.LOCAL_ID: ("local_identity", Identification),
    Attribute.REMOTE_ID: ("remote_identity", Identification),
    Attribute.REMOTE_EAP_ID: ("eap_identity", Identification),
    Attribute.LOCAL_ADDR: ("local_host", HostAddress),
    Attribute.REMOTE_ADDR: ("remote_host", HostAddress),
    Attribute.CONFIG_NAME: ("name", str),
}
_BIT_SETS: dict[Attribute, tuple[str, str]] = {
    Attribute.CONDITIONS: ("conditions", "private_conditions"),
    Attribute.EXTENSIONS: ("extensions", "private_extensions"),
}
_ADDRESS_LISTS: dict[Attribute, str] = {
    Attribute.LOCAL_VIP: "local_virtual",
    Attribute.REMOTE_VIP: "remote_virtual",
    Attribute.PEER_ADDR: "peer_addresses",
}



def _inherit(record: IkeRecord, predecessor: IkeRecord) -> None:
    for name in INHERITED:
        if not getattr(record, name):  # an IKE_ADD tells the remote address itself
            setattr(record, name, getattr(predecessor, name))


def _is_sibling(candidate: IkeRecord, record: IkeRecord) -> bool:
    return candidate is not record and not candidate.deleted and candidate.predecessor == record.predecessor


# --- captures ---------------------------------------------------------------------------------------------------


def read_ha_capture(
    *paths: PathLike,
    keep_deleted: bool = False,
    window: int = DEFAULT_WINDOW,
    byte_order: str = "little",
    port: int = HA_PORT,
) -> HaTracker:
    """The state that the ``ha`` messages in capture files (pcap, pcapng) leave behind, files in the order given.

    Datagrams that are no message are reported as MALFORMED.  Raises as :func:`cxtp.adapters.capture.read_packets`
    does.
    """
    tracker = HaTracker(keep_deleted=keep_deleted, window=window)
    for path in paths:
        for datagram in udp_datagrams(path, port):
            try:
                message = parse_message(datagram.payload, byte_order=byte_order)
            except MalformedHaMessage as error:
                detail = f"packet {datagram.index}: {error}"
                tracker.report(HaReport(HaReportKind.MALFORMED, datagram.time, None, None, detail))
                continue
            tracker.apply(message, datagram.time)
    return tracker
