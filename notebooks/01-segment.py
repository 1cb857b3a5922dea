# %% [markdown]
# # 01 · Segment: what a chunk is, and how a model learns to cut
#
# **You will be able to** read and check the chunk format, compare four ways to cut a solution, and teach a model to
# write chunks by supervised fine-tuning (SFT).
#
# **Time:** 2 minutes to run on two cores, 25 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# no GPU; notebook 00, and the cross-entropy of a language model.
#
# Most numbers come from the finished run that `open_run()` opens. The cells with the tag *live* train and sample.

# %%
import dataclasses
import math

from IPython.display import Markdown

import minisw
from minisw import show
from minisw.chunks import (
    chunk_statistics,
    cut_like,
    parse_chunks,
    rejoins,
    split_blank_lines,
    split_newlines,
    tag,
)
from minisw.engine.batches import Example, right_padded
from minisw.pictures import segments as pictures
from minisw.pictures import steps as step_pictures
from minisw.policy import Policy
from minisw.problems import training_problems
from minisw.records import Solution, flat
from minisw.report.claims import read_json
from minisw.training.policy_sft import policy_sft
from minisw.training.sft import cross_entropy

# %%
run = minisw.open_run()
written = run.records("segment/policy-test")
questions = {p.id: p.question for p in training_problems(run.task, run.recipe)[0]}
test = run.task.load("test", run.recipe.problems.test, run.seed)
print(f"{len(written)} test solutions of the policy that the run trained")

# %% [markdown]
# ## 1 Chunks and tags
#
# A judge of steps needs steps. A *chunk* is one complete step of thought. StepWiser (§3.1) asks for three things:
#
# - *unified purpose*: one objective, such as one calculation or one conclusion;
# - *logical cohesion*: no interruption, and a new focus begins a new chunk;
# - *clear transition*: a change of activity, such as from calculating to checking, begins a new chunk.
#
# A solution with the text $y$ is a sequence of chunks $c_1, \dots, c_n$ with $y = c_1 \oplus \dots \oplus c_n$, where
# $\oplus$ joins texts. The model writes each chunk between two tags.

# %%
show.source(tag)

# %%
show.source(parse_chunks)

# %% [markdown]
# Three toy cases: well formed; an answer behind the last tag; a closing tag is missing. *Predict first*: how many
# chunks has each text, and does it keep the format?

# %%
for text in [
    tag(["2+3=5. ", "5*2=10."]),
    tag(["2+3=5. ", "5*2=10. "]) + "The answer is \\boxed{10}.",
    "<chunk>2+3=5. <chunk>5*2=10.</chunk>",
]:
    print(parse_chunks(text))

# %%
example = next(s for s in written if s.well_formed and s.correct and len(s.chunks) >= 4)
assert parse_chunks(tag(example.chunks)) == (list(example.chunks), True)
show.picture(
    step_pictures.solution_strip(
        example.chunks, f"The policy wrote this solution in {len(example.chunks)} chunks"
    ),
    f"A solution of the policy as {len(example.chunks)} numbered boxes, one below the other; each "
    "box holds one calculation with its result, and the last one holds the answer.",
)

# %% [markdown]
# **Question.** Why does `parse_chunks` allow an answer behind the last tag, but no other text?
#
# <details><summary>Answer</summary>
#
# Models often close their reasoning and then state the answer. That text is short and has a clear role, so it can be
# a chunk of its own. Any other text outside the tags is reasoning that the model did not assign to a chunk, and we
# would have to guess where it belongs.
#
# </details>

# %% [markdown]
# ## 2 The filter: nothing but cuts
#
# The policy learns from *segmentations*: a *teacher* cuts right solutions into chunks. A teacher that is a language
# model copies the text and adds tags, and may change the text while it copies. The filter accepts chunks only if
# $c_1 \oplus \dots \oplus c_n = y$ exactly, and if no chunk is blank.

# %%
show.source(rejoins)

# %% [markdown]
# Copies often differ from the text in white space only. `cut_like` takes the *places* of the cuts from the copy, and
# all characters from the text.

# %%
show.source(cut_like)

# %% [markdown]
# Three toy copies of one text: exact; a line break has moved; one digit has changed. *Predict first*: which copies
# give chunks, and do the chunks pass `rejoins`?

