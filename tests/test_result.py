"""The rows of a comparison against values read off its record by hand; the table's columns."""

from test_view import make_comparison

from fastav.result import Comparison, Result


def test_rows_show_the_record_with_units():
    rows = make_comparison(
        flops=1.23456e9,
        flops_paper_relative_percent=65.04,
        encode_sec=0.0123,
        per_token_sec=0.01,
        total_sec=1.234,
        kv_bytes=1_300_000,
        peak_bytes=None,
        tokens_after={"text": 4, "video": 2, "audio": 1},
    ).rows()
    assert rows == [
        ("Prefill FLOPs, vanilla = 100", "100.0", "66.0"),
        ("Prefill FLOPs (paper's formula)", "100.0", "65.0"),
        ("Prefill multiply-adds", "2.00 G", "1.23 G"),
        ("Prefill multiply-adds (fvcore)", "2.00 G", "2.00 G"),
        ("Encoding the clip, once for both", "10.0 ms", ""),
        ("Time to first token", "200.0 ms", "150.0 ms"),
        ("Time per later token", "-", "10.0 ms"),
        ("End to end, without encoding", "300.0 ms", "1.23 s"),
        ("KV cache after prefill", "2.00 MB", "1.30 MB"),
        ("Peak memory above weights", "3.00 MB", "-"),
        ("Text tokens, first > last layer", "4 > 4", "4 > 4"),
        ("Video tokens, first > last layer", "8 > 8", "8 > 2"),
        ("Audio tokens, first > last layer", "3 > 3", "3 > 1"),
    ]


def test_large_numbers_have_large_units_and_what_was_not_measured_has_no_row():
    comparison = make_comparison(flops=2.5e12, flops_fvcore=None, kv_bytes=1_234_000_000, total_bytes=16_000_000_000)
    rows = {what: pruned for what, _, pruned in comparison.rows()}
    assert rows["Prefill multiply-adds"] == "2.50 T" and rows["KV cache after prefill"] == "1.23 GB"
    assert "Prefill multiply-adds (fvcore)" not in rows and "Peak memory incl. weights" not in rows  # vanilla has none


def test_the_tables_columns_are_aligned():
    """A row whose last cell is empty ends before it."""
    comparison = make_comparison()
    header, *lines = comparison.table().splitlines()
    assert {len(line) for line, row in zip(lines, comparison.rows(), strict=True) if row[-1]} == {len(header)}
    vanilla_ends = header.index("vanilla") + len("vanilla")
    assert all(line[vanilla_ends - 1] != " " and line[vanilla_ends : vanilla_ends + 1] in ("", " ") for line in lines)


def test_a_record_read_back_is_the_record():
    """Oracle: equality of frozen dataclasses, after lists of JSON took the place of tuples."""
    result = make_comparison().pruned
    record = {name: list(value) if isinstance(value, tuple) else value for name, value in result.to_dict().items()}
    record["token_runs"] = [list(run) for run in record["token_runs"]]
    assert Result.from_dict(record) == result
    assert Comparison(result, result).to_dict() == {"vanilla": result.to_dict(), "pruned": result.to_dict()}
