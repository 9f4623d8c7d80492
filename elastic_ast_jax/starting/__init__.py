"""Starting points:

weights of other networks, read into one common form, and fitted to the network that is trained.
"""
