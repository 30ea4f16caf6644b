"""From a PyTorch checkpoint to a bundle: the side of lite-infer that knows torch."""
