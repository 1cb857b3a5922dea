# %% [markdown]
# # 04 · Other judges: how they work, and how to compare them
#
# **You will be able to** choose a threshold without cheating, say which F1 is meant, tell a real difference from a
# lucky one, read the judges of GenPRM and ThinkPRM, and measure any judge of your own.
#
# **Time:** 3 minutes to run on two cores, 45 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# no GPU; notebooks 00 and 03, and means and variances.
#
# Judgments come from the finished run that `open_run()` opens. Cells with the tag *live* ask a model.

# %%
import functools
import itertools
import json
import operator
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from IPython.display import Markdown

import minisw
from minisw import show
from minisw.evaluate import metrics
from minisw.evaluate.calibration import calibration_error
from minisw.evaluate.stats import bootstrap, mean, paired_bootstrap

# %%
from minisw.judges import chains, code_checks, registry
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.genprm import GenPRMJudge
from minisw.labels import load_steps
from minisw.pictures import COMPUTE, LABELS, efficiency_points
from minisw.pictures import judges as pictures
from minisw.saved_run import study_results
from minisw.stages.evaluate import up_to_error
from minisw.verdicts import parse_verdict, vote
from minisw.verify.sandbox import Limits, Output, missing_layers, run_checks

# %%
run = minisw.open_run()
items = run.items()
rows = {row["id"]: row for row in run.metrics("evaluate")["rows"]}


def judged(name: str) -> list:
    """The saved greedy judgments of one judge: [items][steps]."""
    saved = iter(run.records(f"evaluate/{name}"))
    return [[next(saved) for _ in item.chunks] for item in items]


def votes_of(name: str) -> list:
    """Its judgments with several votes each: [beginnings][steps]."""
    saved = iter(run.records(f"evaluate/{name}-sampled"))
    return [[next(saved) for _ in item.chunks] for item in beginnings]


beginnings = [up_to_error(item) for item in items]  # the votes are about these
truth = [item.label for item in items]
print(f"{len(items)} solutions, {sum(label >= 0 for label in truth)} of them with an error")

# %% [markdown]
# ## 1 A classifier, and its threshold
#
# The baseline of the paper is a *classifier* (in tables and pictures: *discriminative*): the same base, fine-tuned to
# answer `+` or `-` at once. Its score is $P(+) / (P(+) + P(-))$, over these two tokens. A step is called wrong if its
# score is below a *threshold*.
#
# The classifier was trained on as many wrong as right steps, but few of the steps that it judges are wrong. So ½ is
# seldom the best threshold. The threshold is chosen on *validation* solutions, whose labels come from rollouts, and is
# then fixed. The measure is first-error F1 (notebook 00).

# %%
show.source(DiscriminativeJudge.judge)

# %%
show.source(metrics.best_threshold)

# %% [markdown]
# Three toy sets of two solutions. A label is the index of the first wrong step, −1 if there is none. *Predict first*:
# the threshold and its F1.

# %%
for labels, toy in [
    ([-1, 1], [[0.9, 0.9], [0.9, 0.1]]),
    ([-1, 1], [[0.4, 0.4], [0.4, 0.2]]),
    ([-1, 1], [[0.9, 0.3], [0.9, 0.6]]),
]:
    print(labels, toy, "->", metrics.best_threshold(labels, toy))

# %% [markdown]
# Now the classifier of the run. Its adapter was rounded to bf16 to ship it, which moves scores a little; so we ask it
# anew about both splits, and choose its threshold again.

# %% tags=["live"]
classifier = run.judge("discriminative")
validation = load_steps(run.folder / "annotate", "validation", run.recipe.annotate)
answers = classifier.judge(validation)
known, scores = metrics.by_solution(validation, [j.p_positive for j in answers])
threshold, f1 = metrics.best_threshold(known, scores)
replies = iter(classifier.judge([step for item in items for step in item.steps()]))
asked = [[next(replies) for _ in item.chunks] for item in items]
assert len(answers) == len(validation) and all(0 <= j.p_positive <= 1 for j in answers)
print(f"{len(known)} validation solutions; threshold of the run: {classifier.threshold};", end=" ")
print(f"chosen now: {threshold}, F1 {f1:.2f}")

