"""Chunk-reset on plain values. The package's (`minisw/search/chunk_reset.py`) does the same on its records, with seeds, further
ways to treat rejected tries, and chunks that were cut off; a test compares the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def chunk_reset(
    problems: Sequence[str], propose: Callable, judge: Callable, tries: int = 5, max_chunks: int = 12
) -> list[dict]:
    """Solve every problem by chunk-reset (StepWiser §4.4); one dictionary for each problem, in their order.

    `propose(problems, histories)` returns (text, tokens, ended) for each: the next chunk behind a history (the list of kept
    chunks), and whether the policy ends the solution with it. `judge(problems, histories, texts)` returns (verdict, tokens) for
    each; a verdict is True, False or None (unreadable). Both are called once a round, with all solutions that are not done.

    A result has `chunks`, `finished` (whether the policy ended it), `policy_tokens`, `judge_tokens` and `rejected_tokens`
    (those of `policy_tokens` that were discarded).
    """
    paths = [
        {"chunks": [], "finished": False, "policy_tokens": 0, "judge_tokens": 0, "rejected_tokens": 0} for _ in problems
    ]
    rejected = [0] * len(paths)  # tries at the present place
    active = list(range(len(paths)))
    while active:
        asked, histories = [problems[i] for i in active], [list(paths[i]["chunks"]) for i in active]
        proposals = propose(asked, histories)
        judgments = judge(asked, histories, [text for text, _, _ in proposals])
        for i, (text, tokens, ended), (verdict, judge_tokens) in zip(active, proposals, judgments, strict=True):
            path = paths[i]
            path["policy_tokens"] += tokens
            path["judge_tokens"] += judge_tokens
            if verdict is False and rejected[i] + 1 < tries:
                path["rejected_tokens"] += tokens
                rejected[i] += 1
                continue
            path["chunks"].append(text)
            path["finished"] = ended
            rejected[i] = 0
        active = [i for i in active if not paths[i]["finished"] and len(paths[i]["chunks"]) < max_chunks]
    return paths
