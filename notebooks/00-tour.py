# %% [markdown]
# # 00 · Tour: one problem, the whole method
#
# **You will be able to** say what each stage of StepWiser takes and makes, and follow one problem through all of them.
#
# **Time:** 2 minutes to run on two cores, 25 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout;
# no GPU, no network, and no other notebook.
#
# The model is tiny and included, and so is a finished run of it: `open_run()` opens that run. Cells with the tag
# *live* sample from the model; all others read what the run saved.
#
# *Predict first*: wherever a cell says so, write down what you expect before you run it.

# %%
from IPython.display import Markdown

import minisw
from minisw import show
from minisw.chunks import parse_chunks, split_blank_lines, tag
from minisw.evaluate.metrics import predict
from minisw.labels import abs_q, until_first_negative, values
from minisw.pictures import steps as pictures
from minisw.records import Judgment, LabelledStep, Problem, Proposal
from minisw.search.chunk_reset import chunk_reset
from minisw.verdicts import parse_verdict, verdict_reward
from minisw.verify.answers import verify

run = minisw.open_run()
items = run.items()
saved = iter(run.records("evaluate/stepwiser"))
judged = [[next(saved) for _ in item.chunks] for item in items]
tries = run.records("search/chunk-reset-tries")
searched = {answer.problem_id: answer for answer in run.records("search/chunk-reset")}

# %% [markdown]
# ## 1 A wrong solution, and what its outcome says
#
# A model writes a solution; the problem has a reference answer. An *outcome reward* compares the two answers and
# nothing else: $r(\text{solution}) = 1$ if they are equal in value, and $0$ otherwise. `verify` is that comparison.
#
# We follow the first test problem whose solution has an error that the run's judge found, and that the search of
# section 6 then solved.


# %%
def fits(item, judgments):
    """Whether the item can be followed through all sections."""
    found = predict([judgment.verdict for judgment in judgments]) == item.label
    second = any(t.kept and t.verdict and t.attempt > 1 for t in tries if t.problem_id == item.id)
    rescued = second and searched[item.id].correct
    return item.label > 0 and not item.final_correct and found and rescued


followed = next(item for item, own in zip(items, judged, strict=True) if fits(item, own))
problems = {p.id: p for p in run.task.load("test", run.recipe.problems.test, run.seed)}
problem = problems[followed.id]
print(problem.question)
print("reference answer:", problem.answer)

# %%
show.source(verify)

# %% [markdown]
# Three toy cases. *Predict first*: which of these count as right?

# %%
for gold, answer in [("26", "26 eggs"), ("1/2", "0.5"), ("26", None)]:
    print(f"{gold!r:8} {answer!r:12} {verify(gold, answer)}")

# %%
show.picture(
    pictures.solution_strip(
        followed.chunks, f"The outcome reward says: wrong, {problem.answer} is right"
    ),
    f"A solution of {len(followed.chunks)} chunks as boxes without any sign: the outcome reward "
    "says that all of it is wrong.",
)

# %% [markdown]
# **Question.** Which chunk would you blame, and what does the reward 0 tell the chunks before it?
#
# <details><summary>Answer</summary>
#
# Check the equations one by one: the first false one is to blame. The reward tells every chunk the same, the right
# ones too. This is the *credit assignment problem*: one number for many decisions. A judge of steps says which
# decision was wrong.
#
# </details>

# %% [markdown]
# ## 2 Chunks: what a step is (§3.1)
#
# A *chunk* $c_i$ is one complete step of thought, and a solution is $c_1 \oplus c_2 \oplus \dots \oplus c_n$
# ($\oplus$ joins texts). The policy, the model that solves problems, learnt to write its solutions with tags around
# every chunk. `parse_chunks` reads them, and says whether the text keeps the format.

# %%
show.source(parse_chunks)

# %% [markdown]
# Three toy cases. *Predict first*: how many chunks has each text, and is it well formed?