# %%
test_scores = [[j.p_positive for j in own] for own in asked]
thresholds = [i / 50 for i in range(1, 50)]


def f1_at(labels, scores, at: float) -> float:
    """First-error F1 of a threshold."""
    found = [metrics.predict_by_threshold(own, at) for own in scores]
    return metrics.f1_official(labels, found)


curves = {
    "validation": [f1_at(known, scores, t) for t in thresholds],
    "test": [f1_at(truth, test_scores, t) for t in thresholds],
}
show.picture(
    pictures.threshold_curves(thresholds, curves, threshold),
    f"F1 against the threshold on validation and on test. The chosen one, {threshold}, gives "
    f"{f1:.2f} on validation and {f1_at(truth, test_scores, threshold):.2f} on test; the best on "
    f"test would give {max(curves['test']):.2f}, which nobody can know beforehand.",
)

# %%
pairs = metrics.steps_until_error(items, asked)
probabilities, right = [j.p_positive for _, j in pairs], [label for label, _ in pairs]
passes = [p >= threshold for p in probabilities]
passed = {side: 0.0 for side in (True, False)}
for side in passed:
    passed[side] = mean([ok for ok, label in zip(passes, right, strict=True) if label is side])
show.picture(
    pictures.score_histograms(probabilities, right, threshold),
    f"Scores of right and of wrong test steps, up to the first error: the threshold passes "
    f"{passed[True]:.0%} of the right steps and {passed[False]:.0%} of the wrong ones.",
)

# %% [markdown]
# **Question.** Why not choose the threshold on the test set, where the labels are exact?
#
# <details><summary>Answer</summary>
#
# The best of 49 thresholds on some solutions also fits their accidents, so its F1 is too high for other solutions. The
# first picture shows it twice: the chosen threshold does better on validation than on test, and the best F1 on test is
# above that of the chosen threshold. A paper should say where the threshold of its baseline comes from.
#
# </details>

# %% [markdown]
# ## 2 From verdicts to an F1, of which there are three
#
# `predict` turns the verdicts of a solution into one prediction: the index of the first Negative. With the label $y$
# and the prediction $\hat y$, the *official* F1 of ProcessBench is the harmonic mean of two shares: of the solutions
# with an error, those with $\hat y = y$; of the right solutions, those with $\hat y = -1$. StepWiser's table takes the
# share with $\hat y = y$ among the solutions with a wrong and with a right *final answer* instead. ThinkPRM's F1 is
# *binary*: it asks only whether there is any mistake.

# %%
show.source(metrics.predict)

# %%
show.source(metrics.f1_official)

# %%
show.source(metrics.f1_binary)

# %% [markdown]
# Three toy judges of four solutions, of which two have an error: one finds all; one always says Positive; one is
# unreadable once. *Predict first*: official and binary F1.

# %%
toy_labels = [1, 0, -1, -1]
for name, verdicts in {
    "all found": [[True, False], [False], [True], [True]],
    "always Positive": [[True, True], [True], [True], [True]],
    "one unreadable": [[True, False], [None], [True], [True]],
}.items():
    predictions = [metrics.predict(own) for own in verdicts]
    f1s = [f1(toy_labels, predictions) for f1 in (metrics.f1_official, metrics.f1_binary)]
    print(f"{name:16} {predictions!s:16} official {f1s[0]:.2f}, binary {f1s[1]:.2f}")

# %%
final = [item.final_correct for item in items]
names = [name for name in rows if (run.folder / "evaluate" / f"{name}.jsonl").is_file()]
predicted = {n: [metrics.predict([j.verdict for j in own]) for own in judged(n)] for n in names}
table = {
    rows[name]["name"]: {
        "official": metrics.f1_official(truth, own),
        "by final answer": metrics.f1_by_answer(truth, own, final),
        "binary": metrics.f1_binary(truth, own),
    }
    for name, own in predicted.items()
}
widest = max(table, key=lambda name: max(table[name].values()) - min(table[name].values()))
kinds = ", ".join(f"{kind} {value:.2f}" for kind, value in table[widest].items())
show.picture(
    pictures.kinds_of_f1(table),
    f"Three kinds of F1 for each of {len(table)} judges. They differ most for {widest}: {kinds}.",
)

