"""What can be wrong with the files that exporters read."""


class CurvesFileError(Exception):
    """A file cannot be used; the message says which file, row and column, and why."""