# %%
text = "2+3=5.\n\n5*2=10."
for copy in [
    tag(["2+3=5.\n\n", "5*2=10."]),
    tag(["2+3=5.", "\n5*2=10."]),
    tag(["2+3=5.\n\n", "5*2=11."]),
]:
    chunks = cut_like(copy, text)
    print(f"{chunks!s:28} {rejoins(chunks, text)}")

# %% [markdown]
# Now 200 real texts that the run taught, and three copies of each: the exact one; one without the white space next to
# tags; one in which every digit has changed.

# %%
taught = run.records("segment/taught")[:200]
swapped = str.maketrans("0123456789", "9876543210")
kinds = {
    "exact": lambda chunks: chunks,
    "white space lost": lambda chunks: [chunk.strip() for chunk in chunks],
    "digits changed": lambda chunks: [chunk.translate(swapped) for chunk in chunks],
}
accept = {"rejoins alone": {}, "cut_like": {}}
for kind, change in kinds.items():
    copies = [(tag(change(s.chunks)), s.text) for s in taught]
    for way, read in (("rejoins alone", lambda c, t: parse_chunks(c)[0]), ("cut_like", cut_like)):
        accept[way][kind] = sum(rejoins(read(c, t), t) for c, t in copies) / len(copies)
shares = [(kind, *(own[kind] for own in accept.values())) for kind in kinds]
show.picture(
    pictures.accepted(accept),
    "Bars of the share of copies that are accepted, by the filter alone and with cut_like: "
    + ", ".join(f"{kind} {a:.0%} and {b:.0%}" for kind, a, b in shares),
)

# %% [markdown]
# **Question.** A copy that repairs a typing error of the solution would be a better text. Why must it be rejected?
#
# <details><summary>Answer</summary>
#
# SFT should teach the policy *where to cut*, and nothing else. With changed texts the policy would also learn the
# teacher's mathematics: a later gain in accuracy could come from the teacher instead of the chunks. Besides, the judge
# should see the errors that the policy itself makes.
#
# </details>

# %% [markdown]
# ## 3 Four ways to cut
#
# Two baselines need no training: a step ends at a blank line, or at every line break. This toy task also has a
# *rule teacher*, which knows its sentences: a chunk ends after a conclusion such as "Now there are 5 pens."

# %%
show.source(split_blank_lines)

# %%
show.source(run.task.teacher)

# %% [markdown]
# Three toy texts. *Predict first*: how many parts does each of the three splits make of them?

# %%
for text in [
    "2+3=5.\n\nNow there are 5 pens.\n\n5*2=10.",
    "2+3=5. Now there are 5 pens. 5*2=10.",
    "2+3=5.\n5*2=10.\nNow there are 10 pens.\n",
]:
    splits = [split(text) for split in (run.task.teacher, split_blank_lines, split_newlines)]
    assert all(rejoins(parts, text) for parts in splits)
    print([len(parts) for parts in splits], repr(text))

# %%
ways = {
    "policy": example.chunks,
    "rule teacher": run.task.teacher(example.text),
    "blank lines": split_blank_lines(example.text),
    "line breaks": split_newlines(example.text),
}
sizes = ", ".join(f"{name} {len(parts)}" for name, parts in ways.items())
title = f"The same solution has {len(example.chunks)} chunks, but {len(ways['line breaks'])} lines"
show.picture(
    step_pictures.cuts(ways, title),
    f"The solution of section 1 cut in four ways, as rows of numbered boxes. Parts: {sizes}.",
)

# %%
same = sum(list(s.chunks) == run.task.teacher(s.text) for s in written)
print(f"{same} of {len(written)} solutions: the policy cut exactly as the rule teacher would have")

# %% [markdown]
# **Question.** Blank lines cost nothing. What is wrong with them as steps?
#
# <details><summary>Answer</summary>
#
# They follow the layout, not the reasoning: the same solution can be written with or without them. A part may be a
# single equation whose purpose is stated in the part before it. Nobody can judge such a part alone. Also, every part
# costs rollouts (notebook 02) and a judgment (notebook 03), so needless parts are expensive.
#
# </details>

# %% [markdown]
# ## 4 SFT: which tokens are trained
#
# SFT shows the model a prompt $x$ and a reply with the tokens $o_1 \dots o_T$, the last of which is the end token. The
# loss is the mean negative log-probability of the reply's tokens, its *targets*:
#
# $$L = -\frac{1}{T} \sum_{t=1}^{T} \log \pi(o_t \mid x, o_1 \dots o_{t-1})$$
#
# $\pi(o \mid \dots)$ is the probability that the model gives to the next token $o$. In a batch, $T$ counts the targets
# of all rows. The tokens of the prompt are input only; they are no targets.

