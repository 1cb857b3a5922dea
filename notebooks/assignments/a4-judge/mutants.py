"""Assignment 4: wrong versions of its functions, each a mistake that has been made.

Counterexamples hold no verdict words, because a variant changes them; and only functions whose helpers students have are
offered as bugs to be found.
"""

from minisw.course.mutants import Mutant

P, N = True, False
TEMPLATE = "{question}|{history}|{chunk}"
FORMAT = "template.format(question=question, history=past or nothing, chunk=chunk.strip())"
PLACES = "reply.rfind(POSITIVE), reply.rfind(NEGATIVE)"
LAST = f"max({PLACES})"
FIRST = "min((at for at in (reply.find(POSITIVE), reply.find(NEGATIVE)) if at >= 0), default=-1)"
F1 = "harmonic_mean(*accuracies(labels, predictions))"
SPLIT = ([-1, 0, 1, -1], [-1, 1, 1, -1], [True, True, False, True])
CUT = "predict_by_threshold(row, t)"
MIDDLE = "plateau[len(plateau) // 2]"
ERRORS = 'sum(row["count"] * abs(row["probability"] - row["share"]) for row in rows) / total if total'
GAP = 'abs(row["probability"] - row["share"])'

MUTANTS = [
    Mutant("history joined by spaces", "judge_prompt", '"".join', '" ".join', (TEMPLATE, "q", ["a", "b"], "c")),
    Mutant("chunk leaks into history", "judge_prompt", "join(history)", "join([*history, chunk])", (TEMPLATE, "q", ["a"], "c")),
    Mutant("chunks stripped", "judge_prompt", "join(history)", "join(map(str.strip, history))", (TEMPLATE, "", ["a ", "b"], "")),
    Mutant("empty history stays empty", "judge_prompt", "past or nothing", "past", (TEMPLATE, "q", [], "c")),
    Mutant("only the last chunk", "judge_prompt", "join(history)", "join(history[-1:])", (TEMPLATE, "q", ["a", "b"], "c")),
    Mutant("white space of the chunk stays", "judge_prompt", "chunk.strip()", "chunk", (TEMPLATE, "q", ["a"], " c")),
    Mutant(
        "replaced in turn",
        "judge_prompt",
        FORMAT,
        'template.replace("{question}", question).replace("{history}", past or nothing).replace("{chunk}", chunk.strip())',
        (TEMPLATE, "{chunk}", ["a"], "c"),
    ),
    Mutant(
        "first box counts",
        "parse_verdict",
        "return positive > negative",
        "return reply.find(POSITIVE) % 10**9 < reply.find(NEGATIVE) % 10**9",
    ),
    Mutant("unreadable is Positive", "parse_verdict", "return None", "return True", ("a",)),
    Mutant("unreadable is Negative", "parse_verdict", "return None", "return False", ("a",)),
    Mutant("word without a box", "parse_verdict", PLACES, "reply.rfind(POSITIVE[7:-1]), reply.rfind(NEGATIVE[7:-1])"),
    Mutant("open box", "parse_verdict", PLACES, "reply.rfind(POSITIVE[:-1]), reply.rfind(NEGATIVE[:-1])"),
    Mutant("upside down", "parse_verdict", "positive > negative", "positive < negative"),
    Mutant("any Negative wins", "parse_verdict", "positive > negative", "negative < 0"),
    Mutant("any Positive wins", "parse_verdict", "positive > negative", "positive >= 0"),
    Mutant("most boxes win", "parse_verdict", PLACES, "reply.count(POSITIVE), reply.count(NEGATIVE)"),
    Mutant("first box", "verdict_prefix", LAST, FIRST),
    Mutant("any box", "verdict_prefix", LAST, "reply.rfind(BOX)", (r"\boxed{1}",)),
    Mutant("verdict kept", "verdict_prefix", "start + len(BOX)", "start + len(POSITIVE)"),
    Mutant("box left out", "verdict_prefix", "start + len(BOX)", "start"),
    Mutant("only Positive", "verdict_prefix", LAST, "reply.rfind(POSITIVE)"),
    Mutant("empty text for no verdict", "verdict_prefix", "None if start", '"" if start', ("a",)),
    Mutant(
        "over the whole vocabulary",
        "p_positive",
        "yes / (yes + no)",
        "yes / sum(math.exp(value - best) for value in row)",
        ([[0, 1, 2]], 0, 1),
    ),
    Mutant("P(−)", "p_positive", "yes / (yes + no)", "no / (yes + no)", ([[0, 1]], 0, 1)),
    Mutant("the odds", "p_positive", "yes / (yes + no)", "yes / no", ([[0, 1]], 0, 1)),
    Mutant("overflow", "p_positive", "max(row[plus], row[minus])", "0.0", ([[900, 901]], 0, 1)),
    Mutant("the first tokens", "p_positive", "math.exp(row[plus] - best)", "math.exp(row[0] - best)", ([[0, 1, 1]], 1, 2)),
    Mutant("linear", "p_positive", "yes / (yes + no)", "row[plus] / (row[plus] + row[minus])", ([[1, 3]], 0, 1)),
    Mutant("tie is Positive", "vote", "> len(readable)", ">= len(readable)", ([P, N],)),
    Mutant("unreadable votes Negative", "vote", "> len(readable)", "> len(verdicts)", ([P, None, None],)),
    Mutant(
        "unreadable votes Positive",
        "vote",
        "2 * sum(readable) > len(readable)",
        "2 * sum(v is not False for v in verdicts) > len(verdicts)",
        ([N, None, None],),
    ),
    Mutant("nothing readable is Negative", "vote", "return None", "return False", ([None],)),
    Mutant("one Positive is enough", "vote", "2 * sum(readable) > len(readable)", "any(readable)", ([P, N, N],)),
    Mutant("all must be Positive", "vote", "2 * sum(readable) > len(readable)", "all(readable)", ([P, P, N],)),
    Mutant("the first decides", "vote", "2 * sum(readable) > len(readable)", "readable[0]", ([N, P, P],)),
    Mutant("unreadable passes", "predict", "return WRONG", "continue", ([None],)),
    Mutant("unreadable rejects", "predict", "return WRONG", "return i", ([None],)),
    Mutant("any unreadable", "predict", "if verdict is None:", "if None in verdicts:", ([N, None],)),
    Mutant("counts from 1", "predict", "            return i", "            return i + 1", ([P, N],)),
    Mutant("last Negative", "predict", "in enumerate(verdicts)", "in reversed(list(enumerate(verdicts)))", ([N, N],)),
    Mutant("first Positive", "predict", "if not verdict:", "if verdict:", ([P, N],)),
    Mutant("0 if all are Positive", "predict", "return -1", "return 0", ([P],)),
    Mutant("arithmetic mean", "f1_official", F1, "mean(accuracies(labels, predictions))"),
    Mutant("accuracy", "f1_official", F1, "mean([a == b for a, b in zip(labels, predictions)])"),
    Mutant(
        "error anywhere",
        "f1_official",
        F1,
        "harmonic_mean(*accuracies([min(a, 0) for a in labels], [min(b, 0) for b in predictions]))",
    ),
    Mutant("unreadable passes", "f1_official", F1, "harmonic_mean(*accuracies(labels, [max(p, -1) for p in predictions]))"),
    Mutant("divided by predictions", "f1_official", F1, "harmonic_mean(*accuracies(predictions, labels))"),
    Mutant("the worse side", "f1_official", F1, "min(accuracies(labels, predictions))"),
    Mutant("geometric mean", "f1_official", F1, "math.prod(accuracies(labels, predictions)) ** 0.5"),
    Mutant("wrong answers by label", "f1_by_answer", "if not correct]", "if label >= 0]", SPLIT),
    Mutant("right answers by label", "f1_by_answer", "if correct]", "if label < 0]", SPLIT),
    Mutant("right answers only", "f1_by_answer", "if not correct]", "if correct]", SPLIT),
    Mutant("arithmetic mean", "f1_by_answer", "return harmonic_mean(", "return (lambda a, b: (a + b) / 2)(", SPLIT),
    Mutant(
        "unpaired",
        "paired_bootstrap",
        "bootstrap(rows, difference, seed, resamples, groups)",
        "tuple(a - b for a, b in zip(bootstrap([a for a, _ in rows], statistic, seed, resamples, groups), "
        "bootstrap([b for _, b in rows], statistic, seed + 1, resamples, groups)[::-1]))",
    ),
    Mutant(
        "90% interval",
        "paired_bootstrap",
        "bootstrap(rows, difference, seed, resamples, groups)",
        "(lambda low, high: (low + 0.08 * (high - low), high - 0.08 * (high - low)))"
        "(*bootstrap(rows, difference, seed, resamples, groups))",
    ),
    Mutant(
        "half samples",
        "paired_bootstrap",
        "rows, difference, seed",
        "rows, lambda sample: difference(sample[: len(sample) // 2]), seed",
    ),
    Mutant("without replacement", "paired_bootstrap", "rows, difference, seed", "rows, lambda _: difference(rows), seed"),
    Mutant("seed ignored", "paired_bootstrap", "difference, seed, resamples", "difference, 0, resamples"),
    Mutant("groups ignored", "paired_bootstrap", "resamples, groups)", "resamples, None)"),
    Mutant("resamples ignored", "paired_bootstrap", "difference, seed, resamples, groups", "difference, seed, 7, groups"),
    Mutant(
        "second minus first",
        "paired_bootstrap",
        "statistic([a for a, _ in sample]) - statistic([b for _, b in sample])",
        "statistic([b for _, b in sample]) - statistic([a for a, _ in sample])",
    ),
    Mutant(
        "statistic of the differences",
        "paired_bootstrap",
        "statistic([a for a, _ in sample]) - statistic([b for _, b in sample])",
        "statistic([a - b for a, b in sample])",
    ),
    Mutant("edge of the plateau", "best_threshold", MIDDLE, "plateau[0]"),
    Mutant("other edge of the plateau", "best_threshold", MIDDLE, "plateau[-1]"),
    Mutant("first plateau", "best_threshold", "max(runs, key=len)", "next(run for run in runs if run)"),
    Mutant("all plateaus as one", "best_threshold", "max(runs, key=len)", "sum(runs, [])"),
    Mutant("always a half", "best_threshold", MIDDLE, "0.5"),
    Mutant("turned round", "best_threshold", CUT, "predict_by_threshold([1 - s for s in row], t)"),
    Mutant("strictly above", "best_threshold", CUT, "predict([s > t for s in row])"),
    Mutant("the mean score", "best_threshold", CUT, "predict_by_threshold([mean(row)] * len(row), t)"),
    Mutant("coarse", "best_threshold", "range(1, 50)", "range(5, 50, 5)"),
    Mutant("the worst", "best_threshold", "max(f1)", "min(f1)"),
    Mutant(
        "by chunk accuracy",
        "best_threshold",
        "[f1_official(labels, [predict_by_threshold(row, t) for row in scores]) for t in tried]",
        "[mean([(s >= t) == (a < 0 or i < a) for a, row in zip(labels, scores) for i, s in enumerate(row)]) for t in tried]",
    ),
    Mutant("unweighted", "calibration_error", ERRORS, f"sum({GAP} for row in rows) / len(rows) if rows"),
    Mutant("signed", "calibration_error", GAP, '(row["probability"] - row["share"])'),
    Mutant("squared", "calibration_error", GAP, '(row["probability"] - row["share"]) ** 2'),
    Mutant("the middle of the bin", "calibration_error", 'abs(row["probability"]', 'abs((row["low"] + row["high"]) / 2'),
    Mutant("largest gap", "calibration_error", ERRORS, f"max({GAP} for row in rows) if rows"),
    Mutant("not divided", "calibration_error", ") / total if", ") if"),
    Mutant("bins ignored", "calibration_error", "(probabilities, outcomes, bins)", "(probabilities, outcomes, 3)"),
    Mutant(
        "a bin holds its upper edge",
        "calibration_error",
        "(probabilities, outcomes, bins)",
        "([max(p - 1e-9, 0) for p in probabilities], outcomes, bins)",
    ),
    Mutant(
        "p = 1 in no bin",
        "calibration_error",
        "(probabilities, outcomes, bins)",
        "(*zip(*[(p, o) for p, o in zip(probabilities, outcomes) if p < 1] or [(0.0, False)]), bins)",
    ),
]
