"""Makes the tiny world's two models again, and measures them.

python -m tiny                      # assets/student and assets/teacher, 6 minutes on 2 cores
python -m tiny --measure            # only the table of the checkpoints that are there
"""

import argparse
import sys

import model
from tiny.measure import measure
from tiny.pretrain import STEPS, build, quiet


def main():
    """The command. Returns the exit status."""
    p = argparse.ArgumentParser(prog="python -m tiny", description=__doc__.split("\n")[0])
    p.add_argument("--out", default="assets", help="folder for student/ and teacher/ (assets)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quick", action="store_true", help="a fortieth of the steps, as a trial")
    p.add_argument("--measure", action="store_true", help="no training: only the table")
    args = p.parse_args()
    quiet()
    if not args.measure:
        steps = {role: n // 40 if args.quick else n for role, n in STEPS.items()}
        build(args.out, args.seed, steps)
    print(f"{'greedy accuracy':32}{'n':>4}{'student':>9}{'teacher':>9}")
    print(*measure(model.load(f"{args.out}/student"), model.load(f"{args.out}/teacher")), sep="\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
