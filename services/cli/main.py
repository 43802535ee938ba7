"""The command `rgopd`. Heavy imports wait until a command needs them, so that --help is quick."""

from __future__ import annotations

import platform
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

from rgopd.cli import eval_commands, folder_commands, run_commands, service_commands, setting_commands
from rgopd.cli.extras import missing_extra
from rgopd.cli.stopping import Stopped, stop_on_signals
from rgopd.common.errors import RgopdError, told

app = typer.Typer(help="Reward-Gated On-Policy Distillation.", no_args_is_help=True, pretty_exceptions_enable=False)


SERVICES = ("teacher", "verifier", "sampler", "train", "watch")
"""Commands with signal handlers of their own."""


def _say_version(asked: bool) -> None:
    if asked:
        from rgopd import __version__

        typer.echo(f"rgopd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Say the version.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """Reward-Gated On-Policy Distillation."""
    if context.invoked_subcommand not in SERVICES:
        stop_on_signals()


for commands in (setting_commands, run_commands, service_commands, folder_commands, eval_commands):
    commands.register(app)


USAGE: Any = typer.BadParameter.__bases__[0]
"""What is wrong with a command line itself: click's UsageError, which typer brings under a name of its own."""


def main() -> None:
    """Entry point: our own errors are one line on stderr, not a traceback."""
    if platform.system() == "Windows":
        sys.stderr.write("rgopd: runs on Linux, on macOS in parts, and on Windows in WSL 2: wsl --install\n")
        sys.exit(2)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except USAGE as error:  # one line instead of a box of five
        context = getattr(error, "ctx", None)
        if context is not None and not error.format_message():  # `rgopd` alone
            typer.echo(context.get_help())
            sys.exit(2)
        command = context.command_path if context is not None else "rgopd"
        sys.stderr.write(f"rgopd: {error.format_message()}; `{command} --help` lists what it takes\n")
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        _end_stopped("Ctrl-C", 130)
    except Stopped as stopped:
        _end_stopped(str(stopped), stopped.code)
    except RgopdError as error:
        sys.stderr.write(f"rgopd: {error}\n")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that is none, a file that may not be read
        sys.stderr.write(f"rgopd: {told(error)}\n")
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (advice := missing_extra(error)) is None:
            raise
        sys.stderr.write(f"rgopd: {advice}\n")
        sys.exit(2)


def _end_stopped(by: str, code: int) -> NoReturn:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # of an impatient second one
    goes_on = "; the same command goes on where it was" if sys.argv[1:2] in (["eval"], ["fetch"], ["reproduce"]) else ""
    sys.stderr.write(f"rgopd: stopped by {by}{goes_on}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
