"""The two kinds of error that a user sees as one sentence instead of a traceback."""


class UsageError(Exception):
    """The command line, the configuration or an input file is wrong: exit code 2, nothing was started."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class RunError(Exception):
    """The run met something that it cannot go on with (data, disk, checkpoint): exit code 1."""
