"""The words of verbs that take files: names of files, and options written name=value."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jaxalign.errors import ConfigError, nearest


def split_words(arguments: list[str], usage: str, options: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Files, and the value of each option.

    Args:
        arguments: words of the command line; "./a=b.npy" is a file, "a=b" an option.
        usage: how the verb is written, for errors.
        options: name -> default.
    Raises:
        ConfigError: if an option is unknown or there twice, or no file is named.
    """
    files = [word for word in arguments if not re.match(r"\w+=", word)]
    given = [word.partition("=")[::2] for word in arguments if re.match(r"\w+=", word)]
    names = [name for name, _ in given]
    for name in names:
        if name not in options:
            raise ConfigError(f"There is no option {name!r} here. {nearest(name, options)} {usage}")
        if names.count(name) > 1:
            raise ConfigError(f"{name}= is given {names.count(name)} times: give it once.")
    if not files:
        raise ConfigError(f"No file or folder is named. {usage}")
    return files, {**options, **dict(given)}


def as_list(value: str) -> tuple[str, ...]:
    """The parts of "a,b" or "[a,b]"; none of an empty value."""
    return tuple(part.strip() for part in value.strip("[]").split(",") if part.strip())


def as_bool(name: str, value: str) -> bool:
    """What true or false says.

    Raises:
        ConfigError: if it says neither.
    """
    if value.lower() not in ("true", "false"):
        raise ConfigError(f"{name}={value}: true or false is needed.")
    return value.lower() == "true"


def needed(values: Mapping[str, str], name: str, usage: str) -> str:
    """The value of an option that has no default.

    Raises:
        ConfigError: if it is missing.
    """
    if not values[name]:
        raise ConfigError(f"{name}= is missing. {usage}")
    return values[name]


def option(name: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The value of `name=value` among options of a request, and the others; None where it is not given."""
    start = f"{name}="
    values = [word.removeprefix(start) for word in arguments if word.startswith(start)]
    return (values[-1] if values else None), [word for word in arguments if not word.startswith(start)]