# %% [markdown]
# **Question.** Which judges gain most from the binary F1, and why?
#
# <details><summary>Answer</summary>
#
# Those that object often, but to the wrong step. If every solution is called faulty, all faulty ones count as found:
# with a share $e$ of faulty solutions the binary F1 is $2e / (1 + e)$, however blind the judge. The official F1 of the
# same judge is 0, because no right solution passes.
#
# </details>

# %% [markdown]
# ## 3 Is the difference real?
#
# Two judges differ in F1 by $d$ on these solutions. On others, $d$ would be another number. The *bootstrap* draws
# solutions from these with replacement, as many as there are, and computes the difference on them. It does so many
# times; the middle 95% of the differences are the interval. The bootstrap is *paired* if both judges are measured on
# the same drawn solutions each time.

# %%
show.source(paired_bootstrap)

# %% [markdown]
# Three toy pairs of judges on 40 solutions, with one number for each solution. *Predict first*: the interval if `a` is
# always 0.1 above `b`; if both are the same; and if they have nothing to do with each other.

# %%
rng = random.Random(0)
base = [rng.random() for _ in range(40)]
noise = [rng.random() for _ in range(40)]
for name, a in {"always +0.1": [b + 0.1 for b in base], "same": base, "unrelated": noise}.items():
    measured, (low, high) = paired_bootstrap(list(zip(a, base, strict=True)), mean, seed=0)
    print(f"{name:12} {measured:+.2f}, 95% from {low:+.2f} to {high:+.2f}")

# %%
ours, fewer = predicted["stepwiser"], predicted["stepwiser_tenth"]
sides = [list(zip(items, own, strict=True)) for own in (ours, fewer)]
draws: dict[str, list[float]] = {"paired": [], "not paired": []}


def keep_paired(some) -> float:
    """The difference on one resample of pairs; remembers it for the picture."""
    a, b = zip(*some, strict=True)
    draws["paired"].append(metrics.average_f1(a) - metrics.average_f1(b))
    return draws["paired"][-1]


bootstrap(list(zip(*sides, strict=True)), keep_paired, run.seed)
alone: list[list[float]] = [[], []]
for values, side, seed in zip(alone, sides, (1, 2), strict=True):
    bootstrap(side, lambda some, own=values: own.append(metrics.average_f1(some)) or 0.0, seed)
draws["not paired"] = [a - b for a, b in zip(*alone, strict=True)]
gap, (low, high) = metrics.f1_difference(items, ours, fewer, run.seed, 1000)
show.picture(
    pictures.difference_histograms(draws, gap),
    "Bootstrapped differences of F1, StepWiser minus StepWiser with a tenth of the labels: "
    f"{gap:+.2f} measured, 95% from {low:+.2f} to {high:+.2f} if paired.",
)

# %% [markdown]
# **Question.** This interval is over *test solutions*. What does it leave out?
#
# <details><summary>Answer</summary>
#
# Everything that was random before the test: the training, the policy, the labels. Another training with the same
# labels gives another judge. REPRODUCE.md therefore has a second interval, over whole runs with other seeds. A
# difference that holds for one trained model is not yet a property of the method.
#
# </details>

# %% [markdown]
# ## 4 Calibration: does 80% mean 80%?
#
# A judge gives probabilities $p$. It is *calibrated* if, of all steps with $p$ near 0.8, 80% are right. The *expected
# calibration error* sorts the steps into ten bins by $p$ and averages $|\,\text{mean } p - \text{share of right}\,|$
# over the bins, weighted by their counts.

# %%
show.source(calibration_error)

# %% [markdown]
# Three toy judges of four steps, of which three are right. *Predict first*: the error of each.

