"""Folds of a run: runs are left out where there are enough of them, and a reader is told where there are not."""

import json

import makers
import numpy as np
import pytest

from jaxalign import commands
from jaxalign.compute import folds
from jaxalign.compute.ridge import Ridge
from jaxalign.contracts import Fit, Recording, RunConfig
from jaxalign.errors import ConfigError
from jaxalign.runtime.designs import design_of, notes
from jaxalign.runtime.inputs import Inputs

N = 24
SMALL = {"n_outer": 3, "n_inner": 2}


def inputs_of(runs, n_test=0, **columns):
    """A recording of noise whose last stimuli are the test set; runs, and other columns, as given."""
    values = np.random.default_rng(0).standard_normal((N, 2, 1)).astype(np.float32)
    columns = ({} if runs is None else {"run": np.asarray(runs)}) | columns
    is_test, nowhere = np.arange(N) >= N - n_test, np.full((2, 3), np.nan)
    ids = tuple(map(str, range(N)))
    one = Recording("set", "01", ids, values, ("Fz", "Cz"), np.zeros(1), np.ones(1), "V", np.ones(N, np.int32), is_test,
                    nowhere, columns=columns)  # fmt: skip
    return Inputs([one], [Fit("m", "", "l", 0.0, "none", 3)], [np.zeros((N, 3), np.float32)], [False], ["m"], None, {})


def designed(inputs, **options):
    """The design, and the notes of the run."""
    metric = Ridge(**SMALL, **options)
    run = RunConfig(metric={"mine": metric})
    return design_of(metric, run, inputs), notes(run, inputs)


def test_with_fewer_than_three_runs_rows_are_shuffled_and_the_reader_is_told():
    plain, none = designed(inputs_of(None))
    assert not none
    for n_runs, words in ((1, "the recording has 1 run of the 3 or more"), (2, "the recording has 2 runs of the 3 or")):
        design, said = designed(inputs_of(np.arange(N) % n_runs))
        np.testing.assert_array_equal(design.outer.test, plain.outer.test)
        np.testing.assert_array_equal(design.inner.test, plain.inner.test)
        (note,) = said
        assert note.startswith("mine: folds are of shuffled stimuli and leave no run out") and words in note
    design, said = designed(inputs_of(np.arange(N) % 4))
    assert not said and design.outer.test.shape == (4, 6)


def test_beside_a_test_set_two_runs_choose_the_penalty():
    _, said = designed(inputs_of(np.arange(N) // 18, n_test=6))
    (note,) = said
    assert "the folds that choose penalties are of shuffled stimuli" in note
    assert "the training stimuli have 1 run of the 2 or more" in note
    design, said = designed(inputs_of(np.arange(N) // 9, n_test=6))
    assert not said and design.inner.test.shape == (1, 2, 9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": "runs"}, r"\.folds=runs leaves .* has 2 runs of the 3 .*: set metric\.mine\.folds=shuffled\."),
        ({"group_by": "run"}, r"mine\.group_by=run leaves .* has 2 runs of .*folds=shuffled with an empty group_by\."),
        ({"folds": "runs", "group_by": "block"}, r"mine\.group_by=block leaves .* has 1 run of .*folds=shuffled with"),
    ],
)  # fmt: skip
def test_too_few_runs_are_refused_when_they_are_asked_for(options, said):
    with pytest.raises(ConfigError, match=said):
        designed(inputs_of(np.arange(N) % 2, block=np.zeros(N)), **options)


def test_enough_runs_are_left_out_by_name_too():
    runs = np.arange(N) % 3
    design, _ = designed(inputs_of(runs), folds="runs")
    np.testing.assert_array_equal(design.outer.test, folds.padded(folds.leave_one_group_out(runs))[0])


def test_a_recording_of_one_file_is_scored_by_ridge_as_it_comes(tmp_path, capsys):
    words = makers.eeg_request(tmp_path, **{
        "dataset": "mne_raw", "dataset.feature_columns": None, "dataset.steps": "[]", "metric": "[ridge]",
        "metric.correlation.n_permutations": None, "n_permutations": 10,
    })  # fmt: skip
    assert commands.main(words) == 0, capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert any(
        one.startswith("ridge: folds are of shuffled stimuli") and "has 1 run" in one for one in summary["warnings"]
    )
    capsys.readouterr()
    assert commands.main([*words, "metric.ridge.folds=runs", f"output={tmp_path / 'other'}"]) == 2
    assert "the recording has 1 run of the 3 or more that this needs" in capsys.readouterr().err
