# %% [markdown]
# # 06 · Select and improve: a judge makes training data
#
# **You will be able to** find solutions that are right by luck, let a judge choose what the next policy learns, say
# what a small experiment can and cannot show, and explain how a judge is gamed when it becomes a reward.
#
# **Time:** 3 minutes to run on two cores, 30 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# no GPU; notebooks 00 and 03, and the bootstrap.
#
# Solutions come from the finished run that `open_run()` opens. The cells with the tag *live* judge, train and sample.

# %%
import dataclasses
import math
import re

import torch
from IPython.display import Markdown

import minisw
from minisw import show
from minisw.engine.model import copy_adapter
from minisw.evaluate.stats import auc, bootstrap, mean, paired_bootstrap
from minisw.pictures import selection as pictures
from minisw.pictures import steps as step_pictures
from minisw.pictures import training as training_pictures
from minisw.policy import Outcome, Policy
from minisw.problems import training_problems
from minisw.records import BenchItem, Judgment, Problem, Solution, flat
from minisw.selection import by_score, chosen_sets, lucky_share, mean_score, right_indices
from minisw.stages.select import BEFORE, OUTCOME, accuracies, choose, describe
from minisw.training.losses import group_advantages
from minisw.training.policy_grpo import policy_reward, process_rewards, solution_metrics
from minisw.training.policy_sft import policy_sft

# %%
run = minisw.open_run()
train = {p.id: p for p in training_problems(run.task, run.recipe)[1]}
test = run.task.load("test", run.recipe.problems.test, run.seed)
sampled, size = run.records("annotate/train-solutions"), run.recipe.annotate.samples
pools = [sampled[i : i + size] for i in range(0, len(sampled), size)]
assert all(len({s.problem_id for s in pool}) == 1 for pool in pools)
print(f"{len(pools)} problems with {size} sampled solutions each")

# %% [markdown]
# ## 1 Right by luck
#
# A policy improves if it is taught its own right solutions. "Right" usually means that the *answer* is right. A
# solution is *right by luck* (lucky) if its answer is right although a chunk is wrong: a second error cancels the
# first, or the number is corrected without a reason.
#
# This toy task has exact labels: True for every chunk before the first error, False from it on. So luck can be
# counted here. For real problems it cannot.

# %%
show.source(lucky_share)

# %% [markdown]
# Three toy solutions: all right; right by luck; wrong. *Predict first*: the lucky share of each, and of all three
# together.

# %%
toys = [
    (Solution("a", ("2+3=5. ", "It is 5."), "5", True), [True, True]),
    (Solution("b", ("2+3=6. ", "6 less 1 is 5. ", "It is 5."), "5", True), [False, False, False]),
    (Solution("c", ("2+3=6. ", "It is 6."), "6", False), [False, False]),
]
for chosen in ([toys[0]], [toys[1]], [toys[2]], toys):
    print([s.problem_id for s, _ in chosen], lucky_share(*zip(*chosen, strict=True)))


# %%
def luck(solutions, problems):
    """How many solutions are honestly right, right by luck, and wrong."""
    honest = [all(run.task.exact_labels(problems[s.problem_id], s.chunks)) for s in solutions]
    right = [s.correct for s in solutions]
    lucky = sum(r and not h for r, h in zip(right, honest, strict=True))
    return sum(right) - lucky, lucky, len(right) - sum(right)


test_ids = {p.id: p for p in test}
sets = {
    "training problems": luck(sampled, train),
    "test problems": luck(run.records("evaluate/solutions"), test_ids),
}
right, lucky = (sum(own[0] + own[1] for own in sets.values()), sum(own[1] for own in sets.values()))
title = f"{lucky} of {right} right answers are luck"
told = "; ".join(f"{kind} {a}, {b} and {c}" for kind, (a, b, c) in sets.items())
show.picture(
    pictures.luck_bars(sets, title),
    f"Bars of solutions that are honestly right, lucky and wrong: {told}. {title}.",
)

# %%
example, labels = next(
    (s, own)
    for s in sampled
    if s.correct
    and not all(own := run.task.exact_labels(train[s.problem_id], s.chunks))
    and own[0]
)
print(train[example.problem_id].question, "\nvalues in order:", train[example.problem_id].reference)
bad = labels.index(False) + 1
show.picture(
    step_pictures.solution_strip(
        example.chunks, f"The answer is right, and chunk {bad} is wrong", labels
    ),
    f"A solution with a right answer as boxes with exact signs: chunk {bad} is the first wrong one "
    "of its chunks, so all from there on have a minus.",
)

