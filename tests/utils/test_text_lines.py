import pytest

from diffusers_ccld.utils.text_lines import read_entries

TEXT = "  # a remark\r\n\r\n one \r\nzwö\u2028lf\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_entries_are_the_same_in_every_encoding(tmp_path, encoding):
    (tmp_path / "list.txt").write_bytes(TEXT.encode(encoding))
    assert list(read_entries(tmp_path / "list.txt")) == [(3, "one"), (4, "zwö\u2028lf")]


@pytest.mark.parametrize(
    "data, message",
    [
        ("a\nb\ncafé.png\n".encode("latin-1"), r"list.txt, line 3: this is not UTF-8; save the file as UTF-8"),
        ("a.png\n".encode("utf-16") + b"\x00", r"list.txt, line 2: this is not UTF-16"),
        ("a.png\n".encode("utf-16-le"), "list.txt is not a text file in UTF-8, nor in UTF-16"),
        (None, "list.txt: the file does not exist"),
    ],
)
def test_what_cannot_be_read_names_file_and_line(tmp_path, data, message):
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read_entries(tmp_path / "list.txt"))
