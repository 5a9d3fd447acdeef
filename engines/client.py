"""An engine over an OpenAI-compatible server (`vllm serve MODEL`): a teacher or a judge that
somebody else runs.

    engine = URLEngine("http://host:8000/v1")          # its model: the first that the server lists
    engine.sample([engine.encode("What is 2+2?", thinking=False)], n=4, max_new_tokens=40, seed=0)

The server tokenizes, so a Prompt carries text and pictures instead of ids, and a Sample has text
and no ids: good for a teacher that is only read, not for a student. Two differences from an engine
of our own:
* The server's template reads special tokens in the user's text as control. So the tags of the
  common model families are taken out of the text first (CONTROL); our own tags stay, they are plain
  words to it.
* A video is sent as its frames, one picture each, without times: the chat interface knows no other
  lossless form.
A key is read from the environment variable OPENAI_API_KEY where it is set.
"""

import base64
import io
import json
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from itertools import count

from engines.base import Engine
from records import Prompt, Sample
from reformulate import TAGS

# Special tokens of Qwen, Llama, Gemma, Mistral and DeepSeek templates that a user's text could
# carry.
CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|image|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)
# <think> is in our own closer, where it is wanted, and no template reads it as a turn.
_STRIPPED = re.compile("|".join(re.escape(t) for t in CONTROL if t not in TAGS), re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context length|model length|max_model_len|too long|too large|maximum.{0,20}tokens",
    re.IGNORECASE,
)
WAITS = (0.5, 2, 8)  # seconds before another try


class URLEngine(Engine):
    """The server at url. model: its name there; who, flag: for messages; workers: requests in
    flight at a time.

    Raises ValueError, from step(), when the server does not answer after some tries, or refuses
    what it is asked. A prompt that is too long for it comes back as empty responses.
    """

    remote, window, control = True, None, CONTROL

    def __init__(
        self, url, model="", who="the teacher", flag="--teacher-url", workers=64, timeout=3600
    ):
        self.url, self.who, self.flag, self.timeout = url.rstrip("/"), who, flag, timeout
        self.extras = True  # whether the server takes vLLM's own fields
        self.lm, self.tokens, self.workers, self.threads = None, 0, workers, []
        self.tickets, self.under_way = count(), {}  # ticket -> (key, Prompt, n)
        self.jobs, self.back = queue.SimpleQueue(), queue.SimpleQueue()
        listed = self._post("/models", None).get("data") or [{}]
        self.name = model or listed[0].get("id", "")

    def encode(self, text, images=(), video=(), thinking=True):
        """A user turn: no ids, the server makes them."""
        return Prompt((), tuple(images), tuple(video), text=text, thinking=thinking)

    def submit(
        self,
        key,
        prompt,
        n,
        max_new_tokens,
        seed,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        presence_penalty=0.0,
    ):
        """Engine.submit; nothing is raised here."""
        pictures = [
            {"type": "image_url", "image_url": {"url": _data_url(i)}}
            for i in (*prompt.images, *prompt.video)
        ]
        text = strip(prompt.text)
        content = [*pictures, {"type": "text", "text": text}] if pictures else text
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "n": n,
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "presence_penalty": presence_penalty,
        }
        more = {
            "chat_template_kwargs": {"enable_thinking": prompt.thinking},
            **({"top_k": top_k} if top_k else {}),
        }
        ticket = next(self.tickets)
        self.under_way[ticket] = key, prompt, n
        self.jobs.put((ticket, body, more))
        if len(self.threads) < min(
            self.workers, len(self.under_way)
        ):  # daemons: a run that ends waits for no reply
            self.threads.append(threading.Thread(target=self._work, daemon=True, name="url engine"))
            self.threads[-1].start()

    def _work(self):
        while True:
            ticket, body, more = self.jobs.get()
            if ticket in self.under_way:
                try:
                    reply = self._complete(body, more)
                except Exception as e:  # raised again by step()
                    reply = e
                self.back.put((ticket, reply))

    def step(self):
        """Engine.step: what came back, or nothing after a short wait."""
        out = []
        while self.under_way:
            try:
                ticket, reply = self.back.get(timeout=0 if out else 0.05)
            except queue.Empty:
                break
            key, prompt, n = self.under_way.pop(ticket, (None, None, 0))
            if n and isinstance(reply, Exception):
                raise reply
            if n:  # not aborted since
                out.append((key, self._samples(reply, prompt, n)))
        return out

    @property
    def busy(self):
        """Engine.busy"""
        return bool(self.under_way)

    def abort(self):
        """Engine.abort; requests that the server works on are left to end there."""
        self.under_way = {}

    def close(self):
        """Nothing to say goodbye to."""

    def sync_weights(self, named):
        """A server's model stays what it is."""
        raise ValueError(f"{self.url}: the weights of a server can't be changed from here")

    def _samples(self, reply, prompt, n):
        if reply is None:
            return [Sample(prompt, (), (), "", False) for _ in range(n)]
        self.tokens += (reply.get("usage") or {}).get("completion_tokens") or 0
        choices = sorted(reply["choices"], key=lambda c: c.get("index", 0))
        return [
            Sample(prompt, (), (), _text(c["message"]), c.get("finish_reason") == "length")
            for c in choices
        ]

    def _complete(self, body, more):
        """The reply to one request; None when its prompt is too long for the server."""
        while True:
            extras = self.extras
            try:
                return self._post("/chat/completions", body | (more if extras else {}))
            except Refused as e:
                if (
                    e.code == 400
                    and extras
                    and ("chat_template_kwargs" in e.said or "top_k" in e.said)
                ):
                    self.extras = False  # a server that is not vLLM's
                elif e.code in (400, 413) and _TOO_LONG.search(e.said):
                    return None
                else:
                    raise ValueError(f"{e}{'; ' + e.said if e.said else ''}") from e

    def _post(self, path, body):
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {key}"} if key else {}
        )
        request = urllib.request.Request(
            self.url + path, None if body is None else json.dumps(body).encode(), headers
        )
        for wait in (*WAITS, None):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return json.loads(reply.read())
            except urllib.error.HTTPError as e:  # 408, 429 and 5xx may pass
                if 400 <= e.code < 500 and e.code not in (408, 429):
                    raise Refused(self, e) from e
                why = e
            except (
                OSError,
                ValueError,
            ) as e:  # URLError and timeouts are OSErrors; ValueError: not JSON
                why = e
            if wait is None:
                raise ValueError(
                    f"{self.who} at {self.url} does not answer ({why}); is {self.flag} right, and the server up?"
                )
            time.sleep(wait)


class Refused(ValueError):
    """The server said no to a request. said: the start of its message."""

    def __init__(self, engine, error):
        super().__init__(f"{engine.who} at {engine.url} refuses a request ({error})")
        self.code, self.said = error.code, error.read(2000).decode(errors="replace")[:500]


def strip(text):
    """`text` without the tags that a server's template would read as control; what removal joins
    into a new tag goes, too.
    """
    while (shorter := _STRIPPED.sub("", text)) != text:
        text = shorter
    return text


def _text(message):
    """A reply as one text: a server with a reasoning parser gives the part inside <think> apart."""
    thoughts, answer = (
        message.get("reasoning_content") or message.get("reasoning") or "",
        message.get("content") or "",
    )
    return f"<think>{thoughts}</think>{answer}" if thoughts else answer


def _data_url(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
