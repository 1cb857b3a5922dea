# %% [markdown]
# # 07 · Your own GPU: a run that fits, and a result that means something
#
# **You will be able to** say before a run whether it fits and what it can show, read a run that shows nothing, find
# the failed training among four, and measure a judge of your own.
#
# **Time:** 1 minute to run on two cores, 30 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# or the wheel; no GPU; notebooks 00 and 03.
#
# The results of a real model, 0.5B on GSM8K, are included. Nothing here samples or trains.

# %%
import dataclasses
import json
import re
import tempfile
from pathlib import Path

import torch
from IPython.display import Markdown

import minisw
from minisw import show
from minisw.cli import parse
from minisw.engine import memory
from minisw.engine.machine import GB
from minisw.evaluate import metrics
from minisw.evaluate.stats import mean
from minisw.judges.base import Judge
from minisw.pictures import machine as pictures
from minisw.pictures import steps as step_pictures
from minisw.pictures import training as training_pictures

# %%
# isort: split
from transformers import Qwen2Config  # after minisw, which silences a warning

from minisw.presets import PRESETS
from minisw.problems import load_task, training_problems
from minisw.problems.own import load_split, read_problems
from minisw.records import Judgment, LabelledStep
from minisw.report.claims import SPECS, decide, read_json
from minisw.reproduce import run as reproduce
from minisw.saved_run import shipped_results
from minisw.training.monitor import warn_if_stalled

run = minisw.open_run()
folder = shipped_results("gsm8k-0.5b")
real = {stage: read_json(folder / stage / "metrics.json") for stage in ("judges", "evaluate")}
facts = read_json(folder / "run.json")
print(f"{facts['recipe']['model']['name']}: {facts['seconds'] / 3600:.1f} hours on")
print(f"{facts['hardware']['cores']} CPU cores, {real['evaluate']['items']} solutions judged")

# %% [markdown]
# ## 1 Will it fit?
#
# A run needs most memory at two moments: in a micro-batch of GRPO, which keeps activations for the backward pass, and
# in a full batch of rollouts, which keeps the keys and values of all rows. They never happen at once, so the larger one
# counts:
#
# $$\text{peak} = W + A + \max(\text{activations} + \text{logits},\
# \text{merged} + \text{cache} + \text{probabilities})$$
#
# $W$ are the weights, and $A$ the adapters with their gradients and AdamW's moments; the other parts are explained
# below. The cache takes $2 \cdot L \cdot d \cdot b$ bytes for each token of each row: keys and values (2) of $L$
# layers, with $d$ numbers of $b$ bytes each.

# %%
show.source(memory.Estimate)

