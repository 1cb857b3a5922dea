"""Equality of mathematical answers by algebra (math-verify), computed in a child process with a time limit.

Sympy can take hours on one strange answer. A comparison that exceeds the limit counts as "not equal".

    python -m minisw.verify.algebra      the child: reads one JSON pair [reference, answer] a line, prints 1 or 0
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys

from minisw.verify.child import Child

SECONDS = 5.0  # for one pair


@functools.cache
def installed() -> bool:
    """Whether math-verify can be imported."""
    return importlib.util.find_spec("math_verify") is not None


@functools.cache
def _child() -> Child:
    return Child((sys.executable, "-m", "minisw.verify.algebra"), SECONDS)


@functools.lru_cache(1 << 16)  # answers repeat over rollouts
def equal(gold: str, answer: str) -> bool:
    """Whether math-verify accepts `answer` for the reference `gold`. The order of the arguments matters to it."""
    return _child().ask(json.dumps([gold, answer])) == "1"


def _serve() -> None:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def parsed(text: str) -> list:
        # math-verify reads LaTeX between dollar signs, and plain expressions without them
        return parse(f"${text}$", parsing_timeout=None) or parse(text, parsing_timeout=None)

    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            same = verify(parsed(gold), parsed(answer), timeout_seconds=None)
        except Exception:  # sympy raises errors of many kinds; an answer that it cannot handle is not accepted
            same = False
        print(int(same), flush=True)


if __name__ == "__main__":
    _serve()
