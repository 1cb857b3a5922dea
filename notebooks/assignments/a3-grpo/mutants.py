"""Assignment 3: wrong versions of its functions, each a mistake that has been made.

What only a gradient shows, or what needs a layer, cannot be written as numbers: those have no counterexample.
"""

from minisw.course.mutants import Mutant

GROUPS = ([[1, 0, 0], [2, 0, 2]],)
STD = "deviations.square().mean(1, keepdim=True).sqrt()"
ROWS = ([[5, 6, 0], [7, 0]], [1, 1], 0)
STATES = ([[[0.5], [0.25], [0.75]]], [[4, 5, 6]], [[False, True, False]])
DETACHED = "old_logprobs, advantages = old_logprobs.detach(), advantages.detach()"
BLOCK_ROWS = "max(1, block // head.weight.shape[0])"
K3 = "difference.exp() - difference - 1"
RATIO = "(logprobs - old_logprobs).exp()"
CLAMP = "ratio.clamp(1 - clip_low, 1 + clip_high)"
MINIMUM = "torch.minimum(ratio * advantages, clipped * advantages)"
TOTAL = "sum(int(target.sum()) for _, target, _ in batches)"
BATCH = "loss = -(per_token * logprobs(ids, target)).sum() / num_tokens"
STEP = "        loss.backward()\n        total += loss.item()\n"


def clipped(ratio_log: float, advantage: float) -> tuple:
    """Arguments of the clipped loss for one token among ten."""
    return ([ratio_log], [0.0], [advantage], 10, 0.2, 0.3)


