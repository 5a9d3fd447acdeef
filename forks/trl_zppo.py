"""ZPPO in TRL's GRPOTrainer: of ours, buffer, reformulate, loss, reward and math_equal are copied.

    pip install -r requirements-bench.txt
    python -m forks.trl_zppo --steps 15 --out runs/trl      # curve.jsonl: a line a rollout step

A generation batch of TRL has a fixed number of groups: new questions, slots for replayed ones and
for BCQ and NCQ; an empty slot takes a new question. All of a step happens in one rollout_func. TRL
gets our advantages as rewards and, with scale_rewards "none", keeps them: their group means are 0.

Differs from train.py: text only, no compression, the teacher answers again at each visit, no dual
clip, minibatches of rows. (The closer and the questions of the tiny world are imported, too.)
Measured: in two steps of 48 responses TRL's advantages were ours; no curve yet.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForImageTextToText, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import tiny
from buffer import Buffer
from loss import advantages
from processor import CLOSER
from reformulate import bcq, clean, distinct, ncq, post_cap, pre_cap
from reward import grade, last_boxed
from tiny.world import question_text

NEW, REPLAYED, HELPED, G, G_T, UPDATES, TAU = 32, 8, 8, 8, 4, 4, 0.5
tokenizer = AutoTokenizer.from_pretrained("assets/student")
teacher = AutoModelForImageTextToText.from_pretrained("assets/teacher")
questions = {}  # id: (text, gold answer); the digits are typed, not shown in a picture
for q in tiny.questions("train"):
    questions[q.id] = question_text(q.source, tiny.digits_of(q), "text"), q.answer


def sample(model, texts, n):
    """(prompt ids, response ids, response text) of n responses to each text, in order."""
    chats = [[{"role": "user", "content": text + CLOSER}] for text in texts]
    written = {"add_generation_prompt": True, "tokenize": False}
    prompts = tokenizer.apply_chat_template(chats, **written)
    x = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    draw = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": 40}
    with torch.no_grad():
        ids = model.generate(**x, num_return_sequences=n, **draw)
    rows = []
    for i, row in enumerate(ids[:, x.input_ids.shape[1] :].tolist()):
        end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
        prompt = x.input_ids[i // n][x.attention_mask[i // n].bool()].tolist()
        rows.append((prompt, row[:end], tokenizer.decode(row[:end], skip_special_tokens=True)))
    return rows


def rollout_func(prompts, trainer):
    """Algorithm 1, steps 1 to 5 and 7, and Eqs. 2 and 3. prompts: question ids, each G times."""
    ids, rng, buffer = prompts[::G], trainer.rng, trainer.buffer
    replayed = buffer.draw(REPLAYED, rng)
    plain = [*ids[:NEW], *replayed, *ids[NEW : NEW + REPLAYED - len(replayed)]]
    rows = sample(trainer.model, [questions[i][0] for i in plain], G)
    rewards = [grade(text, questions[plain[k // G]][1]) for k, (*_, text) in enumerate(rows)]
    mean = [sum(rewards[G * k : G * k + G]) / G for k in range(len(plain))]
    helped = []
    for k in pre_cap(mean, TAU, HELPED, rng) if trainer.zppo else ():
        text, gold = questions[plain[k]]
        wrong = [clean(rows[i][2]) for i in range(G * k, G * k + G) if not rewards[i]]
        answers = distinct([last_boxed(w) or "" for w in wrong])
        by_teacher = [clean(written) for *_, written in sample(teacher, [text], G_T)]
        right = [written for written in by_teacher if grade(written, gold)]
        made = [(bcq(text, rng.choice(right), rng.choice(wrong), rng), gold)] if right else []
        helped.append([*made, (ncq(text, wrong, answers, rng), gold)])
    more = post_cap(helped, HELPED)
    more += [questions[i] for i in ids[NEW + REPLAYED :]][: HELPED - len(more)]
    again = sample(trainer.model, [text for text, _ in more], G)
    rewards += [grade(text, more[k // G][1]) for k, (*_, text) in enumerate(again)]
    adv = advantages(rewards, [k // G for k in range(len(rewards))]).tolist()
    by_question = {i: [m for j, m in zip(plain, mean) if j == i] for i in plain}
    buffer.refresh({i: sum(m) / len(m) for i, m in by_question.items()}, trainer.state.global_step)
    counts = {event: buffer.counts[event].get("0.000", 0) for event in ("admitted", "graduated")}
    trainer.lines.append(json.dumps({"right": sum(mean[:NEW]) / NEW, **counts}) + "\n")
    trainer.curve.write_text("".join(trainer.lines))
    prompt_ids, completion_ids, _ = zip(*rows, *again)
    found = {"prompt_ids": list(prompt_ids), "completion_ids": list(completion_ids)}
    return found | {"logprobs": None, "advantage": adv}


def main():
    """Train; the curve is a line of JSON a rollout step."""
    p = argparse.ArgumentParser(prog="python -m forks.trl_zppo")
    p.add_argument("--steps", type=int, default=45)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--grpo", action="store_true", help="neither BCQ nor NCQ")
    p.add_argument("--out", default="runs/trl-zppo")
    args = p.parse_args()
    per_update = (NEW + REPLAYED + HELPED) * G // UPDATES
    settings = {"per_device_train_batch_size": per_update, "steps_per_generation": UPDATES}
    settings |= {"num_generations": G, "max_completion_length": 40, "scale_rewards": "none"}
    settings |= {"epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0, "adam_beta2": 0.999}
    settings |= {"learning_rate": 2e-4, "lr_scheduler_type": "constant", "max_grad_norm": 1.0}
    settings |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "seed": args.seed}
    settings |= {"save_strategy": "no", "report_to": "none", "max_steps": args.steps * UPDATES}
    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained("assets/student"),
        reward_funcs=lambda prompts, completions, advantage, **_: advantage,
        args=GRPOConfig(args.out, **settings),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": i} for i in questions]),
        rollout_func=rollout_func,
    )
    trainer.buffer, trainer.rng = Buffer(10_000, TAU), random.Random(args.seed)
    trainer.zppo, trainer.curve, trainer.lines = not args.grpo, Path(args.out) / "curve.jsonl", []
    trainer.curve.parent.mkdir(parents=True, exist_ok=True)
    trainer.train()


if __name__ == "__main__":
    main()
