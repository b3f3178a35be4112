from diffusers_ccld.evaluation.tables import Report, markdown_table, table_head, table_row


def test_a_table_has_all_columns_in_order_and_empty_cells_for_missing_values():
    rows = {"first": {"a": 1.25, "b": None}, "second": {"c": "text", "a": 2.0}}
    assert markdown_table(rows).splitlines() == [
        "| | a | b | c |",
        "|---|---|---|---|",
        "| first | 1.2 |  |  |",
        "| second | 2.0 |  | text |",
    ]
    assert "| first | 1.250 |  |  |" in markdown_table(rows, "{:.3f}".format)


def test_columns_may_share_a_name():
    assert table_head(["50 steps", "largest", "100 steps", "largest"], "scheduler").splitlines() == [
        "| scheduler | 50 steps | largest | 100 steps | largest |",
        "|---|---|---|---|---|",
    ]
    assert table_row("ddim", [1, "x"]) == "| ddim | 1 | x |"


def test_a_report_holds_all_sections_after_each(tmp_path, capsys):
    report = Report(tmp_path / "results.md")
    report.add("One", "1")
    assert (tmp_path / "results.md").read_text() == "### One\n\n1\n"
    report.add("Two", "2")
    assert (tmp_path / "results.md").read_text() == "### One\n\n1\n\n### Two\n\n2\n"
    assert capsys.readouterr().out == "### One\n\n1\n\n### Two\n\n2\n\n"
