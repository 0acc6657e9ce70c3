"""Is an answer right? Exact match, mathematical equality by math-verify, or a function of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable

Checker = Callable[[str, str], bool]


def exact(expected: str, answer: str) -> bool:
    """Whether the answer's first line is the expected text, but for case, white space and a final full stop."""
    lines = answer.strip().splitlines()
    return bool(lines) and lines[0].strip().rstrip(".").lower() == expected.strip().rstrip(".").lower()


def maths(expected: str, answer: str) -> bool:
    r"""Whether the answer is mathematically equal to the expected one; reads \boxed{…}, fractions, numbers and units.

    An answer that opens ``\boxed{`` and was cut before its brace closes is closed first.
    """
    from math_verify import parse, verify

    text = answer + "}" * max(0, answer.count("{") - answer.count("}"))
    # No timeouts: they are signals, which only a process's main thread may set.
    gold = parse(expected, parsing_timeout=None)
    return bool(verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None))


def canonical(name: str) -> Callable[[str], str]:
    """Return the function that brings answers into the form in which a vote counts them as the same.

    For ``maths`` the value that math-verify reads, for anything else the first line without case and full stop.
    """

    def value(answer: str) -> str:
        from math_verify import parse

        found = parse(answer, parsing_timeout=None)
        if not found:
            return first_line(answer)
        try:
            return f"{float(found[0]):.9g}"
        except TypeError:  # no number: a formula, a set
            return str(found[0])

    def first_line(answer: str) -> str:
        lines = answer.strip().splitlines()
        return lines[0].strip().rstrip(".").lower() if lines else ""

    return value if name == "maths" else first_line


def checker(name: str) -> Checker:
    """Return the checker ``exact``, ``maths``, or the user's ``package.module:function`` (expected, answer) → bool.

    Raises ValueError where there is no such function.
    """
    if name in ("exact", "maths"):
        return exact if name == "exact" else maths
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--check: {name!r} is neither exact nor maths nor module:function ({error})") from None
    if not callable(found):
        raise ValueError(f"--check: {name!r} is no function")
    chosen: Checker = found
    return chosen
