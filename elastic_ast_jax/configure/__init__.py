"""Write a config for a folder or a list of recordings (`elastic-ast configure`)."""
