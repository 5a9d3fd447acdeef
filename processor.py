"""Text and images -> token ids, once, through the model's own chat template.

Three promises, each with a test in tests/test_chat.py:
* The user's text is tokenized with special tokens switched off, apart from the template around it,
  so that no question and no candidate can open a turn, end one, or place an image (pitfall: a
  response pasted into a prompt carries `<|im_end|>`).
* Thinking is opened at most once. Qwen3.5's template opens `<think>` itself when thinking is on
  (our default for answering; the paper does not say which it used) and writes an empty, closed
  block when it is off.
* The closer is the same in training and in evaluation (ZPPO section 4.1 and Appendix B.2) and
  stands after all else.

    prompt = encode(lm, "What is 2+2?" + CLOSER)        # lm: model.load("some/folder")
"""

from records import Prompt

# Ours in wording, the paper's in content: think first, inside tags, then the final answer in a box.
CLOSER = (
    "\n\nThink first, with the reasoning between <think> and </think>, "
    "then give the final answer in \\boxed{}."
)

# stands for the user's text while the template is rendered; no template contains it
_SLOT = "\u2402TEXT\u2402"


def encode(lm, text, images=(), video=(), thinking=True):
    """One user turn, ready for the model to answer, as a Prompt with one placeholder id per image
    or video.

    lm: a loaded model (model.py); text: str, used verbatim; images: decoded PIL images; video: PIL
    frames, or none. thinking: whether the template's generation prompt leaves `<think>` open
    (templates without the switch ignore it). Raises ValueError when the template drops or repeats
    the text, or when images are given to a text-only model.
    """
    if (images or video) and lm.image_processor is None:
        raise ValueError(
            f"{lm.path}: this model reads text only, but a question has images; "
            f"use an image-text-to-text model or text questions"
        )
    content = [{"type": "image"} for _ in images] + [{"type": "video"}] * bool(video)
    content = (
        content + [{"type": "text", "text": _SLOT}] if content else _SLOT
    )  # text-only templates want a plain string
    rendered = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    if rendered.count(_SLOT) != 1:
        raise ValueError(
            f"{lm.path}: its chat template wrote the user's text {rendered.count(_SLOT)} times, not once"
        )
    head, tail = rendered.split(_SLOT)
    ids = (*_ids(lm, head), *_ids(lm, text, plain=True), *_ids(lm, tail))
    return Prompt(ids, tuple(images), tuple(video), text=text, thinking=thinking)


def encode_turns(lm, turns, thinking=True):
    """A conversation of (role, text) turns, ready for the model to answer, by the promises of
    chat.encode. Raises ValueError.
    """
    slots = [f"{_SLOT}{i}{_SLOT}" for i in range(len(turns))]
    rendered = lm.tokenizer.apply_chat_template(
        [{"role": role, "content": slot} for (role, _), slot in zip(turns, slots)],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    ids = ()
    for slot, (_, text) in zip(slots, turns):
        if rendered.count(slot) != 1:
            raise ValueError(
                f"{lm.path}: its chat template wrote a turn {rendered.count(slot)} times, not once"
            )
        head, rendered = rendered.split(slot)
        ids += (*_ids(lm, head), *_ids(lm, text, plain=True))
    return Prompt((*ids, *_ids(lm, rendered)))


def _ids(lm, text, plain=False):
    # add_special_tokens=False: the template has written the BOS already, where there is one
    return lm.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]


def control_strings(tokenizer):
    """Every tag that means something to this model or to our prompts; reformulate.clean removes
    them from candidates.
    """
    tags = {t for t in tokenizer.get_added_vocab() if t.startswith("<")} | set(
        tokenizer.all_special_tokens
    )
    return sorted(tags)
