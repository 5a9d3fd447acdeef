"""Micro-batches: which rows of a step share a forward, and which rank computes them.

    for batch, weight in shard_micro_batches(rows, cfg.micro_tokens, world, lm.share_prompts): ...

What counts is what is computed, padding included. Full rows cost rows x the longest prompt and
response. With shared prompts (shared_prompt.py) it is prompts x the longest prompt + rows x the
longest response; there a group is only cut where it exceeds the budget, or where its short
responses would carry more padding than its prompt is long. Pure: rows in, lists of rows out.
"""

import math

SLACK = 1.2  # what a group may cost in a batch with others, over what it costs alone
FIXED = 128  # one part in so many of the budget is worth a batch less (measured on a CPU)


def computed(rows, share_prompts):
    """Tokens that a forward of these rows (sample, advantage) computes."""
    if not share_prompts:
        return len(rows) * max(_length(row) for row in rows)
    prompts = {id(s.prompt): len(s.prompt.ids) for s, _ in rows}
    return _cost(prompts, len(rows), max(len(s.response_ids) for s, _ in rows))


def _cost(prompts, rows, response):
    return len(prompts) * max(prompts.values()) + rows * max(2, response)


def micro_batches(rows, budget, share_prompts=False):
    """Rows (sample, advantage) in lists that compute at most `budget` tokens each, at least one
    row; neighbours in length together.
    """
    if share_prompts:
        return _of_groups(rows, budget)
    batches, longest = [], 0
    for row in sorted(rows, key=_length, reverse=True):  # stable
        if batches and (len(batches[-1]) + 1) * longest <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = _length(row)
    return batches


def _length(row):
    return len(row[0].prompt.ids) + len(row[0].response_ids)


def by_prompt(rows):
    """The rows of each prompt together, in the order in which they came."""
    groups = {}
    for row in rows:
        groups.setdefault(id(row[0].prompt), []).append(row)
    return list(groups.values())


def _of_groups(rows, budget):
    parts = [part for group in by_prompt(rows) for part in _cut(group, budget)]

    def longest(part):
        return len(part[0][0].prompt.ids), len(part[0][0].response_ids)

    # by prompts first, or by responses first: whatever pads less
    orders = (longest, lambda part: longest(part)[::-1])
    found = [_joined(sorted(parts, key=order, reverse=True), budget) for order in orders]
    return min(found, key=lambda batches: sum(computed(b, True) + budget // FIXED for b in batches))


def _cut(group, budget):
    """A group in parts, longest responses first, each of which will compute the prompt: those that
    compute least in all.
    """
    rows = sorted(group, key=lambda row: len(row[0].response_ids), reverse=True)
    prompt, best = len(rows[0][0].prompt.ids), [(0, [])]  # of the first i rows: tokens, parts
    for end in range(1, len(rows) + 1):
        choices = []
        for begin, (tokens, parts) in enumerate(best):
            part = rows[begin:end]
            cost = _cost({0: prompt}, len(part), len(part[0][0].response_ids))
            if cost <= budget or len(part) == 1:
                choices.append((tokens + cost, [*parts, part]))
        best.append(min(choices, key=lambda choice: choice[0]))
    return best[-1][1]


def _joined(parts, budget):
    """Parts in batches, in their order."""
    batches, before = [], math.inf  # before: what the last batch costs
    prompts, longest = {}, 0  # lengths of its prompts, and its longest response
    for part in parts:
        first, _ = part[0]
        own, response = {id(first.prompt): len(first.prompt.ids)}, len(first.response_ids)
        alone = _cost(own, len(part), response)
        if batches:
            both = _cost(prompts | own, len(batches[-1]) + len(part), max(longest, response))
            if both <= budget and both - before <= SLACK * alone + budget // FIXED:
                batches[-1] += part
                before, longest = both, max(longest, response)
                prompts |= own
                continue
        batches.append([*part])
        before, prompts, longest = alone, own, response
    return batches


def shard_micro_batches(rows, budget, world, share_prompts=False):
    """This rank's share of the micro-batches as (rows, weight): equally many on every rank, or FSDP
    would wait for ever; those that run side by side cost about the same. weight is 0.0 for a repeat
    that only fills up, else 1.0.
    """
    batches = _levelled(rows, budget, world.size, share_prompts)
    batches.sort(key=lambda batch: computed(batch, share_prompts), reverse=True)  # stable
    share = [(batch, 1.0) for batch in batches[world.rank :: world.size]]
    missing = math.ceil(len(batches) / world.size) - len(share)
    return share + [(batch, 0.0) for batch in batches[:1]] * missing


def _levelled(rows, budget, size, share_prompts):
    """As many micro-batches a rank as the budget needs, of the smallest budget that gives no more:
    then no rank waits for others that have one batch more.
    """
    batches = micro_batches(rows, budget, share_prompts)
    most = math.ceil(len(batches) / size) * size
    low, high = 0, budget
    while size > 1 and high - low > max(1, budget // 64):
        middle = (low + high) // 2
        fewer = micro_batches(rows, middle, share_prompts)
        if len(fewer) <= most:
            high, batches = middle, fewer
        else:
            low = middle
    return batches
