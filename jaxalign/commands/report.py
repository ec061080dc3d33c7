"""`jaxalign report FOLDER`: figures and report of a finished run, written again."""

from __future__ import annotations

from pathlib import Path

from jaxalign.errors import ConfigError


def main(arguments: list[str]) -> None:
    """Write the report of each named folder.

    Raises:
        ConfigError: if no folder is named.
        DataError: if a folder holds no finished run.
    """
    from jaxalign.results.report import write_report

    if not arguments:
        raise ConfigError("jaxalign report needs the output folder of a finished run: jaxalign report outputs/demo")
    for folder in arguments:
        print(write_report(Path(folder)))