# %% [markdown]
# **Question.** Where would you expect more luck: in these sums, or in multiple-choice questions?
#
# <details><summary>Answer</summary>
#
# In multiple-choice questions: a guess among five is right once in five times. Here an answer is one of about a
# thousand numbers, so a wrong path rarely ends at the right one. Selection by process can gain only as much as there
# is luck to remove. Keep this share in mind when you read the result of section 4.
#
# </details>

# %% [markdown]
# ## 2 The mean chunk score
#
# Exact labels do not exist in practice, so a judge takes their place. For a solution with chunks $c_1 \dots c_n$ let
# $P_i$ be the judge's probability of Positive for chunk $i$. The score of the solution is the mean (StepWiser §4.4):
#
# $$s = \frac{1}{n} \sum_{i=1}^{n} P_i$$

# %%
show.source(mean_score)

# %% [markdown]
# Three toy cases: one bad chunk of two; one bad chunk of six; an unreadable judgment (None) beside a tie. *Predict
# first*: the score of each.

# %%
for scores in ([1.0, 0.0], [1.0, 1.0, 0.0, 1.0, 1.0, 1.0], [1.0, None]):
    solution = Solution("p", ("chunk ",) * len(scores), "1", True)
    print(scores, "->", mean_score(solution, scores))

# %% [markdown]
# Now the judge that GRPO made scores real solutions: the right ones of 32 problems that have at least two, because a
# choice needs two candidates. The judge has learnt from labels of some of these problems (from rollouts, not exact
# ones). The package's stage `select` takes new problems for that reason; here it saves time.

# %% tags=["live"]
pools = [pool for pool in pools if len(right_indices(pool)) > 1][:32]
judge, name = run.judge("stepwiser"), "stepwiser"
candidates = [(i, n) for i, pool in enumerate(pools) for n in right_indices(pool)]
items = [
    BenchItem(s.problem_id, train[s.problem_id].question, s.chunks, -1, s.correct)
    for s in (pools[i][n] for i, n in candidates)
]
asked = flat([item.steps() for item in items])
judgments = judge.judge(asked, run.seed_of("notebook"), probabilities=True)
assert len(judgments) == len(asked)
assert mean([judgment.verdict is None for judgment in judgments]) < 0.2

# %%
replies = iter(judgments)
chunk_scores = [[[] for _ in pool] for pool in pools]
for i, n in candidates:
    own = [next(replies) for _ in pools[i][n].chunks]
    chunk_scores[i][n] = [None if j.verdict is None else j.p_positive for j in own]
exact = [[run.task.exact_labels(train[s.problem_id], s.chunks) for s in pool] for pool in pools]
honest = [all(exact[i][n]) for i, n in candidates]
values = [mean_score(pools[i][n], chunk_scores[i][n]) for i, n in candidates]
print(f"{len(candidates)} right solutions, {honest.count(False)} of them lucky")
print(f"an honest one has the higher score in {auc(values, honest):.0%} of the pairs (ties: half)")

# %%
groups = [[v for v, h in zip(values, honest, strict=True) if h is kind] for kind in (True, False)]
full = [sum(v == 1 for v in own) for own in groups]
show.picture(
    pictures.luck_scores(*groups),
    f"Bars of mean chunk scores: {full[0]} of {len(groups[0])} honest solutions have the full "
    f"score of 1, and {full[1]} of {len(groups[1])} lucky ones.",
)

# %% [markdown]
# **Question.** A lucky solution has one wrong chunk. Why does the mean treat a long one more kindly than a short one,
# and which other summary would not?
#
# <details><summary>Answer</summary>
#
# One bad chunk of $n$ leaves a score of $(n-1)/n$, which goes to 1 as $n$ grows. The minimum of the $P_i$ does not
# depend on the length: one sure objection is enough. But it believes a single judgment, and the judge objects to some
# right chunks, more often in long solutions. The product has both properties, in milder form.
#
# </details>

# %% [markdown]
# ## 3 Choosing, at the same size
#
# For every problem one solution is chosen. *Outcome only*: any right one. *Judge*: the right one with the best score.
# *Exact*: the same with exact labels as scores, which is the ceiling. *Majority*: any solution with the most frequent
# answer; it needs no reference answer.
#
# Sets are compared on the problems for which every method finds a candidate, so that no set is larger.

# %%
show.source(by_score)

# %% [markdown]
# Three toy pools of two solutions: the second one has the better score; a tie; no right answer. *Predict first*: which
# index is chosen in each?

