"""Speed and memory of rollout, old_logp and update on random weights, beside plain `transformers`
code and TRL's GRPOTrainer.

    pip install -r requirements-bench.txt         # TRL, for that comparison only
    python -m bench                               # a recorded ZPPO step of the tiny world, a CPU
    python -m bench scaling                       # seconds against tokens, groups, buffer, data
    python -m bench teacher                       # what the teacher writes, by --teacher-scope
    python -m bench --student 0.8b                # one GPU; --response 2048 8192 is the default
    python -m bench --student 0.8b --device cpu --layers 4 --response 32 --n 2 --prompt 32 \\
        --what old_logp update head

    python -m bench gpu                           # a GPU day's report: bench/gpu.py says what

No download: a preset is a shape, assets/presets/NAME.json, filled with random weights. The model is
text-only in all three, so that TRL reads the same prompts. Flags that are not known here go to
train.py (--dtype, --device, --n, --engine, ...).

What is compared: whole rollout steps of --prompts x --n responses of exactly --response tokens (the
end token is banned on all sides), each graded by reward.grade, then I gradient updates (mu = 1)
with AdamW, gradient clipping, PPO clipping and old log-probs from a pass of their own, in
micro-batches of the same size. A step is
* ours: engine.sample, grade, policy.update; these are the production calls, and old_logp and update
  are timed by its own clock;
* transformers: the loop that one writes first: generate(), a forward with all logits, log_softmax,
  gather, backward;
* TRL: GRPOTrainer, its newest version, configured to the same work (trl_side.py says how, and what
  differs).
Without other flags the step is one of a real ZPPO run of the tiny world (zppo_step.json, written by
record.py): as many plain, replayed, BCQ and NCQ prompts, each as long as it was, the groups flat
that were; responses have the mean length, because TRL can't be told each. A flat group has no
gradient: we skip its backward, the other two train it with weight zero.

With --prompts (the tiny preset's own questions) or a larger preset each group of `ours` has both
rewards, so every row has a gradient; `ours, 50 % flat` and `ours, 80 % flat` are the same step with
so many flat groups.

Numbers: medians over --repeat steps after one that warms up, the contenders taking turns, because
the machine may be shared; a ratio is the median of the ratios inside a turn. On a CPU seconds are
core-seconds (process_time: all threads), on a GPU wall-clock with synchronization. tokens/s are
response tokens. MFU is model FLOPs (meter.flops; padding, recomputation and repeated work do not
count as useful) per second over the rate of large square matrix products measured here, in this
dtype. Memory: on a GPU the most that was allocated in a phase, weights and optimizer included; each
contender runs alone there. On a CPU the process's resident memory at its highest in the phase,
measured in the warm-up step.

    record.py      writes the step to be replayed
    work.py        the model, the prompts, the rewards: the same for all
    meter.py       FLOPs, the rate of matrix products, seconds and memory
    contenders.py  our step, the plain one; trl_side.py: TRL's
    scaling.py     one size after the other
    teacher.py     what the teacher is asked, simulated
    parts.py       the update of one long response, the head alone
    table.py       rows and text
"""
