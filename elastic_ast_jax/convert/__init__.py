"""Weights of other programs: state dicts of PyTorch into workdirs of this package, and back."""
