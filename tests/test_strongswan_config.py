"""strongSwan's configuration; what daemons make of it is seen in tests/kernel/test_strongswan_bed.py."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from cxtp.errors import ConfigurationError
from cxtp.strongswan_config import StrongswanSettings, strongswan_conf


def sections(text: str) -> dict[str, Any]:
    """strongswan.conf(5): sections in braces, ``key = value``, comments from # on."""
    root: dict[str, Any] = {}
    stack = [root]
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if match := re.fullmatch(r"(\S+) \{", line):
            stack.append(stack[-1].setdefault(match[1], {}))
        elif line == "}":
            stack.pop()
        elif line:
            key, _, value = line.partition(" = ")
            assert value, line
            assert key not in stack[-1], line
            stack[-1][key] = value
    assert stack == [root]
    return root


def test_what_the_plugin_is_told() -> None:
    plugins = sections(strongswan_conf())["charon"]["plugins"]
    assert plugins["ha"] == {
        "load": "yes",
        "local": "127.0.0.3",
        "remote": "127.0.0.2",
        "segment_count": "1",
        "monitor": "yes",
        "heartbeat_delay": "1000",
        "heartbeat_timeout": "2100",
        "resync": "no",
        "fifo_interface": "no",
        "autobalance": "0",
        "buflen": "24576",
    }
    assert plugins["vici"] == {"load": "yes", "socket": "unix:///run/charon.vici"}
    assert plugins["kernel-netlink"] == {"load": "yes"}


def test_the_operators_values_are_in_it() -> None:
    pools = {"p4": ip_network("10.3.0.0/24"), "p6": ip_network("fd00:3::/104")}
    text = strongswan_conf(
        StrongswanSettings(IPv4Address("127.1.0.9"), IPv4Address("127.1.0.10"), pools, Path("/run/x/vici.sock"), 128)
    )
    charon = sections(text)["charon"]
    assert charon["replay_window"] == "128"
    assert charon["plugins"]["ha"]["local"] == "127.1.0.9"
    assert charon["plugins"]["ha"]["remote"] == "127.1.0.10"
    assert charon["plugins"]["ha"]["pools"] == {"p4": "10.3.0.0/24", "p6": "fd00:3::/104"}
    assert charon["plugins"]["vici"]["socket"] == "unix:///run/x/vici.sock"
    assert "127.1.0.10" in text.partition("charon {")[0]  # whose link it is, argued on top


def test_every_value_has_its_reason_before_it() -> None:
    settings = StrongswanSettings(pools={"p": ip_network("10.0.0.0/24")})
    lines = [line.strip() for line in strongswan_conf(settings).splitlines()]
    before_pools = lines[: lines.index("pools {")]
    values = [number for number, line in enumerate(before_pools) if " = " in line and not line.startswith("#")]
    assert len(values) == 12
    assert all(lines[number - 1].startswith("# ") for number in values)
    assert all(len(line) <= 100 for line in lines)


REFUSED: dict[str, dict[str, Any]] = {
    "192.0.2.3 is no IPv4 loopback": {"daemon": IPv4Address("192.0.2.3")},
    "10.0.0.1 is no IPv4 loopback": {"node": IPv4Address("10.0.0.1")},
    "has to come after the node's": {"daemon": IPv4Address("127.0.0.2"), "node": IPv4Address("127.0.0.3")},
    "has to come after the node's, 127.0.0.2,": {"daemon": IPv4Address("127.0.0.10")},  # strcmp(3), not by number
    "has to come after the node's, 127.0.0.3": {"node": IPv4Address("127.0.0.3")},
    "between /8 and /29": {"pools": {"p": ip_network("10.0.0.0/30")}},
    "p: 10.0.0.0/7 is not": {"pools": {"p": ip_network("10.0.0.0/7")}},
    "between /104 and /125": {"pools": {"p": ip_network("fd00::/64")}},
    "name is of letters": {"pools": {"p {": ip_network("10.0.0.0/24")}},
    "addresses in common": {"pools": {"p": ip_network("10.0.0.0/24"), "q": ip_network("10.0.0.128/25")}},
    "vici socket": {"vici": Path("/run/a b\n}")},
    "absolute path": {"vici": Path("charon.vici")},
    "replay window of 0": {"replay_window": 0},
    "replay window of 5000": {"replay_window": 5000},
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused(why: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        StrongswanSettings(**REFUSED[why])