# %%
show.source(cross_entropy)

# %% [markdown]
# Rows of a batch have different lengths, so short rows are *padded* on the right. The padding is no target.

# %%
show.source(right_padded)

# %% [markdown]
# Three toy batches; the token 0 is both the end token and the padding. *Predict first*: which positions are targets
# when one row ends in 0, when a shorter row follows it, and when a row has no reply?

# %%
for rows, lengths in [
    ([[7, 8, 0]], [1]),
    ([[7, 8, 5, 0], [7, 8, 0]], [2, 1]),
    ([[7, 8, 5, 0], [7, 8]], [2, 2]),
]:
    ids, target = right_padded(rows, lengths, pad=0)
    print(ids.tolist(), target.int().tolist())

# %%
policy = run.policy()
texts = {
    "Tom has 5 pens. Tom buys 3 pens. How many?": ["5+3=8.\n", "The answer is \\boxed{8}."],
    "Uma has 2 eggs. How many?": ["The answer is \\boxed{2}."],
}
pairs = [Example(policy.prompt(q), policy.sft_target(chunks)) for q, chunks in texts.items()]
tokenizer = run.lm.tokenizer
ids, target = right_padded(
    [pair.prompt + pair.completion for pair in pairs],
    [len(pair.prompt) for pair in pairs],
    tokenizer.pad_token_id,
)
end = tokenizer.eos_token_id
roles = [
    pictures.kinds_of(row, own, end, len(pair))
    for row, own, pair in zip(ids.tolist(), target.tolist(), pairs, strict=True)
]

# %%
signs = {"<|endoftext|>": "[pad]", "<|im_end|>": "[end]", "<|im_start|>": "[start]", "\n": "↵"}


def as_drawn(token):
    """A token as the picture has it: short names for special tokens, an arrow for a line break."""
    text = tokenizer.decode([token], skip_special_tokens=False)
    return signs.get(text, text.replace("\n", "↵"))


words = [[as_drawn(token) for token in row] for row in ids.tolist()]
trained = int(target.sum())
show.picture(
    pictures.target_rows(words, roles),
    f"Two rows of {ids.shape[1]} positions as shaded tokens: prompts are grey, replies are "
    f"underlined, and the short row ends in dotted padding. {trained} positions are trained, "
    "the two end tokens among them.",
)

# %% [markdown]
# **Question.** Some code trains "every token that is not the padding token". What goes wrong if the padding token
# *is* the end token?
#
# <details><summary>Answer</summary>
#
# The true end token is masked out as well, so the model is never taught to stop. Its solutions run on until the
# budget is spent, and count as cut off. That is why `right_padded` marks targets by position.
#
# </details>

# %% [markdown]
# ## 5 Train it, live
#
# We train on 40 segmented solutions; the run had more. Only a small *adapter* is trained (LoRA: matrices of low rank
# that are added to the model's own). A new adapter changes nothing, so "before" is the base model, asked for chunks.

# %%
show.source(policy_sft)

# %% [markdown]
# *Predict first*: how many of 40 test solutions keep the format before the training, and how many after it? How many
# have the right answer?

# %% tags=["live"]
run.lm.new_adapter("live", run.recipe.lora, run.seed_of("notebook-lora"))
live = Policy(run.lm, run.sampler, run.task.prompts, run.recipe.policy, "live")
before = flat(live.solve(test[:40], 1, run.seed_of("notebook")))
assert len(before) == 40

# %% tags=["live"]
small = dataclasses.replace(run.recipe.segment.training, epochs=6, batch=8)
lessons = run.records("segment/taught")[:40]
fit, steps = policy_sft(
    live, questions, lessons, small, run.recipe.model.micro_tokens, run.seed_of("notebook-sft")
)
curve = fit(None, None)
assert len(curve) == steps and all(math.isfinite(step["loss"]) for step in curve)

