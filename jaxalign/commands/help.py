"""`jaxalign --help`: what can be asked for, from conf/ and the schemas."""

from __future__ import annotations

from jaxalign import config
from jaxalign.commands import VERBS
from jaxalign.commands.models import description


def main(arguments: list[str]) -> None:
    """Print the help page."""
    print("jaxalign [VERB] [name=value ...]    Options and groups are Hydra overrides; -m sweeps over comma lists.\n")
    print("Verbs:")
    for verb, what in VERBS.items():
        print(f"  {verb:10s} {what}")
    print("\nStart with one of these:")
    for name in config.options("experiment"):
        print(f"  jaxalign experiment={name:12s} {_expectation(name)}")
    print("\nOr choose one of each group:")
    for group in config.groups():
        if group != "experiment":
            print(f"  {group}=")
            names = config.options(group)
            if group == "model":
                entries = {name: config.entry_values("model", name) for name in names}
                names = [name for name, entry in entries.items() if "hub_id" not in entry]
                print(
                    f"      {len(entries)} entries (`jaxalign models`, `jaxalign models show NAME`); without a checkpoint of your own:"
                )
            for name in names:
                print(f"      {name:20s} {description(group, name)}")
    print("\nOften changed: output=FOLDER, seed=0, n_permutations=200, dataset.effect=0, report=false, force=true.")
    print("The same command again does only what is missing.")
    print(
        "Sweeps: jaxalign -m experiment=demo seed=0,1,2 computes all jobs as one plan, each with a folder in outputs/NAME-sweep."
    )
    print(
        "        hydra/launcher=basic|joblib|submitit_slurm runs them one by one, in processes or as jobs of a cluster."
    )
    print(
        "Exit codes: 0 done, 2 configuration error, 3 data error, 4 some units failed, 5 a device is not precise enough, 75 preempted."
    )


def _expectation(name: str) -> str:
    """The duration line of an experiment's header."""
    lines = (config.conf_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    found = [line.split("Duration:", 1)[1].strip() for line in lines if "Duration:" in line]
    return found[0] if found else ""
