"""Reading a hospital's file: dialects of CSV are recognised and told, broken files are refused with the row and the remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from unisono.errors import DataError
from unisono.site.data.mapping import FileFormat
from unisono.site.data.readers import Raw, read
from unisono.site.data.sniff import sniff_decimal, sniff_delimiter


def written(folder: Path, content: str | bytes, name: str = "padua.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(raw: Raw, column: str) -> list[str]:
    return raw.columns[column].to_pylist()  # type: ignore[no-any-return]


def refusal(source: object, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        read(source, **options)  # type: ignore[arg-type]
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_recognised_and_told(tmp_path: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in [["age", "sex"], ["61", "m"], ["72", "f"]])
    raw = read(written(tmp_path, text))
    assert raw.names == ("age", "sex")
    assert cells(raw, "sex") == ["m", "f"]
    assert any("delimiter" in note for note in raw.notes)


def test_what_the_mapping_says_is_not_sniffed(tmp_path: Path) -> None:
    path = written(tmp_path, "a;b\n1,5;x\n")
    raw = read(path, FileFormat(delimiter=";", decimal=".", encoding="utf-8"))
    assert raw.file.decimal == "."
    assert raw.notes == ()


def test_a_decimal_comma_is_recognised() -> None:
    assert sniff_decimal("a;b\n1,5;2\n", ";") == ","
    assert sniff_decimal("a;b\n1.5;2\n", ";") == "."
    assert sniff_decimal("a,b\n1,5\n", ",") == "."
    assert sniff_decimal('a,b\n"1,5",2\n', ",") == ","


def test_commas_in_quoted_text_do_not_decide_the_delimiter() -> None:
    assert sniff_delimiter('id;note\n1;"a, b, c"\n2;"d, e, f"\n') == ";"


def test_byte_order_marks_are_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert read(written(tmp_path, b"\xef\xbb\xbfage,sex\n61,m\n")).names == ("age", "sex")
    utf16 = read(written(tmp_path, "age,città\n61,è\n".encode("utf-16")))
    assert utf16.file.encoding == "utf-16"
    assert cells(utf16, "città") == ["è"]


def test_quoted_fields_keep_delimiters_quotes_and_line_breaks(tmp_path: Path) -> None:
    raw = read(written(tmp_path, 'a,b\n"x, ""y""\nz",1\n'))
    assert cells(raw, "a") == ['x, "y"\nz']


def test_only_wanted_columns_are_read(tmp_path: Path) -> None:
    raw = read(written(tmp_path, "age,name,sex\n61,Anna,f\n"), wanted={"sex", "not there"})
    assert set(raw.columns) == {"sex"}
    assert raw.names == ("age", "name", "sex")


def test_every_cell_of_a_csv_is_text(tmp_path: Path) -> None:
    raw = read(written(tmp_path, "a,b\n007,NA\n,true\n"))
    assert cells(raw, "a") == ["007", ""]
    assert cells(raw, "b") == ["NA", "true"]


def test_another_encoding_is_read_when_the_mapping_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "sesso,città\nf,è\n".encode("cp1252"))
    assert cells(read(path, FileFormat(encoding="cp1252")), "città") == ["è"]


@pytest.mark.parametrize("rows_before", [0, 40_000])
def test_text_that_is_not_utf8_is_refused_with_the_key_to_write(tmp_path: Path, rows_before: int) -> None:
    error = refusal(written(tmp_path, b"a,b\n" + b"1,x\n" * rows_before + b"1,\xe8\n" + b"1,x\n" * 100_000))
    assert error.rule == "text-encoding"
    assert "encoding: cp1252" in error.remedy


def test_ragged_rows_are_refused_by_number_and_without_their_content(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, "age,sex\n61,m\n72\n55,f,secret\n"))
    assert error.rule == "rectangular-table"
    assert "3, 4" in error.what
    assert "secret" not in str(error)


def test_rows_of_another_length_are_counted_with_the_blank_lines_before_them(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, "\na,b\n\n1,2\n\n3,4,5\n6,7\n8,9,0\n"))
    assert "in rows 6, 8 (the header is row 2; row 6 has 3 fields)" in error.what


def test_another_encoding_is_named_for_the_mapping_and_for_the_command(tmp_path: Path) -> None:
    path = written(tmp_path, "größe,sex\n180,m\n".encode("cp1252"))
    error = refusal(path)
    assert "encoding: cp1252" in error.remedy
    assert "--encoding cp1252" in error.remedy
    assert read(path, FileFormat(encoding="cp1252")).names == ("größe", "sex")


def test_a_quotation_mark_that_is_never_closed_is_refused_and_swallows_no_row(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, 'a,b\n1,"x\n2,y\n')).rule == "closed-quotes"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"age,sex\n", "\ufeff".encode()])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    assert refusal(written(tmp_path, content)).rule == "some-rows"


def test_a_duplicated_column_is_refused(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, "age,sex,age\n1,m,2\n"))
    assert error.rule == "distinct-columns"
    assert "'age'" in error.what
    assert refusal(pd.DataFrame([[1, 2]], columns=["a", "a"])).rule == "distinct-columns"


def test_columns_without_a_name_do_no_harm(tmp_path: Path) -> None:
    raw = read(written(tmp_path, "age,,\n61,x,y\n"))
    assert set(raw.columns) == {"age"}


def test_a_missing_file_a_folder_and_a_spreadsheet_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.csv").rule == "readable-file"
    assert refusal(tmp_path).rule == "readable-file"
    assert refusal(written(tmp_path, b"PK\x03\x04\x14\x00\x06\x00" + bytes(60), "x.csv")).rule == "readable-file"


def test_parquet_keeps_numbers_and_is_recognised_by_its_content(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [61.5, np.nan], "n": [1, 2], "sex": pd.Categorical(["m", "f"])})
    frame.to_parquet(tmp_path / "data")
    raw = read(tmp_path / "data", wanted={"age", "sex"})
    assert raw.kind == "parquet"
    assert set(raw.columns) == {"age", "sex"}
    assert raw.columns["age"].type == pa.float64()


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, b"PAR1" + bytes(50), "x.parquet")).rule == "readable-file"


def test_dataframes_and_arrow_tables_are_read_as_they_are() -> None:
    frame = pd.DataFrame({"age": [61, 72], "sex": ["m", None]})
    for source in (frame, pa.Table.from_pandas(frame)):
        raw = read(source, wanted={"sex"})
        assert raw.n == 2
        assert cells(raw, "sex") == ["m", None]
        assert raw.row_numbers([0]) == [1]


def test_a_dataframe_column_of_mixed_kinds_is_refused() -> None:
    assert refusal(pd.DataFrame({"a": [1, "x", b"y"]})).rule == "one-type-per-column"


def test_a_source_that_is_no_table_is_refused() -> None:
    assert refusal(7).rule == "data-source"


def test_old_line_ends_and_empty_lines_are_read(tmp_path: Path) -> None:
    for end in ("\r\n", "\r", "\n"):
        assert cells(read(written(tmp_path, f"a;b{end}{end}1;2{end}3;4{end}{end}")), "b") == ["2", "4"]


def test_text_that_is_not_in_the_said_encoding_is_refused_wherever_it_is(tmp_path: Path) -> None:
    late = "a,b\n" + "1,x\n" * 100_000 + "1,é\n"
    for said in ("ascii", "utf-16"):
        error = refusal(written(tmp_path, late), file=FileFormat(encoding=said))
        assert error.rule == "text-encoding"


def test_dots_in_the_names_of_parquet_columns_are_part_of_the_name(tmp_path: Path) -> None:
    pd.DataFrame({"ph.ecog": [1, 2], "ph": [3, 4]}).to_parquet(tmp_path / "x.parquet")
    raw = read(tmp_path / "x.parquet", wanted={"ph.ecog"})
    assert raw.columns["ph.ecog"].to_pylist() == [1, 2]
    assert set(raw.columns) == {"ph.ecog"}


def test_a_header_without_names_is_refused(tmp_path: Path) -> None:
    assert refusal(written(tmp_path, ",,\n1,2,3\n")).rule == "named-columns"


def test_a_decimal_comma_is_also_heeded_for_text_in_frames() -> None:
    assert read(pd.DataFrame({"a": ["1,5"]}), FileFormat(decimal=",")).file.decimal == ","
