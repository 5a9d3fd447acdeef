"""The stock transformers forward of one unpadded row: pixels in, no cache, no chunks, transformers'
own positions. What our sampler, trainer and update are compared with.
"""

import math

import torch

from processor import pixels


def stock_inputs(lm, ids, prompt):
    """What the model's own processor would hand to it."""
    ids = torch.tensor([ids])
    kwargs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.images or prompt.video:
        kwargs["mm_token_type_ids"] = (ids == lm.image_id).int() + 2 * (ids == lm.video_id).int()
    for kind, (values, grid) in pixels(lm, prompt).items():
        name = "pixel_values_videos" if kind == "video" else "pixel_values"
        kwargs |= {name: values, f"{kind}_grid_thw": grid}
    return kwargs


def stock_logp(lm, sample, temperature=1.0, covered=0):
    """(R,) log-probs of a sample's response; covered: and of so many prompt tokens before it."""
    ids, first = [*sample.prompt.ids, *sample.response_ids], len(sample.prompt.ids) - covered
    logits = lm.net(**stock_inputs(lm, ids, sample.prompt), use_cache=False).logits[0].float()
    banned = torch.isin(torch.arange(logits.shape[-1]), lm.banned)
    logits = logits[first - 1 : -1].masked_fill(banned, -math.inf)
    logp = torch.log_softmax(logits / temperature, -1)
    return logp.gather(-1, torch.tensor(ids[first:])[:, None])[:, 0]
