"""Text, images and video -> token ids and vision inputs, once, through the model's own template.

Three promises, each with a test in tests/test_processor.py:
* The user's text is tokenized with special tokens switched off, apart from the template around it,
  so that no question and no candidate can open a turn, end one, or place an image (pitfall: a
  response pasted into a prompt carries `<|im_end|>`).
* Thinking is opened at most once. Qwen3.5's template opens `<think>` itself when thinking is on
  (our default for answering; the paper does not say which it used) and writes an empty, closed
  block when it is off.
* The closer is the same in training and in evaluation (ZPPO section 4.1 and Appendix B.2) and
  stands after all else.

Deliberately not here: transformers' processor class. `AutoProcessor` for Qwen3.5 needs torchvision
for its video half; the image processor and the tokenizer do not, and the few lines that expand
placeholders are below.

    prompt = encode(lm, "What is 2+2?" + CLOSER)        # lm: model.load("some/folder")
"""

from dataclasses import replace
from threading import Lock

import torch

from pictures import decode
from records import Prompt

# Ours in wording, the paper's in content: think first, inside tags, then the final answer in a box.
CLOSER = (
    "\n\nThink first, with the reasoning between <think> and </think>, "
    "then give the final answer in \\boxed{}."
)

_SLOT = "\u2402TEXT\u2402"  # stands for the user's text in the template; no template contains it
# split_special_tokens is a switch of the tokenizer itself, and a teacher's thread encodes as well
_ONE_AT_A_TIME = Lock()


def encode(lm, text, images=(), video=(), thinking=True):
    """One user turn, ready for the model to answer, as a Prompt with one placeholder id per image
    or video.

    lm: a loaded model (model.py); text: str, used verbatim; images, video: PIL images, or paths,
    data URIs, bytes that are opened when their pixels are needed. thinking: whether the template's
    generation prompt leaves `<think>` open (templates without the switch ignore it). Raises
    ValueError when the template drops or repeats the text, or when images are given to a text-only
    model.
    """
    if (images or video) and lm.image_processor is None:
        raise ValueError(
            f"{lm.path}: this model reads text only, but a question has images; "
            f"use an image-text-to-text model or text questions"
        )
    content = _SLOT  # text-only templates want a plain string
    if images or video:
        videos = [{"type": "video"}] if video else []
        content = [{"type": "image"} for _ in images] + videos + [{"type": "text", "text": _SLOT}]
    rendered = _render(lm, [{"role": "user", "content": content}], thinking)
    if rendered.count(_SLOT) != 1:
        raise ValueError(
            f"{lm.path}: its chat template wrote the user's text {rendered.count(_SLOT)} times, "
            f"not once"
        )
    head, tail = rendered.split(_SLOT)
    ids = (*_ids(lm, head), *_ids(lm, text, plain=True), *_ids(lm, tail))
    return Prompt(ids, tuple(images), tuple(video), text=text, thinking=thinking)


def encode_turns(lm, turns, thinking=True):
    """A conversation of (role, text) turns, ready for the model to answer, by the promises of
    encode. Raises ValueError.
    """
    slots = [f"{_SLOT}{i}{_SLOT}" for i in range(len(turns))]
    messages = [{"role": role, "content": slot} for (role, _), slot in zip(turns, slots)]
    rendered = _render(lm, messages, thinking)
    ids = ()
    for slot, (_, text) in zip(slots, turns):
        if rendered.count(slot) != 1:
            raise ValueError(
                f"{lm.path}: its chat template wrote a turn {rendered.count(slot)} times, not once"
            )
        head, rendered = rendered.split(slot)
        ids += (*_ids(lm, head), *_ids(lm, text, plain=True))
    return Prompt((*ids, *_ids(lm, rendered)))


def _render(lm, messages, thinking):
    return lm.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )


def _ids(lm, text, plain=False):
    # add_special_tokens=False: the template has written the BOS already, where there is one
    with _ONE_AT_A_TIME:
        return lm.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]


def control_strings(tokenizer):
    """Every tag that means something to this model or to our prompts; reformulate.clean removes
    them from candidates.
    """
    tags = {t for t in tokenizer.get_added_vocab() if t.startswith("<")}
    return sorted(tags | set(tokenizer.all_special_tokens))


# ---- vision inputs -------------------------------------------------------------------------------


