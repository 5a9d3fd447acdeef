"""An engine over OpenAI-compatible servers (`vllm serve MODEL`): a teacher or a judge that runs
somewhere else.

    engine = ClientEngine("http://host:8000/v1")       # its model: the first that the server lists
    engine.sample([engine.encode("What is 2+2?", thinking=False)], n=4, max_new_tokens=40, seed=0)
    future = engine.request(engine.encode("What is 2+2?"), 4, seed=0, max_new_tokens=40, priority=1)

Every request is an asyncio task in one daemon thread, and a concurrent.futures.Future for whoever
asked: cancelling it drops the connection, and the server then gives up the work. A request goes to
the URL with the fewest in flight; at most `max_in_flight` a URL are under way, the others wait in
the order of their priority (lower first), which a vLLM server is told as well.

The server tokenizes, so a Prompt carries text and pictures instead of ids: good for a model that is
only read. Its template reads special tokens in the user's text as control, so they are taken out
here: those of the model's own tokenizer where `lm` is given, else those of the common families.
Pictures go as PNG. A video goes as its frames with their times, a form of vLLM's that a server
takes only with --trust-request-mm-kwargs (without it, of a long video it would see the start only);
to others it goes as single pictures. Fields of vLLM's own (EXTRAS) are left out once a server
refuses them by name. The key, if any, is the environment variable OPENAI_API_KEY.
"""

import asyncio
import base64
import concurrent.futures
import heapq
import io
import ipaddress
import os
import re
import threading
from itertools import count
from urllib.parse import urlsplit

import httpx

from engines.base import Engine, seed_of
from processor import control_strings, opened
from records import Prompt, Sample

# Special tokens of Qwen, Llama, Gemma, Mistral and DeepSeek templates.
CONTROL = tuple(
    "<|im_start|> <|im_end|> <|endoftext|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <tool_call> </tool_call> <tool_response> </tool_response> <think> "
    "</think> <|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> "
    "<|eom_id|> <|python_tag|> <|image|> <start_of_turn> <end_of_turn> <bos> <eos> <s> </s> [INST] "
    "[/INST] <\uff5cUser\uff5c> <\uff5cAssistant\uff5c> <\uff5cbegin\u2581of\u2581sentence\uff5c> "
    "<\uff5cend\u2581of\u2581sentence\uff5c>".split()
)
# The tags of our own prompts (reformulate.TAGS): plain words to a template, wanted in a text.
OURS = re.compile("</?(candidate|response|summary|think|hint)>")
# Fields that not every server takes.
EXTRAS = tuple(
    "chat_template_kwargs media_io_kwargs priority response_format return_token_ids top_k".split()
)
WAITS = (0.5, 2, 8)  # seconds before another try
SLOW_DOWN = 30  # tries of a server that says 429: it is there, and has too much to do
_TOO_LONG = re.compile(
    r"context length|model length|max_model_len|too long|too large|maximum.{0,20}tokens", re.I
)


class Refused(Exception):
    """The server said no. status: of HTTP; said: the start of its message."""

    def __init__(self, status, said):
        super().__init__(f"{status}: {said}")
        self.status, self.said = status, said


class Again(Exception):
    """Asking once more may help. wait: seconds that the server wants, or None."""

    def __init__(self, why, wait=None, patient=False):
        super().__init__(why)
        self.wait, self.patient = wait, patient


