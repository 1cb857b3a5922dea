"""Assignment 3: what must hold of advantages, batches, log-probabilities, loss and gradients. The anchor stands first."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch

from minisw.course.relations import expect, value_and_gradient

LARGE_VOCABULARY, LARGE_TARGETS = 1 << 16, 560  # in fp32 their logits have 147 MB: more than the worker may use (128)


def generator(rng: random.Random) -> torch.Generator:
    """Random tensors that depend on `rng` only."""
    return torch.Generator().manual_seed(rng.randrange(1 << 30))


def normal(rng: random.Random, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(rng))


def expect_gradient(call: Callable, position: int, args: tuple, want: torch.Tensor, what: str) -> None:
    """The gradient by an argument (verify/gradients.py) must be `want`; none at all stands for zeros."""
    ((gradient, _),) = value_and_gradient(call, position, *args)[1]
    expect(torch.zeros_like(want) if gradient is None else gradient, want, f"the gradient {what}")


# --- group advantages --------------------------------------------------------------------------------------------------


def group_advantages_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """One right of four; all alike; two right of four."""
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
    std = math.sqrt(3) / 4
    one, half = [0.75 / (std + 1e-4)] + [-0.25 / (std + 1e-4)] * 3, 0.5 / 0.5001
    want = torch.tensor([one, [0.0] * 4, [-half, half, half, -half]])
    expect(call(rewards), want, "rewards [[1,0,0,0], [1,1,1,1], [0,1,1,0]]")


def group_advantages_of_each_group_alone(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A group's advantages do not depend on the groups beside it."""
    rewards = normal(rng, 4, 5) * torch.tensor([[0.1], [1.0], [3.0], [10.0]])
    together = call(rewards)
    for i in range(4):
        expect(call(rewards[i : i + 1]), together[i : i + 1], f"group {i} alone and among others")