# %%
outcome = [True, True, True, False]
for probabilities_of_toy in ([0.75] * 4, [1.0] * 4, [0.9, 0.9, 0.9, 0.1]):
    error = calibration_error(probabilities_of_toy, outcome)
    print(probabilities_of_toy, "->", round(error, 3))


# %%
def measured_steps(solutions, judgments) -> tuple[list[float], list[bool]]:
    """P(Positive) of the steps up to each first error, and whether they are right."""
    pairs = metrics.steps_until_error(solutions, judgments)
    return [j.p_positive for _, j in pairs], [label for label, _ in pairs]


panels = {
    "classifier": measured_steps(items, judged("discriminative")),
    "untrained, 8 votes": measured_steps(beginnings, votes_of("untrained")),
    "StepWiser, 8 votes": measured_steps(beginnings, votes_of("stepwiser")),
}
errors = {name: calibration_error(*own) for name, own in panels.items()}
said = ", ".join(f"{name} {error:.2f}" for name, error in errors.items())
show.picture(
    pictures.reliability_diagram(panels),
    f"Reliability diagrams of three judges, the share of right steps in each bin of P(Positive). "
    f"Calibration errors: {said}. For votes, P(Positive) is the share of Positive ones.",
)

# %% [markdown]
# **Question.** The classifier was trained on half right, half wrong steps. What does that do to its $p$?
#
# <details><summary>Answer</summary>
#
# It learnt that half of all steps are right, and its $p$ are near ½ or below, while most of the steps that it judges
# are right: all bins lie above the diagonal. It may still put right steps above wrong ones, and a threshold needs no
# more than that. Calibration and discrimination are different properties.
#
# </details>

# %% [markdown]
# ## 5 GenPRM: a check in code, executed
#
# GenPRM's judge may write a line of Python and the word `Output:`. Then sampling stops, the line is *executed*, its
# real output is inserted into the reply, and the judge continues after it. Language models make mistakes in long
# arithmetic; Python does not.
#
# Code that a model wrote may be harmful: it may loop for ever or read your files. It runs in a process without files
# and network, with limits on time and memory, and only if it uses the allowed part of Python.

# %%
show.source(code_checks.outputs)

# %% [markdown]
# Three toy checks. *Predict first*: what is inserted after `Output:`?


# %%
def calculator(codes):
    """Stands in where a machine (macOS) cannot contain code: one operation on two whole numbers."""
    does = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv}
    results = []
    for code in codes:
        match = re.fullmatch(r"print\((\d+) *(\+|-|\*|//) *(\d+)\)", code.strip())
        value = does[match[2]](int(match[1]), int(match[3])) if match else None
        results.append(Output(str(value or ""), match is not None, "check failed: not one sum"))
    return results


runner = functools.partial(run_checks, limits=Limits(seconds=2))
if missing_layers():
    print("no Python is run here, because this machine lacks", ", ".join(missing_layers()))
    runner = calculator
codes = ["print(652//2)", "open('/etc/passwd')", "while True: pass"]
for code, line in zip(codes, code_checks.outputs(codes, runner), strict=True):
    print(f"{code:20} Output: {line}")

# %% [markdown]
# The included run has no trained GenPRM judge. But the *base* has read texts of people who check with code. Asked for
# a judgment with code, it sometimes writes a check and sometimes does not. We ask it about right and about wrong steps
# of the test solutions, six times each.

# %% tags=["live"]
wrong = [item.steps()[item.label] for item in items if item.label >= 0][:16]
fine = [item.steps()[0] for item in items if item.label != 0][:16]
chosen = [*fine, *wrong]
coder = GenPRMJudge(run.judge_context, None, temperature=1.0, votes=6, run=runner)
replies = coder.sample(chosen, seed=0)
assert all(len(own) == 6 for own in replies)
said = [(step, reply.text) for step, own in zip(chosen, replies, strict=True) for reply in own]
checked = [(step, text) for step, text in said if code_checks.OUTPUT in text]
assert checked and len(checked) < len(said)
print(f"{len(said)} replies, {len(checked)} of them with a check\n")
caught = [(step, text) for step, text in checked if parse_verdict(text) is False is step.label]
step, text = (caught or checked)[0]
print("question:", step.question)
print("new chunk:", " ".join(step.chunk.split()), "\n")
print(text)