class ClientEngine(Engine):
    """The model at `urls`, one or several servers of the same. model: its name there; lm: a
    model.LM of it (model.text_side is enough), for its special tokens; who, flag: for messages;
    timeout: seconds for one reply; max_in_flight: requests under way at a URL.

    Raises ValueError, from the future or from step(), when a server does not answer after some
    tries, or refuses what it is asked. A prompt that is too long for it comes back as empty
    samples.
    """

    remote = True

    def __init__(
        self,
        urls,
        model="",
        lm=None,
        who="the teacher",
        flag="--teacher-url",
        timeout=3600.0,
        max_in_flight=128,
    ):
        urls = [urls] if isinstance(urls, str) else list(urls)
        self.urls, self.who, self.flag = [u.rstrip("/") for u in urls], who, flag
        self.lm, self.tokens, self.timeout = lm, 0, timeout
        self.tags = control_strings(lm.tokenizer) if lm else CONTROL
        unsafe = "|".join(re.escape(t) for t in self.tags if not OURS.fullmatch(t))
        self.unsafe = re.compile(unsafe, re.IGNORECASE)
        self.dropped = set()  # the EXTRAS that the servers do not take
        self.tickets, self.under_way = count(), {}  # future -> key, of submit()
        # what follows belongs to the thread of the event loop
        self.free, self.waiting = max_in_flight * len(self.urls), []
        self.load = dict.fromkeys(self.urls, 0)  # requests in flight
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="client")
        self.thread.start()
        self.http = {url: _http(url, timeout) for url in self.urls}
        try:
            # all of them, so that a wrong one is told now; they serve the same model
            listed = [self._run(self._patiently(url, "/models")).result() for url in self.urls]
        except BaseException:
            self.close()
            raise
        card = (listed[0].get("data") or [{}])[0]
        self.name, self.max_len = model or card.get("id", ""), card.get("max_model_len")

    @property
    def url(self):
        """The first server's URL, for messages and cache keys."""
        return self.urls[0]

    @property
    def window(self):
        """Engine.window; None where the server does not tell."""
        return self.max_len

    @property
    def control(self):
        """Engine.control"""
        return self.tags

    def encode(self, text, images=(), video=(), thinking=True):
        """A user turn: no ids, the server makes them."""
        return Prompt((), tuple(images), tuple(video), text=text, thinking=thinking)

    def request(self, prompt, n, seed, priority=0, **sampling):
        """Begin to draw n responses: a concurrent.futures.Future of n Samples, from any thread.

        priority: lower comes first, here and in a vLLM server; sampling: max_new_tokens, and
        temperature, top_p, top_k, presence_penalty as in Engine.submit; and response_format, for
        servers that can hold a model to a form.
        """
        return self._run(self._request(prompt, n, seed, priority, sampling))

    def submit(self, key, prompt, n, max_new_tokens, seed, *sampling, **more):
        """Engine.submit; nothing is raised here."""
        names = ("temperature", "top_p", "top_k", "presence_penalty")
        more |= {"max_new_tokens": max_new_tokens, **dict(zip(names, sampling))}
        self.under_way[self.request(prompt, n, seed, **more)] = key

    def step(self):
        """Engine.step: what came back, or nothing after a short wait."""
        first = concurrent.futures.FIRST_COMPLETED
        done, _ = concurrent.futures.wait(self.under_way, 0.05, first)
        return [(self.under_way.pop(f), f.result()) for f in list(self.under_way) if f in done]

    @property
    def busy(self):
        """Engine.busy"""
        return bool(self.under_way)

    def abort(self):
        """Engine.abort; the connections are dropped."""
        for future in self.under_way:
            future.cancel()
        self.under_way = {}

    def sync_weights(self, named):
        """A server's model stays what it is."""
        raise ValueError(f"{self.url}: the weights of a server can't be changed from here")

    def close(self):
        """Drop every connection and end the thread."""
        if self.thread.is_alive():
            self._run(self._end()).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()

    # ---- inside the event loop -------------------------------------------------------------------

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def _end(self):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for http in self.http.values():
            await http.aclose()

    async def _request(self, prompt, n, seed, priority, sampling):
        await self._enter(priority)
        url = min(self.urls, key=self.load.get)
        self.load[url] += 1
        try:
            samples, wanted = [], n if sampling.get("temperature", 1.0) else 1  # greedy: one is all
            while len(samples) < wanted:
                # a server may ignore `n`: the missing ones are asked for with seeds of their own
                again = seed_of(seed, len(samples)) if samples else seed
                missing = wanted - len(samples)
                drawn = await self._draw(url, prompt, missing, again, priority, sampling)
                samples += drawn[:missing]
            return samples * (n // wanted)
        finally:
            self.load[url] -= 1
            self._leave()

    async def _enter(self, priority):
        """Wait for one of the places, in the order of priority."""
        if self.free:
            self.free -= 1
            return
        place = self.loop.create_future()
        heapq.heappush(self.waiting, (priority, next(self.tickets), place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # it was given and will not be used
            raise

    def _leave(self):
        while self.waiting:
            place = heapq.heappop(self.waiting)[-1]
            if not place.done():
                return place.set_result(None)
        self.free += 1

    async def _draw(self, url, prompt, n, seed, priority, sampling):
        """At most n Samples from one reply."""
        while True:
            body = await asyncio.to_thread(self._body, prompt, n, seed, priority, sampling)
            try:
                reply = await self._patiently(url, "/chat/completions", body)
                return self._samples(reply, prompt)
            except Refused as e:
                said = e.said.lower()
                named = {x for x in EXTRAS if x in body and x.removesuffix("_kwargs") in said}
                if "media_io_kwargs" in body and "video" in said:
                    named = {"media_io_kwargs"}
                if e.status not in (400, 404, 413, 422):
                    raise self._error(url, f"refuses a request ({e})") from e
                if _TOO_LONG.search(said):
                    return [Sample(prompt, (), (), "", False) for _ in range(n)]
                if named:
                    self.dropped |= named  # a server that is not vLLM's
                else:
                    raise await self._explained(url, e) from e

    async def _patiently(self, url, path, body=None):
        """The reply, a dict, after some tries if need be. Raises Refused, and ValueError."""
        failed = slowed = 0
        while True:
            try:
                return await self._once(url, path, body)
            except Again as e:
                if e.patient:
                    slowed += 1
                else:
                    failed += 1
                if failed > len(WAITS) or slowed > SLOW_DOWN:
                    hint = f"is {self.flag} right, and the server up?"
                    raise self._error(url, f"does not answer ({e}); {hint}") from e
                wait = WAITS[min(failed + slowed, len(WAITS)) - 1] if e.wait is None else e.wait
                await asyncio.sleep(wait)

    async def _once(self, url, path, body):
        key, http = os.environ.get("OPENAI_API_KEY"), self.http[url]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            if body is None:
                reply = await http.get(url + path, headers=headers)
            else:
                reply = await http.post(url + path, json=body, headers=headers)
        except httpx.ReadTimeout as e:
            raise self._error(url, f"gave no reply within {self.timeout:.0f} s") from e
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as e:
            raise self._error(url, f"has no usable URL ({e}); is {self.flag} right?") from e
        except httpx.HTTPError as e:
            raise Again(str(e) or type(e).__name__) from e
        status, said = reply.status_code, " ".join(reply.text[:500].split())
        if status in (401, 403):
            problem = "does not take the key in" if key else "wants a key; set"
            raise self._error(url, f"{problem} OPENAI_API_KEY ({status}: {said})")
        if status in (408, 429) or status >= 500:
            wait = reply.headers.get("retry-after", "")
            wait = min(60.0, float(wait)) if re.fullmatch(r"\d+(\.\d+)?", wait) else None
            raise Again(f"{status}: {said}", wait, patient=status == 429)
        if status != 200:
            raise Refused(status, said)
        try:
            parsed = reply.json()
        except ValueError as e:
            raise Again(f"no JSON: {said[:100]!r}") from e
        if not isinstance(parsed, dict) or (body is not None and not parsed.get("choices")):
            raise Again(f"no choices in its reply: {said[:200]}")
        return parsed

    async def _explained(self, url, refused):
        """A ValueError for a refusal: if the model is not there, with the models that are."""
        said = refused.said.lower()
        if refused.status == 404 or ("model" in said and re.search("not (exist|found)", said)):
            try:
                listed = (await self._once(url, "/models", None)).get("data") or []
            except (Again, Refused):
                listed = []
            names = ", ".join(str(m.get("id")) for m in listed)
            if names and self.name not in names.split(", "):
                return self._error(url, f"has no model {self.name!r}; it has {names}")
            if refused.status == 404:
                return self._error(
                    url, f"has no chat completions there ({refused}); does {self.flag} end in /v1?"
                )
        return self._error(url, f"refuses a request ({refused})")

    def _error(self, url, what):
        return ValueError(f"{self.who} at {url} {what}")

    # ---- what goes out, and what comes back ------------------------------------------------------

    def _body(self, prompt, n, seed, priority, sampling):
        most = self.lm.max_pixels if self.lm else 0
        images, video = opened(prompt.images, prompt, most), opened(prompt.video, prompt)
        content = [_image_part(image) for image in images]
        extras = {"chat_template_kwargs": {"enable_thinking": prompt.thinking}}
        extras |= {"return_token_ids": True, "priority": priority}
        extras |= {k: sampling[k] for k in ("top_k", "response_format") if sampling.get(k)}
        if video and "media_io_kwargs" not in self.dropped:
            frames = ",".join(map(_png, video))
            url = {"url": f"data:video/jpeg;base64,{frames}"}
            content.append({"type": "video_url", "video_url": url})
            times = {"fps": prompt.video_fps, "frames_indices": list(range(len(video)))}
            extras["media_io_kwargs"] = {"video": times | {"num_frames": -1}}  # -1: all of them
        else:
            content += [_image_part(frame) for frame in video]
        text = self._strip(prompt.text)
        content.append({"type": "text", "text": text})
        earlier = [{"role": role, "content": self._strip(said)} for role, said in prompt.turns]
        body = {
            "model": self.name,
            "messages": [*earlier, {"role": "user", "content": content if content[1:] else text}],
            "n": n,
            "seed": seed,
            "max_tokens": sampling["max_new_tokens"],
            "temperature": sampling.get("temperature", 1.0),
            "top_p": sampling.get("top_p", 1.0),
            "presence_penalty": sampling.get("presence_penalty", 0.0),
        }
        return body | {k: v for k, v in extras.items() if k not in self.dropped}

    def _strip(self, text):
        """`text` without control strings; what removal joins into a new one goes, too."""
        while (shorter := self.unsafe.sub("", text)) != text:
            text = shorter
        return text

    def _samples(self, reply, prompt):
        usage = reply.get("usage") or {}
        self.tokens += usage.get("completion_tokens") or 0
        samples = []
        for choice in sorted(reply["choices"], key=lambda c: c.get("index") or 0):
            ids = tuple(choice.get("token_ids") or ())
            text, cut = _text(choice.get("message") or {}), choice.get("finish_reason") == "length"
            samples.append(Sample(prompt, ids, (), text, cut))
        return samples


def _http(url, timeout):
    """An AsyncClient for one server; a proxy of the environment is for hosts outside only."""
    host = urlsplit(url).hostname or ""
    try:
        near = ipaddress.ip_address(host).is_private  # loopback is, too
    except ValueError:
        near = host == "localhost"
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    times = httpx.Timeout(timeout, connect=min(30.0, timeout), pool=None)
    return httpx.AsyncClient(timeout=times, limits=limits, trust_env=not near)


def _text(message):
    """A reply as one text: a server with a reasoning parser gives the part inside <think> apart."""
    thoughts = _joined(message.get("reasoning_content") or message.get("reasoning"))
    answer = _joined(message.get("content"))
    return f"<think>{thoughts}</think>{answer}" if thoughts else answer


def _joined(content):
    if isinstance(content, list):
        content = "".join(p.get("text") or "" for p in content if isinstance(p, dict))
    # half a surrogate pair, which JSON can carry, would not survive being written to a file
    return str(content or "").encode("utf-8", "replace").decode()


def _image_part(image):
    url = f"data:image/png;base64,{_png(image)}"
    return {"type": "image_url", "image_url": {"url": url}}


def _png(image):
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # of all levels the quickest; it is lossless anyway
    return base64.b64encode(file.getvalue()).decode()
