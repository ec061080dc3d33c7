"""`jaxalign models`: the models that can be chosen, filtered; all that is known of one; whether JAX computes it rightly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxalign import config
from jaxalign.commands.words import as_list
from jaxalign.errors import ConfigError, nearest

USAGE = "Write jaxalign models [WORDS] [takes=image|audio|text] [family=...] [kind=...], models show NAME, or models check NAME."
FILTERS = ("takes", "family", "kind", "schema")
TOLERANCE = 2e-4
"""Largest difference over largest value that `check` lets pass, in float32."""


def main(arguments: list[str]) -> None:
    """List entries, or show or check one."""
    from jaxalign.commands.composed import with_own_folder

    words = [word for word in with_own_folder(arguments) if not word.startswith("hydra.")]
    if words[:1] == ["show"]:
        show(_only(words))
    elif words[:1] == ["check"]:
        check(_only(words))
    else:
        _list(words)


def _only(words: list[str]) -> str:
    if len(words) != 2:
        raise ConfigError(f"models {words[0]} takes one name, and {len(words) - 1} were given. {USAGE}")
    return key_of(words[1])


def key_of(name: str) -> str:
    """The key of an entry, by its key or by the name it has in rows.

    Raises:
        ConfigError: if there is none, with the nearest.
    """
    keys = config.options("model")
    for candidate in (name, name.replace("-", "_").replace(".", "_").lower()):
        if candidate in keys:
            return candidate
    raise ConfigError(f"There is no model {name!r} among {len(keys)}. {nearest(name, keys)}")


def _list(words: list[str]) -> None:
    """One line per entry that has every word in it and passes every filter."""
    texts = [word.lower() for word in words if "=" not in word]
    filters = dict(word.split("=", 1) for word in words if "=" in word)
    for name in filters:
        if name not in FILTERS:
            raise ConfigError(f"Models cannot be filtered by {name!r}. {nearest(name, FILTERS)} {USAGE}")
    entries = {key: config.entry_values("model", key) for key in config.options("model")}
    kept = {key: entry for key, entry in entries.items() if _passes(key, entry, texts, filters)}
    width = max((len(key) for key in kept), default=0)
    for key, entry in kept.items():
        print(f"{key:{width}s}  {_takes(entry):5s}  {_billions(entry):>7s}  {description('model', key)}")
    if len(kept) < len(entries) or not texts:
        print(f"{len(kept)} of {len(entries)} models. `jaxalign models show NAME` shows one.")


def _passes(key: str, entry: Mapping[str, Any], texts: list[str], filters: dict[str, str]) -> bool:
    card = entry.get("card", {})
    facts = {"takes": _takes(entry), "family": str(card.get("family")), "kind": entry.get("kind", "native")}
    facts["schema"] = str(entry.get("schema"))
    text = " ".join([key, str(entry.get("name", "")), description("model", key), *map(str, card.values())]).lower()
    return all(word in text for word in texts) and all(facts[name] in as_list(one) for name, one in filters.items())


def _takes(entry: Mapping[str, Any]) -> str:
    """Kind of stimulus; empty for features that come with a recording."""
    defaults = {"network": "image", "tiny_lvlm": "image", "text_encoder": "text"}
    return str(entry.get("takes", defaults.get(str(entry.get("schema")), entry.get("modality", ""))))


def _billions(entry: Mapping[str, Any]) -> str:
    total = entry.get("card", {}).get("parameters", {}).get("total")
    return "" if total is None else f"{total:.2f} B"


def show(key: str) -> None:
    """All that an entry says, and the layers that would be captured, with their number."""
    import yaml

    entry = config.entry_values("model", key)
    print(f"# {description('model', key)}")
    print(f"# {config.file_of('model', key)}")
    print(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None).rstrip())
    if entry.get("schema") == "network" and entry.get("config"):
        print("\n# Layers")
        for part, path, count, n_parameters in _layers(key):
            print(f"#   {part:10s} {path:60s} {count:4d}  {n_parameters / 1e9:8.4f} B parameters")


def _layers(key: str) -> list[tuple[str, str, int, int]]:
    """(part, module path, number of layers, parameters) on the full-size configuration, without memory for weights."""
    from jaxalign.models import building
    from jaxalign.models.hooks import layer_names

    settings = settings_of(key)
    kind = building.class_named(settings.model_class)
    module = building.abstract(kind, building.configuration(kind, settings.config))
    return [
        (part, path, len(layer_names(module, [path])), building.n_parameters(module, path))
        for part in ("encoder", "connector", "language", "post_norm")
        for path in getattr(settings.parts, part)
    ]


def settings_of(key: str) -> Any:
    """An entry as its dataclass."""
    from jaxalign.commands.composed import compose

    return compose([f"model=[{key}]"], needs=("model",)).model[key]


def check(key: str) -> None:
    """Compare JAX with torch, layer by layer, on the miniature of an entry's architecture.

    Raises:
        ConfigError: if the entry has no miniature, or the two differ.
    """
    from jaxalign.models.network import Network

    settings = settings_of(key)
    if not isinstance(settings, Network) or not settings.tiny.config:
        raise ConfigError(f"{key} has no miniature (tiny.config) that JAX and torch could be compared on.")
    from jaxalign.models import parity

    found = parity.compare(settings)
    for layer, error in found.errors.items():
        print(f"{layer:60s} {error:.1e}")
    layer, error = found.worst
    if not error < TOLERANCE:
        raise ConfigError(
            f"{key}: JAX and torch differ by {error:.1e} of the largest value at {layer}: use engine=torch."
        )
    print(
        f"{len(found.errors)} layers agree with torch; largest difference {error:.1e} of the largest value, at {layer}."
    )


def description(group: str, name: str) -> str:
    """First comment line of a choice that is not Hydra's package header."""
    lines = config.file_of(group, name).read_text(encoding="utf-8").splitlines()
    words = [line.lstrip("# ").strip() for line in lines if line.startswith("#") and "@package" not in line]
    return words[0] if words else ""