# %%
first, second = (Solution(p, ("one ", "two"), "1", True) for p in "xx")
lost = dataclasses.replace(first, correct=False)
toy_pools = [[first, second], [first, second], [lost, lost]]
toy_scores = [[[0.9, 0.2], [0.9, 0.8]], [[1.0, 0.4], [0.4, 1.0]], [[], []]]
for seed in (0, 1, 2):
    print("seed", seed, by_score(toy_pools, toy_scores, seed))

# %%
choices = choose(pools, {name: chunk_scores}, exact, run.seed_of("notebook-choose"))
chosen = chosen_sets(pools, choices)
lines = ["| method | right | lucky | same as outcome only | chunks |", "|---|---|---|---|---|"]
for method, own in chosen.items():
    facts = describe(own, method, choices, exact)
    lines.append(
        f"| {method} | {facts['right']:.2f} | {facts['lucky']:.2f} | {facts['as_outcome']:.2f} | "
        f"{facts['chunks']:.1f} |"
    )
Markdown("\n".join(lines))

# %%
mixes = {method: luck(own, train) for method, own in chosen.items()}
most = len(chosen[OUTCOME])
title = f"Of {most} chosen solutions, lucky: outcome {mixes[OUTCOME][1]}, judge {mixes[name][1]}"
told = "; ".join(f"{method} {a}, {b} and {c}" for method, (a, b, c) in mixes.items())
show.picture(
    pictures.luck_bars(mixes, title),
    f"Bars of the chosen sets: honestly right, lucky and wrong of each method: {told}.",
)

# %% [markdown]
# **Question.** In most problems all candidates are honest. Yet the column *same as outcome only* shows that the judge
# often takes another one than a random choice does. What does it choose by there?
#
# <details><summary>Answer</summary>
#
# By its own errors and tastes. Where all candidates are honest, any difference of the scores is a mistake of the
# judge, or a preference for steps that it can follow, such as short ones. Such a choice is not random: it tilts the
# data towards what this judge likes (compare the column *chunks*).
#
# </details>

# %% [markdown]
# ## 4 Does the choice teach more?
#
# Two policies start from the run's policy and get SFT (notebook 01) on one of the sets, alike in everything else. The
# package's stage starts from the base and adds what stage 1 taught, which takes longer.
#
# Both solve the same test problems. With the share of right samples $a_j$ and $b_j$ on problem $j$, the *paired*
# difference is the mean of $a_j - b_j$. Its interval comes from the bootstrap: problems are drawn again with
# replacement, and the mean is taken anew.

# %%
show.source(paired_bootstrap)

# %% [markdown]
# Three toy pairs of policies on 20 problems: always 0.1 apart; equal on average but on different problems; one of them
# better on 2 problems. *Predict first*: which intervals hold 0?

# %%
for pairs in (
    [(0.6, 0.5)] * 20,
    [(1, 0), (0, 1)] * 10,
    [(1, 0)] * 2 + [(1, 1)] * 18,
):
    difference, (low, high) = paired_bootstrap(pairs, mean, seed=0)
    print(f"{difference:+.2f}, {low:+.2f} to {high:+.2f}")

# %%
run.policy()  # loads the adapter that both start from
knobs = run.recipe.segment.training
gentle = dataclasses.replace(knobs, lr=knobs.lr / 4, epochs=2)
questions = {p.id: p.question for p in train.values()}


def teach(method: str) -> Policy:
    """The run's policy after SFT on the set that a method chose."""
    adapter = f"set_{method}"
    run.lm.new_adapter(adapter, run.recipe.lora, run.seed_of("notebook-lora"))
    copy_adapter(run.lm, "policy", adapter)
    policy = Policy(run.lm, run.sampler, run.task.prompts, run.recipe.policy, adapter)
    tokens, seed = run.recipe.model.micro_tokens, run.seed_of("notebook-sft")
    fit, _ = policy_sft(policy, questions, chosen[method], gentle, tokens, seed)
    curve = fit(None, None)
    assert all(math.isfinite(step["loss"]) for step in curve)
    print(f"{method}: {len(chosen[method])} texts, loss of the last step {curve[-1]['loss']:.3f}")
    return policy


# %% tags=["live"]
policies = {method: teach(method) for method in (OUTCOME, name)}

# %% [markdown]
# One sample for each test problem and policy. *Predict first*: by how many points do the two policies differ, and
# how wide is the interval?

# %% tags=["live"]
samples = {
    method: policy.solve(test, 1, run.seed_of("notebook-test"))
    for method, policy in policies.items()
}
assert all(len(own) == len(test) for own in samples.values())
solved = {
    method: {"sampled": [mean([s.correct for s in pair]) for pair in own]}
    for method, own in samples.items()
}

