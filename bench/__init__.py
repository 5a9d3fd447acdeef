"""Speed and memory, beside plain transformers and TRL."""
