"""Tables in text files: no field is lost, none is made up, and quotes, line ends and separators are read as meant."""

import pytest

from jaxalign.errors import DataError
from jaxalign.sources.rows import rows_of, table_rows

EVENTS = "onset,word,note\n"


def table(folder, text, name="t.csv"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


READERS = pytest.mark.parametrize(
    "read", [lambda path: [row for _, row in rows_of(path, ())], table_rows], ids=["rows_of", "table_rows"]
)


@READERS
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "2,well, then,x",
            r"t\.csv, row 2, line 3, has 4 fields and the header has 3: put the value that holds ',' .*'x'",
        ),
        ("2,well", r"t\.csv, row 2, line 3, has 2 fields and the header has 3: it ends after word='well'.*empty"),
    ],
)
def test_a_row_of_another_length_is_refused(tmp_path, read, row, message):
    with pytest.raises(DataError, match=message):
        read(table(tmp_path, f"{EVENTS}1,a,b\n{row}\n"))


@READERS
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_empty_lines_are_no_rows_whatever_ends_them(tmp_path, read, end):
    text = f"{EVENTS}1,a,b\n\n2,c,d\n\n   \n\n".replace("\n", end)
    assert read(table(tmp_path, text)) == [
        {"onset": "1", "word": "a", "note": "b"},
        {"onset": "2", "word": "c", "note": "d"},
    ]


@READERS
def test_quotes_keep_separators_line_ends_and_themselves(tmp_path, read):
    found = read(table(tmp_path, f'{EVENTS}1,"well, then","one\ntwo"\n2,"say ""hm""",5"\n'))
    assert [row["word"] for row in found] == ["well, then", 'say "hm"']
    assert [row["note"] for row in found] == ["one\ntwo", '5"']


def test_lines_are_those_where_rows_begin(tmp_path):
    path = table(tmp_path, f'\n{EVENTS}1,a,"one\ntwo"\n\n2,c,d\n')
    assert [line for line, _ in rows_of(path, ())] == [3, 6]


@READERS
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{EVENTS}1,a,b\n2,"c,d\n3,e,f\n', r"t\.csv, line 3, cannot be read as a row of a table: unexpected end"),
        (f'{EVENTS}1,"a"b,c\n', r"t\.csv, line 2, cannot be read as a row of a table: ',' expected after"),
        ("onset,word,onset\n1,a,2\n", "3 columns and 'onset' more than once"),
        ("\n\n", "t.csv is empty"),
        ("onset,Wört\n1,a\n".encode("latin-1"), "not UTF-8: byte 7 is 0xf6"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, read, text, message):
    with pytest.raises(DataError, match=message):
        read(table(tmp_path, text))


def test_events_may_be_separated_by_what_their_header_uses(tmp_path):
    row = {"onset": "1", "word": "a, b"}
    assert table_rows(table(tmp_path, "onset;word\n1; a, b \n")) == [row]
    assert table_rows(table(tmp_path, "\ufeffonset\tword\r\n1\ta, b\r\n")) == [row]
    assert table_rows(table(tmp_path, "onset\tword\n1\ta, b\n", "t.tsv")) == [row]
    with pytest.raises(DataError, match=r"row 1, line 2, has 3 fields and the header has 2.*';' into quotes"):
        table_rows(table(tmp_path, "onset;word\n1;a;b\n"))


def test_stimuli_are_separated_by_commas_and_kept_as_they_are(tmp_path):
    assert rows_of(table(tmp_path, "id,text \na, x;y \n"), ("text",)) == [(2, {"id": "a", "text": " x;y "})]
    with pytest.raises(DataError, match=r"no column 'text' among its 1 .*Is it separated by semicolons"):
        rows_of(table(tmp_path, "id;text\na;x\n"), ("text",))


def test_a_blank_is_a_value_where_there_is_one_column(tmp_path):
    assert [row for _, row in rows_of(table(tmp_path, "id\na\n \n\n"), ("id",))] == [{"id": "a"}, {"id": " "}]


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path):
    wide = ",".join(f"c{index}" for index in range(40))
    with pytest.raises(DataError, match=r"no column 'onset' among its 40 .*c11 and 28 more\.$"):
        table_rows(table(tmp_path, f"{wide}\n{wide}\n"), ("onset",))
