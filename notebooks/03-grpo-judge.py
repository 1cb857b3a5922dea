# %% [markdown]
# # 03 · GRPO by hand: how a judge learns to reason
#
# **You will be able to** compute every number of a GRPO step yourself, see when a training is sick, and say what it
# makes of a base that has several habits of judging.
#
# **Time:** 3 minutes to run on two cores, 35 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# no GPU; notebook 00, and gradients.
#
# All functions are the package's own: `show.source` prints what the trainer calls. Cells with the tag *live* sample
# or train.

# %%
import dataclasses
import math

import torch
from IPython.display import Markdown

import minisw
from minisw import show
from minisw.engine.batches import Example, collate
from minisw.engine.logprobs import target_logprobs, token_logprobs
from minisw.judges.base import JudgeTrainer
from minisw.judges.generative import p_positive_along
from minisw.judges.stepwiser import train_stepwiser
from minisw.labels import balanced_steps, load_steps
from minisw.pictures import steps as step_pictures
from minisw.pictures import training as pictures
from minisw.problems.arithmetic.comments import habit_of
from minisw.training.grpo import GRPOConfig, grpo_loss, rollout, score, train_grpo
from minisw.training.losses import clipped_loss, group_advantages
from minisw.training.monitor import warn_if_stalled
from minisw.verdicts import has_analysis, verdict_reward

# %%
run = minisw.open_run()
knobs, context = run.recipe.judge, run.judge_context
labelled = load_steps(run.folder / "annotate", "train", run.recipe.annotate)
train = balanced_steps(labelled, knobs.labels, run.seed_of("balance"), knobs.passes)
judge = run.judge("stepwiser")
print(f"{len(train)} balanced steps, {sum(step.label for step in train)} of them positive")

# %% [markdown]
# ## 1 The prompt and the reward
#
# The judge is asked about one step: problem, chunks before, new chunk. Its reply earns $r = 1$ if the verdict equals
# the label $y$ *and* an analysis precedes the verdict; otherwise $r = 0$. Nothing rewards the analysis itself, nor
# says what it should look like.

# %%
print(judge.request(train[0]))
print("\nlabel:", train[0].label)

# %%
show.source(has_analysis)

# %% [markdown]
# Three toy cases for one step whose label is Positive. *Predict first*: what does each reply earn?

# %%
step = dataclasses.replace(train[0], label=True)
reward = verdict_reward([step])
for reply in [
    r"2+3: 5. 5 and 5, same. \boxed{Positive}",
    r"Verdict: \boxed{Positive}",
    r"\boxed{Positive} I think so \boxed{Negative}",
]:
    print(reward(0, reply), reply)

# %% [markdown]
# **Question.** The label may be wrong (notebook 02). What does the judge learn from such a step?
#
# <details><summary>Answer</summary>
#
# To contradict its own analysis, as far as a single step can teach it. Errors of the labels that follow no pattern
# average out over many steps; errors with a pattern, such as hard steps called negative, are learnt.
#
# </details>

# %% [markdown]
# ## 2 Advantages: better than what?
#
# GRPO has no value model. It samples a *group* of $n$ replies to the same prompt, with rewards $r_1 \dots r_n$, and
# compares:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# A reply is pushed up if it was better than its group, and down if it was worse.

# %%
show.source(group_advantages)

# %% [markdown]
# Three toy groups: one of four right; all right; all rewards 0.7, seven times, a number that a computer cannot hold
# exactly. *Predict first*: the largest advantage in each.

# %%
for rewards in ([1, 0, 0, 0], [1, 1, 1, 1], [0.7] * 7):
    print(
        rewards, "->", [round(a, 3) for a in group_advantages(torch.tensor([rewards]))[0].tolist()]
    )

# %%
groups = [[1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0], [1] * 8]
advantages = group_advantages(torch.tensor(groups)).tolist()
alone = max(advantages[0])
show.picture(
    pictures.advantages_of_groups(groups, advantages),
    "Four groups of eight rewards as lollipops: the only right reply of its group has the "
    f"advantage {alone:.2f}; in a group "
    f"that is half right it is {max(advantages[1]):.2f}; where all are right, all advantages are "
    "0.",
)

# %% [markdown]
# **Question.** What is the advantage of the only right reply among $n$?
#
# <details><summary>Answer</summary>
#
# The mean is $1/n$ and the standard deviation $\sqrt{(1/n)(1 - 1/n)} = \sqrt{n-1}/n$, so $A = (1 - 1/n) \cdot n /
# \sqrt{n-1} = \sqrt{n-1}$. A rare success counts much; the many failures beside it count little each.
#
# </details>

