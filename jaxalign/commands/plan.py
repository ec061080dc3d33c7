"""`jaxalign plan`: units, tiles and bytes of a run, without doing it."""

from __future__ import annotations

from jaxalign.commands import progress
from jaxalign.commands.composed import compose


def main(arguments: list[str]) -> None:
    """Print the plan. Activations that are not in the store yet are extracted, since their widths decide the bytes."""
    from jaxalign.runtime.inputs import gather
    from jaxalign.runtime.plan import describe, make_plan
    from jaxalign.runtime.run import memory_limit

    run = compose(arguments)
    with progress.shown() as show:
        inputs = gather(run, show)
    print(describe(make_plan(run, inputs, memory_limit(run.mesh)), inputs))
