"""The base of errors that a user can mend;

commands print their message alone, without a traceback.
"""


class UserError(ValueError):
    """Says which file, key or value is wrong, what is allowed, and what to do.

    Attributes:
        exit_code: Of the command that it ends.
    """

    exit_code = 1