# %% [markdown]
# ## 3 Log-probabilities of the tokens
#
# A reply is tokens $o_1 \dots o_T$, and the gradient acts on $\log \pi(o_t \mid \text{prompt}, o_{<t})$. From the
# hidden state $h_t$ before a token and the head $W$: $\log \pi = z_{o_t} - \log \sum_v e^{z_v}$, with logits $z = W
# h_t / \tau$ and the temperature $\tau$. The logits of a large vocabulary fill the memory, so they are made block by
# block.

# %%
show.source(target_logprobs)

# %% [markdown]
# Three toy cases: against the full softmax; one block against many; a temperature. *Predict first*: which of the three
# differences is not zero?

# %%
torch.manual_seed(0)
head = torch.nn.Linear(4, 6, bias=False).requires_grad_(False)
states, targets = torch.randn(5, 4), torch.tensor([0, 5, 2, 2, 1])
full = torch.log_softmax(head(states), 1)[range(5), targets]
whole, _ = target_logprobs(states, targets, head)
blocks, _ = target_logprobs(states, targets, head, block=6)
warm, _ = target_logprobs(states, targets, head, temperature=2.0)
for name, values in {"one block": whole, "a row a block": blocks, "temperature 2": warm}.items():
    print(f"{name:14} differs from the softmax by {(values - full).abs().max():.6f}")

# %% [markdown]
# Now a real reply of the trained judge, with the log-probabilities that the *untrained* base gives it. *Predict
# first*: which tokens surprise the base?

# %%
saved, pairs = iter(run.records("evaluate/stepwiser")), []  # steps with their judgments
for item in run.items():
    own = [(step, next(saved)) for step in item.steps()]
    pairs += own if item.label < 0 else own[: item.label + 1]  # up to the first error
wrong, said = next((s, j) for s, j in pairs if not s.label and j.verdict is False and not s.history)
completion = run.lm.encode(said.analysis)
batch = collate(
    [Example(judge.prompt(wrong), completion)], run.lm.tokenizer.pad_token_id, run.lm.device
)
with run.lm.using(None), torch.no_grad():
    logprobs, entropy = token_logprobs(run.lm, batch)
tokens = [run.lm.decode([token]) for token in completion]
least = min(range(len(tokens)), key=lambda i: logprobs[i])
show.picture(
    pictures.shaded_tokens(tokens, logprobs.tolist()),
    f"An analysis of {len(tokens)} tokens, shaded by log-probability under the base: nearly all "
    "are expected, the least "
    f"expected is number {least + 1}, {tokens[least].strip()!r}, with {logprobs[least]:.2f}.",
)

# %% [markdown]
# **Question.** Most tokens have a log-probability near 0. Where in the reply is something left to learn?
#
# <details><summary>Answer</summary>
#
# At the few places where the base could go on in different ways: above all the first words, which choose the habit,
# and then wherever a line could be the last one. Once the base has begun to do a step anew, it does so reliably.
#
# </details>

# %% [markdown]
# ## 4 The clipped loss
#
# Several updates may use the same samples. The ratio $\rho_t = \pi(o_t) / \pi_{\text{old}}(o_t)$ says how far the
# policy has moved since then. Over all $N$ tokens of the batch:
#
# $$L = -\frac{1}{N} \sum_t \min\big(\rho_t A_t,\
# \mathrm{clip}(\rho_t, 1 - \epsilon_{\text{low}}, 1 + \epsilon_{\text{high}})\, A_t\big)$$
#
# *Clip-higher* takes $\epsilon_{\text{high}} > \epsilon_{\text{low}}$, so that rare tokens have room to grow.

# %%
show.source(clipped_loss)

# %% [markdown]
# Three toy tokens: not moved; already likelier and good; already likelier and bad. *Predict first*: which one has no
# gradient?

# %%
low, high = knobs.clip_low, knobs.clip_high
for ratio, advantage in [(1.0, 1.0), (1.5, 1.0), (1.5, -1.0)]:
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = clipped_loss(logprob, torch.zeros(1), torch.tensor([advantage]), 1, low, high)
    loss.backward()
    print(
        f"ratio {ratio}, A {advantage:+}: loss {loss.item():+.2f}, gradient "
        f"{logprob.grad.item():+.2f}"
    )

# %%
ratios = [i / 100 for i in range(40, 181)]


def loss_at(ratio: float, advantage: float) -> float:
    """The loss of one token."""
    logprob = torch.tensor([math.log(ratio)])
    return clipped_loss(logprob, torch.zeros(1), torch.tensor([advantage]), 1, low, high).item()


