"""Text, images and video -> token ids and vision inputs, once, through the model's own template.

Three promises, each with a test in tests/test_processor.py:
* The ids are those of the template's own tokenization; but a marker in the user's text (what opens
  a turn, ends one, or places an image) is tokenized letter by letter, so that no question and no
  candidate can act as one (pitfall: a response pasted into a prompt carries `<|im_end|>`).
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

import math
import re
from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from threading import Lock, Thread

import torch

from pictures import decode, shown_size
from records import Prompt

# Ours in wording, the paper's in content: think first, inside tags, then the final answer in a box.
CLOSER = (
    "\n\nThink first, with the reasoning between <think> and </think>, "
    "then give the final answer in \\boxed{}."
)

_SLOT = "\u2402TEXT\u2402"  # stands for the user's text in the template; no template contains it
# split_special_tokens is a switch of the tokenizer itself, and a teacher's thread encodes as well
_ONE_AT_A_TIME = Lock()
# a tag as templates write them, and the two that our own prompts speak of
_TAG, _THINK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]"), {"<think>", "</think>"}


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
    ids = _joined(lm, rendered.split(_SLOT), [text])
    return Prompt(ids, tuple(images), tuple(video), text=text, thinking=thinking)


def encode_turns(lm, turns, thinking=True):
    """A conversation of (role, text) turns, ready for the model to answer, by the promises of
    encode. Raises ValueError.
    """
    slots = [f"{_SLOT}{i}{_SLOT}" for i in range(len(turns))]
    messages = [{"role": role, "content": slot} for (role, _), slot in zip(turns, slots)]
    rendered = _render(lm, messages, thinking)
    frame = []
    for slot in slots:
        if rendered.count(slot) != 1:
            raise ValueError(
                f"{lm.path}: its chat template wrote a turn {rendered.count(slot)} times, not once"
            )
        head, rendered = rendered.split(slot)
        frame.append(head)
    ids = _joined(lm, [*frame, rendered], [text for _, text in turns])
    return Prompt(ids, text=turns[-1][1], turns=tuple(turns[:-1]), thinking=thinking)


def _render(lm, messages, thinking):
    """The template's text. Raises ValueError with one line for whatever the template raises."""
    try:
        return lm.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
    except Exception as e:
        why = (str(e).strip() or type(e).__name__).splitlines()[0][:200]
        raise ValueError(
            f"{lm.path}: its chat template can't write a question ({why}); mend chat_template.jinja"
        ) from e


def _ids(lm, text, plain=False):
    # add_special_tokens=False: the template has written the BOS already, where there is one
    with _ONE_AT_A_TIME:
        return lm.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]


# ---- text that can't act -------------------------------------------------------------------------


def text_ids(lm, text):
    """Token ids of a text that stands in no template; nothing in it acts."""
    return _joined(lm, ["", ""], [text])


def _joined(lm, frame, texts):
    """Token ids of frame[0] + texts[0] + frame[1] + ...: as one text, as the template's own would
    be, but cut around and inside of every marker in the texts.
    """
    others = (*lm.eos_ids, lm.image_id, lm.video_id)
    markers, marker_ids = _markers(lm.tokenizer, str(lm.tokenizer.chat_template), others)
    many = lambda ids: sum(i in marker_ids for i in ids)
    ids = _pieces(lm, frame, texts, markers)
    if many(ids) != many(_ids(lm, "".join(frame))):  # the tokenizer reads other letters as one, too
        ids = _pieces(lm, frame, texts, re.compile("(?s).+"))
    return tuple(ids)


def _pieces(lm, frame, texts, markers):
    inner, pieces, out = frame[0], [], []
    for text, after in zip(texts, frame[1:]):
        at = 0
        for m in markers.finditer(text):
            pieces += [inner + text[at : m.start()], *m[0]]
            inner, at = "", m.end()
        inner += text[at:] + after
    pieces.append(inner)
    for k, piece in enumerate(pieces):
        out += _continued(lm, piece, plain=len(piece) == 1) if k else _ids(lm, piece)
    return out


def _continued(lm, text, plain):
    """Ids of a text that follows another one: without the space that SentencePiece models put
    before a text.
    """
    before, both = _ids(lm, "\n", plain), _ids(lm, "\n" + text, plain)
    alone = both[: len(before)] == before
    return both[len(before) :] if alone else _ids(lm, text, plain)


