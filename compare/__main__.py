"""python -m compare: see compare/study.py."""

import sys

from compare.study import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as e:
        sys.exit(f"error: {e}")
