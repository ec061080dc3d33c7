"""Import of torchax 0.0.13 under torch 2.13, which dropped operator overloads that torchax still lists."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def _removed_overloads_tolerated() -> Iterator[None]:
    """Let a missing named-tensor overload stand as a plain string while two tables of torchax are built.

    torchax 0.0.13 keys its autocast and decomposition tables by some 25 overloads over dimension names ("dim_IntList"
    has a sibling "names_dim"). Named tensors left torch in 2.13, so no call can look such a key up again: any
    hashable stand-in will do. Every other missing attribute still raises.
    """
    from torch._ops import OpOverloadPacket

    packet_class: Any = OpOverloadPacket
    original = packet_class.__getattr__

    def tolerant(packet: OpOverloadPacket, overload: str) -> object:
        try:
            return original(packet, overload)
        except AttributeError:
            if "name" not in overload.lower():
                raise
            return f"removed overload {packet}.{overload}"

    packet_class.__getattr__ = tolerant
    try:
        yield
    finally:
        packet_class.__getattr__ = original


def import_torchax() -> ModuleType:
    """The torchax module with its default environment ready; a second call returns the same module.

    Raises:
        ImportError: if torchax is not installed, or fails for another reason than the removed overloads.
    """
    with _removed_overloads_tolerated():
        torchax = importlib.import_module("torchax")
        importlib.import_module("torchax.decompositions")
        torchax.default_env()
    return torchax
