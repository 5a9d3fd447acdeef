"""The paper's 31 benchmarks: rows, scorers, judges, tables."""