# %%
shared = {"vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
small = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
large = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
half = Qwen2Config(num_attention_heads=14, **small, **shared)  # 0.5B, from its model card
one_and_a_half = Qwen2Config(num_attention_heads=12, **large, **shared)  # 1.5B
models = {"gpu-8gb": half, "gpu-12gb": one_and_a_half, "gpu-24gb": one_and_a_half}


def needed(preset: str, **changes) -> memory.Estimate:
    """The estimate of a preset with other knobs of the model, planned for a GPU with bf16."""
    recipe = memory.on_a_gpu(PRESETS[preset])
    knobs = dataclasses.replace(recipe.model, **changes)
    return memory.estimate(models[preset], dataclasses.replace(recipe, model=knobs))


# %% [markdown]
# Three toy cases, each one knob of `gpu-12gb` (1.5B in 4 bits). *Predict first*: which peak does each knob move, the
# one of training or the one of sampling?

# %%
cases = {"as it is": {}, "half the slots": {"slots": 48}}
cases |= {"no checkpointing": {"checkpointing": False}, "no 4 bits": {"four_bit": False}}
for name, changes in cases.items():
    e = needed("gpu-12gb", **changes)
    peaks = f"training {e.training_peak / GB:5.1f} GB, sampling {e.sampling_peak / GB:4.1f} GB"
    print(f"{name:17} {peaks}")

# %%
estimates = {preset: needed(preset) for preset in models}
cards = {preset: int(preset.removeprefix("gpu-").removesuffix("gb")) for preset in models}
told = ", ".join(f"{preset} {e.peak / GB:.1f} GB" for preset, e in estimates.items())
show.picture(
    pictures.memory_parts(estimates, cards),
    f"Memory by preset, moment and part; the peaks are {told}. All stay below the dashed lines, "
    f"{memory.USABLE:.0%} of their cards.",
)

# %% [markdown]
# These figures are computed from shapes. A run computes them before its first stage, measures both moments if there
# is a GPU, and stops with one line if they do not fit. Here we pretend that only a tenth of a gigabyte is free:

# %%
try:
    memory.preflight(run.recipe, free=lambda device: 0.1 * GB)
except ValueError as error:
    print(error)

# %% [markdown]
# **Question.** On 24 GB the same model needs more for sampling than for training; on 12 GB it does not. Why?
#
# <details><summary>Answer</summary>
#
# Two knobs differ. Without 4 bits the adapter is merged into a copy of the weights for sampling, which is twice as
# fast. And there are more slots: each row that is sampled at once has a cache of its own, as long as the longest
# solution. Training does not see the slots at all.
#
# </details>

# %% [markdown]
# ## 2 A run that shows nothing
#
# The run of the 0.5B model trained three judges and compared them on ProcessBench. A comparison is a difference of
# F1, $\Delta$, with a 95% interval that resamples questions. A claim *holds* if the interval lies on its side of the
# bar, *does not hold* if it lies on the other, and is *not settled* otherwise.

# %%
show.source(decide)

# %% [markdown]
# Three toy intervals of the same claim, that one judge beats another. *Predict first*: what does each say?

# %%
spec = SPECS["judge-beats-classifier"]
for interval in [(0.02, 0.20), (-0.10, 0.20), (-0.30, -0.01)]:
    print(interval, "->", decide(spec, sum(interval) / 2, interval))

# %%
lines = ["| judge | F1 | 95% | balanced accuracy | unreadable |", "| --- | --- | --- | --- | --- |"]
for row in real["evaluate"]["rows"]:
    low, high = row["interval"]
    lines.append(
        f"| {row['name']} | {row['f1']:.2f} | {low:.2f} to {high:.2f} | "
        f"{row['balanced_accuracy']:.2f} | {row['unparseable']:.0%} |"
    )
Markdown("\n".join(lines))

# %%
named = {row["id"]: row["name"] for row in real["evaluate"]["rows"]}
differences = {
    " − ".join(named[judge] for judge in key.split("-")): (value["measured"], value["interval"])
    for key, value in real["evaluate"]["differences"].items()
}
told = ", ".join(f"{name} {measured:+.2f}" for name, (measured, _) in differences.items())
show.picture(
    pictures.intervals_beside_zero(differences),
    f"Differences in F1 of the 0.5B judges with 95% intervals: {told}. All three intervals hold 0.",
)

# %% [markdown]
# Is that a negative result? No: it is *no* result. The intervals hold 0, and they also hold the paper's difference.
# Two other columns say more. A balanced accuracy of ½ is guessing, and no judge is above it. The share of unreadable
# replies fell, so training did something: it taught the format.
#
# **Question.** How many labelled solutions would settle a difference as large as the paper's?

# %%
claims = {claim["id"]: claim for claim in read_json(folder / "claims.json")}
items, effect = real["evaluate"]["items"], claims["judge-beats-classifier"]["paper"]
halves = {name: (high - low) / 2 for name, (_, (low, high)) in differences.items()}
sizes = {name: pictures.needed_items(items, h, effect) for name, h in halves.items()}
show.picture(
    pictures.half_widths(items, halves, [items, 125, 250, 500, 1000, 2000], effect),
    f"Half-widths of the three intervals against the number of solutions: as 1/√n, they come down "
    f"to the paper's difference of {effect:g} at {min(sizes.values())} to {max(sizes.values())}.",
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# Half-widths fall as $1/\sqrt n$, so a third of the width takes nine times as many solutions. Where the half-width
# equals the true difference, only every second run would settle it, because the estimate is above and below its true
# value equally often. For four runs in five, take $\left((1.96 + 0.84) / 1.96\right)^2 \approx 2$ times as many.
# Labels to *train* on are another matter: more of them move the difference, not the width.
#
# </details>

# %%
for name, size in sizes.items():
    print(f"{name:30} {size:4} solutions, for four runs in five {2 * size}")
print(f"--preset gpu-8gb judges {PRESETS['gpu-8gb'].evaluate.solutions} of each part")

# %% [markdown]
# ## 3 Four curves: which training fails?
#
# Labels are balanced, so a judge that guesses earns a reward of ½. Over $N$ replies the mean reward has a standard
# error of at least
#
# $$\sqrt{r (1 - r) / N}$$
#
# and more, as the replies to one step resemble each other. Here are four trainings that were saved: three judges of the
# embedded model, with all labels, a tenth and a hundredth of them, and the judge of the 0.5B model.

# %%
saved = run.metrics("judges")
curves = {
    "A": saved["stepwiser_tenth"]["curve"],
    "B": saved["stepwiser_hundredth"]["curve"],
    "C": real["judges"]["stepwiser"]["curve"],
    "D": saved["stepwiser"]["curve"],
}
watched = {"reward": "reward", "frac_reward_zero_std": "tied groups"}
watched |= {"verdicts/positive": "share Positive"}
ends = ", ".join(f"{name} {curve[-1]['reward']:.2f}" for name, curve in curves.items())
show.picture(
    training_pictures.training_curves(
        curves, watched, f"The last rewards: {ends}; guessing earns ½"
    ),
    f"Reward, tied groups and share of Positive verdicts of four trainings, A to D. The last "
    f"rewards are {ends}. C did not log its verdicts.",
)

# %% [markdown]
# *Predict first*: which of A to D would you stop, and which one has the best judge? Then ask the trainer, which warns
# of four signs.

# %%
show.source(warn_if_stalled)

# %%
rows = {row["id"]: row for row in run.metrics("evaluate")["rows"]}
f1 = {"A": rows["stepwiser_tenth"]["f1"], "B": rows["stepwiser_hundredth"]["f1"]}
f1 |= {"D": rows["stepwiser"]["f1"]}
for name, curve in curves.items():
    warnings = []
    for step in range(1, len(curve) + 1):
        warn_if_stalled(curve[:step], {"lora_B": torch.ones(1)}, warnings.append)
    third = len(curve) // 3
    first, last = (mean([s["reward"] for s in part]) for part in (curve[:third], curve[-third:]))
    judged = f"F1 {f1[name]:.2f}" if name in f1 else "no difference settled"
    print(f"{name}: reward {first:.2f} to {last:.2f}; {judged};", *(warnings or ["no warning"]))

# %% [markdown]
# **Question.** Which training fails? And does the best judge have the highest reward?
#
# <details><summary>Answer</summary>
#
# C fails: its reward stays near ½, which guessing earns too. *No warning says so*, because its groups are not tied and
# its replies do not shrink. Compare the reward with what guessing earns. Rewards of trainings on different labels
# cannot be compared: B sees the same few steps again and again, and its reward says how well it judges *those*. Only
# held-out solutions show how well it judges others.
#
# </details>

# %% [markdown]
# ## 4 Your own judge in ten lines
#
# A judge is anything with a name that turns steps into judgments. It must not read a step's label.

# %%
show.source(Judge)

# %%
EQUATION = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")


class EquationJudge:
    """Objects to a step in which an equation is false."""

    name = "equations only"

    def judge(self, steps, seed, progress=None):
        found = [EQUATION.findall(step.chunk) for step in steps]
        return [Judgment(all(map(self.holds, equations))) for equations in found]

    def holds(self, parts):
        a, b, result = int(parts[0]), int(parts[2]), int(parts[3])
        return {"+": a + b, "-": a - b, "*": a * b}[parts[1]] == result


# %% [markdown]
# Three toy steps of the problem "Ann has 2 pens and buys 3. How many?" *Predict first*: which one does it reject, and
# which should it reject?

# %%
toys = ["2+3=5. That makes 5.", "2+3=6. That makes 6.", "2*3=6. That makes 6."]
toy_steps = [LabelledStep("p", "Ann has 2 pens and buys 3.", (), text, True) for text in toys]
for text, judgment in zip(toys, EquationJudge().judge(toy_steps, seed=0), strict=True):
    print(f"{text:22} {judgment.verdict}")

# %%
bench, resamples = run.items(), run.recipe.evaluate.resamples
judged = [EquationJudge().judge(item.steps(), seed=0) for item in bench]
figures = metrics.score(bench, judged, run.seed_of("own"), resamples)
own = {"id": "own", "name": EquationJudge.name, **figures}
rows = [*run.metrics("evaluate")["rows"], own]
names = ["untrained", "discriminative", "own", "stepwiser"]
f1 = ", ".join(f"{row['name']} {row['f1']:.2f}" for row in rows if row["id"] in names)
show.picture(
    step_pictures.judge_f1(rows, names),
    f"First-error F1 of a judge of equations beside those of the run, with 95% intervals: {f1}.",
)

# %%
said = iter(run.records("evaluate/stepwiser"))
theirs = [metrics.predict([next(said).verdict for _ in item.chunks]) for item in bench]
ours = [metrics.predict([judgment.verdict for judgment in row]) for row in judged]
gap, (low, high) = metrics.f1_difference(bench, theirs, ours, run.seed_of("own"), resamples)
lines = ["| judge | errors found | right solutions passed | tokens per step |", "| - | - | - | - |"]
for row in (row for row in rows if row["id"] in names):
    lines.append(
        f"| {row['name']} | {row['accuracy_error']:.0%} | {row['accuracy_correct']:.0%} | "
        f"{row['tokens_per_step']:.0f} |"
    )
print(f"StepWiser − {EquationJudge.name}: {gap:+.2f}, 95% {low:+.2f} to {high:+.2f}")
Markdown("\n".join(lines))

# %% [markdown]
# **Question.** It passes all right solutions. Which errors does it miss, and why is this table still the first one to
# make on a new task?
#
# <details><summary>Answer</summary>
#
# It misses steps that compute the wrong thing correctly: a fact skipped, a number misread. Those need the problem,
# which it never reads. A judge that costs nothing shows how much of a benchmark a few rules solve. The difference that
# counts for a trained judge is the one to *that* judge: look whether the interval above holds 0, and what section 2
# says of such a result. To train a judge of yours in a run, add one entry to `minisw/judges/registry.py`.
#
# </details>

# %% [markdown]
# ## 5 Your own problems
#
# A file of problems has a JSON object a line, with "question" and "answer"; "id" is optional. A hash of the question
# decides to which split it belongs, so a test problem stays one when the file grows.

# %%
show.source(load_split)

# %% [markdown]
# Three toy files, each with one fault. *Predict first*: what is wrong with each?

# %%
mine = Path(tempfile.mkdtemp()) / "mine.jsonl"
faults = ['{"question": "1+1?"', '{"question": " ", "answer": 2}', '{"question": "1+1?"}']
for text in faults:
    mine.write_text(text)
    try:
        load_split(mine, "train", 1, seed=0)
    except ValueError as error:
        print(str(error).replace(str(mine), mine.name))

# %%
problems = [{"question": f"What is {n} times {n + 7}?", "answer": n * (n + 7)} for n in range(240)]
mine.write_text("\n".join(map(json.dumps, problems)))
counts = "--problems.train 60 --problems.validation 20 --problems.test 30 --annotate.problems 60"
words = f"--preset gpu-8gb --problems.source file --problems.file {mine} {counts}".split()
print(len(read_problems(mine)), "problems")
reproduce(parse([*words, "--dry-run"]))

# %% [markdown]
# `--dry-run` checks the knobs and prints the plan, but it does not open the file. Whether there are enough problems is
# one more line. *Predict first*: with `--annotate.problems 600`, what happens?

# %%
for count in ("60", "600"):
    recipe = parse([*words[:-1], count])
    try:
        taught, annotated = training_problems(load_task(recipe.problems), recipe)
        print(f"{len(taught)} problems for the policy, {len(annotated)} others for labels")
    except ValueError as error:
        print(str(error).replace(str(mine), mine.name))

# %% [markdown]
# **Question.** Why are the problems that are labelled not those that taught the policy to cut?
#
# <details><summary>Answer</summary>
#
# The policy has seen right solutions of those it was taught. There it is right more often than elsewhere, so values
# would be too high, and a judge that learns from them would trust it too much.
#
# </details>

# %% [markdown]
# ## 6 Before a night's run
#
# | check | how | stop if |
# | --- | --- | --- |
# | it fits | `python -m minisw.engine.memory --preset gpu-12gb` | the peak is above 90% of the card |
# | the knobs are right | `python -m minisw.reproduce … --dry-run` | a line is not what you meant |
# | every stage runs | `--preset smoke` with your model and file | a stage fails |
# | replies can be read | `unparseable` of the untrained judge | above ½: give `--judge.start rejection_sampled` |
# | it can be settled | section 2: half-width and difference | it is too wide: take more test solutions |

# %% [markdown]
# Two more, in the first half hour of the night:
#
# | check | how | stop if |
# | --- | --- | --- |
# | it resumes | stop it with Ctrl-C and rerun the same command | a finished stage begins anew |
# | GRPO is healthy | section 3: reward, tied groups, share Positive | one of them is off |
#
# Write down what you expect *before* you look: which claims will hold, and what you will conclude if none does.

# %% [markdown]
# ## Exercises
#
# 1. In section 1, find the largest number of slots with which `gpu-12gb` still fits a card of 8 GB.
# 2. In section 4, let `EquationJudge` also object to a number that stands neither in the problem nor in the steps
#    before. Is the difference to the shipped judge settled?
# 3. Open: the 0.5B run judged 60 solutions. Plan a run of one night on your machine that could settle one claim: which
#    one, with how many solutions and labels, and what would you conclude from each of the three outcomes?
