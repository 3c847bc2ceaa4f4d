"""The constants that a user may set: RFC 4067's defaults, and what is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from cxtp.config import ContextTypes, Limits, ProtocolConfig, Timers
from cxtp.errors import ConfigurationError


def test_defaults_are_the_rfcs() -> None:
    # RFC 4067, 4: CT_MAX_TRANSFER_TIME 200 ms, CT_REQUEST_RETRY 2 s, CT_RETRY_MAX 15 s, CT_REQUEST_RATE 10 a second;
    # 3.2: a sequence number not used "in the last 7 seconds"; RFC 4065, 2: port 5091.
    config = ProtocolConfig()
    assert config.timers.max_transfer_time == 0.2
    assert config.timers.request_retry == 2
    assert config.timers.retry_max == 15
    assert config.timers.sequence_number_lifetime == 7
    assert config.limits.request_rate == 10
    assert config.port == 5091


def test_defaults_are_those_of_the_decisions() -> None:
    config = ProtocolConfig()
    assert config.timers.max_handover_time == 15  # decision 4
    assert config.limits.message_octets == 65_535  # decision 2
    types = config.context_types  # decisions 2, 12 and 14
    assert (types.continuation, types.ike_sa, types.ipsec_sa, types.transfer_manifest) == (
        0xFF00,
        0xFF01,
        0xFF02,
        0xFF03,
    )


@pytest.mark.parametrize("group", [Timers, Limits])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_every_time_and_limit_must_be_above_0(group: type[Timers] | type[Limits], value: float) -> None:
    for field in fields(group):
        with pytest.raises(ConfigurationError, match=f"{group.__name__}.{field.name}"):
            group(**{field.name: value})  # type: ignore[arg-type]


def test_a_message_is_never_larger_than_its_length_field_tells() -> None:
    assert Limits(message_octets=65_535).message_octets == 65_535
    with pytest.raises(ConfigurationError, match="message_octets"):
        Limits(message_octets=65_536)


@pytest.mark.parametrize("number", [-1, 0, 1, 0x10000])
@pytest.mark.parametrize("name", [field.name for field in fields(ContextTypes)])
def test_a_context_type_is_a_free_number_of_16_bits(name: str, number: int) -> None:
    # 0 is reserved and 1 is the IPv6 multicast listener's (RFC 4065, 6).
    with pytest.raises(ConfigurationError):
        ContextTypes(**{name: number})
    assert getattr(ContextTypes(**{name: 2}), name) == 2


def test_context_types_must_differ() -> None:
    with pytest.raises(ConfigurationError):
        ContextTypes(ike_sa=0x7000, ipsec_sa=0x7000)


def test_a_running_config_never_changes() -> None:
    config = ProtocolConfig()
    for owner, name in ((config, "port"), (config.timers, "retry_max"), (config.limits, "events")):
        with pytest.raises(FrozenInstanceError):
            setattr(owner, name, 1)
