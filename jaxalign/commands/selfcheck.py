"""`jaxalign selfcheck`: known answers on every device of this machine, and what lower precisions would cost."""

from __future__ import annotations

import json
from pathlib import Path

from jaxalign.commands.words import option
from jaxalign.contracts import MeshConfig
from jaxalign.errors import ConfigError

USAGE = "Write jaxalign selfcheck [json=PATH]."


def main(arguments: list[str]) -> None:
    """Compare every local device with packaged float64 answers and print the errors, as JSON too with `json=PATH`.

    Raises:
        ConfigError: if something else is asked for.
        PrecisionError: if a device is less precise than the contract, after the table is printed.
    """
    path, rest = option("json", arguments)
    if rest:
        raise ConfigError(f"selfcheck does not know {rest[0]!r}. {USAGE}")
    from jaxalign.runtime import mesh, selfcheck

    report = selfcheck.check(mesh.make_mesh(MeshConfig()))
    if path is not None:
        Path(path).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(selfcheck.as_text(report))
    selfcheck.demand(report)