# %%
own = {p.id: [] for p in test}  # the run's two samples of every test problem, before
for solution in run.records("segment/policy-test") + run.records("evaluate/solutions"):
    own[solution.problem_id].append(solution.correct)
solved[BEFORE] = {"sampled": [mean(own[p.id]) for p in test]}
titles = {BEFORE: "before", OUTCOME: "outcome only", name: "chosen by the judge"}
rows = {titles[method]: accuracies(run, solved, method)["sampled"] for method in titles}
row = rows[titles[name]]
low, high = row["difference_interval"]
told = ", ".join(f"{title} {r['accuracy']:.2f}" for title, r in rows.items())
show.picture(
    pictures.taught(rows, titles[OUTCOME]),
    f"Accuracy of three policies with intervals: {told}. The judge's set minus outcome only: "
    f"{row['difference']:+.2f}, from {low:+.2f} to {high:+.2f}.",
)

# %%
gaps = [a - b for a, b in zip(solved[name]["sampled"], solved[OUTCOME]["sampled"], strict=True)]
spread = math.sqrt(mean([(gap - mean(gaps)) ** 2 for gap in gaps]))
for half in (0.05, 0.02):
    print(f"± {half:.2f} would need about {math.ceil((1.96 * spread / half) ** 2):,} test problems")

# %% [markdown]
# **Question.** The paper reports +2.1 points for a 7B model (63.0 against 60.9). What does your figure say about that
# claim, and what can it not say?
#
# <details><summary>Answer</summary>
#
# An interval that holds both 0 and 0.021 supports neither side: read off the width, not the middle. It covers the
# choice of test problems only. Another SFT seed, or other samples, would move the difference too, and here there is
# one of each. Also, this policy is rarely lucky, so there was little to gain. What the figure can exclude are large
# effects: those outside the interval.
#
# </details>

# %% [markdown]
# ## 5 The judge as a dense reward
#
# Why choose among finished solutions, if the judge can reward while the policy learns? GRPO of the policy
# (notebook 03) with the reward
#
# $$r = \text{outcome} + w \cdot \frac{1}{n} \sum_{i=1}^{n} P_i$$
#
# where *outcome* is 1 for a right answer and else 0, the second term is the *process reward*, and $w \ge 0$ is its
# weight. With $w < 1$ no wrong solution earns more than a right one.

# %%
show.source(process_rewards)

# %%
show.source(policy_reward)

# %% [markdown]
# Three toy solutions and a scripted judge, which checks each chunk's own sum and nothing else. The problem is 2+3+4.
# *Predict first*: the process reward of a right solution, of one with a wrong second sum, and of one that forgets
# the 4.


# %%
def check_sums(steps, seed):
    """A judge that calls a chunk right if every sum in it is true; it does not read the problem."""
    found = [re.findall(r"(\d+)\+(\d+)=(\d+)", step.chunk) for step in steps]
    right = [all(int(a) + int(b) == int(c) for a, b, c in sums) for sums in found]
    return [Judgment(r, p_positive=float(r)) for r in right]


nine = Problem("p", "2+3+4?", "9")
three = {
    "right": Outcome(("2+3=5. ", "5+4=9. ", "It is 9."), True, True, "9", True),
    "wrong sum": Outcome(("2+3=5. ", "5+4=8. ", "It is 8."), True, True, "8", False),
    "forgets": Outcome(("2+3=5. ", "It is 5."), True, True, "5", False),
}
for kind, outcome in three.items():
    (process,), _ = process_rewards(check_sums, [nine], [outcome], seed=0)
    print(f"{kind:10} outcome {outcome.correct:d}, process {process:.2f}")

# %% [markdown]
# *Dense* means: there is a signal where the outcome gives none. Below are two groups of four solutions with invented
# process rewards, one group without any right answer and one with a single right answer. Each is rewarded by the
# outcome alone, and then with $w = 0.5$. *Predict first*: which group is tied?

# %%
process, outcomes = [0.2, 0.5, 0.5, 0.8], ([0, 0, 0, 0], [0, 0, 0, 1])
rewards = []
for own in outcomes:
    rewards += [own, [round(r + 0.5 * p, 2) for r, p in zip(own, process, strict=True)]]
advantages = group_advantages(torch.tensor(rewards, dtype=torch.float32)).tolist()
show.picture(
    training_pictures.advantages_of_groups(rewards, advantages),
    "Advantages of four groups as lollipops: without a right answer, the outcome alone gives only "
    f"zeros, and with the judge up to {max(advantages[1]):.2f}; with one right answer, that one "
    "leads in both.",
)