# %%
groups = {}
for label, name in ((True, "right steps"), (False, "wrong steps")):
    groups[name] = {}
    for kind in ("no check", "one check", "more checks"):
        least, most = {"no check": (0, 0), "one check": (1, 1), "more checks": (2, 99)}[kind]
        own = [text for step, text in said if step.label is label]
        own = [text for text in own if least <= text.count(code_checks.OUTPUT) <= most]
        groups[name][kind] = (sum(parse_verdict(text) is label for text in own), len(own))
found = ", ".join(f"{kind} {k} of {n}" for kind, (k, n) in groups["wrong steps"].items())
(k0, n0), (k1, n1) = (groups["wrong steps"][kind] for kind in ("no check", "more checks"))
show.picture(
    pictures.grouped_shares(
        groups, "share of right verdicts",
        f"Wrong steps are found by {k0 / max(1, n0):.0%} of the replies without a check, "
        f"{k1 / max(1, n1):.0%} with several",
    ),
    "Share of right verdicts of the untrained base, for right and for wrong steps, by the number "
    f"of executed checks. Wrong steps found: {found}.",
)  # fmt: skip

# %% [markdown]
# **Question.** A check never lies about its arithmetic. How can a reply with a right output give a wrong verdict?
#
# <details><summary>Answer</summary>
#
# The check may compute the wrong thing. If a step skips a fact or misreads a number, its equation can still be true,
# and checking that equation finds nothing. The check must compute what the problem asks for at this place. Code
# corrects arithmetic, not a wrong plan. That is why GenPRM asks for an analysis *and* code.
#
# </details>

# %% [markdown]
# ## 6 ThinkPRM: one chain for the whole solution
#
# ThinkPRM's judge reads a *prefix*, the solution up to some step, and writes one *chain*: a critique with a verdict for
# each step, then the question whether all steps are right. Its score is the probability of a yes after that question
# (the embedded model answers `+` or `-`). Training keeps only the chains in which every verdict matches its label.

# %%
show.source(chains.step_verdicts)

# %%
show.source(chains.keep_chain)

# %% [markdown]
# Three toy chains over two steps with the labels right, wrong. *Predict first*: which ones are kept, if a chain may
# have 100 tokens?

# %%
prompts, labels = run.judge_context.prompts, [True, False]
box = {True: r"\boxed{Positive}", False: r"\boxed{Negative}", None: "not sure"}
for toy, tokens in [((True, False), 60), ((True, None), 60), ((True, False), 160)]:
    chain = prompts.numbered([f"2+3: 5. {box[verdict]}" for verdict in toy])
    read = chains.step_verdicts(chain, prompts)
    print(read, tokens, "-> kept:", chains.keep_chain(read, labels, tokens, 100))

# %% [markdown]
# The included run has no trained ThinkPRM judge. So we make a chain in the way its training data are made: `compose`
# joins critiques of single steps, here by the run's StepWiser judge, and the final answer is appended.

# %%
own = judged("stepwiser")
number = next(
    n for n, item in enumerate(items)
    if item.label == 1 and predicted["stepwiser"][n] == item.label
)  # fmt: skip
prefix = tuple(items[number].steps()[: items[number].label + 1])
critiques = {s: [j.analysis] for s, j in zip(prefix, own[number], strict=False)}
(chain,) = chains.compose(prefix, critiques, 1, prompts)
print(items[number].question, "\n")
print(prompts.numbered([s.chunk for s in prefix]), "\n\n--- the chain ---\n")
print(chains.answered(chain, chains.is_correct(prefix), prompts))
assert chains.step_verdicts(chain, prompts) == [s.label for s in prefix]

# %% [markdown]
# How many chains pass? We compose eight over each prefix of the test solutions from the saved votes: chain $k$ takes
# vote $k$ of every step.