# %% tags=["live"]
after = flat(live.solve(test[:40], 1, run.seed_of("notebook")))
assert sum(s.well_formed for s in after) > sum(s.well_formed for s in before)
groups = {
    "before": before,
    "40 texts, live": after,
    f"{run.metrics('segment')['taught']} texts, the run": written,
}
counts = {
    name: (sum(s.well_formed for s in own), sum(s.correct for s in own), len(own))
    for name, own in groups.items()
}
said = "; ".join(f"{name}: {a} and {b} of {n}" for name, (a, b, n) in counts.items())
show.picture(
    pictures.format_learnt(curve, counts),
    f"The loss falls from {curve[0]['loss']:.2f} to {curve[-1]['loss']:.2f}. Solutions that keep "
    f"the format, and right ones: {said}.",
)

# %%
for name, (first, *_) in groups.items():
    if first.well_formed:
        print(f"--- {name}: keeps the format\n{tag(first.chunks)}\n")
    else:
        print(f"--- {name}: breaks the format, so tags are removed\n{first.text}\n")

# %% [markdown]
# **Question.** Compare the right answers of the three policies. Why can learning a *format* cost accuracy?
#
# <details><summary>Answer</summary>
#
# SFT changes all weights of the adapter, not only those that write tags. With few texts it also learns these texts:
# their numbers, their first words, their length. With more texts these accidents average out. The intervals in the
# picture show how uncertain a share of 40 solutions is.
#
# </details>

# %% [markdown]
# ## 6 How many chunks?
#
# The paper's Table 1 compares the number of chunks with the number of parts between blank lines. For solutions $s$
# with $n_s$ chunks and $b_s$ parts, the *ratio of sums* is $\sum_s n_s / \sum_s b_s$. It differs from the mean of the
# ratios $n_s / b_s$, in which a solution of two parts counts as much as one of twelve.

# %%
show.source(chunk_statistics)

# %% [markdown]
# Three toy sets: one long solution; a long and a short one; the same, but the long one broke the format. *Predict
# first*: the ratio of sums, and the mean of ratios.

# %%
long = Solution("long", ("1.\n\n2.\n\n", "3.\n\n4.\n\n5.\n\n6."), None, True)
brief = Solution("brief", ("1.\n\n", "2."), None, True)
for toys in ([long], [long, brief], [dataclasses.replace(long, well_formed=False), brief]):
    ratios = [len(s.chunks) / len(split_blank_lines(s.text)) for s in toys if s.well_formed]
    print(f"ratio of sums {chunk_statistics(toys)['ratio']:.2f},", end=" ")
    print(f"mean of ratios {sum(ratios) / len(ratios):.2f}")

# %%
kept = [s for s in written if s.well_formed]
parts = {
    "chunks": [len(s.chunks) for s in kept],
    "blank lines": [len(split_blank_lines(s.text)) for s in kept],
    "line breaks": [len(split_newlines(s.text)) for s in kept],
}
statistics = chunk_statistics(written)
show.picture(
    pictures.chunk_counts(parts),
    f"How many parts have {len(kept)} solutions? On average {statistics['chunks']:.1f} "
    f"chunks, {statistics['blank_line_chunks']:.1f} parts between blank lines and "
    f"{statistics['newline_chunks']:.1f} between line breaks.",
)

# %%
claims = {claim["id"]: claim for claim in read_json(run.folder / "claims.json")}
lines = ["| claim | paper | this run | 95% |", "| --- | --- | --- | --- |"]
for name in ("segment-fewer-chunks", "segment-keeps-accuracy"):
    claim, (low, high) = claims[name], claims[name]["interval"]
    lines.append(
        f"| {claim['claim']} | {claim['paper']:.3f} | {claim['measured']:.3f} | "
        f"{low:.3f} to {high:.3f} |"
    )
Markdown("\n".join(lines))

# %% [markdown]
# **Question.** In the second row, accuracy with chunks minus accuracy of the base, the paper reports no loss. Does
# this run contradict it?
#
# <details><summary>Answer</summary>
#
# Look at the interval. If it holds both 0 and the paper's figure, these test problems cannot tell. There is also a
# reason to expect a loss here: the tiny model has little capacity beyond what its pretraining uses, and it learns from
# few texts. The paper's models have at least 1.5 billion parameters and learn from far more texts.
#
# </details>

# %% [markdown]
# ## Exercises
#
# 1. In section 5, teach blank-line chunks: replace the chunks of `lessons` by `split_blank_lines(s.text)`. How do
#    `chunk_statistics` of the solutions change?
# 2. Write a copy of a solution that passes `cut_like` but whose cuts violate the three rules of section 1. Why can no
#    filter on characters find it?
# 3. How many chunks *should* a solution have? Propose a measure that does not count chunks, and say what you would
#    need to compute it.