losses = {f"A = {a:+d}": [loss_at(ratio, a) for ratio in ratios] for a in (1, -1)}
show.picture(
    pictures.clip_curves(ratios, losses, low, high),
    f"Loss and slope against the ratio: for a good token the slope is 0 above {1 + high:.2f}, "
    f"for a bad one below {1 - low:.2f}; "
    "on the other side the gradient stays.",
)

# %%
curve = run.metrics("judges")["stepwiser"]["curve"]
clipped = max(step["clip_ratio/low_mean"] + step["clip_ratio/high_mean"] for step in curve)
print(
    f"updates a step: {knobs.updates}; largest share of clipped tokens in {len(curve)} steps: "
    f"{clipped}"
)

# %% [markdown]
# **Question.** Why was no token clipped in that training?
#
# <details><summary>Answer</summary>
#
# With one update a step, the policy that is trained *is* the one that sampled: all ratios are 1, where the clip does
# nothing. It matters from the second update on the same samples. The gradient at ratio 1 is that of plain REINFORCE
# with a baseline.
#
# </details>

# %% [markdown]
# ## 5 Micro-batches: the same gradient in pieces
#
# A batch may not fit into memory. Its loss is a sum over tokens divided by $N$, so parts may be passed one after the
# other, if $N$ stays *the number of tokens of the whole batch*.

# %%
show.source(grpo_loss)

# %% [markdown]
# *Predict first*: the gradient of eight tokens in 1, 2 and 4 parts; and the last line, where each part is divided by
# its own number of tokens.

# %%
old = torch.randn(8)
weights = torch.tensor([1.7, 1.7, -0.6, -0.6, -0.6, 1.0, 1.0, -1.0])


def gradient(sizes: list[int], own_count: bool = False) -> list[float]:
    """The gradient of the log-probabilities when the tokens are passed in parts of these sizes."""
    logprobs = old.clone().requires_grad_()
    parts = zip(logprobs.split(sizes), old.split(sizes), weights.split(sizes), strict=True)
    for new, before, advantage in parts:
        count = len(new) if own_count else len(old)
        clipped_loss(new, before, advantage, count, low, high).backward()
    return [round(value, 3) for value in logprobs.grad.tolist()]


for sizes in ([8], [5, 3], [2, 2, 2, 2]):
    print(f"{sizes!s:14}", gradient(sizes))
print(f"{[5, 3]!s:14}", gradient([5, 3], own_count=True), "<- own counts")

# %% [markdown]
# **Question.** What does the last line prefer, compared with the others?
#
# <details><summary>Answer</summary>
#
# Tokens in small parts weigh more. If a part is a reply, that means: tokens of short replies weigh more than those of
# long ones, so a good short analysis gains more a token than a good long one. Dividing by all tokens treats every
# token alike.
#
# </details>

# %% [markdown]
# ## 6 Six steps, live
#
# Sample, reward, compare, update: `train_grpo` is that loop. GRPO starts from the *base*, as in the paper, with an
# adapter that changes nothing yet.

# %%
show.source(train_grpo)

# %% tags=["live"]
small = dataclasses.replace(knobs, steps=6, prompts=8, group=8)
measures = run.task.reply_measures()
trainer = JudgeTrainer(context, train, knobs=small, lora=run.recipe.lora, measures=measures)
live = train_stepwiser(trainer, "live")["curve"]
assert len(live) == small.steps and all(math.isfinite(step["loss"]) for step in live)
assert all(0 < step["completions/mean_length"] < knobs.max_new_tokens for step in live)
print("live rewards:", [round(step["reward"], 2) for step in live])

# %%
metrics = {"reward": "reward", "entropy": "entropy (nats)", "frac_reward_zero_std": "tied groups"}
first, last = curve[0], curve[-1]
shape = f"{knobs.prompts} × {knobs.group}"
title = f"Shipped training: the reward goes from {first['reward']:.2f} to {last['reward']:.2f}"
show.picture(
    pictures.training_curves({f"shipped, {shape}": curve, "live, 8 × 8": live}, metrics, title),
    f"Curves of the shipped training: the reward goes from {first['reward']:.2f} to "
    f"{last['reward']:.2f}, the entropy from "
    f"{first['entropy']:.3f} to {last['entropy']:.3f}, tied groups from "
    f"{first['frac_reward_zero_std']:.2f} to "
    f"{last['frac_reward_zero_std']:.2f}.",
)