# %%
def kept_by_length(judgments) -> dict[str, tuple[int, int]]:
    """How many of the chains over prefixes of each length pass the filter: (kept, all)."""
    kept: dict[str, tuple[int, int]] = {}
    for item, own in zip(items, judgments, strict=True):
        truths = [step.label for step in item.steps()]
        for length, k in itertools.product(range(1, len(own) + 1), range(len(own[0].votes))):
            votes = [j.votes[k] for j in own[:length]]
            passes = chains.keep_chain(votes, truths[:length], tokens=0, limit=0)
            name = f"{length} step{'s' * (length > 1)}"
            before = kept.get(name, (0, 0))
            kept[name] = (before[0] + passes, before[1] + 1)
    return kept


# %%
of_base, of_ours = kept_by_length(votes_of("untrained")), kept_by_length(votes_of("stepwiser"))
groups = {n: {"untrained": of_base[n], "StepWiser": of_ours[n]} for n in sorted(of_base)}
first, last = min(groups), max(groups)
share = {
    (n, name): kept / tried for n, own in groups.items() for name, (kept, tried) in own.items()
}
base_shares, our_shares = (
    f"{share[first, name]:.0%} over {first}, {share[last, name]:.0%} over {last}"
    for name in ("untrained", "StepWiser")
)
show.picture(
    pictures.grouped_shares(
        groups, "chains that pass the filter", f"Untrained base, chains that pass: {base_shares}"
    ),
    "Share of composed chains that pass ThinkPRM's filter, by the length of the prefix. Of the "
    f"untrained base's: {base_shares}; of StepWiser's: {our_shares}.",
)

# %% [markdown]
# **Question.** What does the filter do to the data that the judge is trained on?
#
# <details><summary>Answer</summary>
#
# If one verdict is right with probability $a$, a chain over $n$ steps passes with probability about $a^n$: long
# solutions become rare, and mostly easy ones remain. The filter also keeps verdicts that are right for a wrong reason.
# The gain is that no remaining verdict contradicts a label; in the paper, a few thousand chains were enough.
#
# </details>

# %% [markdown]
# ## 7 Votes: more tokens at judging time
#
# A judge that samples can be asked $k$ times; the majority decides. *Maj@k* is the F1 of the majority of $k$ votes. A
# tie counts as Negative. Maj@1 is one *sampled* reply; the F1s of sections 2 and 3 are of *greedy* replies, so they
# differ.

# %%
show.source(vote)

# %% [markdown]
# Three toy votes. *Predict first*: the verdict of each.

# %%
for votes in ([True, True, False], [True, False], [None, None, True]):
    print(votes, "->", vote(votes))

# %%
voters = [name for name in names if (run.folder / "evaluate" / f"{name}-sampled.jsonl").is_file()]
curves = {
    rows[name]["name"]: metrics.majority_curve(beginnings, votes_of(name), run.seed, 200)
    for name in voters
}
gains = {name: own[-1]["f1"] - own[0]["f1"] for name, own in curves.items()}
most = max(gains, key=gains.__getitem__)
show.picture(
    pictures.majority_curves(curves),
    f"F1 of the majority of k votes against k, for {len(curves)} judges: {most} gains most, from "
    f"{curves[most][0]['f1']:.2f} to {curves[most][-1]['f1']:.2f}.",
)

# %% [markdown]
# **Question.** Why is Maj@2 below Maj@1?
#
# <details><summary>Answer</summary>
#
# Two votes that differ are a tie, and a tie is Negative. A step passes only if both votes are Positive, so right
# solutions are rejected more often. Even numbers of votes make the judge stricter. With more votes ties become rare;
# with an odd number of readable votes there are none.
#
# </details>

# %% [markdown]
# ## 8 F1 against labels, and against all that was spent
#
# "A tenth of the labels is enough" is a claim about labels. But labels are not the only cost: training with few labels
# still samples many replies. So there are two curves: F1 against labels, and F1 against *compute*.
#
# The study `data-efficiency` measures both, from 24 to 8,000 labels. If its results are here, the picture shows them.
# Otherwise it shows the small version that the run holds: all labels, a tenth, a hundredth.
#
# For every training the run saved how many tokens it sampled or learnt from. A label costs the tokens of its rollouts,
# and the classifier's validation labels count too. Prompts are left out, and so is the classifier's training, which
# learns from one token a label.

