"""`python -m rtx_lab COMMAND`: everything around a run that is not training.

A command's module is imported when it is called, so that `--help` stays fast. Exit codes: 0 well, 1 the work failed,
2 the command line or an input is wrong, 130 stopped by Ctrl-C. Errors are one sentence each; RTX_LAB_DEBUG=1 shows
where an unexpected one came from.
"""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from rtx_lab.core.errors import RunError, UsageError

COMMANDS = {
    "infer": "answer a text with a finished run or an exported model",
    "export": "write a run as a self-contained model folder, or back up every finished run",
    "doctor": "check GPU, memory, disk, packages, data, tracking and the last checkpoints",
    "status": "list the runs below a folder: what is done, what is running, what broke",
    "reproduce": "run a finished run again from its record and compare",
    "submission": "hold a file to be handed in against the dialogues that it is for",
    "report": "write what a study found: intervals, paired tests, figures and tables in one page",
}
PROGRAM = "python -m rtx_lab"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UsageError as error:
        return _complain(error.problems, 2)
    except RunError as error:
        return _complain([str(error)], 1)
    except KeyboardInterrupt:
        return _complain(["stopped"], 130)
    except BrokenPipeError:  # the reader of a pipe (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("RTX_LAB_DEBUG") == "1":
            raise
        text = " ".join(str(error).split())
        return _complain([f"unexpected {type(error).__name__}: {text} (RTX_LAB_DEBUG=1 shows where)"], 1)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name = arguments[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `{PROGRAM} {near[0]}`?" if near else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command {name!r}: {hint}")
    command = importlib.import_module(f"rtx_lab.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    try:
        parsed, unknown = parser.parse_known_args(arguments[1:])
    except SystemExit as leaving:  # argparse has printed help or its complaint
        return int(leaving.code or 0)
    if unknown:
        raise UsageError(*(_unknown(parser, word) for word in unknown))
    return command.main(parsed)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    head = f"usage: {PROGRAM} COMMAND [...]\n\nEverything around a run; `python train.py` trains."
    return "\n".join([head, "", *lines, "", f"{PROGRAM} COMMAND --help tells more."])


def _unknown(parser: argparse.ArgumentParser, word: str) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(word.partition("=")[0], options, n=1)
    if near:
        return f"there is no option {word}: did you mean {near[0]}?"
    return (
        f"{word!r} is one word too many: see {parser.prog} --help" if word[0] != "-" else f"there is no option {word}"
    )


def _complain(problems: Sequence[str], code: int) -> int:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