def pixels(lm, prompt):
    """The vision inputs of one prompt: {"image": (values, grid)} and/or {"video": (values, grid)},
    empty for text.

    values: (patches, patch_dim) float; grid: (images, 3) int64, temporal x height x width in
    patches.
    """
    out = {}
    if prompt.images:
        x = lm.image_processor(
            images=opened(prompt.images, prompt, lm.max_pixels), return_tensors="pt"
        )
        out["image"] = x["pixel_values"], x["image_grid_thw"]
    if prompt.video:
        out["video"] = _video_pixels(lm, opened(prompt.video, prompt))
    return out


def opened(pictures, prompt, max_pixels=0):
    """The PIL images of a Prompt's images or video, larger ones scaled down to max_pixels (0: as
    they are). Raises BadImage where one does not open.
    """
    return decode(pictures, repr(prompt.text[:60]), max_pixels)


def _video_pixels(lm, frames):
    # The image processor repeats one frame to fill a temporal patch; a video puts consecutive
    # frames there instead.
    tp = lm.image_processor.temporal_patch_size
    frames = [*frames, *[frames[-1]] * (-len(frames) % tp)]
    x = lm.image_processor(images=frames, return_tensors="pt")
    grid = x["image_grid_thw"]
    if not (grid == grid[0]).all():
        raise ValueError("the frames of a video must have one size")
    h, w = int(grid[0, 1]), int(grid[0, 2])
    p = lm.image_processor.patch_size
    # frame f of a patch has tp equal copies
    values = x["pixel_values"].view(len(frames) // tp, tp, h * w, -1, tp, p * p)
    frames_of_patch = [values[:, f, :, :, f] for f in range(tp)]
    values = torch.stack(frames_of_patch, dim=3)  # (T/tp, h*w, C, tp, p*p)
    return values.reshape(-1, x["pixel_values"].shape[1]), torch.tensor([[len(frames) // tp, h, w]])


def expand(lm, prompt, vision):
    """`prompt` with each single placeholder id repeated to the number of visual tokens (what vLLM
    does by itself).

    A video becomes one block per temporal patch with its timestamp written before it, as Qwen3.5
    was trained. vision: pixels(lm, prompt). Returns a Prompt; raises ValueError when placeholders
    and images differ in number.
    """
    if not vision:
        return prompt
    merge = lm.image_processor.merge_size**2
    grids = list(vision["image"][1]) if "image" in vision else []
    videos = int("video" in vision)
    placeholders = prompt.ids.count(lm.image_id), prompt.ids.count(lm.video_id)
    if placeholders != (len(grids), videos):
        raise ValueError(
            f"{placeholders[0]} image and {placeholders[1]} video placeholders for {len(grids)} "
            f"images and {videos} videos"
        )
    ids, grids, source = [], iter(grids), list(prompt.ids)
    for k, token in enumerate(source):
        if token == lm.image_id:
            ids += [token] * (int(next(grids).prod()) // merge)
        elif token == lm.video_id:
            # the template wrote <vision_start> PAD <vision_end> once; each temporal patch gets its
            # own pair
            start, end, tp = source[k - 1], source[k + 1], lm.image_processor.temporal_patch_size
            t, h, w = vision["video"][1][0].tolist()
            ids.pop()
            for j in range(t):
                seconds = (j * tp + (tp - 1) / 2) / prompt.video_fps
                stamp = _ids(lm, f"<{seconds:.1f} seconds>")
                ids += [*stamp, start, *[token] * (h * w // merge), end]
            ids.pop()  # the template's own <vision_end> follows
        else:
            ids.append(token)
    return replace(prompt, ids=tuple(ids))


def length(lm, prompt):
    """Tokens of a prompt with its images and video expanded."""
    return len(expand(lm, prompt, pixels(lm, prompt)).ids)


def positions(lm, prompt, vision):
    """Rope positions of an expanded prompt: ((3, P) int64, the next free position). Text: all three
    rows 0..P-1.
    """
    P = len(prompt.ids)
    if not vision:
        return torch.arange(P).expand(3, P), P
    ids = torch.tensor([prompt.ids])
    kinds = (ids == lm.image_id).int() + 2 * (ids == lm.video_id).int()
    grids = {f"{k}_grid_thw": v[1] for k, v in vision.items()}
    pos, delta = lm.base.get_rope_index(ids, mm_token_type_ids=kinds, **grids)
    return pos[:, 0], P + int(delta)