# %% [markdown]
# **Question.** More and more groups are tied while the reward rises. Is that a disease?
#
# <details><summary>Answer</summary>
#
# Not by itself: a step that the judge always gets right has a tied group, and teaches nothing more. It is a disease
# if groups tie while the reward is low: then all replies are wrong alike. It also means that the effective batch
# shrinks.
#
# </details>

# %% [markdown]
# ## 7 Break it
#
# GRPO needs replies that differ. At a low temperature they hardly do: groups tie, and no advantage is left. The
# trainer warns about four signs of that kind.

# %%
show.source(warn_if_stalled)

# %% [markdown]
# Three toy histories of five steps. *Predict first*: which warning does each one cause?

# %%
healthy = {"completions/mean_length": 60, "frac_reward_zero_std": 0.4, "verdicts/positive": 0.5}
sick = {
    "tied": [{**healthy, "frac_reward_zero_std": 1.0}] * 5,
    "one-sided": [{**healthy, "verdicts/positive": 0.99}] * 5,
    "shrunk": [healthy] * 4 + [{**healthy, "completions/mean_length": 9}],
}
for name, history in sick.items():
    warn_if_stalled(
        history, {"lora_B": torch.ones(1)}, lambda text, name=name: print(f"{name}: {text}\n")
    )

# %%
reward = verdict_reward(train)
prompts = [judge.prompt(step) for step in train]


def rewards_at(temperature: float) -> torch.Tensor:
    """Rewards of the base's replies to 16 steps at a temperature: [groups, n]."""
    config = GRPOConfig.of(
        dataclasses.replace(knobs, temperature=temperature), context.micro_tokens
    )
    with run.lm.using(None):
        return score(
            rollout(context.sampler, prompts, range(16), config, run.seed_of("break")), reward
        )


def tied(rewards: torch.Tensor) -> float:
    """The share of groups whose rewards are all equal."""
    return (rewards.amax(1) == rewards.amin(1)).float().mean().item()


# %% tags=["live"]
at = {temperature: rewards_at(temperature) for temperature in (1.0, 0.3)}
assert all(rewards.shape == (16, knobs.group) for rewards in at.values())
for temperature, rewards in at.items():
    print(
        f"temperature {temperature}: {tied(rewards):.0%} of the groups are tied, mean reward "
        f"{rewards.mean():.2f}"
    )

# %%
some = at[0.3][:4]
shown = group_advantages(some).tolist()
idle = sum(not any(values) for values in shown)
show.picture(
    pictures.advantages_of_groups([[int(r) for r in row] for row in some.tolist()], shown),
    f"Four groups sampled at temperature 0.3: {idle} of them are tied and have only advantages "
    "of 0; over 16 groups "
    f"{tied(at[0.3]):.0%} are tied, at temperature 1 {tied(at[1.0]):.0%}.",
)

# %% [markdown]
# **Question.** Why not a temperature of 2, then?
#
# <details><summary>Answer</summary>
#
# The policy that is trained is the one that was sampled, so the judge would learn to be right under that noise:
# arithmetic breaks at any of its tokens, and most of the reward is luck. Ties become rare, and the advantages become
# noise.
#
# </details>

# %% [markdown]
# ## 8 Where along the analysis the verdict is made
#
# $P(\text{Positive})$ is the probability of that word at the verdict. We can ask for it early: end the analysis after
# $0, 1, 2, \dots$ lines, write the box, and read the probability of the next token.

# %%
show.source(p_positive_along)

# %%
chosen = {}
for step, judgment in pairs:
    kind = "right step" if step.label else "wrong step"
    if judgment.verdict is step.label and "Due:" in judgment.analysis and step.history:
        chosen.setdefault(kind, (step, judgment))
along = {}
for kind, (step, judgment) in sorted(chosen.items()):
    along[kind] = p_positive_along(context, "stepwiser", judge.prompt(step), judgment.analysis)
    print(f"--- {kind}: {' '.join(step.chunk.split())}")
    for line, p in zip(["(nothing)", *judgment.analysis.splitlines()], along[kind], strict=False):
        print(f"{p:.2f}  {line}")

# %%
ends = {kind: f"{values[0]:.2f} to {values[-1]:.2f}" for kind, values in along.items()}
show.picture(
    pictures.p_positive_lines(along),
    "P(Positive) after every line of two analyses: for the right step it goes from "
    f"{ends['right step']}, for the wrong step "
    f"from {ends['wrong step']}; it settles once the results are compared.",
)

