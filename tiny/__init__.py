"""The tiny world: handwritten digits, a misprinted textbook, and the making of its two models."""
