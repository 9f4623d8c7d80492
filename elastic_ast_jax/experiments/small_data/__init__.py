"""Classification tasks of a few hundred recordings each, from packages of free software."""