# %%
toys = [
    "<chunk>2+3=5. </chunk><chunk>5*2=10.</chunk>",
    "<chunk>2+3=5. </chunk>The answer is \\boxed{5}.",
    "<chunk>2+3=5. <chunk>5*2=10.</chunk>",
]
for text in toys:
    print(parse_chunks(text))

# %%
text = "".join(followed.chunks)
assert parse_chunks(tag(followed.chunks)) == (list(followed.chunks), True)
ways = {"chunks": followed.chunks, "blank lines": split_blank_lines(text)}
counts = {name: len(parts) for name, parts in ways.items()}
show.picture(
    pictures.cuts(ways, "The same text, cut in two ways"),
    f"The same solution cut twice: into {counts['chunks']} chunks by the policy, and into "
    f"{counts['blank lines']} parts at blank lines.",
)

# %% [markdown]
# **Question.** A step at a blank line may be a lone equation, or a lone sentence. Why is such a step hard to judge?
#
# <details><summary>Answer</summary>
#
# It is no complete thought: whether "472" is right depends on what it is for. A chunk that holds the fact, the
# equation and the result can be judged from the problem and the chunks before it. Notebook 01 trains the policy to
# cut.
#
# </details>

# %% [markdown]
# ## 3 What a chunk is worth (§3.2)
#
# $Q_i = P(\text{the answer is right} \mid c_1 \dots c_i)$ is the value after chunk $i$; $Q_0$ is the value of the
# problem alone. We estimate it by completions: sample $M$ solutions that continue from there (*rollouts*), and take
# the share of right ones.

# %%
show.source(values)

# %% [markdown]
# Three toy cases. *Predict first*: the values of two boundaries and the outcome.

# %%
for hits, correct in [
    ([[1, 0], [1, 1]], True),
    ([[1, 0, 0, 0], [0, 0]], False),
    ([[1], [0]], True),
]:
    print(hits, correct, "->", values(hits, correct))

# %% tags=["live"]
branches = 8
solution = next(
    s for s in run.records("evaluate/solutions")
    if s.problem_id == followed.id and s.chunks == followed.chunks
)  # fmt: skip
annotated = run.policy().annotate([solution], problems, branches, run.seed_of("tour"))[0]
q = annotated.q
assert len(q) == len(followed.chunks) + 1 and all(len(row) == branches for row in annotated.hits)
fall = pictures.steepest(q)
show.picture(
    pictures.staircase(q, annotated.hits),
    f"The value Q after every chunk, from {branches} rollouts each: it starts at {q[0]:.2f} and "
    f"falls most at chunk {fall}, "
    f"from {q[fall - 1]:.2f} to {q[fall]:.2f}.",
)

# %%
labels = until_first_negative(abs_q(q))
print("labels of the rule Abs-Q (positive iff Q > 0), up to the first negative:", labels)
print(
    "exact labels, which only this toy task has:      ",
    [i != followed.label for i in range(followed.label + 1)],
)

# %% [markdown]
# **Question.** Could a *right* chunk get a negative label?
#
# <details><summary>Answer</summary>
#
# Yes. If a right start is hard to finish, all $M$ rollouts may fail: with $Q = p$ this has the probability $(1-p)^M$.
# The labels are noisy, and no one corrects them. Notebook 02 measures how noisy.
#
# </details>

# %% [markdown]
# ## 4 The judge speaks (§3.3)
#
# The judge reads the problem, the chunks before and the new chunk. It writes an *analysis*, then a verdict in a box.
# The last box counts; without a box the reply is unreadable, which metrics count as wrong.

# %%
show.source(parse_verdict)

# %% [markdown]
# Three toy cases. *Predict first*: True, False or None?

# %%
for reply in [r"\boxed{Positive} no, wait: \boxed{Negative}", "It is right.", r"\boxed{positive}"]:
    print(f"{reply:50} {parse_verdict(reply)}")

