"""What happened in a run, one JSON line each: for dashboards, and for a person who asks why it took so long."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from jaxalign.runtime import dist

EVENTS_FILE = "events.jsonl"


def events_file(output: Path, process: int) -> Path:
    """Each process writes its own file."""
    return output / (EVENTS_FILE if process == 0 else f"events-{process}.jsonl")


def note(output: Path, event: str, **facts: Any) -> None:
    """Add one line: seconds since 1970, what happened, and JSON facts about it."""
    line = json.dumps({"time_s": round(time.time(), 3), "event": event, **facts}, sort_keys=True, default=str)
    with events_file(output, dist.index()).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
