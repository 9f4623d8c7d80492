"""Define the base class of errors that a user can mend.

Commands print only their message, without a traceback.
"""


class UserError(ValueError):
    """Report which file, key or value is wrong, what is allowed, and what to do.

    Attributes:
        exit_code: Exit code of the command that it ends.
    """

    exit_code = 1
