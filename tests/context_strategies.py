"""Hypothesis strategies for every context and every variant of its parameters, legal values only."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from contexts.base import Context, GenericContext
from contexts.ikev2 import IkeSaContext
from contexts.ipsec import IpsecSaContext
from contexts.multicast_listener import MulticastListenerContext
from contexts.values import (
    AntiReplayWindow,
    Certificates,
    ConfiguredCredentials,
    CounterKnowledge,
    DerivedKeys,
    DiffieHellmanPrivate,
    HostAddress,
    Identification,
    IkeExtension,
    IkeKeys,
    IkeLifetime,
    IkeProposal,
    IkeSpis,
    IkeVersion,
    IpComp,
    IpsecKeys,
    IpsecLifetime,
    IpsecMode,
    IpsecProposal,
    KeymatDerivation,
    LifetimeLimits,
    MessageIds,
    MessageWindow,
    Nonces,
    PresharedKey,
    ProcessingUnit,
    RekeyedFrom,
    SequenceNumbers,
    SharedSecret,
    Skeyseed,
    TrafficSelector,
    UnknownParameter,
    VendorParameter,
)


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << bits) - 1)


octets = st.binary(max_size=40)
ipv4 = st.ip_addresses(v=4)
ipv6 = st.integers(0, (1 << 128) - 1).map(IPv6Address)
ports = unsigned(16)

host_addresses = st.builds(HostAddress, st.one_of(ipv4, ipv6), ports)
ike_spis = st.builds(IkeSpis, unsigned(64), unsigned(64))
identifications = st.builds(Identification, unsigned(8), octets)
nonces = st.builds(Nonces, st.binary(min_size=16, max_size=256), st.binary(min_size=16, max_size=32))

# --- cryptographic material ---

secrets = st.lists(octets, max_size=7).map(tuple)
rekeyed_from = st.none() | st.builds(RekeyedFrom, unsigned(16), octets)
ike_keys = st.builds(IkeKeys, *[octets] * 7)
ike_keying = st.one_of(
    st.builds(DiffieHellmanPrivate, octets, octets, nonces, rekeyed_from, secrets),
    st.builds(SharedSecret, octets, nonces, rekeyed_from, secrets),
    st.builds(Skeyseed, octets, nonces, secrets),
    st.builds(DerivedKeys, ike_keys, st.lists(ike_keys, max_size=7).map(tuple)),
)
ipsec_keying = st.one_of(
    st.builds(IpsecKeys, *[octets] * 4),
    st.builds(KeymatDerivation, ike_spis, st.booleans(), nonces, octets, secrets),
)

# --- the rest of an IKE_SA ---

ike_proposals = st.builds(
    IkeProposal, *[unsigned(16)] * 6, st.lists(unsigned(16), max_size=7).map(tuple)
)
credentials = st.one_of(
    st.builds(PresharedKey, octets),
    st.builds(Certificates, st.lists(octets, min_size=1, max_size=4).map(tuple)),
    st.builds(ConfiguredCredentials, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
)


@st.composite
def windows(draw: st.DrawFn, cls: type[MessageWindow] | type[AntiReplayWindow], minimum: int, maximum: int):  # type: ignore[no-untyped-def]
    size = draw(st.integers(minimum, maximum) | st.sampled_from([minimum, 32, 64, 4096]))
    return cls(size, draw(unsigned(min(size, 4096))))


seconds = st.none() | unsigned(32)
vendor_parameters = st.lists(st.builds(VendorParameter, unsigned(32), unsigned(16), octets), max_size=3).map(tuple)


def unknown_parameters(first: int) -> st.SearchStrategy[tuple[UnknownParameter, ...]]:
    """Optional parameters with numbers from ``first`` on, ascending."""
    numbers = st.dictionaries(st.integers(first, (1 << 14) - 1) | st.integers(first, 16), octets, max_size=4)
    return numbers.map(lambda found: tuple(UnknownParameter(number, found[number]) for number in sorted(found)))


ike_sa_contexts = st.builds(
    IkeSaContext,
    version=st.builds(IkeVersion, st.just(2), unsigned(4)),
    initiator=st.booleans(),
    local_host=host_addresses,
    remote_host=host_addresses,
    spis=ike_spis,
    message_ids=st.builds(MessageIds, unsigned(32), unsigned(32)),
    keying=ike_keying,
    proposal=ike_proposals,
    extensions=unsigned(32).map(IkeExtension),
    local_identity=identifications,
    remote_identity=identifications,
    credentials=credentials,
    window=windows(MessageWindow, 1, 0xFFFFFFFF),
    lifetime=st.none() | st.builds(IkeLifetime, seconds, seconds),
    vendor_ids=st.lists(octets, max_size=3).map(tuple),
    vendor_parameters=vendor_parameters,
    unknown_parameters=unknown_parameters(3),
)

# --- an IPsec_SA ---


@st.composite
def traffic_selectors(draw: st.DrawFn) -> TrafficSelector:
    family = draw(st.sampled_from([IPv4Address, IPv6Address]))
    ends = sorted(draw(st.lists(unsigned(32 if family is IPv4Address else 128), min_size=2, max_size=2)))
    some_ports = draw(st.one_of(st.just((65535, 0)), st.tuples(ports, ports).map(lambda pair: tuple(sorted(pair)))))
    return TrafficSelector(family(ends[0]), family(ends[1]), some_ports[0], some_ports[1], draw(unsigned(8)))


selector_lists = st.lists(traffic_selectors(), min_size=1, max_size=4).map(tuple)
counter = unsigned(64)
limits = st.builds(LifetimeLimits, st.none() | counter, st.none() | counter, counter)
algorithms = [unsigned(16)] * 4
ipsec_proposals = st.one_of(
    st.builds(IpsecProposal, st.just(3), *algorithms, st.booleans(), unsigned(16)),
    st.builds(IpsecProposal, st.just(2), st.none(), *algorithms[1:], st.booleans(), unsigned(16)),
)
maybe_32 = st.none() | unsigned(32)

ipsec_sa_contexts = st.builds(
    IpsecSaContext,
    ike_spis=st.none() | ike_spis,
    local_host=host_addresses,
    remote_host=host_addresses,
    inbound_spi=unsigned(32),
    outbound_spi=unsigned(32),
    ipcomp=st.none() | st.builds(IpComp, unsigned(16), unsigned(16), unsigned(8)),
    sequence_numbers=st.builds(SequenceNumbers, counter, counter, st.booleans(), st.sampled_from(CounterKnowledge)),
    window=windows(AntiReplayWindow, 0, 4096),
    mode=st.sampled_from(IpsecMode),
    lifetime=st.builds(IpsecLifetime, limits, limits, limits),
    path_mtu=unsigned(32),
    upper_layer_protocol=unsigned(8),
    local_selectors=selector_lists,
    remote_selectors=selector_lists,
    proposal=ipsec_proposals,
    keying=ipsec_keying,
    processing_unit=st.none() | st.builds(ProcessingUnit, *[maybe_32] * 6),
    vendor_parameters=vendor_parameters,
    unknown_parameters=unknown_parameters(2),
)

multicast_listener_contexts = st.builds(
    MulticastListenerContext,
    subnet_prefix=st.binary(min_size=8, max_size=8),
    group=unsigned(120).map(lambda low: IPv6Address(0xFF << 120 | low)),
)

generic_contexts = st.builds(
    GenericContext,
    feature_profile_type=st.integers(2, 0xFEFF),
    data=octets,
    presence_vector=st.none() | unsigned(32),
)

contexts: st.SearchStrategy[Context] = st.one_of(
    ike_sa_contexts, ipsec_sa_contexts, multicast_listener_contexts, generic_contexts
)
