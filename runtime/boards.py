"""Where a run can be looked at while it goes on: figures/ and samples.html in its folder;
TensorBoard and W&B where asked for.

    board = TensorBoard("runs/x", step=-1)          # or WandB("runs/x", config)
    board.numbers(record), board.samples(step, rows), board.figures(step, paths), board.close()

rows: lines of samples.jsonl. A response is a row of a table: what was asked, what was said, what it
was worth.
"""

import base64
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = "kind origin question answer prompt response reward advantage".split()


def draw(out):
    """Draw the figures and the page of samples of a run folder: (path of the page, paths of the
    figures). Raises ModuleNotFoundError where the folder figures/ has been deleted.
    """
    from figures import page, plot  # a door to the surroundings

    figures = plot.draw(out)
    return page.write_html(out), figures


def responses(rows):
    """(values of COLUMNS, data URIs of the pictures) of each response."""
    for g in rows:
        asked = g["kind"], g["origin"], g["question"], g["answer"], g["prompt"]
        for r in g["responses"]:
            yield (*asked, r["text"], r["reward"], r["advantage"]), g["images"]


class TensorBoard:
    """A SummaryWriter in the run folder. Raises ValueError where the package is missing."""

    def __init__(self, out, step):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard needs the package: pip install tensorboard") from None
        self.writer = SummaryWriter(Path(out) / "tensorboard", purge_step=step + 1)

    def numbers(self, step, numbers):
        """A scalar a number."""
        for key, value in numbers.items():
            self.writer.add_scalar(key, value, step)

    def samples(self, step, rows):
        """The table as Markdown, which TensorBoard renders."""
        lines = [COLUMNS, ["---"] * len(COLUMNS)]
        lines += [[cell(v) for v in values] for values, _ in responses(rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self.writer.add_text("samples", table, step)

    def figures(self, step, paths):
        """The pictures of the figures."""
        for path in paths:
            picture = np.asarray(Image.open(path).convert("RGB"))
            self.writer.add_image(f"figures/{path.stem}", picture, step, dataformats="HWC")
        self.writer.flush()

    def close(self):
        """Write what is still held."""
        self.writer.close()


class WandB:
    """A W&B run of the folder's name. Raises ValueError."""

    def __init__(self, out, config):
        try:
            import wandb
        except ImportError:
            raise ValueError("--wandb needs the package: pip install wandb") from None
        self.wandb = wandb
        names = {"project": "zppo", "name": out.name, "id": out.name}
        try:
            self.run = wandb.init(**names, dir=out, config=config, resume="allow")
        except Exception as e:
            why = f"--wandb: {e}; run `wandb login`, or set WANDB_MODE=offline"
            raise ValueError(why) from e

    def numbers(self, step, numbers):
        """The numbers of a step."""
        self.run.log(numbers, step=step)

    def samples(self, step, rows):
        """The table, with the pictures of the questions."""
        table = self.wandb.Table(columns=["picture", *COLUMNS])
        for values, uris in responses(rows):
            picture = self.wandb.Image(picture_of(uris[0])) if uris else None
            table.add_data(picture, *values)
        self.run.log({"samples": table}, step=step)

    def figures(self, step, paths):
        """The pictures of the figures."""
        images = {f"figures/{p.stem}": self.wandb.Image(str(p)) for p in paths}
        self.run.log(images, step=step)

    def close(self):
        """Send, or write, what is still held."""
        self.run.finish()


def cell(value):
    """A value in a cell of a Markdown table: as it is, whatever it holds."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = re.sub(r"[^\w\s.,:;=+()/-]|_", lambda m: f"&#{ord(m[0])};", text.strip())
    return re.sub(r"\r\n?|\n", "<br>", text)


def picture_of(uri):
    """The PIL image of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
