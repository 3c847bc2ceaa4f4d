"""``cxtp conform`` and ``cxtp ladder`` on capture files: every transport, the reports, real traces, memory."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import entry_points
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conformance_pairs import FULL, REACTIVE, REPEATED
from conformance_traces import ICMP, NOBODYS, SCTP, UNKNOWN, A, B, Said, Trace, ct_req, ctd, ctdr, judge, pctd, say
from helpers import KEY
from mutators import a_reserved_bit

from contexts.base import Context
from contexts.ikev2 import IkeSaContext
from contexts.key_cases import with_key_case
from contexts.values import DerivedKeys
from cxtp.adapters.capture import PcapWriter, ip_packets
from cxtp.adapters.context_file import FileSession, write_context_file
from cxtp.adapters.strongswan_ha import read_ha_capture
from cxtp.cli import main
from cxtp.commands import conform
from cxtp.conformance.judge import judge_capture
from cxtp.conformance.rules import ALL_RULES
from cxtp.conformance.story import Case
from cxtp.conformance.verdicts import Group, Level, Verdict
from cxtp.messages import ContextStatus
from cxtp.wire import IcmpMessage, build, build_icmp

TRACES = Path(__file__).parent.parent / "pcaps" / "strongswan"
ROOT = Path(__file__).parent.parent


def write(path: Path, trace: Trace, spoil: bool = False) -> Path:
    """The trace as a capture; ``spoil``: a reserved bit in its second message."""
    with PcapWriter(path) as writer:
        for index, step in enumerate(trace.steps):
            assert isinstance(step, Said)
            octets = step.what if isinstance(step.what, bytes) else build(step.what)
            if spoil and index == 1:
                octets = a_reserved_bit(octets, None)  # type: ignore[arg-type]
            if step.transport is ICMP:
                packet = build_icmp(IcmpMessage(41, octets), (step.source, step.destination))
                writer.write_icmp(step.time, step.source, step.destination, packet)
            elif step.transport is SCTP:
                writer.write_sctp(step.time, step.source, 5091, step.destination, 5091, octets)
            else:
                writer.write_udp(step.time, step.source, 5091, step.destination, 5091, octets)
    return path


@pytest.mark.parametrize("trace", [FULL, REACTIVE, REPEATED])
def test_a_capture_is_judged_as_its_records_are(tmp_path: Path, trace: Trace) -> None:
    report = judge_capture(write(tmp_path / "good.pcap", trace), Case(keys=trace.keys))
    direct = judge(trace)
    assert report.verdict is Verdict.PASS
    assert {r.rule.id for r in report.failed()} == ({"3.1-sctp"} if trace is REPEATED else set())
    assert report.messages == direct.messages
    differing = {r.rule.id for r, d in zip(report.results, direct.results, strict=True) if r.verdict is not d.verdict}
    # The capture ends with its last message, and has the associations too; the trace in the clear is doubted as it is.
    known = {"2.5.4-reply", "2.5.4-ends", "2.5.2-answer", "2.5.5-cancel", "2.5-malformed", "3.1-one-address",
             "3.2-answered"}  # fmt: skip
    assert differing <= known


def test_exit_codes_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write(tmp_path / "good.pcap", FULL), write(tmp_path / "bad.pcap", FULL, spoil=True)
    keys = tmp_path / "keys"
    keys.write_text(KEY.hex() + "\n")
    keys.chmod(0o600)
    assert main(["conform", str(good), "--psk-file", str(keys)]) == 0
    assert "verdict: pass" in capsys.readouterr().out
    assert main(["conform", str(bad)]) == 1
    text = capsys.readouterr().out
    assert "2.5-reserved" in text and "#2" in text and "RFC 4067, 2.5" in text  # noqa: PT018
    assert main(["conform", str(bad), "--only", "transport"]) == 0
    capsys.readouterr()
    assert main(["conform", str(bad), "--format", "json"]) == 1
    plain = json.loads(capsys.readouterr().out)
    assert plain["verdict"] == "fail"
    (failed,) = [rule for rule in plain["rules"] if rule["verdict"] == "fail"]
    assert failed["id"] == "2.5-reserved"
    assert failed["faults"] == [{"packets": [2], "expected": "reserved bits 0", "seen": "0x1"}]
    assert main(["conform", str(bad), "--format", "junit"]) == 1
    suite = ElementTree.fromstring(capsys.readouterr().out)
    assert (suite.get("failures"), len(suite.findall("testcase"))) == ("1", len(plain["rules"]))
    assert main(["conform"]) == 2
    assert main(["conform", str(tmp_path / "none.pcap")]) == 2
    (tmp_path / "none.pcap").write_bytes(b"no capture")
    assert main(["conform", str(tmp_path / "none.pcap")]) == 3


def test_level_and_group_select_rules(tmp_path: Path) -> None:
    path = write(tmp_path / "t.pcap", FULL)
    report = judge_capture(path, groups=[Group.FLOWS], level=Level.MUST)
    assert {r.rule.group for r in report.results} == {Group.FLOWS}
    assert {r.rule.level for r in report.results} == {Level.MUST}


WITHOUT_ESP = {"transport-mode"}
"""Recorded where the capture shows no ESP packet of these SAs."""


@pytest.mark.parametrize("name", sorted(path.name for path in TRACES.iterdir() if path.is_dir()))
def test_real_traces(name: str) -> None:
    """What strongSwan's ha plugin told, in case 1, 2 and 3, opens all that client and gateway sent."""
    exports = sorted((TRACES / name).glob("ha*.pcap"))
    contexts = [c for e in exports for s in read_ha_capture(e, keep_deleted=True).sessions() for c in s.contexts]
    in_cases = [*contexts, *with_key_case(contexts, 2), *with_key_case(contexts, 3)]
    report = judge_capture(TRACES / name / "outer.pcap", Case(contexts=in_cases), groups=[Group.CONTENT, Group.SAFETY])
    assert not report.failed(), [(r.rule.id, r.faults[0]) for r in report.failed()]
    for rule in ("content-keys", "content-key-cases", "content-opens-ike"):
        assert report.of(rule).verdict is Verdict.PASS, rule
    assert (report.of("content-opens-esp").verdict is Verdict.PASS) == (name not in WITHOUT_ESP)


