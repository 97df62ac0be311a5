"""The one exception a user may cause."""


class UserError(Exception):
    """Bad input: one clear line that names the thing and the mend. The command line prints it and exits with code 2."""
