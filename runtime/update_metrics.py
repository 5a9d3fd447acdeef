"""What an update measures on the way: sums over micro-batches, then over ranks, divided once."""

import math


class UpdateMetrics:
    """Sums of one update, over micro-batches and then ranks, divided once at the end."""

    LARGEST = ("gap_max", "ratio_max")

    def __init__(self):
        names = "entropy gap gap_max outside tokens loss clipped dual_clipped trained"
        self.sums = dict.fromkeys(names.split(), 0.0) | {"ratio_max": 1.0}

    def add(self, other):
        """What another UpdateMetrics has summed."""
        for name, x in other.sums.items():
            own = self.sums[name]
            self.sums[name] = max(own, x) if name in self.LARGEST else own + x

    def add_rollout(self, logp, sampler_logp, entropy, weight):
        """A micro-batch before its update: |old_logp - sampler_logp| and entropy, in nats."""
        if not weight or not len(logp):
            return
        gap = (logp - sampler_logp).abs()
        self.sums["entropy"] += weight * float(entropy.sum())
        self.sums["gap"] += weight * float(gap.sum())
        self.sums["outside"] += weight * float((gap > math.log(1.1)).sum())
        self.sums["tokens"] += weight * len(logp)
        self.sums["gap_max"] = max(self.sums["gap_max"], float(gap.max()))

    def add_loss(self, loss, stats, weight):
        """A micro-batch's summed loss and loss.policy_loss_sum's stats."""
        if not weight:
            return
        self.sums["loss"] += float(loss.detach())
        self.sums["trained"] += stats["tokens"]
        self.sums["clipped"] += stats["clipped"]
        self.sums["dual_clipped"] += stats["dual_clipped"]
        self.sums["ratio_max"] = max(self.sums["ratio_max"], stats["ratio_max"])

    def reduce(self, world, all_tokens):
        """The metrics to log; all_tokens: response tokens of the step, the denominator of what the
        samples without advantage have a share in.
        """
        total = world.all_reduce(self.sums, largest=self.LARGEST)
        measured, all_tokens = max(1, total["tokens"]), max(1, all_tokens)
        return {
            "loss": total["loss"] / all_tokens,
            "entropy": total["entropy"] / measured,
            "clip_share": total["clipped"] / all_tokens,
            "dual_clip_share": total["dual_clipped"] / all_tokens,
            "ratio_max": total["ratio_max"],
            "gap_mean": total["gap"] / measured,
            "gap_max": total["gap_max"],
            "gap_outside": total["outside"] / measured,
            "trained": int(total["trained"]),
        }
