"""A report as JUnit's XML, which continuous integration shows: one test case per rule."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..verdicts import Report, Result, Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _case(suite: ElementTree.Element, result: Result) -> None:
    rule = result.rule
    case = ElementTree.SubElement(suite, "testcase", classname=f"cxtp.{rule.group.value}", name=rule.id, time="0")
    if result.verdict is Verdict.FAIL:
        fault = result.faults[0]
        message = f"{rule.level.value} ({rule.section}): expected {fault.expected}; seen {fault.seen}"
        failure = ElementTree.SubElement(case, "failure", message=_NOT_XML.sub("?", message), type=rule.level.value)
        lines = [f"packets {list(f.packets)}: expected {f.expected}; seen {f.seen}" for f in result.faults]
        failure.text = _NOT_XML.sub("?", "\n".join([rule.text, *lines]))
    elif result.verdict is not Verdict.PASS:
        why = result.doubts[0].why if result.doubts else "not exercised"
        ElementTree.SubElement(case, "skipped", message=_NOT_XML.sub("?", why))


def junit_report(report: Report) -> str:
    """The XML document.  Rules that were not exercised, or that stay open, count as skipped."""
    skipped = report.count(Verdict.NOT_EXERCISED) + report.count(Verdict.INCONCLUSIVE)
    suite = ElementTree.Element(
        "testsuite",
        name="cxtp conform",
        tests=str(len(report.results)),
        failures=str(report.count(Verdict.FAIL)),
        errors="0",
        skipped=str(skipped),
        time="0",
    )
    for result in report.results:
        _case(suite, result)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