MUTANTS = [
    Mutant("mean over the batch", "group_advantages", "rewards.mean(1, keepdim=True)", "rewards.mean()", GROUPS),
    Mutant("std over the batch", "group_advantages", STD, "deviations.square().mean().sqrt()", GROUPS),
    Mutant("std over the wrong axis", "group_advantages", STD, "deviations.square().mean(0, keepdim=True).sqrt()", GROUPS),
    Mutant("n - 1", "group_advantages", STD, "rewards.std(1, keepdim=True)", GROUPS),
    Mutant("not divided", "group_advantages", "deviations / (std + 1e-4)", "deviations", GROUPS),
    Mutant("variance", "group_advantages", ".mean(1, keepdim=True).sqrt()", ".mean(1, keepdim=True)", GROUPS),
    Mutant("mean absolute deviation", "group_advantages", STD, "deviations.abs().mean(1, keepdim=True)", GROUPS),
    Mutant("rounding in tied groups", "group_advantages", ".masked_fill(tied, 0.0)", "", ([[0.7] * 7],)),
    Mutant(
        "one equal pair ties a group",
        "group_advantages",
        "rewards.amin(1, keepdim=True)",
        "rewards.median(1, keepdim=True)[0]",
        ([[1, 1, 0]],),
    ),
    Mutant("sign", "group_advantages", "return deviations", "return -deviations", GROUPS),
    Mutant("mean not subtracted", "group_advantages", "deviations / (std", "rewards / (std", GROUPS),
    Mutant(
        "no constant in the denominator",
        "group_advantages",
        "deviations / (std + 1e-4)",
        "deviations / std.clamp(min=1e-9)",
        ([[0.001, 0]],),
    ),
    Mutant("end token masked out", "right_padded", "start : len(row)]", "start : len(row) - 1]", ROWS),
    Mutant("mask by pad id", "right_padded", "return ids, target", "return ids, target & (ids != pad)", ROWS),
    Mutant("prompt's last token trained", "right_padded", "target[i, start :", "target[i, start - 1 :", ROWS),
    Mutant("first completion token lost", "right_padded", "target[i, start :", "target[i, start + 1 :", ROWS),
    Mutant("padding trained", "right_padded", "target[i, start : len(row)]", "target[i, start:]", ROWS),
    Mutant("prompt trained", "right_padded", "target[i, start :", "target[i, :", ROWS),
    Mutant("left padding", "right_padded", "ids[i, : len(row)]", "ids[i, ids.shape[1] - len(row) :]", ROWS),
    Mutant("padded with zeros", "right_padded", "map(len, rows))), pad)", "map(len, rows))), 0)", ([[5, 6], [7]], [1, 1], 3)),
    Mutant("one column too many", "right_padded", "max(map(len, rows))", "max(map(len, rows)) + 1", ROWS),
    Mutant("targets as numbers", "right_padded", "dtype=torch.bool", "dtype=torch.int64"),
    Mutant("state of the token itself", "gather_states", "hidden[:, :-1]", "hidden[:, 1:]", STATES),
    Mutant("mask not shifted", "gather_states", "target[:, 1:]", "target[:, :-1]", STATES),
    Mutant("ids not shifted", "gather_states", "ids[:, 1:]", "ids[:, :-1]", STATES),
    Mutant("all positions", "gather_states", "chosen = target[:, 1:]", "chosen = torch.ones_like(target[:, 1:])", STATES),
    Mutant(
        "column by column",
        "gather_states",
        "return hidden[:, :-1][chosen], ids[:, 1:][chosen]",
        "return hidden[:, :-1].transpose(0, 1)[chosen.T], ids[:, 1:].T[chosen.T]",
    ),
    Mutant("temperature forgotten", "target_logprobs", ".float() / temperature", ".float()"),
    Mutant("temperature multiplied", "target_logprobs", ".float() / temperature", ".float() * temperature"),
    Mutant("short block dropped", "target_logprobs", "range(0, len(targets), rows)", "range(0, len(targets) - rows + 1, rows)"),
    Mutant("all logits at once", "target_logprobs", BLOCK_ROWS, "max(1, len(targets))", large=True),
    Mutant("block counted in rows", "target_logprobs", BLOCK_ROWS, "block", large=True),
    Mutant("no row in a small block", "target_logprobs", BLOCK_ROWS, "block // head.weight.shape[0]"),
    Mutant("detached", "target_logprobs", ".apply(states,", ".apply(states.detach(),"),
    Mutant("entropy's sign", "target_logprobs", "-logp.mul_(p).sum(-1)", "logp.mul_(p).sum(-1)"),
    Mutant("entropy in bits", "target_logprobs", "-logp.mul_(p).sum(-1)", "-logp.mul_(p).sum(-1) / 0.6931472"),
    Mutant("softmax over positions", "target_logprobs", "log_softmax(-1)", "log_softmax(0)"),
    Mutant("logits for log-probabilities", "target_logprobs", "logps.append(logp.gather", "logps.append(logits.gather"),
    Mutant(
        "overflow of large logits",
        "target_logprobs",
        "logits.log_softmax(-1)",
        "(logits.exp() / logits.exp().sum(-1, keepdim=True)).log()",
    ),
    Mutant("temperature not in the gradient", "target_logprobs", "/ -temperature", "/ -1.0"),
    Mutant("sign of the gradient", "target_logprobs", "/ -temperature", "/ temperature"),
    Mutant("gradient of other tokens forgotten", "target_logprobs", "(p.to(head", "((p * (p < 0)).to(head"),
    Mutant("gradients of the loss ignored", "target_logprobs", "upstream[:, None] * gradients", "gradients"),
    Mutant("bounds swapped", "clipped_loss", CLAMP, "ratio.clamp(1 - clip_high, 1 + clip_low)", clipped(0.5, 1.0)),
    Mutant("both bounds alike", "clipped_loss", CLAMP, "ratio.clamp(1 - clip_low, 1 + clip_low)", clipped(0.5, 1.0)),
    Mutant("max for min", "clipped_loss", "torch.minimum", "torch.maximum", clipped(0.5, 1.0)),
    Mutant("clipped only", "clipped_loss", MINIMUM, "(clipped * advantages)", clipped(0.5, -1.0)),
    Mutant("never clipped", "clipped_loss", MINIMUM, "(ratio * advantages)", clipped(0.5, 1.0)),
    Mutant("sign", "clipped_loss", "return -torch", "return torch", clipped(0.5, 1.0)),
    Mutant("advantage not detached", "clipped_loss", DETACHED, "old_logprobs = old_logprobs.detach()"),
    Mutant("old log-probabilities not detached", "clipped_loss", DETACHED, "advantages = advantages.detach()"),
    Mutant("no exp", "clipped_loss", RATIO, "(logprobs - old_logprobs)", clipped(0.5, 1.0)),
    Mutant("ratio upside down", "clipped_loss", RATIO, "(old_logprobs - logprobs).exp()", clipped(0.5, 1.0)),
    Mutant("own tokens for the total", "clipped_loss", "/ num_tokens", "/ len(logprobs)", clipped(0.5, 1.0)),
    Mutant("not divided", "clipped_loss", " / num_tokens", "", clipped(0.5, 1.0)),
    Mutant(
        "log-ratio clipped",
        "clipped_loss",
        CLAMP,
        "(logprobs - old_logprobs).clamp(-clip_low, clip_high).exp()",
        clipped(0.5, 1.0),
    ),
    Mutant("k1", "kl_k3", K3, "-difference", ([0.0], [1.0])),
    Mutant("k2", "kl_k3", K3, "difference.square() / 2", ([0.0], [1.0])),
    Mutant("the other way round", "kl_k3", "ref_logprobs.detach() - logprobs", "logprobs - ref_logprobs", ([0.0], [1.0])),
    Mutant("1 not subtracted", "kl_k3", K3, "difference.exp() - difference", ([0.0], [1.0])),
    Mutant("reference not detached", "kl_k3", "ref_logprobs.detach()", "ref_logprobs"),
    Mutant("one value for all tokens", "kl_k3", "return difference", "return 0 * difference + difference.mean()"),
    Mutant(
        "normalised per micro-batch", "backward_in_micro_batches", BATCH, BATCH.replace("num_tokens", "int(target.sum())")
    ),
    Mutant(
        "mean of row means",
        "backward_in_micro_batches",
        BATCH,
        "sizes = target.sum(1)\n"
        "        weights = per_token / sizes.repeat_interleave(sizes) / sum(len(b[0]) for b in batches)\n"
        "        loss = -(weights * logprobs(ids, target)).sum()",
    ),
    Mutant(
        "last batch's gradient only",
        "backward_in_micro_batches",
        STEP,
        "        total += loss.item()\n    loss.backward()\n",
    ),
    Mutant(
        "one backward at the end",
        "backward_in_micro_batches",
        STEP,
        "        total = total + loss\n    total.backward()\n    total = total.item()\n",
    ),
    Mutant(
        "advantage by column",
        "backward_in_micro_batches",
        "advantages.repeat_interleave(target.sum(1))",
        "advantages[torch.arange(int(target.sum())) % len(advantages)]",
    ),
    Mutant("padding in the total", "backward_in_micro_batches", TOTAL, "sum(ids.numel() for ids, _, _ in batches)"),
    Mutant("sign", "backward_in_micro_batches", "loss = -(per", "loss = (per"),
    Mutant("last batch's loss returned", "backward_in_micro_batches", "total += loss", "total = loss"),
]
