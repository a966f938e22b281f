"""Columnar files: Parquet and Arrow."""

import pyarrow
import pyarrow.parquet
import pytest

from sft_cli.data.sources import columnar
from sft_cli.errors import SftError
from tests.data.reader_helpers import rows, write

TALK = [
    {"messages": [{"role": "user", "content": "hi", "weight": 0.5}]},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
]


def test_parquet_nulls_of_absent_keys_are_removed(tmp_path):
    """The common schema of a column gives every message all keys, with null for absent ones."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TALK), tmp_path / "rows.parquet")
    assert rows(columnar.read_parquet, tmp_path / "rows.parquet") == [
        (1, {"messages": [{"role": "user", "content": "hi", "weight": 0.5}]}),
        (2, {"messages": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]}),
    ]


def test_json_columns_of_datasets_are_read_as_objects(tmp_path):
    """``datasets`` stores columns whose objects differ as JSON text."""
    from datasets import Dataset, Features, Json, List

    values = [{"x": [{"a": 1}, {"b": "t"}], "y": {"c": None}}, {"x": [], "y": None}]
    data = Dataset.from_list(values, features=Features(x=List(Json()), y=Json()))
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    expected = list(enumerate(values, start=1))
    assert rows(columnar.read_parquet, tmp_path / "rows.parquet") == expected
    assert rows(columnar.read_arrow, tmp_path / "saved" / "data-00000-of-00001.arrow") == expected


def test_columnar_rows_are_numbered_across_batches(tmp_path):
    table = pyarrow.table({"a": range(2 * columnar.BATCH_ROWS + 5)})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=700)
    with pyarrow.ipc.new_file(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    expected = [(number + 1, {"a": number}) for number in range(table.num_rows)]
    assert rows(columnar.read_parquet, tmp_path / "rows.parquet") == expected
    assert rows(columnar.read_arrow, tmp_path / "rows.arrow") == expected


@pytest.mark.parametrize(("reader", "kind"), [(columnar.read_parquet, "Parquet"), (columnar.read_arrow, "Arrow")])
def test_invalid_columnar_file_is_an_error(tmp_path, reader, kind):
    with pytest.raises(SftError) as caught:
        rows(reader, write(tmp_path / "rows.bin", b"hello, this is no table at all"))
    assert str(caught.value).startswith(f"rows.bin: cannot be read as {kind}: ")
    assert caught.value.fix == "download or write the file again; it is incomplete, broken or of another type"
