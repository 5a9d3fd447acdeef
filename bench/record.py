"""The shape of a real ZPPO step, for `python -m bench` to replay: bench/zppo_step.json.

    python train.py --steps 8 --out runs/x
    python -m bench.record --steps 9 --resume --out runs/x      # flags of train.py

Of each group of the last step its kind, the tokens of its prompt and of its responses, and whether
it was flat.
"""

import json
import sys
from pathlib import Path

import train

STEP = Path(__file__).parent / "zppo_step.json"


def main(argv):
    """Train with these flags and write the last step's groups. Returns the exit status."""
    own, seen = train.ZPPO.update, []

    def update(policy, optimizer, groups, *rest):
        seen[:] = [
            {
                "kind": g.kind,
                "prompt": len(g.samples[0].prompt.ids),
                "responses": [len(s.response_ids) for s in g.samples],
                "flat": g.zero_advantage,
            }
            for g in groups
        ]
        return own(policy, optimizer, groups, *rest)

    train.ZPPO = train.ZPPO._replace(update=update)
    status = train.main(argv)
    rows = ",\n".join(json.dumps(group) for group in seen)
    STEP.write_text(f"[\n{rows}\n]\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