# %% tags=["live"]
judge = run.judge("stepwiser")
judgments = judge.judge(followed.steps(), seed=0, probabilities=True)
assert sum(judgment.verdict is None for judgment in judgments) <= 1
bad = predict([judgment.verdict for judgment in judgments])
for number in sorted({0, max(bad, 0)}):
    print(f"--- chunk {number + 1}: {' '.join(followed.chunks[number].split())}")
    print(judgments[number].analysis)
    print(f"P(Positive) = {judgments[number].p_positive:.4f}\n")

# %%
verdicts = [judgment.verdict for judgment in judgments]
negatives = [number for number, verdict in enumerate(verdicts, 1) if verdict is False]
show.picture(
    pictures.solution_strip(
        followed.chunks, f"The judge objects to chunk {bad + 1} first", verdicts
    ),
    f"The chunks of the solution with the judge's signs: of {len(verdicts)} chunks, a minus "
    f"stands at {negatives}; "
    f"the first error is in chunk {followed.label + 1}.",
)

# %% [markdown]
# The judge can be fooled. Here is the first test solution on which it is wrong: either it objects to a right step, or
# it does not see the first error.


# %%
def first_miss():
    """The first solution that the judge gets wrong, its judgments, and the step in question."""
    for item, own in zip(items, judged, strict=True):
        found = predict([judgment.verdict for judgment in own])
        if found != item.label:
            return (
                item,
                own,
                item.label if item.label >= 0 and not 0 <= found < item.label else found,
            )
    raise ValueError("the judge of this run makes no mistake")


missed, own, step = first_miss()
print("question:", missed.question)
print("so far:", " ".join("".join(missed.chunks[:step]).split()) or "(nothing)")
print("new chunk:", " ".join(missed.chunks[step].split()))
print("the chunk is", "wrong" if step == missed.label else "right", "and the judge says:\n")
print(own[step].analysis)

# %% [markdown]
# **Question.** In which line of the analysis does the judge go wrong?
#
# <details><summary>Answer</summary>
#
# Two kinds of miss are common. An analysis without a line "Due:" checks only the step's own equations: if they are
# true but not the ones that are due, it sees nothing. One with that line may name a wrong fact there, and then all
# arithmetic behind it is useless. Reading an analysis tells you *what* to mend; a bare score does not.
#
# </details>

# %% [markdown]
# ## 5 Where the judge came from (§3.3)
#
# The labels of section 3 train it, in one of two ways. *RS-FT* (rejection sampling, then fine-tuning) samples replies
# of the base, keeps those whose verdict equals the label, and learns them. *GRPO* samples replies of the judge
# itself, again and again, and rewards each: $r = 1$ if the verdict equals the label and an analysis precedes it, else
# $0$.

# %%
show.source(verdict_reward)

# %% [markdown]
# Three toy cases. *Predict first*: the label is Negative; what does each reply earn?

# %%
wrong_step = LabelledStep("p", "2 and 3?", (), "2+3=6.", label=False)
reward = verdict_reward([wrong_step])
for reply in [
    "2+3: 5. 5 and 6 differ. \\boxed{Negative}",
    "\\boxed{Negative}",
    "2+3: 6. Same. \\boxed{Positive}",
]:
    print(reward(0, reply), reply)

# %%
metrics, trained = run.metrics("evaluate"), run.metrics("judges")
for name in ("rejection_sampled", "stepwiser"):
    print(f"{name}: {trained[name]['labels']} labels; {trained[name]['training']}")
names = ["untrained", "discriminative", "rejection_sampled", "stepwiser"]
rows = {row["id"]: row for row in metrics["rows"]}
f1 = {name: f"{rows[name]['f1']:.2f}" for name in names}
show.picture(
    pictures.judge_f1(metrics["rows"], names),
    f"First-error F1 of four judges, greedy: untrained {f1['untrained']}, classifier "
    f"{f1['discriminative']}, "
    f"RS-FT {f1['rejection_sampled']}, StepWiser by GRPO {f1['stepwiser']}. Intervals are 95%.",
)

