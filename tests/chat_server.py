"""A chat-completions server in a thread, which answers as `vllm serve` does, by a model in this
process, and misbehaves on demand.

    with ChatServer(HFEngine(lm)) as server:
        ClientEngine(server.url)
"""

import base64
import io
import json
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from processor import encode, encode_turns


class ChatServer:
    """seen: request bodies in the order of arrival; keys: Authorization headers; dropped: bodies
    whose client hung up before it was answered.

    plan: what the next requests get, one each: an HTTP status, (status, Retry-After), "cut"
    (connection), "junk" (no JSON), "none" (no choices); then they are answered.
    ways: how answers look, any of "one" (n is ignored), "null", "parts", "split" (reasoning apart).
    refuses: words; a body that has one of them as a field is refused by that name.
    gate: None, or a semaphore: one answer goes out for each release.
    """

    def __init__(self, engine, name="tiny-teacher"):
        self.engine, self.name, self.lock = engine, name, threading.Lock()
        self.seen, self.keys, self.dropped = [], [], []
        self.plan, self.ways, self.refuses, self.gate = [], (), (), None
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"own": self}))
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None  # a client that hung up
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        if self.gate:
            self.gate.release(1000)
        self.http.shutdown()
        self.http.server_close()

    def draw(self, body):
        """The local engine's group of Samples for a request."""
        *earlier, last = body["messages"]
        content = last["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        images = [picture(p["image_url"]["url"]) for p in parts if "image_url" in p]
        video = [f for p in parts if "video_url" in p for f in frames(p["video_url"]["url"])]
        thinking = body.get("chat_template_kwargs", {}).get("enable_thinking", True)
        prompt = encode(self.engine.lm, parts[-1]["text"], images, video, thinking)
        if earlier:
            turns = [(m["role"], m["content"]) for m in body["messages"]]
            prompt = encode_turns(self.engine.lm, turns, thinking)
        n = 1 if "one" in self.ways else body["n"]
        settings = body["temperature"], body["top_p"], body.get("top_k", 0)
        with self.lock:
            return self.engine.sample([prompt], n, body["max_tokens"], [body["seed"]], *settings)[0]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    own = None

    def do_GET(self):
        """/models"""
        self.own.keys.append(self.headers["Authorization"])
        self.reply({"data": [{"id": self.own.name}]})

    def do_POST(self):
        """/chat/completions"""
        own, body = self.own, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        own.seen.append(body)
        own.keys.append(self.headers["Authorization"])
        while own.gate and not own.gate.acquire(timeout=0.02):
            if self.hung_up():
                own.dropped.append(body)
                self.close_connection = True
                return
        what = own.plan.pop(0) if own.plan else ""
        bad = next((word for word in own.refuses if word in json.dumps(body)), None)
        if what == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif what == "junk":
            self.reply("<html>Bad gateway</html>")
        elif what == "none":
            self.reply({"choices": []})
        elif what:
            status, wait = what if isinstance(what, tuple) else (what, None)
            self.reply({"error": f"planned {status}"}, status, wait)
        elif bad:
            self.refuse(f"Unrecognized request argument supplied: {bad}")
        elif body["model"] != own.name:
            self.refuse(f"The model `{body['model']}` does not exist.", 404)
        else:
            self.answer(body)

    def answer(self, body):
        """The model's own words."""
        try:
            group = self.own.draw(body)
        except ValueError:
            return self.refuse("This model's maximum context length is 1024 tokens; you have more.")
        choices = []
        for i, s in enumerate(group):
            message, ways = {"content": s.text}, self.own.ways
            if "null" in ways:
                message["content"] = None
            if "parts" in ways:
                half = len(s.text) // 2
                halves = s.text[:half], s.text[half:]
                message["content"] = [{"type": "text", "text": t} for t in halves]
            if "split" in ways:
                message["reasoning_content"] = "hm"
            cut = "length" if s.truncated else "stop"
            choice = {"index": i, "finish_reason": cut, "message": message}
            if body.get("return_token_ids"):
                choice["token_ids"] = list(s.response_ids)
            choices.append(choice)
        usage = {"completion_tokens": sum(len(s.response_ids) for s in group)}
        self.reply({"choices": choices[::-1], "usage": usage})

    def hung_up(self):
        """Whether the client has closed its end."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def refuse(self, message, status=400):
        """As OpenAI and vLLM do."""
        self.reply({"error": {"message": message}}, status)

    def reply(self, data, status=200, wait=None):
        """JSON, or text as it is."""
        content = (data if isinstance(data, str) else json.dumps(data)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if wait is not None:
            self.send_header("Retry-After", str(wait))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Silence."""


def picture(url):
    """The PIL image of a data URL, or of its base64 part."""
    return Image.open(io.BytesIO(base64.b64decode(url.rpartition(",")[2])))


def frames(url):
    """The PIL images of a data:video/jpeg URL."""
    assert url.startswith("data:video/jpeg;base64,")
    return [picture(part) for part in url.split(",")[1:]]
