"""Builders of the data sets that `elastic-ast prepare` writes."""
