"""The stories, by name: what each shows, and where RFC 4067 says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from contexts.base import encode
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.multicast_listener import MulticastListenerContext

from ..adapters.capture import PcapngWriter, PcapWriter
from ..adapters.wireshark_tables import WiresharkTables, wireshark_tables
from ..constants import StatusCode
from ..errors import ConfigurationError
from ..messages import (
    ContextTransferActivateRequest,
    ContextTransferData,
    ContextTransferDataReply,
    EncodedContext,
    Message,
)
from .handover import ENDS, handover
from .stage import CONFIG, GENERATION, MN_KEY, Fate, Script, Stage, failed
from .vpn import Vpn

Contexts = tuple[IkeSaContext | IpsecSaContext, ...]
Tell = Callable[[PcapWriter, int], Contexts]

_NOT_SCTP = ("3.1-sctp",)
"""Between routers, another transport MAY be tried, and SCTP SHOULD be used (RFC 4067, 3.1)."""


@dataclass(frozen=True)
class Scenario:
    """One capture.  ``tell`` writes it and gives the contexts that open what is encrypted in it."""

    name: str
    shows: str
    sections: str
    tell: Tell
    breaks: tuple[str, ...] = ()
    """Rules of ``cxtp conform`` that fail in it, MUST or not."""


def make(scenario: Scenario, path: Path, seed: int = 1) -> WiresharkTables:
    """Write the capture, pcapng or, where the name ends in ``.pcap``, pcap.  The same seed gives the same octets.

    Gives Wireshark's keys for it.  Raises ConfigurationError where the file can't be written.
    """
    with (PcapWriter if path.suffix == ".pcap" else PcapngWriter)(path) as writer:
        contexts = scenario.tell(writer, seed)
    return wireshark_tables(contexts)


def find(name: str) -> Scenario:
    """Raises ConfigurationError, which names all, where there is none of that name."""
    if name not in SCENARIOS:
        raise ConfigurationError(f"no scenario {name}; there are: {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


# --- transfers ------------------------------------------------------------------------------------------------------

Act = Callable[[Stage], None]


def _session(seed: int, version: int) -> Vpn:
    client, gateway, *_ = ENDS[version]
    return Vpn(seed, ip_address(client), ip_address(gateway))


def _transfer(
    act: Act,
    script: Callable[[tuple[EncodedContext, ...]], Script] = lambda contexts: Script(),
    *,
    version: int = 4,
    transport: str = "sctp",
    contexts: tuple[EncodedContext, ...] | None = None,
) -> Tell:
    def tell(writer: PcapWriter, seed: int) -> Contexts:
        vpn = _session(seed, version)
        moved = vpn.contexts() if contexts is None else contexts
        stage = Stage(writer, seed, moved, script(moved), version=version, transport=transport)
        act(stage)
        stage.run()
        stage.close()
        return vpn.all_contexts()

    return tell


def _predict(stage: Stage) -> None:
    """5.1: the network knows where the mobile node will be."""
    stage.previous.previous.predict(stage.mn, stage.new_peer, stage.contexts, GENERATION, MN_KEY, stage.now)
    stage.at(0.4, lambda: _activate(stage))


def _request(stage: Stage) -> None:
    """5.2: the mobile node is at the new router already, which asks before it is asked."""
    stage.new.new.request(stage.mn, stage.previous_peer, stage.now)
    stage.at(0.1, lambda: _activate(stage))


def _activate(stage: Stage, *, predictive: bool = False, key: bytes = MN_KEY) -> None:
    stage.mobile.activate(stage.mn, stage.previous_peer, stage.new_peer, stage.now, key, predictive=predictive)


def _activate_forged(stage: Stage) -> None:
    _activate(stage, key=bytes(20))


def _activate_ahead(stage: Stage) -> None:
    _activate(stage, predictive=True)


def _push(stage: Stage) -> None:
    stage.previous.previous.transfer(stage.mn, stage.new_peer, stage.contexts, GENERATION, stage.now)


def _cancel(stage: Stage) -> None:
    """2.5.5: the contexts would come too late."""
    _activate(stage)
    stage.at(0.012, lambda: stage.new.new.cancel(stage.mn, stage.now))


def _ask_with_null_token(stage: Stage) -> None:
    stage.new.new.request(stage.mn, stage.previous_peer, stage.now)


def _first_lost(kind: type[Message]) -> Fate:
    """The first message of a type does not arrive."""
    return lambda message, number: type(message) is not kind or number != 1


def _lose(kind: type[Message]) -> Callable[[tuple[EncodedContext, ...]], Script]:
    return lambda contexts: Script(fate=_first_lost(kind))


def _slow(contexts: tuple[EncodedContext, ...]) -> Script:
    """The new router takes longer than a mobile node waits (CT_REQUEST_RETRY)."""
    return Script(installing=CONFIG.timers.request_retry * 1.2)


def _unknown_and_lost(contexts: tuple[EncodedContext, ...]) -> Script:
    return replace(_unknown(contexts), fate=_first_lost(ContextTransferData))


def _unknown(contexts: tuple[EncodedContext, ...]) -> Script:
    """The new router keeps what it does not know, and says so."""
    return Script(statuses=failed(contexts, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE), success=True)


def _refused(status: int) -> Scenario:
    name = StatusCode(status).name.lower().replace("_", "-")
    return Scenario(
        f"refused-{name}",
        f"the new router refuses the contexts: {StatusCode(status).name}; they stay where they were",
        "2.5.4",
        _transfer(_activate, lambda contexts: Script(statuses=failed(contexts, status))),
    )


def _handover(*, version: int = 4, udp: bool = False, transport: str = "sctp", forgetful: bool = False) -> Tell:
    def tell(writer: PcapWriter, seed: int) -> Contexts:
        return handover(writer, seed, version=version, udp=udp, transport=transport, forgetful=forgetful)

    return tell


_LISTENER = encode(
    MulticastListenerContext(
        subnet_prefix=IPv6Address("2001:db8:b::").packed[:8], group=IPv6Address("ff0e::101")
    )
)  # fmt: skip
_LARGE = (EncodedContext(0x7001, bytes(n % 251 for n in range(5000))),)
"""More than two blocks hold."""

_ALL = (
    Scenario("predictive", "the network sends the contexts ahead: PCTD, CTDR, then CTAR, CTAA", "5.1",
             _transfer(_predict)),
    Scenario("reactive", "the new router asks with a null token before the mobile node does", "5.2",
             _transfer(_request)),
    Scenario("mobile-predictive", "the mobile node sends CTARs to both routers before it moves", "5.3",
             _transfer(_activate_ahead)),
    Scenario("mobile-reactive", "CTAR at the new router, CT-Req, CTD, CTDR, CTAA", "5.3", _transfer(_activate)),
    Scenario("unsolicited", "the previous router decides: CTD, CTDR; no mobile node takes part", "2.5.3",
             _transfer(_push)),
    Scenario("cancel", "the new router gives a request up: CTC", "2.5.5", _transfer(_cancel)),
    Scenario("refused-by-previous", "the previous router has nothing to give", "2.5.4",
             _transfer(_activate, lambda contexts: Script(refuse=StatusCode.NO_SUCH_CONTEXT))),
    *(_refused(status) for status in StatusCode if status not in (
        StatusCode.SUCCESS, StatusCode.UNKNOWN_FEATURE_PROFILE_TYPE)),
    Scenario("unknown-type", "a context type that the new router does not know is kept, and told of: S=1, status 2",
             "2.5.4", _transfer(_activate, _unknown, contexts=(EncodedContext(0x7001, bytes(16)),))),
    Scenario("lost-request", "the CTAR is lost, and repeated", "6.1",
             _transfer(_activate, _lose(ContextTransferActivateRequest), transport="udp"), _NOT_SCTP),
    Scenario("lost-data", "the CTD is lost on UDP, and repeated", "3.1",
             _transfer(_push, _lose(ContextTransferData), transport="udp"), _NOT_SCTP),
    Scenario("lost-chunk", "a CTD's DATA chunk is lost on SCTP, which sends it again with the same TSN", "3.1",
             _transfer(_push, _lose(ContextTransferData))),
    Scenario("lost-chunk-of-several", "the same with a CTD in four packets, of which three are acknowledged", "3.1",
             _transfer(_push, _unknown_and_lost, contexts=_LARGE)),
    Scenario("lost-reply", "the CTDR is lost on UDP; the CTD comes again, and is answered alike", "2.5.4",
             _transfer(_push, _lose(ContextTransferDataReply), transport="udp"), _NOT_SCTP),
    Scenario("duplicate-request", "the new router takes long, and the CTAR comes twice: it asks once and answers once",
             "2.5.1", _transfer(_activate, _slow)),
    Scenario("null-token", "a CT-Req with a null token, answered by a PCTD", "2.5.6", _transfer(_ask_with_null_token)),
    Scenario("multicast-listener", "the context type of Appendix B", "Appendix B",
             _transfer(_activate, version=6, contexts=(_LISTENER,))),
    Scenario("ipv6", "mobile-reactive over IPv6, ICMPv6 type 150", "2.4", _transfer(_activate, version=6)),
    Scenario("continuation", "a context of 5,000 octets in three blocks, of a type that is not known", "2.3",
             _transfer(_activate, _unknown, contexts=_LARGE)),
    Scenario("forged-token", "the mobile node does not know the key: nothing is transferred", "6.3",
             _transfer(_activate_forged)),
    Scenario("tcp", "messages framed by their own Length, as TLS carries them", "3.1",
             _transfer(_push, transport="tcp"), _NOT_SCTP),
    Scenario("tls", "mobile-reactive over TLS 1.3 with mutual certificates; the capture holds the secrets", "3.1",
             _transfer(_activate, transport="tls")),
    Scenario("handover", "IKE_SA_INIT, IKE_AUTH, ESP via A; the session moves; ESP, liveness, rekeying via B", "1",
             _handover()),
    Scenario("handover-ipv6", "the same over IPv6", "1", _handover(version=6)),
    Scenario("handover-udp", "the same with ESP and IKE in UDP port 4500, CXTP over UDP", "1",
             _handover(udp=True, transport="udp"), _NOT_SCTP),
    Scenario("handover-tls", "the same with the gateways' own link in TLS 1.3, as nodes have it by default", "1",
             _handover(transport="tls")),
    Scenario("handover-esp-link", "the same; the gateways' own link is protected by ESP, as it has to be", "6",
             _handover(transport="esp")),
    Scenario("handover-numbers-again", "gateway B begins at sequence number 1 again: what must never be", "6",
             _handover(forgetful=True), ("safety-sequence-numbers",)),
)  # fmt: skip

SCENARIOS = {scenario.name: scenario for scenario in _ALL}
