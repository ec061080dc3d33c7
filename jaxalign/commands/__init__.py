"""The verbs of the command line; VERBS is the only table of them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from keyword import iskeyword

from jaxalign import __version__
from jaxalign.errors import ConfigError, JaxalignError, nearest

VERBS = {
    "run": "do a run, or the part of it that is missing (the default verb)",
    "plan": "show units, waves, bytes, operations and time of a run without doing it",
    "profile": "show where the time of a run goes, stage by stage, beside what the machine can do",
    "selfcheck": "compare every device with known answers, and print what lower precisions would cost",
    "extract": "activations of all layers into stores, without scoring: jaxalign extract model=[...] stimuli=...",
    "models": "list the models that can be chosen; models show NAME, models check NAME",
    "report": "write figures and report of a finished run again: jaxalign report FOLDER",
    "verify": "hash stores and results again: jaxalign verify FOLDER...",
    "fetch": "files of a published data set, with its terms of use: jaxalign fetch dataset=NAME to=FOLDER",
    "import": "features that others computed, into a store: jaxalign import FILE... to=FOLDER model=NAME",
    "export": "a store as .safetensors or .npy: jaxalign export STORE to=FILE.safetensors",
    "help": "this page",
}
"""Verb -> what it does; each is a module of this package with main(arguments)."""

HELP = ("--help", "-h")


def main(arguments: list[str]) -> int:
    """Run one verb and turn its outcome into an exit code.

    Args:
        arguments: the command line without the program's name.
    Returns:
        0 done, 2 configuration error, 3 data error, 4 some units failed, 5 a device is not precise enough, 75 preempted.
    """
    try:
        if arguments == ["--version"]:
            print(f"jaxalign {__version__}")
            return 0
        verb, rest = split(arguments)
        found = import_module(module_of(verb))
        found.main(rest)
    except JaxalignError as error:
        print(f"{_kind(error)}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`jaxalign models | head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def module_of(verb: str) -> str:
    """The module of a verb; one that is a word of Python, such as import, has an underscore behind it."""
    return f"jaxalign.commands.{verb}{'_' if iskeyword(verb) else ''}"


def split(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb and its arguments: the first word when it has no "=" and is no flag, else `run`.

    Raises:
        ConfigError: if that word is no verb; names the nearest.
    """
    if any(flag in arguments for flag in HELP):
        return "help", [word for word in arguments if word not in HELP]
    if not arguments or "=" in arguments[0] or arguments[0].startswith(("-", "+", "~")):
        return "run", arguments
    if arguments[0] not in VERBS:
        raise ConfigError(
            f"{arguments[0]!r} is no verb of jaxalign. {nearest(arguments[0], VERBS)} Options are written name=value."
        )
    return arguments[0], arguments[1:]


def _kind(error: JaxalignError) -> str:
    names: dict[int, str] = {
        2: "Configuration error",
        3: "Data error",
        4: "Some units failed",
        5: "Precision error",
        75: "Preempted",
    }
    return names.get(error.exit_code, "Error")
