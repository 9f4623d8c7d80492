"""Attention kernels of accelerators, behind the interface of `models.attention`, and what proves
one.
"""