# %%
study = study_results("data-efficiency")
measured = study["rows"] if study and efficiency_points(study["rows"], LABELS) else []
metrics_of = run.metrics("judges")
stages = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["stages"]
folder, how = run.folder / "annotate", run.recipe.annotate
every_label = load_steps(folder, "train", how) + load_steps(folder, "validation", how)
a_label = stages["annotate"]["tokens"] / len(every_label)


def small_point(name: str) -> tuple[int, float]:
    """The labels that a judge has used, and the tokens of these labels and of its training."""
    own = metrics_of[name]
    used = own["labels"] + own.get("validation_labels", 0)
    trained_on = sum(step["completions/num_tokens"] for step in own.get("curve", []))
    if "replies" in own:  # RS-FT: what the base wrote before the filter
        trained_on += own["replies"] * rows["untrained"]["tokens_per_step"]
    return used, used * a_label + trained_on


for name in metrics_of:
    used, spent = small_point(name)
    print(f"{name:22} {used:4} labels, {used * a_label:8.0f} tokens for them, {spent:8.0f} in all")

# %% [markdown]
# Three toy judges, each with an F1 and two costs. *Predict first*: which one is cheapest for an F1 of at least 0.8, by
# labels, and by tokens?

# %%
toy_judges = {"A": (0.85, 100, 900), "B": (0.82, 10, 1500), "C": (0.70, 5, 200)}
good = {name: own for name, own in toy_judges.items() if own[0] >= 0.8}
print("by labels:", min(good, key=lambda name: good[name][1]), end=", ")
print("by tokens:", min(good, key=lambda name: good[name][2]))

# %%
shown = {"labels": {}, "tokens, those for labels included": {}}
for name in metrics_of:
    family = rows[name]["name"].split(",")[0]
    for cost, x in zip(shown, small_point(name), strict=True):
        point = (x, rows[name]["f1"], tuple(rows[name]["interval"]))
        shown[cost].setdefault(family, []).append(point)
if measured:
    shown = {"labels": {}, "training compute (FLOPs)": {}}
    for cost, kind in zip(shown, (LABELS, COMPUTE), strict=True):
        for name, own in efficiency_points(measured, kind).items():
            shown[cost][name] = [(x, y, (lowest, highest)) for x, y, lowest, highest in own]
print("the study's results" if measured else "the small version, from the run")
ends = {name: (min(own), max(own)) for name, own in next(iter(shown.values())).items()}
said = "; ".join(f"{name} {b[1]:.2f} with {b[0]:.0f}" for name, (_, b) in list(ends.items())[:4])
show.picture(
    pictures.cost_panels(shown),
    f"F1 against labels and against {list(shown)[1]}, log scales. With most labels: {said}.",
)

# %% [markdown]
# **Question.** Which of the two panels would a reviewer ask for, and which one would you?
#
# <details><summary>Answer</summary>
#
# A reviewer asks for compute: there a method cannot look cheap because its cost is elsewhere. If people make the
# labels, the first panel counts, because their time costs far more than the tokens. If rollouts make the labels, labels
# and training are both compute, and only their sum is fair.
#
# </details>

# %% [markdown]
# ## 9 All judges, and your own
#
# A judge of the package is one entry of the registry: how it is trained and how it is built.

# %%
lines = ["| judge | id | from | F1 here |", "| --- | --- | --- | --- |"]
for entry in registry.REGISTRY:
    f1 = f"{rows[entry.id]['f1']:.2f}" if entry.id in rows else "not in this run"
    lines.append(f"| {entry.title} | `{entry.id}` | {entry.source} | {f1} |")
Markdown("\n".join(lines))

# %% [markdown]
# To train the others, name them: `python -m minisw.reproduce --judge.judges genprm thinkprm …`. But a judge need not
# be part of minisw: `python -m minisw.evaluate` reads a file with one line for each solution, and prints percentages.
# Three toy lines. *Predict first*: the first-error F1.

