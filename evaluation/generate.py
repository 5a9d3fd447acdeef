"""One response to each question of a benchmark: prompts, sampling, the JSONL file that a killed
evaluation goes on from (responses.py says what it holds).

    items, records = generate(bench, questions, engine, args, path)    # asks what is not there yet
"""

from dataclasses import replace
from pathlib import Path

from engines.base import seed_of
from evaluation.responses import asked, by_key, progress
from evaluation.video import Video, find, fit, sample, with_subtitles
from pictures import decode
from processor import CLOSER, encode, encode_turns
from runtime.files import append_jsonl


class Unreadable(ValueError):
    """A picture or video that does not open."""


def generate(bench, questions, engine, args, path):
    """(Items without pictures, {id: response record}) of a benchmark.

    Questions without a usable record are asked, args.chunk at a time. engine None asks nothing.
    """
    records, items, todo = by_key(path, "id"), [], []

    def answer(chunk):
        new = respond(bench, chunk, engine, args)
        append_jsonl(path, new)
        records.update((r["id"], r) for r in new)

    with progress(f"{bench.name:9s}", len(questions)) as bar:
        for row in questions.by_row():
            items += [replace(item, images=(), video=None) for item in row]
            if engine is not None:
                todo += [i for i in row if not _usable(records.get(i.id), i)]
            while len(todo) >= args.chunk:
                answer(todo[: args.chunk])
                todo = todo[args.chunk :]
            bar.update()
        if todo:
            answer(todo)
    return items, records


def _usable(record, item):
    return record is not None and record["asked"] == asked(item) and "missing" not in record


def respond(bench, chunk, engine, args):
    """The response records of some Items, in order."""
    records = {
        i.id: {"id": i.id, "asked": asked(i), "response": "", "truncated": False, "tokens": 0}
        for i in chunk
    }
    prompts = {}
    for item in chunk:
        try:
            prompts[item.id] = prompt_of(bench, item, engine.lm, args)
        except FileNotFoundError as e:
            records[item.id]["missing"] = str(e)
        except Unreadable as e:
            records[item.id]["error"] = str(e)
        if "order" in item.meta:
            records[item.id]["order"] = item.meta["order"]
    if prompts:
        seed = seed_of(args.seed, bench.name, chunk[0].id)
        sampling = args.temperature, args.top_p, args.top_k, args.presence_penalty
        groups = engine.sample(list(prompts.values()), 1, args.max_new, seed, *sampling)
        for id_, group in zip(prompts, groups):
            records[id_] |= _fields(group[0])
    return list(records.values())


def _fields(sample):
    got = {
        "response": sample.text,
        "truncated": sample.truncated,
        "tokens": len(sample.response_ids),
    }
    if not sample.text and not sample.response_ids and not sample.truncated:
        got["error"] = "no response: the prompt does not fit the model's context"
    return got


def prompt_of(bench, item, lm, args):
    """The Prompt of an Item: pictures within the paper's pixel bounds, sampled frames, subtitles,
    the closer. Raises FileNotFoundError for a missing picture or video, Unreadable for a damaged
    one.
    """
    if item.turns:
        return encode_turns(lm, item.turns, args.thinking)
    folders = roots(bench, args)
    images, frames, times = _media(item, folders, args)
    if bench.family != "tiny":
        images = [fit(i, args.min_pixels, args.max_pixels) for i in images]
    text = with_subtitles(item.text(), item.video, folders, times) if times else item.text()
    prompt = encode(lm, text + CLOSER * bench.closer, images, frames, args.thinking)
    if len(times) > 1 and times[-1] > times[0]:
        # the time stamps that the model reads are those of the frames it was given
        return replace(prompt, video_fps=(len(times) - 1) / (times[-1] - times[0]))
    return prompt


def _media(item, folders, args):
    """(images, frames, times in seconds of the frames)"""
    try:
        images = decode([_located(i, folders) for i in item.images], item.id)
        if not isinstance(item.video, Video):
            return images, item.video or (), []
        frames, times = sample(item.video, folders, args.fps, args.max_frames, args.video_tokens)
        return images, frames, times
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as e:
        raise Unreadable(str(e)) from e


def _located(image, folders):
    """`image` with a path made absolute: data sets give paths relative to their own folder."""
    if image is None:
        raise FileNotFoundError("the data have no picture for this row")
    if not isinstance(image, str) or image.startswith("data:"):
        return image
    path = find((image, f"images/{image}"), [*folders, Path()])
    if path is None:
        raise FileNotFoundError(f"there is no {image} under {folders[0] if folders else '.'}")
    return str(path)


def roots(bench, args):
    """Folders where the files of a benchmark may lie."""
    repos = [args.source[bench.name]] if bench.name in args.source else bench.repos
    return [Path(args.data) / repo.partition("@")[0] for repo in repos]
