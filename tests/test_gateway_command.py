"""``cxtp gateway`` from the command line, where no daemon and no kernel is needed."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from cxtp.cli import main
from cxtp.strongswan_config import StrongswanSettings, strongswan_conf


def test_the_configuration_is_printed_whatever_else_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "strongswan", "--print-config"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == strongswan_conf()


def test_the_configuration_follows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--pool", "p4=10.3.0.0/24", "--vici", "/run/other.vici"]
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "strongswan", *options, "--print-config"])
    assert ended.value.code == 0
    settings = StrongswanSettings(pools={"p4": ip_network("10.3.0.0/24")}, vici=Path("/run/other.vici"))
    assert capsys.readouterr().out == strongswan_conf(settings)


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--ha-daemon", "192.0.2.1"], "loopback"), (["--pool", "p4=10.3.0.0/33"], "p4|10.3.0.0/33")],
)
def test_what_would_not_work_is_not_printed(
    capsys: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["gateway", "strongswan", *options, "--print-config"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert not told.out
    assert any(word in told.err for word in reason.split("|"))


def test_a_link_that_leaves_the_machine_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--name", "a", "--listen", "127.0.0.1:0", "--state", str(tmp_path / "state"), "--transport", "udp"]
    options += ["--control", str(tmp_path / "control.sock"), "--ha-node", "192.0.2.1"]
    assert main(["gateway", "strongswan", *options]) in (2, 3)
    assert "loopback" in capsys.readouterr().err
