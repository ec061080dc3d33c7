"""`jaxalign models`: the models that can be chosen, from conf/."""

from __future__ import annotations

from jaxalign import config


def main(arguments: list[str]) -> None:
    """List every model entry with its first line of description; words in the arguments filter by name."""
    for name in config.options("model"):
        if all(word in name for word in arguments):
            print(f"{name:22s} {description('model', name)}")


def description(group: str, name: str) -> str:
    """First comment line of a choice that is not Hydra's package header."""
    lines = (config.conf_folder() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    words = [line.lstrip("# ").strip() for line in lines if line.startswith("#") and "@package" not in line]
    return words[0] if words else ""
