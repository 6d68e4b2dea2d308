"""Command line ``relqa``: parses, calls, prints. What a command needs is imported when it runs: help never fails."""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from ..images import MissingExtra
from ..validation import check_device
from . import about, benchmark, compare, distort, select, train
from .common import Parser, UsageError, debug_flag, missing_module, one_line

EXPECTED = (ImportError, ValueError, TypeError, OSError, RuntimeError)
"""Errors whose message is meant for users; another one is a fault of the package, and its name is told too."""

FAILED, USAGE, INTERRUPTED = 1, 2, 130
EXIT_CODES = """exit codes:
  0    done
  1    failed; or pictures left out (compare, rank, select) or a goal missed (benchmark severity, tiers): stderr has it
  2    wrong usage (arguments missing, unknown or at odds), or a missing extra: the message names it
  130  interrupted (Ctrl-C)
  143  training was stopped by SIGTERM; its checkpoint is written, --resume goes on
"""


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    parser = Parser(
        prog="relqa",
        description="What differs between two pictures: where, how much and in which direction.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[debug_flag()],
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    compare.add_commands(commands)
    select.add_commands(commands)
    distort.add_commands(commands)
    train.add_commands(commands)
    benchmark.add_commands(commands)
    about.add_commands(commands)
    return parser


def entry() -> NoReturn:
    """What the process of the command line does: run its command and leave with its exit code.

    A process of ``torchrun`` leaves at once, without taking anything down; see
    :func:`relqa_loss.training.distributed.joined`.
    """
    code = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        for stream in (sys.stdout, sys.stderr):
            if not stream.closed:
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        Exit code, as in ``EXIT_CODES``; failures are one line on stderr, with ``--debug`` below their traceback.
    """
    args = build_parser().parse_args(argv)
    # As stderr does from the start: one file name that is no text must not cost the whole table.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if "device" in args:
            check_device("--device", args.device)
        run: int = args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left: nothing more to say, and closing keeps the interpreter quiet.
        sys.stderr.close()
        return FAILED
    except Exception as error:  # one line for whatever goes wrong: a user is not to read a traceback
        if getattr(args, "debug", False):
            traceback.print_exc()
        message = str(error) or type(error).__name__
        if not isinstance(error, EXPECTED):
            message = f"{type(error).__name__}: {message} (--debug shows where)"
        code = FAILED
        if isinstance(error, MissingExtra | UsageError):
            code = USAGE
        elif isinstance(error, ImportError):
            message, code = missing_module(error), USAGE
        print(f"relqa {args.command}: error: {one_line(message)}", file=sys.stderr)
        return code
    return run
