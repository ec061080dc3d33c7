"""Every choice in conf/ composes into the dataclasses that the code takes, and none is forgotten."""

import dataclasses
import re
from functools import cache

import pytest
import yaml

from jaxalign import config
from jaxalign.commands.composed import compose
from jaxalign.contracts import DistConfig, MeshConfig, RunConfig

CONF = config.conf_folder()
FILES = sorted(CONF.rglob("*.yaml"))
SCHEMAS = {
    "metric": config.METRICS,
    "dataset": config.DATASETS,
    "model": config.MODEL_KINDS,
    "stimuli": config.STIMULI,
    "mesh": {"auto": MeshConfig},
    "dist": {"auto": DistConfig},
}
REST = {
    "dataset": "dataset=n400",
    "model": "model=[fas]",
    "metric": "metric=[correlation]",
    "stimuli": "stimuli=pictures",
}
CHOICES = [(group, name) for group in SCHEMAS for name in config.options(group)]


def request(group, name):
    """A whole request in which one group has the given choice."""
    chosen = f"{group}=[{name}]" if group in ("model", "metric") else f"{group}={name}"
    return [*(option for other, option in REST.items() if other != group), chosen]


@cache
def entry_of(group, name):
    """What a choice becomes inside a whole request."""
    chosen = getattr(compose(request(group, name)), group)
    return chosen[name] if group in ("model", "metric") else chosen


def values_of(content):
    """All strings and keys of a YAML file."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from values_of(value)
    elif isinstance(content, list):
        for value in content:
            yield from values_of(value)
    else:
        yield str(content)


@pytest.mark.parametrize("name", config.options("experiment"))
def test_every_experiment_composes_into_dataclasses(name):
    run = compose([f"experiment={name}"])
    assert isinstance(run, RunConfig)
    assert run.name == name and run.output == f"outputs/{name}"
    assert isinstance(run.dataset, tuple(config.DATASETS.values()))
    assert run.model and all(isinstance(entry, tuple(config.MODEL_KINDS.values())) for entry in run.model.values())
    assert run.metric and all(isinstance(entry, tuple(config.METRICS.values())) for entry in run.metric.values())
    assert all(hash(entry) for entry in run.metric.values()), "a metric is the key of a cache: it stays hashable"


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_of_every_group_composes(group, name):
    assert isinstance(entry_of(group, name), tuple(SCHEMAS[group].values()))


def test_every_group_is_tested_here():
    assert set(config.groups()) == {*SCHEMAS, "experiment"}


@pytest.mark.parametrize("group", sorted({*SCHEMAS} - {"mesh"}))
def test_every_kind_has_a_choice(group):
    """A new metric, data set or model class comes with its YAML: who forgets it is told here."""
    chosen = {type(entry_of(group, name)) for name in config.options(group)}
    forgotten = {name for name, kind in SCHEMAS[group].items() if kind not in chosen}
    assert not forgotten, f"conf/{group}/ has no choice for {forgotten}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_yaml_holds_values_and_no_code(path):
    text = path.read_text(encoding="utf-8")
    assert "_target_" not in text and "!!" not in text
    for value in values_of(yaml.safe_load(text)):
        assert not re.match(r"(jaxalign|torch|transformers|mne|numpy|jax|flax|builtins|os|sys)\.", value), value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_opens_with_what_it_is(path):
    comments = [line for line in path.read_text(encoding="utf-8").splitlines()[:2] if line.startswith("# ")]
    words = [line.removeprefix("# ") for line in comments if "@package" not in line]
    assert words, "the first lines say in a sentence what the choice is: `jaxalign --help` shows it"


@pytest.mark.parametrize("name", config.options("experiment"))
def test_every_experiment_opens_with_command_duration_and_result(name):
    lines = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[1:] if line.startswith("#")]
    assert lines[0] == "# @package _global_"
    assert header[0].startswith(f"# Command:  jaxalign experiment={name}")
    assert header[1].startswith("# Duration: ") and re.search(r"\d", header[1]), "a measured duration, not a promise"
    assert header[2].startswith("# Expect: ") and re.search(r"\d", " ".join(header[2:])), "numbers to compare with"


def test_settings_survive_the_composition():
    """YAML lists become tuples, numbers keep their types, and overrides reach the entry they name."""
    words = ["dataset=n400", "model=[fas]", "metric=[ridge_ols]", "metric.ridge_ols.alpha_values=[0,1e2]", "seed=7"]
    run = compose(words)
    assert run.metric["ridge_ols"].alpha_values == (0.0, 100.0) and run.seed == 7
    assert run.dataset.stimulus_columns == ("cue", "association")
    assert dataclasses.asdict(run)["mesh"]["fit"] is None
