"""Comparisons that anyone can repeat:

this package's numbers with PyTorch's, and a clip alone with the clip in company.
"""