@lru_cache(maxsize=16)
def _markers(tokenizer, template, others):
    """(pattern, ids) of what opens and ends turns for a model: its special tokens, and the tags
    between the turns of its template, whether flagged as special or not. others: further ids.
    """
    added = {t.content: t for t in tokenizer.added_tokens_decoder.values()}
    special = {content for content, t in added.items() if t.special}
    special |= {*tokenizer.all_special_tokens}
    special |= {
        t for t in tokenizer.convert_ids_to_tokens([i for i in others if i >= 0]) if t in added
    }
    between = _between(tokenizer)
    tags = {t for t in _TAG.findall(between)} | {t for t in added if t in between}
    # spaces, words and signs are in many texts; <think> stands in our own
    tags = {t for t in tags if re.search(r"[^\w\s]", t) and len(t.strip()) > 2} - _THINK
    found = sorted(filter(None, special | tags), key=len, reverse=True)
    # what stands for letters that a vocabulary lacks comes of itself
    of_itself = re.compile(
        r"<0x[0-9A-F]{2}>|<unk>|\[UNK\]|" + re.escape(tokenizer.unk_token or "<unk>")
    )
    added = tokenizer.get_added_vocab().items()
    ids = {i for t, i in added if t in found and not of_itself.fullmatch(t)}
    return re.compile("|".join(map(re.escape, found)) or r"(?!)"), frozenset(ids)


def _between(tokenizer):
    """What a chat template writes around the turns of a conversation; "" where it can't."""
    turns = [{"role": r, "content": _SLOT} for r in ("user", "assistant", "user")]
    try:
        render = tokenizer.apply_chat_template
        return render(turns, tokenize=False, add_generation_prompt=True).replace(_SLOT, " ")
    except Exception:  # one that takes no second question
        return ""


def control_strings(tokenizer):
    """Every tag that means something to this model or to our prompts; reformulate.clean removes
    them from candidates.
    """
    tags = {t for t in tokenizer.get_added_vocab() if t.startswith("<")}
    tags |= set(_TAG.findall(_between(tokenizer)))  # plain text to some tokenizers
    return sorted(tags | set(tokenizer.all_special_tokens))


# ---- vision inputs -------------------------------------------------------------------------------


class PixelCache:
    """The vision inputs of the pictures that were asked for last, at most so many bytes of them: a
    question's plain, BCQ and NCQ prompts show the same ones, to the sampler, a teacher of the same
    family and the update.
    """

    def __init__(self, size=2**30):
        self.size, self.lock = size, Lock()
        self.clear()

    def clear(self):
        """Forget all: a step is over, and its questions will not come soon again."""
        self.found, self.bytes = OrderedDict(), 0  # key -> (pictures, vision inputs)

    def get(self, lm, prompt, make):
        """make(), or what it returned for these very pictures and a processor of equal settings."""
        settings = lm.max_pixels, str(lm.image_processor)
        key = settings, tuple(map(id, prompt.images)), tuple(map(id, prompt.video))
        with self.lock:
            if key in self.found:
                self.found.move_to_end(key)
                return dict(self.found[key][1])
        vision = make()
        with self.lock:
            if key not in self.found:
                # with the pictures: an id may come again when its object is gone
                self.found[key] = (prompt.images, prompt.video), vision
                self.bytes += _bytes(vision)
            while self.bytes > self.size:
                self.bytes -= _bytes(self.found.popitem(last=False)[1][1])
        return dict(vision)


def _bytes(vision):
    return sum(values.nbytes for values, _ in vision.values())


CACHE = PixelCache()


def pixels(lm, prompt):
    """The vision inputs of one prompt: {"image": (values, grid)} and/or {"video": (values, grid)},
    empty for text. Not to be written to: they are kept for the next one who asks.

    values: (patches, patch_dim) float; grid: (images, 3) int64, temporal x height x width in
    patches.
    """
    if not (prompt.images or prompt.video):
        return {}
    return CACHE.get(lm, prompt, lambda: _pixels(lm, prompt))


def prepare_ahead(lm, prompts):
    """Open and resize the pictures of prompts, in their order, in a thread beside whoever needs
    them: pixels() finds what is ready. Returns the thread. What does not open is met there again.
    """

    def prepare():
        for prompt in {id(p): p for p in prompts}.values():
            try:
                pixels(lm, prompt)
            except (ValueError, OSError):
                return

    thread = Thread(target=prepare, daemon=True, name="pictures")
    thread.start()
    return thread


def _pixels(lm, prompt):
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
    """Tokens of a prompt with its images and video expanded; of the pictures only the headers are
    read.
    """

    def patches(picture, most):
        width, height = shown_size(picture, repr(prompt.text[:60]), most)
        return lm.image_processor.get_number_of_image_patches(height, width, {})

    vision = {}
    if prompt.images:  # expand() looks at products only
        grid = [[1, 1, patches(image, lm.max_pixels)] for image in prompt.images]
        vision["image"] = None, torch.tensor(grid)
    if prompt.video:
        t = math.ceil(len(prompt.video) / lm.image_processor.temporal_patch_size)
        vision["video"] = None, torch.tensor([[t, 1, patches(prompt.video[0], 0)]])
    return len(expand(lm, prompt, vision).ids)


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
