"""The program of a response, made whole for what the tests call."""

from __future__ import annotations

from rgopd.verifier.code import extract, plans
from rgopd.verifier.code.spec import CodeSpec


def program_of(response: str, spec: CodeSpec) -> str:
    """The code to run: found in the response, and put behind the prompt where it is the rest of it."""
    names = spec.entry_names or tuple(plans.wanted_names(spec.test_sources))
    program = extract.program(response, names=names)
    if not spec.entry_point:
        return program
    defined = (name for name in spec.entry_names if extract.defines(program, name))
    return extract.complete(spec.prompt, program, next(defined, spec.entry_point))
