"""Small variations of the method, one file each, as a start for your own.

    python -m forks.zvp --steps 15 --seed 1          # flags are those of train.py

A fork is a pair of plain functions, records.Method(reformulate, update), made by method(job) for
the job that train.main has opened; most change one of the two and take the other from train.py,
baselines.py or policy.py. FLAGS come before those of the command line. Where the pair shares
something from one function to the other, method() makes it and hands it to both; it is not part of
a checkpoint.
"""

import sys
from pathlib import Path

import train
from runtime.errors import command


def run(file, flags, method=None):
    """Train as train.py does, with the method of a fork's file; ends this process."""
    argv = [*flags, *sys.argv[1:]]
    command(lambda: train.main(argv, method, Path(file).stem))
