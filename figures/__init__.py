"""Curves, the page of samples, the diagram."""
