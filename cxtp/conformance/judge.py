"""The judge: records in, verdicts out.  One pass for the messages, a second one for the packets they are about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..adapters.capture import IpPacket, ip_packets
from ..constants import PORT
from ..errors import RemoteError
from ..messages import ContextTransferData
from .contents import decoded
from .packets import MAXIMUM_CONTEXTS, Moved, PacketFacts
from .records import Record, RecordReader
from .rules import ALL_RULES
from .rules.formats import manifest_of
from .story import Case, Stories, Story, carries_contexts
from .verdicts import Group, Level, Moment, Outcome, Report, Result, Rule, selected

Progress = Callable[[int], None]


class Judge:
    """Takes records in their order, then gives a report.

    >>> judge = Judge(Case())
    >>> for item in records: judge.take(item)
    >>> report = judge.finish("a trace")
    """

    def __init__(self, case: Case, rules: Iterable[Rule] = ALL_RULES) -> None:
        self.case = case
        self.results = {rule.id: Result(rule) for rule in rules}
        self.messages = 0
        self.packets = 0
        self.moved: list[Moved] = [Moved(0, 0.0, context) for context in case.contexts]
        self._of_record = [r for r in self._rules() if r.moment is Moment.RECORD]
        self._of_story = [r for r in self._rules() if r.moment is Moment.STORY]
        self._of_capture = [r for r in self._rules() if r.moment is Moment.CAPTURE]
        self._stories = Stories(self._close)

    def _rules(self) -> list[Rule]:
        return [result.rule for result in self.results.values()]

    @property
    def wants_packets(self) -> bool:
        """Whether a second pass over the capture's packets would tell anything."""
        return bool(self._of_capture)

    def see(self, packet: IpPacket) -> None:
        """An IP packet of the capture, before the records in it."""
        self.packets = packet.index
        self.case.see(packet)

    def take(self, item: Record) -> None:
        """One record."""
        self.messages += 1
        self.case.clock(item.time)
        self.case.floods.take(item)
        self.case.carried[item.transport] += not item.ours
        if carries_contexts(item):
            self.case.context_paths[frozenset((item.source[0], item.destination[0]))] = item.number
        story = self._stories.of(item)
        if not item.ours:
            for rule in self._of_record:
                self._add(rule, rule.check(item, story, self.case))
        self._stories.add(story, item)
        if self._of_capture and isinstance(item.message, ContextTransferData):
            self._keep_contexts(item)

    def finish(self, subject: str, unread: dict[str, int] | None = None, facts: PacketFacts | None = None) -> Report:
        """The report on all that was taken; nothing can be taken any more."""
        self._stories.finish()
        facts = facts or PacketFacts(self.moved)
        for rule in self._of_capture:
            self._add(rule, rule.check(facts, self.case))
        return Report(subject, list(self.results.values()), self.packets, self.messages, unread or {})

    def _add(self, rule: Rule, outcomes: Iterable[Outcome]) -> None:
        result = self.results[rule.id]
        for outcome in outcomes:
            result.add(outcome)

    def _close(self, story: Story) -> None:
        for rule in self._of_story:
            self._add(rule, rule.check(story, self.case))

    def _keep_contexts(self, item: Record) -> None:
        manifest = manifest_of(item, self.case)
        for _, context in decoded(item, self.case):
            if (
                getattr(context, "keying", None) is not None
                and len(self.moved) < MAXIMUM_CONTEXTS
                and not isinstance(context, RemoteError)
            ):
                self.moved.append(Moved(item.number, item.time, context, manifest.generation if manifest else None))


def judge_capture(
    path: Path,
    case: Case | None = None,
    *,
    groups: Iterable[Group] = (),
    level: Level = Level.MAY,
    port: int = PORT,
    progress: Progress | None = None,
    watch: Callable[[Record], None] | None = None,
) -> Report:
    """Judge a pcap or pcapng file.

    ``watch`` sees every record as it is taken.  Raises CaptureError for a broken file, ConfigurationError for one
    that can't be opened.
    """
    case = case or Case()
    judge = Judge(case, selected(ALL_RULES, groups, level))
    reader = RecordReader(port)

    def take(records: Iterable[Record]) -> None:
        for item in records:
            if watch is not None:
                watch(item)
            judge.take(item)

    for packet in ip_packets(path, drops=reader.unread, progress=progress):
        judge.see(packet)
        take(reader.put(packet))
    take(reader.finish())
    facts: PacketFacts | None = None
    if judge.wants_packets:
        facts = PacketFacts(judge.moved)
        for packet in ip_packets(path, progress=progress):
            facts.take(packet)
    return judge.finish(str(path), dict(reader.unread), facts)
