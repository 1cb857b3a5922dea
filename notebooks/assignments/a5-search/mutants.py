"""Assignment 5: wrong versions of its functions, each a mistake that has been made.

Chunk-reset is called with functions, which no counterexample can hold: its bugs are not offered to be found.
"""

from minisw.course.mutants import Mutant

REJECTED = "verdict is False and rejected[i] + 1 < tries"
LOST = "rejected[i] += 1"
JUDGED = "judgments = judge(asked, histories, [text for text, _, _ in proposals])"
OPEN = 'if not paths[i]["finished"] and len(paths[i]["chunks"]) < max_chunks]'
MOST = "max(votes, key=votes.__getitem__, default=None)"
COSTS = ([[3, 4, 5], [2, 9, 1]], 10)
ROUNDS = (
    "    for number in range(1, max(map(len, costs), default=0)):\n"
    "        for problem, row in enumerate(costs):\n"
    "            if number < len(row):\n"
)
IN_TURN = (
    "    for problem, row in enumerate(costs):\n"
    "        for number in range(1, max(map(len, costs), default=0)):\n"
    "            if number < len(row):\n"
)

MUTANTS = [
    Mutant("limit one more", "chunk_reset", "rejected[i] + 1 < tries", "rejected[i] < tries"),
    Mutant("limit one fewer", "chunk_reset", "rejected[i] + 1 < tries", "rejected[i] + 2 < tries"),
    Mutant("no limit", "chunk_reset", REJECTED, "verdict is False"),
    Mutant("count not reset", "chunk_reset", "            rejected[i] = 0", "            pass"),
    Mutant("judge tokens left out", "chunk_reset", "+= judge_tokens", "+= 0"),
    Mutant("judge tokens of kept chunks only", "chunk_reset", "+= judge_tokens", f"+= 0 if {REJECTED} else judge_tokens"),
    Mutant("rejected tokens are not the policy's", "chunk_reset", LOST, f'{LOST}; path["policy_tokens"] -= tokens'),
    Mutant("rejected tokens not noted", "chunk_reset", '["rejected_tokens"] += tokens', '["rejected_tokens"] += 0'),
    Mutant(
        "kept against the verdict counts as rejected",
        "chunk_reset",
        'path["finished"] = ended',
        'path["finished"] = ended; path["rejected_tokens"] += tokens * (verdict is False)',
    ),
    Mutant("unreadable rejects", "chunk_reset", "verdict is False", "not verdict"),
    Mutant("upside down", "chunk_reset", "verdict is False", "verdict is True"),
    Mutant("nothing is rejected", "chunk_reset", REJECTED, "False"),
    Mutant("starts over", "chunk_reset", LOST, f'{LOST}; path["chunks"].clear()'),
    Mutant("one step back", "chunk_reset", LOST, f'{LOST}; path["chunks"][-1:] = []'),
    Mutant("rejected stays in the history", "chunk_reset", LOST, f'{LOST}; path["chunks"].append(text)'),
    Mutant("never ends", "chunk_reset", OPEN, "]"),
    Mutant("the end is not seen", "chunk_reset", OPEN, 'if len(paths[i]["chunks"]) < max_chunks]'),
    Mutant("a chunk too many", "chunk_reset", "< max_chunks", "<= max_chunks"),
    Mutant("a chunk too few", "chunk_reset", "< max_chunks", "< max_chunks - 1"),
    Mutant("always finished", "chunk_reset", 'path["finished"] = ended', 'path["finished"] = True'),
    Mutant("a rejected end ends", "chunk_reset", LOST, f'{LOST}; path["finished"] = ended'),
    Mutant(
        "last try not judged",
        "chunk_reset",
        JUDGED,
        "judgments = [judge([q], [h], [p[0]])[0] if rejected[i] + 1 < tries else (None, 0)"
        " for i, q, h, p in zip(active, asked, histories, proposals)]",
    ),
    Mutant(
        "judged one by one",
        "chunk_reset",
        JUDGED,
        "judgments = [judge([q], [h], [p[0]])[0] for q, h, p in zip(asked, histories, proposals)]",
    ),
    Mutant(
        "the chunk in its own history",
        "chunk_reset",
        JUDGED,
        "judgments = judge(asked, [h + [p[0]] for h, p in zip(histories, proposals)], [p[0] for p in proposals])",
    ),
    Mutant("judged without history", "chunk_reset", JUDGED, JUDGED.replace("histories", "[[] for _ in asked]")),
    Mutant("by text", "majority", "same_value(text, answer)", "text == answer", (["3", "1/2", "0.5"],)),
    Mutant("no answer is zero", "majority", "if answer is not None:", 'if (answer := answer or "0"):', ([None, None, "7"],)),
    Mutant("last at a tie", "majority", "max(votes,", "max(reversed(votes),", (["3", "4"],)),
    Mutant("weights ignored", "majority", "weights or [1]", "[1]", (["3", "4"], [0.25, 0.75])),
    Mutant("largest weight", "majority", "get(first, 0) + weight", "get(first, 0) * 0 + weight", (["3", "4", "4"],)),
    Mutant("last text of the value", "majority", "votes[first] = votes.get(", "votes[answer] = votes.pop(", (["1/2", "0.5"],)),
    Mutant("first answer", "majority", MOST, "next(iter(votes), None)", (["3", "4", "4"],)),
    Mutant("rarest", "majority", "return max(", "return min(", (["3", "3", "4"],)),
    Mutant("one over", "samples_within", "spent + row[number] > budget", "spent > budget", COSTS),
    Mutant("below the budget", "samples_within", "row[number] > budget", "row[number] >= budget", ([[1, 1]], 2)),
    Mutant("problem by problem", "samples_within", ROUNDS, IN_TURN, ([[1, 1, 1], [1, 1, 1]], 4)),
    Mutant("first free", "samples_within", "sum(row[0] for row in costs)", "0", ([[2, 2]], 3)),
    Mutant("skips and goes on", "samples_within", "                    return counts", "                    continue", COSTS),
    Mutant("none at least", "samples_within", "[1] * len(costs)", "[0] * len(costs)", ([[2, 2]], 4)),
    Mutant("samples for tokens", "samples_within", "spent += row[number]", "spent += 1", ([[2, 2, 2, 2]], 5)),
    Mutant("shortest row ends all", "samples_within", "max(map(len", "min(map(len", ([[1, 1], [1]], 9)),
    Mutant("judge tokens left out", "best_of_n", "total_costs(policy_costs, judge_costs)", "policy_costs"),
    Mutant("policy tokens left out", "best_of_n", "total_costs(policy_costs, judge_costs)", "judge_costs"),
    Mutant("worst", "best_of_n", "[max(range", "[min(range"),
    Mutant("all whatever the budget", "best_of_n", "range(count)", "range(len(row))"),
    Mutant("last at a tie", "best_of_n", "range(count)", "reversed(range(count))"),
    Mutant("the last paid for", "best_of_n", "max(range(count), key=row.__getitem__)", "count - 1"),
    Mutant("one more than paid for", "best_of_n", "range(count)", "range(min(count + 1, len(row)))"),
    Mutant("scores for indices", "best_of_n", "max(range(count), key=row.__getitem__)", "max(row[:count])"),
    Mutant(
        "budget for each problem",
        "best_of_n",
        "counts = samples_within(total_costs(policy_costs, judge_costs), budget)",
        "counts = [samples_within([row], budget)[0] for row in total_costs(policy_costs, judge_costs)]",
    ),
]
