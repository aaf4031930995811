"""What is told of a command line that does not fit: never its words, which may be a person's.

A question without quotes is some words too many, one that begins with a dash an unknown option, and
click's own messages quote both.
"""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

JSON = "--json"
QUOTES = "a text with spaces goes in quotes; "


def told_of_usage(error: click.ClickException) -> tuple[str, str]:
    """What is wrong, and what to do before reading the help, which may be nothing."""
    if isinstance(error, click.MissingParameter | click.BadOptionUsage):
        return error.format_message(), ""  # both name arguments and options of ours only
    if isinstance(error, click.BadParameter):
        name = "" if error.param is None else f" for {_place(error.param, error.ctx)}"
        return f"Invalid value{name}: {_expected(error)}", ""
    near = " or ".join(getattr(error, "possibilities", None) or ())
    meant = f"; did you mean {near}?" if near else ""
    if isinstance(error, click.NoSuchOption):
        group = None if error.ctx is None else error.ctx.command
        if error.option_name == JSON and isinstance(group, click.Group) and _takes_json(group):
            return f"{JSON} stands before the last word of the command, expected behind it", ""
        return f"No such option{meant}", "" if near else QUOTES
    if hasattr(error, "command_name"):  # click.exceptions.NoSuchCommand, since 8.4
        return f"No such command{meant}", ""
    return "The words given do not fit this command", QUOTES


def _takes_json(command: click.Command) -> bool:
    """Whether a command, or one below it, has the option."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = any(JSON in option.opts for option in command.params)
    return own or any(map(_takes_json, below))


def _place(parameter: click.Parameter, context: click.Context | None) -> str:
    """The option or argument, or the variable where that said it."""
    source = None if context is None else context.get_parameter_source(parameter.name or "")
    if source is ParameterSource.ENVIRONMENT:
        return f"the variable {parameter.envvar}"
    return click.Parameter.get_error_hint(parameter, context)


def _expected(error: click.BadParameter) -> str:
    """What an option or argument takes; a parser of ours says it itself."""
    kind: Any = None if error.param is None else error.param.type
    if isinstance(kind, click.types.FuncParamType):
        return error.message
    if isinstance(kind, click.Choice):
        return f"expected one of {', '.join(map(str, kind.choices))}"
    if isinstance(kind, click.types.IntParamType):
        return f"expected a whole number{_within(kind)}"
    if isinstance(kind, click.types.FloatParamType):
        unit = " of GiB" if error.param is not None and error.param.metavar == "GIB" else ""
        return f"expected a number{unit}{_within(kind)}"
    return "another kind of value is expected"


def _within(kind: Any) -> str:
    """The bounds of a range."""
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is None and high is None:
        return ""
    if high is None:
        return f", at least {low}"
    return f", at most {high}" if low is None else f" from {low} to {high}"