# %%
place = tempfile.TemporaryDirectory()
folder = Path(place.name)


def evaluate(*arguments: str) -> str:
    """What `python -m minisw.evaluate` prints."""
    command = [sys.executable, "-m", "minisw.evaluate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True).stdout


toy_lines = [
    {"id": "a", "label": 1, "verdicts": [True, False]},
    {"id": "b", "label": -1, "verdicts": [True, True]},
    {"id": "c", "label": 0, "verdicts": [None, True]},
]
(folder / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in toy_lines))
print("\n".join(evaluate("toy.jsonl").splitlines()[:5]))

# %% [markdown]
# Now a real judge, made of two others: a step passes only if both cheap judges, with a tenth and with a hundredth of
# the labels, pass it. Does it come near StepWiser with all labels?

# %%
def write(name: str, judgments) -> None:
    """A predictions file: verdicts and tokens of every step."""
    with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for item, own in zip(items, judgments, strict=True):
            line = {"id": item.id, "question": item.question, "label": item.label}
            line |= {"verdicts": [v for v, _ in own], "tokens": [count for _, count in own]}
            file.write(json.dumps(line) + "\n")


cheap = [judged(name) for name in ("stepwiser_tenth", "stepwiser_hundredth")]
both = [
    [(a.verdict and b.verdict, a.tokens + b.tokens) for a, b in zip(x, y, strict=True)]
    for x, y in zip(*cheap, strict=True)
]
write("both", both)
write("stepwiser", [[(j.verdict, j.tokens) for j in own] for own in judged("stepwiser")])
printed = evaluate("both.jsonl", "--compare", "stepwiser.jsonl").split("\n\n")
print(printed[0], next(text for text in printed if " minus " in text), sep="\n\n")

# %%
of_both = [metrics.predict([verdict for verdict, _ in own]) for own in both]
gap, (low, high) = metrics.f1_difference(items, of_both, predicted["stepwiser"], run.seed, 1000)
errors = sum(label >= 0 for label in truth)
bars, f1 = {"error found": {}, "right solution passed": {}}, {}
for name, own in {"both cheap": of_both, "StepWiser, all labels": predicted["stepwiser"]}.items():
    shares = metrics.accuracies(truth, own)
    for bar, part, total in zip(bars.values(), shares, (errors, len(truth) - errors), strict=True):
        bar[name] = (round(part * total), total)
    f1[name] = metrics.f1_official(truth, own)
said = ", ".join(f"{name} {value:.2f}" for name, value in f1.items())
show.picture(
    pictures.grouped_shares(
        bars, "share of the solutions",
        f"F1 of both cheap judges minus StepWiser's: {gap:+.2f} ({low:+.2f} to {high:+.2f})",
    ),
    f"Errors found and right solutions passed by two cheap judges together, and by StepWiser with "
    f"all labels. First-error F1: {said}.",
)  # fmt: skip

# %% [markdown]
# **Question.** Compare the combination with each of the two cheap judges *alone*. Which of the two shares does it
# usually raise, and what is the price?
#
# <details><summary>Answer</summary>
#
# It rejects whatever one of the two rejects. So it usually finds more errors, and it passes fewer right solutions,
# because one false alarm is enough. A false alarm before the first error also spoils a find. The combination helps if
# the judges miss *different* errors and raise few false alarms. It costs the tokens of both. The picture compares it
# with a third judge: the interval in the title says whether these solutions can tell the two apart.
#
# </details>

# %% [markdown]
# ## Exercises
#
# 1. In section 1, choose the threshold on a random half of the validation solutions, 100 times. How much does it move,
#    and how much does the F1 on test?
# 2. In section 7, let a step pass only if at least 7 of 8 votes are Positive; then, if at least 2 are. Which share of
#    the official F1 rises, and which falls?
# 3. Design a judge that asks the classifier first and StepWiser only if the classifier is unsure. Choose the bounds on
#    validation. Which tokens do you count, and what would make it worth the trouble?