def group_advantages_shift_and_scale(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Adding a constant changes nothing; twice the rewards have the same advantages, but for the 1e-4; minus turns the sign."""
    rewards = normal(rng, 3, 6)
    advantages = call(rewards)
    expect(call(rewards + 2.0), advantages, "advantages after 2 is added")
    std = rewards.std(1, keepdim=True, correction=0)
    expect(call(rewards * 4) * (4 * std + 1e-4) / 4, advantages * (std + 1e-4), "advantages of four times the rewards")
    expect(call(-rewards), -advantages, "advantages of minus the rewards")


def group_advantages_have_mean_0_and_variance_1(call: Callable, reference: Callable, rng: random.Random) -> None:
    """In a group with spread, the mean is 0 and the mean of squares 1; a higher reward has a higher advantage."""
    rewards = normal(rng, 5, 8) * 100
    advantages = call(rewards)
    expect(advantages.mean(1), torch.zeros(5), "the means of the groups")
    expect(advantages.square().mean(1), torch.ones(5), "the mean squares of the groups")
    expect(advantages.argsort(1), rewards.argsort(1), "the order in the groups")


def group_advantages_of_tied_groups(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Equal rewards have exactly 0, whatever the rounding of their mean; rewards that are nearly equal do not."""
    for n in range(2, 20):
        value = rng.choice([0.1, 0.3, 0.7, 0.9, 1 / 3]) * rng.choice([1, 3, 7])
        got = call(torch.full((2, n), value))
        assert bool((got == 0).all()), f"{n} rewards of {value:g}: expected exactly 0, got up to {float(got.abs().max()):g}"
    for small in (0.001, 0.0002):
        want = torch.tensor([[small, -small]]) / (small + 1e-4)
        expect(call(torch.tensor([[0.5 + small, 0.5 - small]])), want, f"0.5 with and without {small:g}")


def group_advantages_of_the_only_right_one(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The only right one of n has about √(n - 1), and all right ones but one share its opposite."""
    for n in (3, 5, 9):
        place = rng.randrange(n)
        rewards = torch.zeros(1, n)
        rewards[0, place] = 1.0
        std = math.sqrt(n - 1) / n
        expect(call(rewards)[0, place] * (std + 1e-4), torch.tensor(1 - 1 / n), f"the only right one of {n}, times its std")
        expect(call(1 - rewards), -call(rewards), f"the only wrong one of {n}")


# --- right_padded ------------------------------------------------------------------------------------------------------


def right_padded_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two rows; the first ends with an end token that is also the pad id."""
    ids = torch.tensor([[5, 6, 7, 0], [5, 8, 0, 0]])
    target = torch.tensor([[False, False, True, True], [False, True, False, False]])
    expect(call([[5, 6, 7, 0], [5, 8]], [2, 1], 0), (ids, target), "rows [5,6,7,0], [5,8], prompts of 2 and 1, pad 0")


def random_rows(rng: random.Random) -> tuple[list[list[int]], list[int], int]:
    """Rows, the lengths of their prompts, and a pad id that the rows contain too."""
    rows = [[rng.randint(0, 9) for _ in range(rng.randint(2, 9))] for _ in range(rng.randint(2, 5))]
    pad = rng.randint(1, 9)
    for row in rows:
        row[rng.randrange(len(row))] = pad
        row[-1] = rng.choice([row[-1], pad])
    return rows, [rng.randint(1, len(row)) for row in rows], pad


def right_padded_keeps_the_rows(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A row begins with its tokens, and what follows is padding, up to the longest row."""
    for _ in range(8):
        rows, lengths, pad = random_rows(rng)
        longest = max(map(len, rows))
        want = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        expect(call(rows, lengths, pad)[0], want, f"ids of the rows {rows}, pad {pad}")


def right_padded_counts_the_targets(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Targets are the completion's tokens: all of them, in order, and no other position."""
    for _ in range(8):
        rows, lengths, pad = random_rows(rng)
        ids, target = call(rows, lengths, pad)
        counts = torch.tensor([len(row) - start for row, start in zip(rows, lengths, strict=True)])
        expect(target.sum(1), counts, f"the number of targets of {rows}, prompts {lengths}")
        completions = [token for row, start in zip(rows, lengths, strict=True) for token in row[start:]]
        expect(ids[target], torch.tensor(completions, dtype=torch.int64), f"the targets of {rows}, prompts {lengths}")


def right_padded_end_token(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The end token is a target, though it is the pad id too."""
    end = rng.randint(1, 9)
    target = call([[11, 12, 13, end], [11, 12, end], [11, end]], [2, 2, 1], end)[1]
    want = [[False, False, True, True], [False, False, True, False], [False, True, False, False]]
    expect(target, torch.tensor(want), f"targets of rows that end with {end}, pad {end}")


# --- gather_states -----------------------------------------------------------------------------------------------------


def gather_states_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two rows of three tokens; state [r, i] holds the numbers r and i."""
    hidden = torch.tensor([[[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]])
    ids, target = torch.tensor([[4, 5, 6], [7, 8, 9]]), torch.tensor([[False, True, True], [False, False, True]])
    want = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([5, 6, 9])
    expect(call(hidden, ids, target), want, "states (row, position), targets 5, 6, 9")


def gather_states_takes_the_state_before(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The state at position i - 1 goes with the token at position i, row after row."""
    for _ in range(8):
        rows, length = rng.randint(2, 4), rng.randint(3, 7)
        target = torch.rand(rows, length, generator=generator(rng)) < 0.5
        target[:, 0] = False
        target[0, 1:3] = target[1, 1] = True
        places = [(r, i) for r in range(rows) for i in range(length) if target[r, i]]
        hidden = torch.tensor([[[float(r), float(i), 1.0] for i in range(length)] for r in range(rows)])
        ids = torch.arange(rows * length).reshape(rows, length) + 10
        want = torch.tensor([[float(r), i - 1.0, 1.0] for r, i in places]), torch.tensor([10 + r * length + i for r, i in places])
        expect(call(hidden, ids, target), want, f"targets at {places}")


# --- target_logprobs ---------------------------------------------------------------------------------------------------


def head_of(weight: torch.Tensor) -> torch.nn.Linear:
    """A frozen linear layer without bias; weight [vocabulary, hidden]."""
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def full(states: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, temperature: float) -> tuple:
    """What `target_logprobs` gives, from all logits at once and in float64; and the gradient of Σ i · logp_i."""
    logp = (states.double() @ weight.double().T / temperature).log_softmax(-1)
    p = logp.exp()
    one_hot = torch.nn.functional.one_hot(targets, len(weight))
    gradient = torch.arange(1, len(targets) + 1)[:, None] * ((one_hot - p) @ weight.double()) / temperature
    chosen = logp.gather(1, targets[:, None])[:, 0]
    return chosen.float(), -(p * logp).sum(1).float(), gradient.float()


def case(rng: random.Random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States [targets, hidden], targets [targets] and weights [vocabulary, hidden]."""
    count, size, vocabulary = rng.randint(5, 9), rng.randint(2, 5), rng.randint(6, 20)
    targets = torch.randint(vocabulary, (count,), generator=generator(rng))
    return normal(rng, count, size), targets, normal(rng, vocabulary, size)


def target_logprobs_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Three tokens with probabilities 1/8, 2/8, 5/8, then all alike; at temperature 1/2 the first are 1/30, 4/30, 25/30."""
    head = head_of(torch.tensor([[0.0], [math.log(2)], [math.log(5)]]))
    states, targets = torch.tensor([[1.0], [0.0]]), torch.tensor([1, 2])

    def entropy(*counts: int) -> float:
        return -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts)

    want = torch.tensor([math.log(2 / 8), math.log(1 / 3)]), torch.tensor([entropy(1, 2, 5), math.log(3)])
    expect(call(states, targets, head, 1.0, 99), want, "probabilities 1/8, 2/8, 5/8 and 1/3, targets 1 and 2, temperature 1")
    want = torch.tensor([math.log(4 / 30), math.log(1 / 3)]), torch.tensor([entropy(1, 4, 25), math.log(3)])
    expect(call(states, targets, head, 0.5, 99), want, "the same at temperature 0.5")
    expect(call(states, targets, head), reference(states, targets, head), "the same at the default temperature")


def target_logprobs_is_the_full_softmax(call: Callable, reference: Callable, rng: random.Random) -> None:
    """At any temperature it agrees with the softmax over all logits."""
    for temperature in (0.3, 0.7, 1.0, 1.6):
        states, targets, weight = case(rng)
        want = full(states, targets, weight, temperature)[:2]
        expect(call(states, targets, head_of(weight), temperature, 10_000), want, f"random states at temperature {temperature}")


def target_logprobs_of_any_block(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The size of a block changes nothing: one row at a time, a short last block, a block smaller than the vocabulary."""
    states, targets, weight = case(rng)
    want = full(states, targets, weight, 0.8)[:2]
    for rows in (1, 2, 3, len(targets) - 1, len(targets), 100):
        for block in (rows * len(weight), rows * len(weight) + 1):
            expect(call(states, targets, head_of(weight), 0.8, block), want, f"a block of {block} logits, {len(weight)} a row")
    expect(call(states, targets, head_of(weight), 0.8, 1), want, "a block of one logit")


def target_logprobs_gradient(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The gradient of a log-probability by its state is (W[target] - Σ p W) / temperature, in every block."""
    for temperature in (0.5, 1.0, 1.6):
        states, targets, weight = case(rng)
        gradient = full(states, targets, weight, temperature)[2]
        for block in (2 * len(weight), 10_000):
            args = (states, targets, head_of(weight), temperature, block)
            expect_gradient(call, 0, args, gradient, f"of Σ i · logp_i by the states, temperature {temperature}, block {block}")


def target_logprobs_of_large_logits(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Logits of hundreds do not overflow: a certain token has 0, the others minus the difference; the entropy is 0."""
    size = rng.choice([200.0, 500.0])
    head = head_of(torch.tensor([[1.0], [0.0], [-1.0]]))
    got = call(torch.tensor([[size], [size], [-size]]), torch.tensor([0, 1, 0]), head, 1.0, 99)
    expect(got, (torch.tensor([0.0, -size, -2 * size]), torch.zeros(3)), f"logits ±{size:g} and 0")


def target_logprobs_in_bounded_memory(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Targets whose logits, all at once, would not fit into the memory of the process; the last ones are in a short block."""
    weight = normal(rng, LARGE_VOCABULARY, 2)
    states = normal(rng, LARGE_TARGETS, 2)
    targets = torch.randint(LARGE_VOCABULARY, (LARGE_TARGETS,), generator=generator(rng))
    logp, entropy = call(states, targets, head_of(weight), 1.0, 17 * LARGE_VOCABULARY)
    ends = [0, 1, 300, LARGE_TARGETS - 2, LARGE_TARGETS - 1]
    want = full(states[ends], targets[ends], weight, 1.0)[:2]
    expect((logp[ends], entropy[ends]), want, f"five of {LARGE_TARGETS} targets, vocabulary {LARGE_VOCABULARY}")


# --- clipped loss ------------------------------------------------------------------------------------------------------


def logs(*ratios: float) -> torch.Tensor:
    return torch.tensor([math.log(ratio) for ratio in ratios])


def clipped_loss_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Ratios 3/2, 3/2, 1/2, 1/2, 11/10 with advantages 1, -1, 2, -2, 1: 1.3 - 1.5 + 1 - 1.6 + 1.1 = 0.3, of ten tokens."""
    new, old = logs(0.3, 0.3, 0.1, 0.1, 0.22), logs(0.2, 0.2, 0.2, 0.2, 0.2)
    advantages = torch.tensor([1.0, -1.0, 2.0, -2.0, 1.0])
    what = "bounds 0.2 and 0.3, num_tokens 10, ratios 1.5, 1.5, 0.5, 0.5, 1.1"
    expect(call(new, old, advantages, 10, 0.2, 0.3), torch.tensor(-0.03), f"{what}, A = 1, -1, 2, -2, 1")
    expect(call(new, old, -advantages, 10, 0.2, 0.3), torch.tensor(0.19), f"{what}, A = -1, 1, -2, 2, -1")


def tokens(rng: random.Random, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New and old log-probabilities, whose ratios are inside the bounds and far outside, and advantages."""
    old = -normal(rng, count).abs() - 1
    ratios = torch.tensor([rng.choice([0.3, 0.6, 0.95, 1.02, 1.1, 1.5, 2.0]) for _ in range(count)])
    return old + ratios.log(), old, normal(rng, count)


def clipped_loss_on_policy(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Where nothing has changed yet, the gradient is -A/total and the loss -ΣA/total."""
    _, old, advantages = tokens(rng, 6)
    total = rng.randint(7, 20)
    args = (old, old.clone(), advantages, total, 0.2, 0.28)
    expect(call(*args), -advantages.sum() / total, f"the loss at ratio 1, {total} tokens")
    expect_gradient(call, 0, args, -advantages / total, f"at ratio 1, {total} tokens")


def clipped_loss_gradient_of_clipped_tokens(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Beyond the bounds a token has no gradient where the advantage points further out, and -ratio · A/total elsewhere."""
    low, high = rng.choice([(0.1, 0.45), (0.3, 0.15), (0.2, 0.28)])
    new, old, advantages = tokens(rng, 24)
    ratio = (new - old).exp()
    clipped = ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))
    want = (-ratio * advantages / 50).masked_fill(clipped, 0.0)
    expect_gradient(call, 0, (new, old, advantages, 50, low, high), want, f"with low = {low}, high = {high}")


def clipped_loss_adds_up(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The losses of the parts of a mini-batch, with the total of the whole, add up to the loss of the whole."""
    new, old, advantages = tokens(rng, 9)
    cut = rng.randint(1, 8)
    parts = [call(new[part], old[part], advantages[part], 9, 0.2, 0.28) for part in (slice(0, cut), slice(cut, 9))]
    expect(parts[0] + parts[1], call(new, old, advantages, 9, 0.2, 0.28), f"{cut} tokens and {9 - cut} tokens")
    expect(call(new, old, advantages, 18, 0.2, 0.28) * 2, parts[0] + parts[1], "twice the loss with twice the total")


def clipped_loss_has_constants(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Old log-probabilities and advantages have no gradient."""
    new, old, advantages = tokens(rng, 6)
    for position, what in {1: "by old_logprobs", 2: "by advantages"}.items():
        expect_gradient(call, position, (new, old, advantages, 6, 0.2, 0.28), torch.zeros(6), what)


# --- KL ----------------------------------------------------------------------------------------------------------------


def kl_k3_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Half as likely, twice as likely and as likely under the reference: 1/2 + log 2 - 1, 2 - log 2 - 1 and 0."""
    want = torch.tensor([math.log(2) - 0.5, 1 - math.log(2), 0.0])
    expect(call(logs(0.5, 0.25, 0.3), logs(0.25, 0.5, 0.3)), want, "probabilities 1/2, 1/4, .3; reference 1/4, 1/2, .3")


def kl_k3_has_the_kl_as_its_mean(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Weighted with the policy's probabilities, it is KL(policy || reference); no value is negative."""
    for size in (3, 6):
        policy, other = normal(rng, size).log_softmax(0), normal(rng, size).log_softmax(0)
        got = call(policy, other)
        expect((policy.exp() * got).sum(), (policy.exp() * (policy - other)).sum(), "the mean under the policy")
        assert bool((got >= -1e-6).all()), f"a negative value: {got.tolist()}"


def kl_k3_gradient(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Its derivative by the log-probability is 1 - exp(d); the reference has none."""
    policy, other = normal(rng, 5), normal(rng, 5)
    weights = torch.arange(1.0, 6.0)
    expect_gradient(call, 0, (policy, other), weights * (1 - (other - policy).exp()), "of Σ i · k3_i by logprobs")
    expect_gradient(call, 1, (policy, other), torch.zeros(5), "of Σ i · k3_i by ref_logprobs")


# --- micro-batches -----------------------------------------------------------------------------------------------------


def random_mini_batch(rng: random.Random) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """Rows: ids, target (at least one) and advantage. No two rows are alike."""
    rows = []
    for i in range(6):
        length = rng.randint(3, 9)
        target = torch.arange(length) >= rng.randint(1, length - 1)
        rows.append((torch.arange(length) + 10 * i, target, rng.choice([-1.5, -0.5, 0.75, 2.0])))
    return rows


def batch_of(rows: list) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows padded with -1 to one batch, with one column of padding more."""
    length = 1 + max(len(ids) for ids, _, _ in rows)
    ids, target = torch.full((len(rows), length), -1), torch.zeros(len(rows), length, dtype=torch.bool)
    for i, (row, chosen, _) in enumerate(rows):
        ids[i, : len(row)], target[i, : len(row)] = row, chosen
    return ids, target, torch.tensor([advantage for _, _, advantage in rows])


def micro_batch_gradients(call: Callable, batches: list) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """What the function returns, its gradient by the log-probabilities of all batches in a row, and after how many forward
    passes each batch's gradient came. A target's log-probability is -id/100 here."""
    asked: list[int] = []

    def logprobs(ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        numbers = [i for i, batch in enumerate(batches) if ids.equal(batch[0]) and target.equal(batch[1])]
        assert numbers, "logprobs was called with something else than a batch's ids and target"
        asked.append(numbers[0])
        return -ids[target] / 100.0

    value, found = value_and_gradient(call, 1, batches, logprobs)
    expect(sorted(asked), list(range(len(batches))), "the batches that logprobs was called for")
    by_batch = {number: gradient for number, (gradient, _) in zip(asked, found, strict=True)}
    assert all(gradient is not None for gradient in by_batch.values()), "a batch without gradient"
    gradient = torch.cat([by_batch[i] for i in range(len(batches))])
    return torch.as_tensor(value, dtype=torch.float32), gradient, [calls for _, calls in found]


def backward_in_micro_batches_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Two batches: a row of three targets with advantage 2; rows of one and two targets with advantages -1 and 1."""
    batches = [
        batch_of([(torch.tensor([10, 20, 30, 40]), torch.tensor([False, True, True, True]), 2.0)]),
        batch_of([
            (torch.tensor([10, 50]), torch.tensor([False, True]), -1.0),
            (torch.tensor([10, 60, 70]), torch.tensor([False, True, True]), 1.0),
        ]),
    ]  # fmt: skip
    value, gradient, _ = micro_batch_gradients(call, batches)
    expect(gradient, torch.tensor([-2.0, -2.0, -2.0, 1.0, -1.0, -1.0]) / 6, "gradients of six targets, advantages 2, -1, 1")
    expect(value, torch.tensor((2 * 0.9 - 0.5 + 1.3) / 6), "the loss of six targets with log-probabilities -.2 … -.7")


def backward_in_micro_batches_of_any_split(call: Callable, reference: Callable, rng: random.Random) -> None:
    """However the rows are split, the gradient and the loss are the same."""
    rows = random_mini_batch(rng)
    whole, gradient, _ = micro_batch_gradients(call, [batch_of(rows)])
    for sizes in ([1, 5], [3, 3], [2, 1, 3], [1] * 6):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        parts = [batch_of(rows[start : start + size]) for start, size in zip(starts, sizes, strict=True)]
        value, other, _ = micro_batch_gradients(call, parts)
        expect(other, gradient, f"the gradient of batches of {sizes} rows, and of one batch")
        expect(value, whole, f"the loss of batches of {sizes} rows, and of one batch")


def backward_in_micro_batches_weighs_tokens(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Every target has -A/N of its own row, so that long rows weigh more; padding counts nowhere."""
    rows = random_mini_batch(rng)
    count = sum(int(target.sum()) for _, target, _ in rows)
    want = torch.cat([torch.full((int(target.sum()),), -advantage / count) for _, target, advantage in rows])
    _, gradient, _ = micro_batch_gradients(call, [batch_of(rows[:4]), batch_of(rows[4:])])
    expect(gradient, want, f"the gradient of {count} targets in six rows")


def backward_in_micro_batches_one_at_a_time(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The backward pass of a batch comes before the next forward pass."""
    batches = [batch_of([row]) for row in random_mini_batch(rng)]
    expect(micro_batch_gradients(call, batches)[2], [1, 2, 3, 4, 5, 6], "forward passes made when each gradient came")


RELATIONS = {
    "group_advantages": [
        group_advantages_anchor,
        group_advantages_of_each_group_alone,
        group_advantages_shift_and_scale,
        group_advantages_have_mean_0_and_variance_1,
        group_advantages_of_tied_groups,
        group_advantages_of_the_only_right_one,
    ],
    "right_padded": [
        right_padded_anchor,
        right_padded_keeps_the_rows,
        right_padded_counts_the_targets,
        right_padded_end_token,
    ],
    "gather_states": [gather_states_anchor, gather_states_takes_the_state_before],
    "target_logprobs": [
        target_logprobs_anchor,
        target_logprobs_is_the_full_softmax,
        target_logprobs_of_any_block,
        target_logprobs_gradient,
        target_logprobs_of_large_logits,
        target_logprobs_in_bounded_memory,
    ],
    "clipped_loss": [
        clipped_loss_anchor,
        clipped_loss_on_policy,
        clipped_loss_gradient_of_clipped_tokens,
        clipped_loss_adds_up,
        clipped_loss_has_constants,
    ],
    "kl_k3": [kl_k3_anchor, kl_k3_has_the_kl_as_its_mean, kl_k3_gradient],
    "backward_in_micro_batches": [
        backward_in_micro_batches_anchor,
        backward_in_micro_batches_of_any_split,
        backward_in_micro_batches_weighs_tokens,
        backward_in_micro_batches_one_at_a_time,
    ],
}