# %% [markdown]
# *First-error F1* is the harmonic mean of two shares: wrong solutions whose first error is found exactly, and right
# solutions that pass.
#
# **Question.** Both ways use the same labels and the same base. Why can GRPO end elsewhere than RS-FT?
#
# <details><summary>Answer</summary>
#
# RS-FT copies what the base does when it happens to be right; a habit of guessing that is right half of the time is
# copied too. GRPO compares replies to the same step: a habit that is right *more often* gains, step after step.
# Notebook 03 watches it.
#
# </details>

# %% [markdown]
# ## 6 The judge steers (§4.4)
#
# *Chunk-reset*: sample one chunk, ask the judge; keep it if the verdict is Positive, else sample that chunk again, at
# most 5 times. The code below needs no model: policy and judge are functions.

# %%
show.source(chunk_reset)

# %% [markdown]
# Three toy cases with a scripted policy, which writes one chunk with an answer. *Predict first*: how many tries are
# there, and which one is kept, if the judge says always yes, always no, or yes at the third time?

# %%
scripts = {"always yes": [True] * 5, "always no": [False] * 5, "third": [False, False, True]}
for name, verdicts in scripts.items():
    replies = iter(verdicts)
    (path,) = chunk_reset(
        [Problem("p", "question", "1")],
        propose=lambda questions, paths, seed: [
            Proposal("It is \\boxed{1}.", True, True, tokens=9)
        ],
        judge=lambda steps, seed, replies=replies: [Judgment(next(replies))],
        tries=5,
        max_chunks=3,
    )
    print(f"{name:12} tries {len(path.tries)}, kept {[t.attempt for t in path.tries if t.kept]}")

# %%
own_tries = [t for t in tries if t.problem_id == followed.id]
kept = sum(t.kept for t in own_tries)
show.picture(
    pictures.search_tree(own_tries),
    f"The tries of chunk-reset on the problem of section 1: {kept} chunks are kept, "
    f"{len(own_tries) - kept} rejected; the kept "
    f"chunks lead to the answer {searched[followed.id].answer}.",
)

# %%
lines = ["| method | accuracy | 95% | sampled tokens per problem |", "| --- | --- | --- | --- |"]
for row in run.metrics("search")["rows"]:
    low, high = row["interval"]
    lines.append(
        f"| {row['method']} | {row['accuracy']:.2f} | {low:.2f} to {high:.2f} | "
        f"{row['tokens']:.0f} |"
    )
Markdown("\n".join(lines))

# %% [markdown]
# **Question.** Chunk-reset solves more than plain sampling. Why is that line of the table not yet an argument for it?
#
# <details><summary>Answer</summary>
#
# It costs several times as many tokens, most of them the judge's. The same tokens buy plain sampling many solutions
# and a majority vote, the third line. Compare those two, with their intervals. The last line is the control:
# rejecting as often, but at random.
#
# </details>

# %% [markdown]
# ## 7 The map
#
# | notebook | goes deeper into section |
# | --- | --- |
# | `01-segment` | 2: the chunk format, and how the policy learns to cut |
# | `02-annotate` | 3: values, three rules, and how wrong labels are |
# | `03-grpo-judge` | 4 and 5: GRPO by hand, and which habits it strengthens |
# | `04-other-judges` | 4 and 5: other judges, and how to compare them |
# | `05-search` | 6: chunk-reset, and how good a judge must be |
# | `06-select-and-improve` | beyond: a judge chooses training data |
# | `07-your-own-gpu` | all: a real model, your own problems and judge |
#
# The whole cycle is one command, `python -m minisw.reproduce`; it writes a run folder like the one read here. To read
# your own run in these notebooks, set the environment variable `MINISW_RUN` to its folder.

# %% [markdown]
# ## Exercises
#
# 1. Follow another problem: change `fits` so that it takes a solution whose answer is right although a chunk is
#    wrong. What do the outcome reward and the judge say?
# 2. Run section 3 with 2, 8 and 32 rollouts. For which chunks do the labels change?
# 3. Take `run.judge("untrained")` in section 4. Which lines of its analyses look like work, and which only look like
#    a verdict?
