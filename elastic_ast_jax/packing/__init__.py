"""Batches of packed rows, and the packer that fills them."""