# %% [markdown]
# **Question.** What does the first point say of a judge without analysis?
#
# <details><summary>Answer</summary>
#
# It has to decide there, before any work: no better than a guess from the look of the step. That is what the
# classifier on the same labels does, and why its F1 stays low on a model this small. The computation happens in the
# tokens of the analysis.
#
# </details>

# %% [markdown]
# ## 9 What GRPO makes of habits
#
# The base has read people who judge in three ways: a *glance* (names the result, then guesses), the step's own
# *equation* checked, or the step done anew from the problem (*redo*). `habit_of` tells them apart by their words. The
# reward never mentions them.

# %%
show.source(habit_of)

# %% [markdown]
# Three toy replies. *Predict first*: which habit is each? And which one can find a step that computes the wrong thing
# correctly?

# %%
for reply in [
    r"The step says 5. \boxed{Positive}",
    r"2+3: 5. The step says 5. 5 and 5: same. \boxed{Positive}",
    r"Last: nothing. Due: Tom buys 3. 2+3: 5. Result: 5. The step says 5. 5 and 5: same.",
]:
    print(f"{habit_of(reply):10} {reply}")

# %%
habits = [habit for habit in run.task.habits if habit != "other"]
share = {habit: (curve[0][f"habits/{habit}"], curve[-1][f"habits/{habit}"]) for habit in habits}
moves = ", ".join(f"{habit} {a:.0%} to {b:.0%}" for habit, (a, b) in share.items())
lengths = [step["completions/mean_length"] for step in curve]
show.picture(
    pictures.habits_in_training(curve, habits),
    f"Shares of the habits over {len(curve)} steps of GRPO: {moves}. The mean reply grows from "
    f"{lengths[0]:.0f} to "
    f"{lengths[-1]:.0f} tokens.",
)

# %% [markdown]
# **Question.** Nobody asked for long analyses. Why do they grow?
#
# <details><summary>Answer</summary>
#
# In a group of replies to the same step, those that do the work are right more often, so they have positive
# advantages, and all their tokens gain, the first ones included: they choose the habit. Length follows from the habit
# that pays. With large models the growth of analyses has been explained in the same way.
#
# </details>

# %% [markdown]
# ## 10 RS-FT beside GRPO, greedy beside sampled
#
# RS-FT keeps the right replies of the base and learns them. A glance is right often, and it is what the base does
# most: most of what is kept is luck.

# %%
rows = run.metrics("evaluate")["rows"]
names = ["untrained", "rejection_sampled", "stepwiser"]
by_id = {row["id"]: row for row in rows}
redo = {name: f"{by_id[name]['habits/redo']:.0%}" for name in names}
show.picture(
    pictures.habits_of_judges(rows, names, habits),
    f"Share of greedy replies that do the step anew: untrained {redo['untrained']}, RS-FT "
    f"{redo['rejection_sampled']}, "
    f"StepWiser {redo['stepwiser']}. RS-FT hardly changes the habits.",
)

# %%
f1 = {name: (by_id[name]["f1"], by_id[name]["f1_sampled"]) for name in names}
told = ", ".join(f"{by_id[name]['name']} {a:.2f} and {b:.2f}" for name, (a, b) in f1.items())
show.picture(
    step_pictures.judge_f1(rows, names),
    f"First-error F1 with greedy replies and with one sampled reply: {told}. Sampling helps the "
    "base and hurts GRPO's judge.",
)

# %%
lines = ["| judge | greedy | one sample | majority of 8 samples |", "| --- | --- | --- | --- |"]
for name in names:
    row = by_id[name]
    lines.append(
        f"| {row['name']} | {row['f1']:.2f} | {row['f1_sampled']:.2f} | {row['f1_majority']:.2f} |"
    )
Markdown("\n".join(lines))

# %% [markdown]
# **Question.** Why does the base gain so much from sampling and voting, and the trained judge so little?
#
# <details><summary>Answer</summary>
#
# Greedy decoding always takes the likeliest first words: a glance. Samples use all habits, and a vote lets those that
# agree for a reason outweigh the guesses. GRPO has moved that vote into the weights: its one greedy reply does what
# the majority of the base does. A fair comparison therefore names how replies were decoded.
#
# </details>

# %% [markdown]
# ## Exercises
#
# 1. In section 6, train with `balanced=False` steps: take `labelled[:240]` for `train`. What happens to
#    `verdicts/positive`?
# 2. In section 6, set `updates=4` in `small`. Where is a token clipped first, from below or from above, and why?
# 3. Give a reward of 0.1 for a verdict that is right without an analysis (wrap `verdict_reward`). Which habit wins in
#    12 steps?
