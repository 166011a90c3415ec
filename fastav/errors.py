"""The one exception for "the user can fix this"."""


class UserError(Exception):
    """A problem with what the user gave: what was wrong, what was given, what is allowed.

    The command line prints the text in one line and exits with 2, the page shows it as a toast,
    the evaluation writes it into the record. Every other exception keeps its traceback.
    """
