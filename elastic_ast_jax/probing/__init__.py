"""Fit classifiers to the embeddings of a frozen encoder (`elastic-ast probe`)."""