@pytest.mark.parametrize("name", ["k-takeover-exact", "takeover-resync"])
def test_real_traces_with_a_hand_over(tmp_path: Path, name: str) -> None:
    """What both gateways' ha plugins told, in case 1, 2 and 3: it opens all that the client and they sent."""
    exports = sorted((TRACES / name).glob("ha-*.pcap"))
    case_1 = [s for export in exports for s in read_ha_capture(export, keep_deleted=True).sessions()]
    contexts = [c for session in case_1 for c in session.contexts]
    in_cases = [*contexts, *with_key_case(contexts, 3)]
    report = judge_capture(TRACES / name / "outer.pcap", Case(contexts=in_cases))
    assert not report.failed(), [(r.rule.id, r.faults[0]) for r in report.failed()]
    for rule in ("content-keys", "content-key-cases", "content-opens-ike", "content-opens-esp"):
        assert report.of(rule).verdict is Verdict.PASS, rule
    assert report.of("safety-sequence-numbers").verdict is Verdict.PASS
    file = tmp_path / "sessions.json"
    merged = {session.mn_address: session for session in case_1}
    write_context_file(file, [FileSession(a, s.contexts) for a, s in merged.items()], None, True)
    assert main(["conform", str(TRACES / name / "outer.pcap"), "--context", str(file), "--only", "content"]) == 0


def spoiled_keys(context: Context) -> Context:
    """An IKE_SA's SK_* with one bit turned."""
    if not isinstance(context, IkeSaContext) or not isinstance(context.keying, DerivedKeys):
        return context
    keys = context.keying.keys
    sk_er = bytes((keys.sk_er[0] ^ 1,)) + keys.sk_er[1:]
    return replace(context, keying=replace(context.keying, keys=replace(keys, sk_er=sk_er)))


def test_a_real_hand_over_with_one_thing_changed(tmp_path: Path) -> None:
    """One bit of one key; the new gateway's last ESP packet with a number that the old one had used."""
    directory = TRACES / "k-takeover-exact"
    exports = sorted(directory.glob("ha-*.pcap"))
    contexts = [c for e in exports for s in read_ha_capture(e, keep_deleted=True).sessions() for c in s.contexts]
    in_case_3 = with_key_case(contexts, 3)
    report = judge_capture(directory / "outer.pcap", Case(contexts=[spoiled_keys(c) for c in in_case_3]))
    assert {r.rule.id for r in report.failed()} == {"content-opens-ike"}
    report = judge_capture(directory / "outer.pcap", Case(contexts=[*contexts, *map(spoiled_keys, in_case_3)]))
    assert "content-key-cases" in {r.rule.id for r in report.failed()}

    octets = bytearray((directory / "outer.pcap").read_bytes())
    gateway = ip_address("192.0.2.1")
    sent = [p for p in ip_packets(directory / "outer.pcap") if p.protocol == 50 and p.source == gateway]
    of_gateways = [p for p in sent if len({q.link_source for q in sent if q.payload[:4] == p.payload[:4]}) == 2]
    first, last = of_gateways[0], of_gateways[-1]
    assert first.link_source != last.link_source
    at = octets.rfind(last.payload[:8])
    octets[at : at + 8] = first.payload[:8]
    changed = tmp_path / "changed.pcap"
    changed.write_bytes(octets)
    report = judge_capture(changed, Case())
    assert {r.rule.id for r in report.failed()} == {"safety-sequence-numbers"}
    (fault,) = report.of("safety-sequence-numbers").faults
    assert fault.packets == (first.index, last.index)


