"""One rollout step done by us and by plain transformers code, and who takes which turn.

A contender is made once; step(meter) does all of one rollout step and leaves its seconds and peak
memory in the meter, by phase.
"""

import copy
import gc
import random
import tempfile
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch.nn.utils import clip_grad_norm_

import model
import shared_prompt
from bench.meter import Meter
from bench.work import random_lm, rewards, spread_rewards
from distributed import World
from engines import open_engine
from engines.base import default_kind
from loss import advantages
from optimizer import adamw
from policy import Policy, shard_policy, update
from records import Group, Sample
from rollout import sync_weights

# ---- ours ----------------------------------------------------------------------------------------


class Trainer:
    """The trained model, its optimizer, and policy.update on one rank. longest: tokens of the
    longest row, so that a micro-batch has micro_batch of them; prompts are shared where the model
    can. bare: never under FSDP. sampler: the engine that samples, as train.py tells shard_policy.
    """

    def __init__(self, lm, cfg, micro_batch, longest, bare=False, sampler=None):
        self.cfg, self.world = copy.copy(cfg), World(device=cfg.device)
        self.cfg.micro_tokens = micro_batch * longest
        shared_prompt.decide([lm], self.world)
        # first: it replaces what it shards
        self.policy = Policy(lm) if bare else shard_policy(lm, self.world, sampler=sampler)
        self.optimizer = adamw(lm.net, cfg)
        self.rng = random.Random(0)

    def update(self, groups, adv, meter):
        """policy.update, timed by the meter."""
        setting = self.cfg, self.world
        update(self.policy, self.optimizer, groups, adv, *setting, rng=self.rng, clock=meter)


def our_engine(lm, config, cfg, longest):
    """The engine that train.py would sample with."""
    kind = cfg.engine or default_kind(cfg.device)
    if kind == "vllm" and (cfg.engine or find_spec("vllm")):
        folder = tempfile.mkdtemp(prefix="zppo-bench-")
        model.save(lm, folder)
        sizes = {"max_len": longest, "max_num_seqs": cfg.max_num_seqs}
        settings = {"memory": cfg.vllm_memory, "dtype": cfg.dtype} | sizes
        return open_engine("vllm", lm, path=folder, **settings)
    if cfg.device.startswith("cuda"):  # the trainer's net is sharded there
        lm = random_lm(config, cfg)
        lm.net.to(getattr(torch, cfg.dtype))
    return open_engine("hf", lm)


def grouped(drawn, scores, n):
    """(Groups, advantages) of drawn samples, as the training loop makes them."""
    groups = []
    for i, samples in enumerate(drawn):
        scored = zip(samples, scores[i * n : (i + 1) * n])
        samples = tuple(replace(s, group_id=i, reward=r) for s, r in scored)
        groups.append(Group(i, "plain", "new", None, samples))
    return groups, advantages(scores, [g.id for g in groups for _ in g.samples]).tolist()


def invented(prompts, n, response):
    """n Samples of random ids to each prompt, for the update alone: long responses take long to
    draw.
    """
    rng = random.Random(1)

    def sample(prompt):
        ids = tuple(rng.choices(range(90), k=response))
        return Sample(prompt, ids, (0.0,) * response, "", True)

    return [[sample(p) for _ in range(n)] for p in prompts]


class Ours:
    """The production calls. flat: only every flat-th group has unequal rewards; draw: sample the
    responses, or invent them once.
    """

    def __init__(self, config, cfg, work, flat=0, draw=True):
        self.cfg, self.work, self.flat, self.seed = cfg, work, flat or work.flat, 0
        lm = random_lm(config, cfg)
        self.engine = our_engine(lm, config, cfg, work.longest) if draw else None
        self.invented = None if draw else invented(work.prompts, work.n, work.response)
        self.trainer = Trainer(lm, cfg, work.micro_batch, work.longest, sampler=self.engine)

    def rollout(self):
        """Graded groups of new samples, and their advantages."""
        work = self.work
        self.seed += 1
        self.engine.wake()
        settings = work.n, work.response, self.seed, self.cfg.temperature
        drawn = self.engine.sample(work.prompts, *settings)
        texts = [s.text for samples in drawn for s in samples]
        scored = grouped(drawn, rewards(texts, work.golds, work.n, self.flat), work.n)
        self.engine.sleep()
        return scored

    def step(self, meter):
        """One rollout step."""
        work = self.work
        if self.engine:
            with meter("rollout"):
                groups, adv = self.rollout()
        else:
            scores = spread_rewards(len(work.prompts) * work.n, work.n, work.flat)
            groups, adv = grouped(self.invented, scores, work.n)
        assert all(len(s.response_ids) == work.response for g in groups for s in g.samples)
        self.trainer.update(groups, adv, meter)
        if self.engine and not self.engine.holds(self.trainer.policy.lm.net):
            with meter("sync"):
                sync_weights(self.trainer.policy, self.engine)


# ---- plain transformers --------------------------------------------------------------------------


