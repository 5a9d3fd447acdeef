"""TRL's GRPOTrainer on the work of the other contenders, timed from outside. Needs `trl`
(requirements-bench.txt).

Set to our work: the same model shape, prompts, n, exact response length (min_new_tokens), grader,
temperature 1, no top-k, no KL term, PPO clip 0.2 / 0.28, AdamW, gradient clip 1, the same number of
gradient updates from one generation (mu = 1), the same micro-batch, no scheduler, no saving, no
evaluation, nothing reported. Gradient checkpointing, which TRL turns on by itself, is as in our
run. The weights are float32; on a GPU bf16 autocast, as ours.

Where the time goes: `rollout` is _generate_and_score_completions (tokenizing, generate(), decoding,
rewards, advantages, its logs) less `old_logp`, its call of _get_per_token_logps_and_entropies
without gradient, which TRL makes here because four updates follow; `update` is all the rest of its
loop: forward, loss, backward, optimizer, accelerate, bookkeeping.

What differs from ours: TRL prefills each prompt n times and keeps no log-probs of the sampler, has
no dual clip, averages by its default loss ("dapo"), trains flat groups like all others, and
shuffles rows instead of groups over the updates.
"""

import tempfile

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from bench.meter import Meter, read_peak, reset_peak
from bench.table import PHASES
from bench.work import rewards


class Timed(GRPOTrainer):
    """GRPOTrainer with two of its calls on `self.meter`."""

    meter = None

    def _generate_and_score_completions(self, inputs):
        # "generation" holds "old_logp"; its memory would be reset in between, so only the inner
        # ones are metered for that
        start = self.meter.now()
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.meter.add("generation", start, self.meter.now())

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        start = self.meter.now()
        try:
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        finally:
            self.meter.add("old_logp", start, self.meter.now())


class Turns(TrainerCallback):
    """Starts a Meter before each generation, and lets the other contenders run between two of TRL's
    rollout steps: others(k) before the k-th.
    """

    def __init__(self, trainer, updates, device, others):
        self.trainer, self.updates, self.device = trainer, updates, device
        self.others, self.meters = others, []

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % self.updates == 0:
            k = state.global_step // self.updates
            self.others(k)
            self.trainer.meter = Meter(self.device, memory=k == 0)
            if k == 0:
                reset_peak(self.trainer.meter.cuda)
            self.begin = self.trainer.meter.now()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.updates == 0:
            meter = self.trainer.meter
            meter.add("update", self.begin, meter.now())
            for clock in (meter.seconds, meter.wall):
                generation = clock.pop("generation")
                clock["update"] -= generation
                clock["rollout"] = generation - clock["old_logp"]
            if meter.memory:  # of the whole step: its phases are not told apart
                meter.peak = dict.fromkeys(PHASES, read_peak(meter.cuda))
            self.meters.append(meter)


def config(cfg, work, repeat, folder):
    """TRL's own config, set to our work."""
    per_update = len(work.prompts) * work.n // work.iterations // work.micro_batch
    cuda = cfg.device.startswith("cuda")
    return GRPOConfig(
        folder,
        per_device_train_batch_size=work.micro_batch,
        gradient_accumulation_steps=per_update,
        steps_per_generation=per_update * work.iterations,
        num_iterations=1,
        num_generations=work.n,
        max_completion_length=work.response,
        generation_kwargs={"min_new_tokens": work.response},
        temperature=cfg.temperature,
        top_p=1.0,
        top_k=0,
        beta=0.0,
        epsilon=cfg.clip_low,
        epsilon_high=cfg.clip_high,
        learning_rate=cfg.lr,
        lr_scheduler_type="constant",
        weight_decay=cfg.weight_decay,
        adam_beta1=cfg.beta1,
        adam_beta2=cfg.beta2,
        adam_epsilon=cfg.adam_eps,
        max_grad_norm=cfg.grad_clip,
        max_steps=(repeat + 1) * work.iterations,
        bf16=cuda and cfg.dtype == "bfloat16",
        use_cpu=not cuda,
        gradient_checkpointing=cfg.checkpointing,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


def steps(lm, cfg, work, repeat, others):
    """The Meters of a warm-up rollout step and `repeat` more; others(k): called before the k-th."""
    golds, flat = dict(zip(work.texts, work.golds)), dict(zip(work.texts, work.flat))

    def scores(prompts, completions, **_):
        asked = prompts[:: work.n]
        spread = tuple(flat[p] for p in asked) if work.flat else 0
        return rewards(completions, [golds[p] for p in asked], work.n, spread)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=lm.net,
            reward_funcs=scores,
            args=config(cfg, work, repeat, folder),
            processing_class=lm.tokenizer,
            train_dataset=Dataset.from_list([{"prompt": text} for text in work.texts]),
        )
        turns = Turns(trainer, work.iterations, cfg.device, others)
        trainer.add_callback(turns)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    history = trainer.state.log_history
    lengths = {x["completions/mean_length"] for x in history if "completions/mean_length" in x}
    expected = {float(work.response)}
    assert lengths <= expected, f"TRL's responses were not {work.response} tokens long: {lengths}"
    return turns.meters