MEASURE = """
import resource, sys
from pathlib import Path
from cxtp.commands import conform
from cxtp.conformance.judge import judge_capture
report = judge_capture(Path(sys.argv[1]))
print(report.messages, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def busy_hours(path: Path, packets: int) -> int:
    """A gateway's traffic, among it the hand-overs of one mobile node after the other; gives the messages' number."""
    gateway, client = ip_address("192.0.2.1"), ip_address("198.51.100.7")
    time, moved = 1000.0, 0
    with PcapWriter(path) as writer:
        while writer.packets < packets:
            moved += 1
            mn = type(A)(0x0A000000 + moved)
            data = pctd(NOBODYS, mn=mn, key=moved.to_bytes(16, "big"), transfer=moved)
            reply = ctdr(ContextStatus(UNKNOWN, 2), mn=mn, transfer=moved)
            asks = ct_req(null=True, mn_previous_address=mn)
            for source, destination, what in ((B, A, asks), (A, B, data), (B, A, reply)):
                write_one = writer.write_sctp if moved % 2 else writer.write_udp
                write_one(time, source, 5091, destination, 5091, build(what))
            for number in range(20):
                time += 0.05
                esp = (0xC2000000 + moved % 500).to_bytes(4, "big") + (moved * 20 + number).to_bytes(4, "big")
                writer.write_ip(time, gateway, client, 50, esp + bytes(80))
            for port in range(7):
                writer.write_udp(time, client, 40_000 + port, gateway, 53, bytes(40))
    return 3 * moved


def test_memory_does_not_grow_with_the_capture(tmp_path: Path) -> None:
    """Stories end, and what is looked back on has its limit: three times the packets take no more memory."""
    peaks = []
    for count in (10_000, 30_000):
        path = tmp_path / f"{count}.pcap"
        messages = busy_hours(path, count)
        out = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        judged, peak = map(int, out.stdout.split())
        assert judged == messages
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 4 * 1024, peaks  # KiB


def test_progress_is_shown_to_who_looks(tmp_path: Path) -> None:
    """On a terminal one line that is written over; in a pipe nothing."""
    path = tmp_path / "long.pcap"
    busy_hours(path, 2500)
    command = [sys.executable, "-m", "cxtp", "conform", str(path)]
    terminal, end = pty.openpty()
    with subprocess.Popen(command, stderr=end, stdout=subprocess.DEVNULL, cwd=ROOT) as running:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end was closed
            while octets := os.read(terminal, 4096):
                shown += octets
    os.close(terminal)
    assert running.returncode == 0
    assert b"1000 packets" in shown and b"2000 packets" in shown  # noqa: PT018
    assert subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stderr == b""


def installed() -> None:
    """The plugin as pip installed it, for processes that are told nothing of it."""
    if "cxtp" not in {entry.name for entry in entry_points(group="pytest11")}:
        if os.environ.get("CI") == "true":
            pytest.fail("cxtp is not installed")
        pytest.skip("needs cxtp installed: pip install -e .")


def pytest_alone(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A pytest of another project's, which finds plugins by their entry points."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(directory), "-v", *options],
        capture_output=True, text=True, cwd=directory, env=environment,
    )  # fmt: skip


def test_the_plugin_as_it_is_installed(tmp_path: Path) -> None:
    """One item per rule, its verdict the item's; beside the project's own tests, or where it has none."""
    installed()
    project = tmp_path / "project"
    project.mkdir()
    good, bad = write(tmp_path / "good.pcap", REACTIVE), write(tmp_path / "bad.pcap", REACTIVE, spoil=True)
    run = pytest_alone(project, "--cxtp-trace", str(good))
    assert run.returncode == 0, run.stdout + run.stderr
    items = re.findall(r"(PASSED|SKIPPED|FAILED|XFAIL)", run.stdout.partition("test session starts")[2])
    assert len(items) == len(ALL_RULES)
    (project / "test_own.py").write_text("def test_own():\n    pass\n")
    run = pytest_alone(project, "--cxtp-trace", str(good), "--cxtp-trace", str(bad))
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 failed" in run.stdout
    assert "expected reserved bits 0; seen 0x1" in run.stdout
    assert "test_own.py::test_own PASSED" in run.stdout
    assert len(re.findall("(?:PASSED|SKIPPED|FAILED|XFAIL) ", run.stdout.partition("FAILURES")[0])) > len(ALL_RULES)


def test_the_plugin_takes_keys_and_levels(tmp_path: Path) -> None:
    installed()
    trace = write(tmp_path / "udp.pcap", REPEATED)
    keys = tmp_path / "keys"
    keys.write_text(KEY.hex() + "\n")
    keys.chmod(0o600)
    run = pytest_alone(tmp_path, "--cxtp-trace", str(trace), "--cxtp-psk-file", str(keys), "--cxtp-level", "should")
    assert run.returncode == 1
    assert "1 failed" in run.stdout, run.stdout
    assert "SHOULD, RFC 4067, 3.1: routers speak SCTP to each other" in run.stdout
    assert re.search(r"6\.3-validated PASSED", run.stdout), "it needs the key"
    keys.chmod(0o644)
    run = pytest_alone(tmp_path, "--cxtp-trace", str(trace), "--cxtp-psk-file", str(keys))
    assert run.returncode == pytest.ExitCode.USAGE_ERROR, run.stdout
    assert "may be read or written by others" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr


def test_the_plugin_is_an_entry_point() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["options.entry_points"]["pytest11"].strip() == "cxtp = cxtp.pytest_plugin"
    code = "import sys, cxtp.pytest_plugin; print([m for m in sys.modules if m.startswith(('scapy', 'construct'))])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.strip() == "[]", "it must cost nothing where no trace is given"


def test_live_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    peer = ["conform", "--live", "127.9.9.9", "--role", "mobile-node"]
    assert main(peer) == 2
    assert "--listen" in capsys.readouterr().err
    options = ["--listen", "127.9.9.8:5091", "--mn", "192.0.2.1", "--patience", "0.1"]
    assert main([*peer, *options]) == 0
    assert "verdict: not exercised" in capsys.readouterr().out
    assert main(["conform", "x.pcap", "--live", "127.9.9.9"]) == 2


def test_ladders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "t.pcap", FULL)
    assert main(["ladder", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"[A-Z]{3,4}[AR]? [AS]=\d|CTAA", line)[0] for line in lines[1:]] == [  # type: ignore[index]
        "CTAR A=1", "CTAR A=1", "PCTD A=1", "CTDR S=1", "CTAA", "CTAA",
    ]  # fmt: skip
    for name in ("l.svg", "l.html"):
        assert main(["ladder", str(path), "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().count('class="arrow"') == 6
    ElementTree.parse(tmp_path / "l.svg")
    assert main(["ladder", str(path), "-o", str(tmp_path / "l.png")]) == 2


def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is not installed")
        pytest.skip("needs chromium")
    return found


def test_the_html_report_in_a_browser(tmp_path: Path) -> None:
    """Links lead somewhere, the ladder is there, nothing is fetched, no script runs."""
    bad = write(tmp_path / "bad.pcap", FULL, spoil=True)
    page = tmp_path / "report.html"
    assert main(["conform", str(bad), "--format", "html", "-o", str(page)]) == 1
    source = page.read_text()
    assert "<script" not in source and "javascript:" not in source  # noqa: PT018
    assert not re.search(r"""(?:src|href)=["'](?!#)|url\(|@import""", source.replace("http://www.w3.org/2000/svg", ""))
    log = tmp_path / "net.json"
    browser = subprocess.run(
        [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    del log
    dom = browser.stdout
    assert "CONSOLE" not in browser.stderr, browser.stderr
    targets = set(re.findall(r'id="([^"]+)"', dom))
    links = set(re.findall(r'href="#([^"]+)"', dom))
    assert links and links <= targets, links - targets  # noqa: PT018
    assert dom.count('class="arrow"') == 6
    assert 'id="packet-2"' in dom and "rule-2.5-reserved" in links  # noqa: PT018
    assert KEY.hex() not in dom


LOOK = """<!doctype html><iframe id=f src="report.html" width=360 height=700></iframe><pre id=o></pre><script>
onload = () => {
  const page = f.contentDocument, of = element => f.contentWindow.getComputedStyle(element);
  o.textContent = JSON.stringify({
    wide: page.documentElement.scrollWidth > page.documentElement.clientWidth,
    back: of(page.body).backgroundColor, ink: of(page.body).color,
    heads: of(page.querySelector("table.rules thead")).display,
    links: page.querySelectorAll("svg a").length,
  });
}</script>"""


def test_the_html_report_on_a_phone_by_day_and_by_night_and_on_paper(tmp_path: Path) -> None:
    """360 pixels wide nothing sticks out; colours follow the system's; it prints."""
    page, frame, paper = (tmp_path / name for name in ("report.html", "frame.html", "report.pdf"))
    bad = write(tmp_path / "bad.pcap", FULL, spoil=True)
    assert main(["conform", str(bad), "--format", "html", "-o", str(page)]) == 1
    frame.write_text(LOOK)
    common = [chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
              f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    looks = []
    for scheme in (0, 1):
        dom = subprocess.run(
            [*common, "--allow-file-access-from-files", f"--blink-settings=preferredColorScheme={scheme}",
             "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()],
            capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        looks.append(json.loads(re.search(r"{.wide.*?}(?=</pre>)", dom)[0]))  # type: ignore[index]
    dark, light = looks
    assert not dark["wide"] and not light["wide"]  # noqa: PT018
    assert (light["back"], dark["heads"], dark["links"]) == ("rgb(255, 255, 255)", "none", 6)
    assert sum(map(int, re.findall(r"\d+", dark["back"]))) < 150 < 400 < sum(map(int, re.findall(r"\d+", dark["ink"])))
    subprocess.run([*common, f"--print-to-pdf={paper}", page.as_uri()], capture_output=True, timeout=60, check=True)
    assert paper.read_bytes().startswith(b"%PDF")


def test_a_report_of_many_messages_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two messages in one packet have an anchor each; the 2000th is the last that is drawn."""
    monkeypatch.setattr(conform, "RECORDS_DRAWN", 4)
    trace, page = tmp_path / "tcp.pcap", tmp_path / "report.html"
    with PcapWriter(trace) as writer:
        two = build(ctd(NOBODYS)) + build(ctd(NOBODYS, transfer=2))
        writer.write_tcp(100, A, 5091, B, 5091, two)
        for number in range(4):
            writer.write_udp(101 + number, B, 5091, A, 5091, build(ctdr(transfer=number)))
    main(["conform", str(trace), "--format", "html", "-o", str(page)])
    text = page.read_text()
    assert "The first 4 of 6." in text
    anchors = re.findall(r'id="(packet-[\d-]+)"', text)
    assert len(anchors) == len(set(anchors)) == 4
    assert {f"#{anchor}" for anchor in anchors} == set(re.findall(r'<a href="(#packet-[\d-]+)"><g', text))


def test_ladders_of_long_addresses_and_many_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.pcap"
    hosts = [ip_address(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}") for n in range(1, 16)]
    with PcapWriter(trace) as writer:
        for one, other in pairwise(hosts):
            writer.write_udp(100, one, 5091, other, 5091, build(ctd(NOBODYS)))
        writer.write_udp(100, hosts[11], 5091, hosts[11], 5091, build(ctdr()))
    assert main(["ladder", str(trace)]) == 0
    shown = capsys.readouterr().out
    assert all(str(host) in shown for host in hosts[:12])
    assert "3 messages of hosts beyond the 12th not drawn" in shown
    assert main(["ladder", str(trace), "-o", str(tmp_path / "l.svg")]) == 0
    svg = ElementTree.parse(tmp_path / "l.svg").getroot()
    places = [float(text.get("x", 0)) for text in svg.iter() if (text.text or "").startswith("2001:")]
    assert all(right - left > 8 * len(str(hosts[0])) for left, right in pairwise(places))
    assert "not drawn" in (tmp_path / "l.svg").read_text()


def test_unordered_steps_are_none(tmp_path: Path) -> None:
    """Frames of a trace that is one message: nothing is exercised but what one message shows."""
    report = judge_capture(write(tmp_path / "one.pcap", Trace((say(0, A, B, ctd(acknowledge=False)),))))
    assert report.of("3.1-backoff").verdict is Verdict.NOT_EXERCISED
    assert report.of("2.5.3-protected").verdict is Verdict.INCONCLUSIVE
