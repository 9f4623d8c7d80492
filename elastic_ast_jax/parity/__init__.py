"""Parity: this package's numbers against PyTorch's, and packed clips against single clips."""
