"""Fuzzing: what takes octets from outside gives a value or a typed error, whatever they are.

:mod:`.targets` has the harnesses, ``corpus/`` inputs for each, which tests/test_fuzz.py runs with mutations of them;
``script/soak fuzz`` runs atheris over them for as long as one likes (docs/fuzzing.md).
"""