# %% [markdown]
# **Question.** In which groups does the judge alone decide what the policy learns, and does a smaller $w$ change that?
#
# <details><summary>Answer</summary>
#
# In groups where all outcomes are equal: all wrong, or all right. GRPO divides by the standard deviation of the
# group, so any $w > 0$ gives the same advantages there. A small weight limits the judge only in mixed groups.
#
# </details>

# %% [markdown]
# ## 6 Reward hacking
#
# "When a measure becomes a target, it ceases to be a good measure" (Goodhart's law). A policy that trains against a
# judge finds whatever raises the score, whether it is mathematics or not. *Reward hacking* is a rise of the reward
# without a rise of what it should measure. `solution_metrics` looks for two cheap tricks.

# %%
show.source(solution_metrics)

# %% [markdown]
# Three toy forms of the same wrong solution: as written; its first chunk three times more; three chunks that say
# nothing. *Predict first*: the process reward by the scripted judge, and the metric that gives the trick away.

# %%
wrong = three["wrong sum"]
tricks = {
    "as written": wrong.chunks,
    "repeated": wrong.chunks[:1] * 3 + wrong.chunks,
    "empty": ("So now. ",) * 3 + wrong.chunks,
}
for trick, chunks in tricks.items():
    outcome = dataclasses.replace(wrong, chunks=chunks)
    (process,), _ = process_rewards(check_sums, [nine], [outcome], seed=0)
    shown = solution_metrics([outcome])
    told = [f"{key} {shown[f'policy/{key}_chunks']:.2f}" for key in ("repeated", "empty")]
    print(f"{trick:12} process {process:.2f}, {', '.join(told)}")

# %% [markdown]
# Does the trained judge fall for such tricks? Below it scores 8 test solutions with a *wrong* answer in four forms.
# This is no training, only a look at what a training could find. *Predict first*: which form has the highest score?

# %% tags=["live"]
forms = {
    "as written": lambda chunks: chunks,
    "first chunk four times": lambda chunks: chunks[:1] * 3 + chunks,
    "three empty chunks in front": lambda chunks: ("So now.\n\n",) * 3 + chunks,
    "all in one chunk": lambda chunks: ("".join(chunks),),
}
failed = [item for item in run.items() if not item.final_correct][:8]
means = {}
for form, change in forms.items():
    variants = [dataclasses.replace(item, chunks=tuple(change(item.chunks))) for item in failed]
    told = judge.judge(flat([v.steps() for v in variants]), run.seed_of(form), probabilities=True)
    verdicts = iter(told)
    means[form] = [mean([next(verdicts).p_positive for _ in v.chunks]) for v in variants]
assert all(len(own) == len(failed) for own in means.values())

# %%
shown = {form: (mean(own), bootstrap(own, mean, run.seed)) for form, own in means.items()}
told = ", ".join(f"{form} {value:.2f}" for form, (value, _) in shown.items())
show.picture(
    pictures.gamed(shown),
    f"The trained judge's mean score of {len(failed)} wrong solutions in four forms, with "
    f"intervals: {told}.",
)

# %% [markdown]
# **Question.** What would a policy learn that trains against this judge for a long time, and what would you log to
# notice it?
#
# <details><summary>Answer</summary>
#
# Whatever form scores highest, then forms that nobody thought of: steps too vague to be wrong, the style of those
# steps that the judge passes, many safe chunks around the risky one. Log what the judge does not see: accuracy on
# problems with answers, the process reward of *wrong* solutions (`policy/process_wrong`), lengths, empty and repeated
# chunks. Defences: a small weight, a KL term, a judge that is trained anew on the new policy's solutions, and stopping
# early.
#
# </details>

# %% [markdown]
# The whole experiment, with new problems, more samples, two rounds and both rewards, is a study of the package. It
# takes hours on two cores: `python -m minisw.reproduce --study selection`.

# %% [markdown]
# ## Exercises
#
# 1. Replace the mean by the minimum of the chunk scores in section 2. Which of the two separates honest from lucky
#    solutions better (`auc`), and why?
# 2. A positive control: damage one number in each text of `chosen[OUTCOME]`, teach that set too, and test it. Can the
#    experiment of section 4 see a harm that is certainly there?
# 3. Invent a form of wrong solutions for section 6 that the trained judge scores higher than 0.9 on average. Then
#    propose a change of the reward against it, and say what the change costs.
