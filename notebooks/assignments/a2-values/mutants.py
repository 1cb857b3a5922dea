"""Assignment 2: wrong versions of its functions, each a mistake that has been made."""

from minisw.course.mutants import Mutant

ROWS = ([[True, False], [True, False, False, False]], True)
LATER = "half = min(count // 2, *(len(side) for side in sides))"

MUTANTS = [
    Mutant("Q_0 forgotten", "values", "for row in hits)", "for row in hits[1:])", ROWS),
    Mutant("last Q sampled", "values", ", float(correct))", ", sum(hits[-1]) / len(hits[-1]))", ROWS),
    Mutant("any hit for the share", "values", "sum(row) / len(row)", "float(any(row))", ROWS),
    Mutant("divided by the first M", "values", "/ len(row)", "/ len(hits[0])", ROWS),
    Mutant(
        "outcome left out",
        "values",
        "(*(sum(row) / len(row) for row in hits), float(correct))",
        "tuple(sum(row) / len(row) for row in hits)",
        ROWS,
    ),
    Mutant("outcome turned round", "values", "float(correct)", "float(not correct)", ROWS),
    Mutant("≥ for >", "abs_q", "after > 0", "after >= 0", ([1.0, 0.0],)),
    Mutant("looks at the Q before", "abs_q", "after in q[1:]", "after in q[:-1]", ([1.0, 0.0],)),
    Mutant("a label for the prompt", "abs_q", "q[1:]", "q", ([1.0, 0.5],)),
    Mutant("half for zero", "abs_q", "after > 0", "after >= 0.5", ([1.0, 0.25],)),
    Mutant("≥ for >", "rel_ratio", "q[i] > gamma", "q[i] >= gamma", ([0.5, 0.25], 0.5)),
    Mutant(
        "0 after 0 positive",
        "rel_ratio",
        "q[i] > gamma * q[i - 1]",
        "q[i] > gamma * q[i - 1] or q[i] == q[i - 1]",
        ([0.0, 0.0], 0.5),
    ),
    Mutant("recovery from 0 negative", "rel_ratio", "> gamma * q[i - 1]", "> gamma * q[i - 1] > 0", ([0.0, 0.5], 0.5)),
    Mutant("against Q_0", "rel_ratio", "q[i - 1]", "q[0]", ([1.0, 0.25, 0.25], 0.5)),
    Mutant("ratio upside down", "rel_ratio", "q[i] > gamma * q[i - 1]", "q[i - 1] > gamma * q[i]", ([0.25, 1.0], 0.5)),
    Mutant("difference for ratio", "rel_ratio", "gamma * q[i - 1]", "q[i - 1] - (1 - gamma)", ([0.25, 0.0625], 0.5)),
    Mutant("1 - gamma", "rel_ratio", "> gamma *", "> (1 - gamma) *", ([0.5, 0.25], 0.75)),
    Mutant("sign of the gain", "rel_effective", "q[i] + alpha", "q[i] - alpha", ([0.5, 0.25], 1.0, 2)),
    Mutant("best of one", "rel_effective", "(1 - value) ** n", "(1 - value)", ([1.0, 0.25], 0.4, 4)),
    Mutant("Q to the power of n", "rel_effective", "1 - (1 - value) ** n", "value**n", ([1.0, 0.4], 0.8, 4)),
    Mutant("Q_i left out", "rel_effective", "q[i] + alpha", "alpha", ([0.5, 0.25], 0.4, 4)),
    Mutant("best of n for Q_i", "rel_effective", "[q[i] + alpha", "[best[i] + alpha", ([0.5, 0.25], 1.0, 2)),
    Mutant("one too many", "rel_effective", "** n", "** (n + 1)", ([0.5, 0.25], 0.82, 2)),
    Mutant("gain over Q", "rel_effective", "best[i - 1])", "q[i - 1])", ([0.5, 0.25], 1.0, 2)),
    Mutant("≥ for >", "rel_effective", "- best[i - 1]) > 0", "- best[i - 1]) >= 0", ([0.0, 0.0], 0.4, 4)),
    Mutant("> for ≥", "relative_progress", "q[i] >= gamma", "q[i] > gamma", ([0.5, 0.25], 0.5)),
    Mutant("alive again", "relative_progress", "alive = alive and q[i] > 0", "alive = q[i] > 0", ([0.5, 0.0, 0.5], 0.5)),
    Mutant("Q_0 ignored", "relative_progress", "q[0] > 0", "True", ([0.0, 0.5], 0.5)),
    Mutant("against Q_0", "relative_progress", "q[i - 1]", "q[0]", ([1.0, 0.25, 0.25], 0.5)),
    Mutant("zeros forgotten", "relative_progress", "alive and q[i] >= gamma", "q[i] >= gamma", ([0.5, 0.0, 0.5], 0.5)),
    Mutant(
        "the negative dropped too", "until_first_negative", "labels.index(False) + 1", "labels.index(False)", ([True, False],)
    ),
    Mutant("nothing dropped", "until_first_negative", "labels[:end]", "labels", ([False, True],)),
    Mutant("one more kept", "until_first_negative", "labels.index(False) + 1", "labels.index(False) + 2", ([False, True],)),
    Mutant("count a side", "balanced", "count // 2", "count", ([True, False, True, False], 2, 0)),
    Mutant(
        "not interleaved",
        "balanced",
        "for i in range(passes * half) for side in sides]",
        "for side in sides for i in range(passes * half)]",
        ([True, False, True, False], 4, 0),
    ),
    Mutant("passes alike", "balanced", "side[i % len(side)]", "side[i % half]", ([True, True, True, False], 2, 0, 3)),
    Mutant("not shuffled", "balanced", "rng.shuffle(side)", "pass", ([True] * 6 + [False], 2, 1)),
    Mutant("seed ignored", "balanced", "random.Random(seed)", "random.Random(0)", ([True] * 6 + [False], 2, 1)),
    Mutant(
        "minority doubled",
        "balanced",
        LATER,
        "half = min(count // 2, max(len(side) for side in sides)) if all(sides) else 0",
        ([True] * 3 + [False], 4, 0),
    ),
    Mutant("passes forgotten", "balanced", "range(passes * half)", "range(half)", ([True, False], 2, 0, 2)),
    Mutant(
        "half of all labels", "balanced", LATER, "half = min(len(side) for side in sides)", ([True, True, False, False], 2, 0)
    ),
    Mutant("all wrong kept", "mixed", "any(group) and not all(group)", "not all(group)", ([[False]],)),
    Mutant("all right kept", "mixed", "any(group) and not all(group)", "any(group)", ([[True]],)),
    Mutant("groups instead of indices", "mixed", "[i for i", "[list(group) for i", ([[True, False]],)),
    Mutant("only the others", "mixed", "any(group) and not all(group)", "len(set(group)) < 2", ([[True, False]],)),
]
