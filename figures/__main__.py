"""Figures of run folders; of a single one the page of its samples, too. figures/plot.py lists
them.
"""

import argparse
import sys

from figures import page, plot


def main(argv=None):
    flags = argparse.ArgumentParser(prog="python -m figures", description=__doc__)
    flags.add_argument("runs", nargs="+", metavar="RUN", help="run folders of train.py")
    where = "folder for the figures; default: figures/ in the (first) run folder"
    flags.add_argument("--out", metavar="DIR", help=where)
    args = flags.parse_args(argv)
    print("\n".join(map(str, plot.draw(args.runs, args.out))))
    if len(args.runs) == 1:
        print(page.write_html(args.runs[0]))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