class Plain:
    """What one writes with `transformers` alone: generate(), all logits, log_softmax, gather."""

    def __init__(self, config, cfg, work):
        self.lm, self.cfg, self.work = random_lm(config, cfg), cfg, work
        self.net, self.optimizer = self.lm.net, adamw(self.lm.net, cfg)

    def logp(self, ids, mask):
        """(rows, response) log-probs and entropies of the last `response` tokens."""
        with self.lm.autocast():
            logits = self.net(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logits = logits[:, -self.work.response - 1 : -1].float() / self.cfg.temperature
        logp = torch.log_softmax(logits, -1)
        with torch.no_grad():
            entropy = -(logp.exp() * logp).sum(-1)
        return logp.gather(-1, ids[:, -self.work.response :, None])[..., 0], entropy

    def rollout(self):
        """(rows, T) ids and mask, and (rows,) advantages."""
        work, tokenizer, device = self.work, self.lm.tokenizer, self.cfg.device
        rows = len(work.prompts) * work.n
        x = tokenizer(work.texts, return_tensors="pt", padding=True, padding_side="left").to(device)
        ids = self.net.generate(
            **{name: x[name] for name in ("input_ids", "attention_mask")},
            do_sample=True,
            top_k=0,
            temperature=self.cfg.temperature,
            num_return_sequences=work.n,
            max_new_tokens=work.response,
            min_new_tokens=work.response,
        )
        texts = tokenizer.batch_decode(ids[:, -work.response :], skip_special_tokens=True)
        scores = rewards(texts, work.golds, work.n, work.flat)
        adv = advantages(scores, [i // work.n for i in range(rows)]).to(device, torch.float32)
        written = torch.ones(rows, work.response, dtype=torch.long, device=device)
        mask = torch.cat([x["attention_mask"].repeat_interleave(work.n, 0), written], dim=1)
        assert ids.shape[1] == mask.shape[1], "generate() stopped early"
        return ids, mask, adv

    def update(self, ids, mask, adv, minibatches, old_logps):
        """The gradient updates; minibatches: lists of row numbers by micro-batch."""
        low, high = 1 - self.cfg.clip_low, 1 + self.cfg.clip_high
        for minibatch, olds in zip(minibatches, old_logps):
            tokens = sum(len(i) for i in minibatch) * self.work.response
            self.optimizer.zero_grad()
            for i, old_logp in zip(minibatch, olds):
                ratio = torch.exp(self.logp(ids[i], mask[i])[0] - old_logp)
                a = adv[i, None]
                objective = torch.min(ratio * a, ratio.clamp(low, high) * a)
                (-objective.sum() / tokens).backward()
            clip_grad_norm_(self.net.parameters(), self.cfg.grad_clip)
            self.optimizer.step()

    def step(self, meter):
        """One rollout step."""
        with meter("rollout"), torch.no_grad(), self.lm.autocast():
            ids, mask, adv = self.rollout()
        parts = torch.randperm(len(ids), device=self.cfg.device).chunk(self.work.iterations)
        minibatches = [part.split(self.work.micro_batch) for part in parts]
        with meter("old_logp"), torch.no_grad():
            old = [[self.logp(ids[i], mask[i])[0] for i in mini] for mini in minibatches]
        with meter("update"):
            self.update(ids, mask, adv, minibatches, old)


# ---- taking turns --------------------------------------------------------------------------------


def compare(config, cfg, args, work):
    """{name: list of Meters, the first from the warm-up step}, or {name: why it was not measured}.

    On a GPU one after the other, so that each has its memory to itself; else in turn.
    """
    draw = "rollout" in args.what
    makers = {"ours": lambda: Ours(config, cfg, work, draw=draw)}
    if draw and args.student == "tiny" and not args.recorded:
        makers["ours, 50 % flat"] = lambda: Ours(config, cfg, work, flat=2)
        makers["ours, 80 % flat"] = lambda: Ours(config, cfg, work, flat=5)
    if draw and "transformers" in args.what:
        makers["transformers"] = lambda: Plain(config, cfg, work)
    found, with_trl = {}, draw and "trl" in args.what
    trl_steps = lambda turn: None
    if with_trl and find_spec("trl") is None:
        found["trl"] = "trl is not installed: pip install -r requirements-bench.txt"
        with_trl = False
    elif with_trl:
        from bench import trl_side  # seconds to import, and only this part needs it

        lm = lambda: random_lm(config, cfg)
        trl_steps = lambda turn: trl_side.steps(lm(), cfg, work, args.repeat, turn)

    if cfg.device.startswith("cuda"):
        found = {name: guarded(lambda: alone(make, cfg, args)) for name, make in makers.items()}
        if with_trl:
            found["trl"] = guarded(lambda: trl_steps(lambda k: None))
        return found

    contenders = {name: make() for name, make in makers.items()}
    meters = {name: [] for name in makers}

    def turn(k):
        for name, contender in contenders.items():
            meters[name].append(Meter(cfg.device, memory=k == 0))
            contender.step(meters[name][-1])

    if with_trl:  # its loop can't be stepped from outside: it calls the others
        found["trl"] = trl_steps(turn)
    else:
        for k in range(args.repeat + 1):
            turn(k)
    return meters | found


def alone(make, cfg, args):
    """The Meters of a warm-up step and --repeat more of one contender."""
    contender, meters = make(), []
    for _ in range(args.repeat + 1):
        meters.append(Meter(cfg.device, memory=True))
        contender.step(meters[-1])
    return meters


def guarded(measure):
    """measure(), or the words "out of memory"; what it held is given back."""
    try:
        return measure()
    except torch.cuda.OutOfMemoryError:
        return "out of memory"
    finally:
        gc.collect()
        torch.cuda.empty_cache()
