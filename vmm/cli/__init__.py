"""The command line: one file a command, found by its name.

Whatever goes wrong becomes one line on stderr and an exit code: 0 no violation, 1 violation found,
2 usage or bad input, 3 internal error or a replay that diverged, 4 incomplete, 130 interrupted.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from vmm import __version__
from vmm.errors import InternalError, VmmError

INTERRUPTED = 130
BROKEN_PIPE = 141


class Commands(click.Group):
    """The commands in this folder; turns every way of ending into an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        found = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name for name in found if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"vmm.cli.{cmd_name}").command
        return command

    def main(  # type: ignore[override]  # never returns
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit."""
        words = [*(sys.argv[1:] if args is None else args)]  # `list` is a command in here
        extra["standalone_mode"] = False
        try:
            code = super().main(words, prog_name or "vmm", **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            code = _failed(words, "usage", _one_line(error), error.exit_code)
        except VmmError as error:
            code = _failed(words, error.code, _with_notes(error), error.exit_code, error)
        except (KeyboardInterrupt, click.Abort):
            code = _failed(words, "interrupted", "interrupted", INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        except Exception as error:  # noqa: BLE001 - the last resort
            bug = InternalError(f"{type(error).__name__}: {error}; -v shows the traceback")
            code = _failed(words, bug.code, str(bug), bug.exit_code, error)
        sys.exit(code or 0)


def _failed(
    words: Sequence[str], code: str, message: str, exit_code: int, error: Exception | None = None
) -> int:
    """Say what went wrong, on stderr; with ``--json`` on stdout as well."""
    line = " ".join(message.split())
    click.echo(f"vmm: {line}", err=True)
    if error is not None and ("-v" in words or "--verbose" in words):
        import traceback

        traceback.print_exception(error)
    if "--json" in words:
        from vmm.cli._output import empty, to_json

        command = next((word for word in words if not word.startswith("-")), None)
        click.echo(to_json({**empty(command), "error": {"code": code, "message": line}}))
    return exit_code


def _one_line(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context is not None else message


def _with_notes(error: VmmError) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


@click.group(cls=Commands)
@click.version_option(__version__, message="vmm %(version)s")
def main() -> None:
    """Run, sample and exhaust the races of a hypervisor's shadow MMU."""
