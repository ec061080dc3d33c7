"""Triplets, concepts and embeddings are matched by name, whatever the order of their rows."""

import numpy as np
import pytest

from jaxalign.errors import DataError
from jaxalign.sources.triplets import (
    Triplets,
    agreement,
    concept_of,
    read_concepts,
    read_embedding,
    read_triplets,
)

NAMES = ("aardvark", "abacus", "bat1", "bat2", "cup")


@pytest.fixture(scope="module")
def things(data_folder):
    embedding = read_embedding(str(data_folder / "things/spose_embedding66d_rescaled.csv"), "image_name")
    files = {name: f"2171trials_{name}.txt" for name in ("humans", "GPT_4", "ChatGPT_3.5")}
    return embedding, {
        name: read_triplets(str(data_folder / "things" / file), embedding.names) for name, file in files.items()
    }


def test_agreement_of_humans_and_language_models(things):
    """Numbers of shared/data/README.md, percent of 2,171 trials."""
    _, found = things
    assert all(one.choices.shape == (2171, 3) for one in found.values())
    assert agreement(found["ChatGPT_3.5"], found["humans"]) == pytest.approx(34.73, abs=0.005)
    assert agreement(found["GPT_4"], found["humans"]) == pytest.approx(45.74, abs=0.005)
    assert agreement(found["ChatGPT_3.5"], found["GPT_4"]) == pytest.approx(56.24, abs=0.005)


def test_agreement_does_not_depend_on_any_order(things, rng):
    """Trials shuffled, concepts renumbered, the kept pair swapped: the same number."""
    embedding, found = things
    names = rng.permutation(embedding.names)
    moved = found["humans"].ordered_as(tuple(names))
    trials = rng.permutation(moved.choices)[:, [1, 0, 2]]
    again = Triplets(moved.names, trials, "shuffled")
    assert agreement(found["GPT_4"], again) == agreement(found["GPT_4"], found["humans"])
    np.testing.assert_array_equal(again.ordered_as(embedding.names).ordered_as(names).choices, trials)


def test_the_embedding_has_1854_concepts_by_name(things):
    embedding, _ = things
    assert embedding.values.shape == (1854, 66) and embedding.values.max() == pytest.approx(100)
    assert embedding.names[:2] == ("aardvark", "abacus") and "bat1" in embedding.names
    two = embedding.ordered_as(["abacus", "aardvark"])
    np.testing.assert_allclose(two[0, :2], [34.56143010175235, 6.095579832877203], rtol=1e-12)
    np.testing.assert_allclose(two[1, :2], [0.3412201532504557, 11.00944715323772], rtol=1e-12)


def test_names_of_pictures_become_names_of_concepts():
    assert [concept_of(one) for one in ("air_pump_01s.jpg", "bat1_02b.JPG", "bat1", "x.jpg")] == [
        "air_pump",
        "bat1",
        "bat1",
        "x",
    ]


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_tables_of_concepts(tmp_path):
    tsv = write(tmp_path / "c.tsv", "Word\tuniqueID\nbat\tbat1\nbat\tbat2\n")
    assert read_concepts(tsv) == ("bat1", "bat2")
    assert read_concepts(write(tmp_path / "c.txt", "cup\nbat1\n")) == ("cup", "bat1")
    with pytest.raises(DataError, match=r"2 names, 1 of them different; 'bat' occurs 2 times.*uniqueID"):
        read_concepts(tsv, "Word")
    with pytest.raises(DataError, match=r"no column 'unique_id'. Nearest: uniqueID"):
        read_concepts(tsv, "unique_id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n3 4", r"line 2 of 2, is '3 4'.*Is the file whole"),
        ("0 1 2\n1 1 2\n", r"line 2 of 2, is '1 1 2': three different"),
        ("0 1 2\n0 1 x\n", r"line 2 .* is '0 1 x'"),
        ("0 1 2\n2 3 5\n", r"line 2, numbers a concept 5 and there are 5 names, 0 to 4: it belongs to another table"),
        ("", "holds no triplets"),
    ],
)
def test_bad_triplets(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_triplets(write(tmp_path / "t.txt", text), NAMES)


def test_other_trials_and_repeated_trials_have_no_agreement(tmp_path):
    one = read_triplets(write(tmp_path / "a.txt", "0 1 2\n0 1 3\n"), NAMES)
    other = read_triplets(write(tmp_path / "b.txt", "0 1 2\n0 1 4\n"), NAMES)
    with pytest.raises(DataError, match=r"2 are only in one of them, first aardvark, abacus, bat2"):
        agreement(one, other)
    twice = read_triplets(write(tmp_path / "c.txt", "0 1 2\n2 1 0\n"), NAMES)
    with pytest.raises(DataError, match=r"1 of 2 trials show concepts of an earlier one"):
        agreement(twice, one)


def test_renumbering_needs_all_names(tmp_path):
    one = read_triplets(write(tmp_path / "a.txt", "0 1 2\n"), NAMES)
    assert one.ordered_as(("bat1", "abacus", "aardvark")).choices.tolist() == [[2, 1, 0]], "unused ones may be missing"
    with pytest.raises(DataError, match=r"1 of 3 concepts .* first 'bat1'. Nearest: bat2"):
        one.ordered_as(("aardvark", "abacus", "bat2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,0,1\na,1,2\nb,1\n", r"row 3 of 3, has 2 fields and the header has 3"),
        ("name,0\na,1\na,2\n", "'a' occurs 2 times"),
        ("name,0\na,1\nb,nan\n", "1 values that are NaN or Inf"),
        ("name,0\na,1\nb,x\n", "could not convert"),
        ("name,0\n", "1 lines"),
    ],
)
def test_bad_embeddings(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_embedding(write(tmp_path / "e.csv", text))


def test_concepts_that_are_not_in_the_embedding(tmp_path):
    embedding = read_embedding(write(tmp_path / "e.csv", "index,name,0,1\n0,cup,1,2\n1,bat1,3,4\n"))
    assert embedding.values.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match=r"1 of 2 concepts are not in .*e\.csv, first 'bat'. Nearest: bat1"):
        embedding.ordered_as(["cup", "bat"])
