"""Does a CXTP peer follow RFC 4067?  One table of rules, applied to a capture or to a live peer.

:func:`cxtp.conformance.judge.judge_capture` reads a file; :class:`cxtp.conformance.judge.Judge` takes records of any
origin.  Nothing here imports the roles, which are judged like anybody's.
"""
