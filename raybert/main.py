"""START HERE: the ``raybert`` command. Collects the verbs, runs one, turns errors into one message and an exit code.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 a quality gate failed, 130 interrupted.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from cluster.signals import interrupt_for_sure
from foundation.errors import RaybertError
from raybert import __version__
from raybert.options import report_error

# Verb or group -> the module in raybert/verbs that holds it, in the order in which a newcomer meets them.
VERBS = {
    "quickstart": "quickstart",
    "doctor": "doctor",
    "data": "data",
    "pretrain": "train",
    "finetune": "train",
    "plan": "plan",
    "runs": "runs",
    "tune": "tune",
    "evaluate": "evaluate",
    "models": "models",
    "serve": "serve",
    "classify": "classify",
    "query": "query",
    "cluster": "cluster",
    "jobs": "jobs",
    "schema": "schema",
}
INTERRUPTED = 130
HELP = """From your own text to a classifier in production, on one laptop or on a GPU cluster, with the same commands.

Start with `raybert quickstart`, or with your own CSV: `raybert finetune data.train=reviews.csv`.
"""


# Typer brings its own click and exports only some of its names; a usage error is a grandchild of the one that is caught here.
_ClickException: Any = typer.BadParameter.__mro__[2]


class _Verbs(TyperGroup):
    """Imports a verb's module when the verb is used or shown; each module is light by itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        module: Any = importlib.import_module(f"raybert.verbs.{VERBS[cmd_name]}")
        verb = module.COMMANDS[cmd_name]
        verb._add_completion = False  # else every group would offer to install shell completion for itself
        return typer.main.get_command(verb)


app = typer.Typer(cls=_Verbs, help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    # In the option's callback, because a group asks for its command before its own body runs.
    if wanted:
        print(f"raybert {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
) -> None:
    pass


def command() -> NoReturn:
    """The process: runs the command line and ends with its exit code."""
    interrupt_for_sure()
    code = main()
    if code == INTERRUPTED:
        # Everything is undone by now. While Python itself ends, for seconds where Ray was used, another SIGINT would kill the process.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # CPython notes an interrupt that passes through exec of a text, as dataclasses call it, and under -m would end itself with SIGINT
        # instead of this exit code; the next exec takes the note away (pythonrun.c, run_eval_code_obj).
        exec("")
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    before_separator = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in before_separator
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="raybert", standalone_mode=False)
    except RaybertError as error:
        report_error(str(error), error.exit_code, as_json=as_json)
        return error.exit_code
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            return 2
        context = getattr(error, "ctx", None)
        hint = f" (see `{context.command_path} --help`)" if context else ""
        report_error(error.format_message() + hint, 2, as_json=as_json)
        return 2
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code and says nothing
        report_error("interrupted; what was committed is kept", code, as_json=as_json)
    return code if isinstance(code, int) else 0
