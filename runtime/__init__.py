"""What a run needs around the method: start, checkpoints, metrics, console, kernels."""
