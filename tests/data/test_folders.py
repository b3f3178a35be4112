"""What a folder, a list and a cloned repository mean, and which skipped files are named."""

import os
from pathlib import Path

import datasets
import pytest

from diffusers_ccld.data.captions import load_captions
from diffusers_ccld.data.images import Preparation, TrainingImages
from diffusers_ccld.data.sources import find_examples, find_images, load_examples, load_images
from support.picture_files import encoded, patchwork, write_pictures, write_shard

POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def names(folder: Path, **options) -> list[str]:
    """Names of the pictures that are found, relative to the folder."""
    images = load_images(str(folder), **options)
    return [os.path.relpath(source["path"], folder) for source in images["image"]]


def write_table(path: Path, rows: int = 2, **columns) -> None:
    """A parquet file with pictures inside, or with the given columns."""
    pictures = [{"bytes": encoded(patchwork(i), "PNG"), "path": None} for i in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns or {"image": pictures}).to_parquet(path)


# Splits


@pytest.mark.parametrize("train, test", [("train", "test"), ("data/Training", "data/eval"), ("my train", "my-test")])
def test_folders_of_splits_are_not_mixed(tmp_path, train, test):
    write_pictures(tmp_path / train, 4)
    write_pictures(tmp_path / test, 3)
    (tmp_path / "README.md").write_text("# Pictures\n")
    assert [len(load_images(str(tmp_path), split=split)) for split in ("train", "test", "all")] == [4, 3, 7]
    assert {Path(name).parent.as_posix() for name in names(tmp_path)} == {train}
    assert "split train of train, test (by the names of folders)" in find_images(str(tmp_path)).description
    with pytest.raises(ValueError, match="no split 'validation'; by the names of folders there are train, test"):
        load_images(str(tmp_path), split="validation")


def test_files_of_splits_are_not_mixed(tmp_path):
    for name in ("train_0", "train_1", "test-0"):
        patchwork(0).save(tmp_path / f"{name}.png")
    assert names(tmp_path) == ["train_0.png", "train_1.png"] and names(tmp_path, split="test") == ["test-0.png"]
    patchwork(0).save(tmp_path / "preview.png")
    with pytest.raises(
        ValueError, match=r"two ways. The names of files give splits: train \(2.*test \(1.*preview.png"
    ):
        load_images(str(tmp_path))
    assert len(load_images(str(tmp_path), split="all")) == 4


def test_a_picture_beside_folders_of_splits_is_passed_over(tmp_path):
    write_pictures(tmp_path / "train", 3)
    write_pictures(tmp_path / "test", 2)
    patchwork(0).save(tmp_path / "preview.png")
    found = find_images(str(tmp_path))
    assert len(found.examples) == 3 and found.passed_over == [(str(tmp_path / "preview.png"), "not in a split")]
    assert found.description.endswith("\nskipped: 1 × not in a split")


def test_words_for_splits_may_be_words(tmp_path):
    write_pictures(tmp_path, 5)
    for name in ("test", "old train in the snow"):
        patchwork(0).save(tmp_path / f"{name}.png")
    assert len(load_images(str(tmp_path))) == 7  # two of seven names are not a division into splits
    write_pictures(tmp_path / "train", 3)  # of pictures of trains
    with pytest.raises(ValueError, match=r"two ways.*train \(3 pictures\)\. But 7 of the 10 pictures.*000.png"):
        load_images(str(tmp_path))
    assert len(load_images(str(tmp_path), split="all")) == 10 and len(load_images(str(tmp_path / "train"))) == 3


def test_a_saved_dataset_without_splits_has_no_test_split(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "saved")
    assert len(load_examples(str(tmp_path / "saved"))) == len(load_examples(str(tmp_path / "saved"), "all")) == 1
    with pytest.raises(ValueError, match="not divided into splits"):
        load_examples(str(tmp_path / "saved"), "test")
    both = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")})
    both.save_to_disk(tmp_path / "both")
    assert load_examples(str(tmp_path / "both"), "all")["text"][:] == ["train", "test"]


# Repositories


def test_a_cloned_repository_is_its_dataset_whatever_lies_beside_it(tmp_path):
    for split, rows in (("train", 3), ("test", 2)):
        write_table(tmp_path / "data" / f"{split}-00000-of-00001.parquet", rows)
    (tmp_path / "data" / "train-00000-of-00001.parquet.bak").write_bytes(b"PAR1")
    write_pictures(tmp_path / "assets", 5)
    (tmp_path / ".git").mkdir()
    patchwork(0).save(tmp_path / ".git" / "picture.png")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Pictures\n")
    found = find_images(str(tmp_path))
    assert len(found.examples) == 3 and len(load_images(str(tmp_path), split="test")) == 2
    assert len(load_images(str(tmp_path), split="all")) == 5
    assert "5 × beside parquet files" in found.description and "1 × a backup or an" in found.description


def test_the_card_of_a_repository_says_what_is_what(tmp_path):
    write_table(tmp_path / "good.parquet", 3)
    write_table(tmp_path / "rejected.parquet", 2)
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: good.parquet\n"
        "  - split: extra\n    path: rejected.parquet\n---\n"
    )
    assert len(load_images(str(tmp_path))) == 3 and len(load_images(str(tmp_path), split="extra")) == 2


@pytest.mark.parametrize("name", ["a.png", "data/train-00000-of-00001.parquet", "[x] 0.tar", "metadata.csv"])
def test_pointers_of_git_lfs_are_named(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(POINTER)
    if not name.endswith((".parquet", ".tar")):
        write_pictures(tmp_path, 3)
    with pytest.raises(ValueError, match=r"Git LFS pointers, such as .*Run `git lfs pull`"):
        load_examples(str(tmp_path))


@pytest.mark.parametrize("stray", ["preview.png", "captions.parquet", "download.tar"])
def test_pictures_beside_datasets_are_refused_with_both_readings(tmp_path, stray):
    if stray == "preview.png":
        write_table(tmp_path / "part [1].parquet")
        write_pictures(tmp_path / "elsewhere", 1)[0].rename(tmp_path / stray)
    else:
        write_pictures(tmp_path, 2)
        write_shard(tmp_path / stray, range(3)) if stray.endswith(".tar") else write_table(
            tmp_path / stray, text=["x"]
        )
    with pytest.raises(ValueError, match=r"several ways: as \d pictures, such as \w+.png, or as 1 (parquet|shards)"):
        load_images(str(tmp_path))
    (tmp_path / stray).unlink()
    assert len(load_images(str(tmp_path))) == 2  # without it, names with brackets are read as well


# Metadata


def described(folder: Path, count: int = 3) -> dict[str, list[str]]:
    write_pictures(folder, count)
    return {
        "file_name": [f"{i:03d}.png" for i in range(count)],
        "text": [f"picture {i},\nör so" for i in range(count)],
    }


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_pictures_go_before_their_metadata_which_has_the_captions(tmp_path, ending):
    table = datasets.Dataset.from_dict(described(tmp_path))
    {"csv": table.to_csv, "jsonl": table.to_json, "parquet": table.to_parquet}[ending](tmp_path / f"metadata.{ending}")
    assert names(tmp_path) == ["000.png", "001.png", "002.png"]
    examples = load_examples(str(tmp_path))
    assert load_captions(examples, ["text"]) == [[f"picture {i},\nör so"] for i in range(3)]
    assert [Path(image["path"]).name for image in examples["image"]] == ["000.png", "001.png", "002.png"]


def test_metadata_of_splits_and_rows_without_pictures(tmp_path):
    rows = ["file_name,text", "train/000.png,a", "train/000.png,b", "test/000.png,c", "train/009.png,d"]
    write_pictures(tmp_path / "train", 2)
    write_pictures(tmp_path / "test", 1)
    (tmp_path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8-sig")
    found = find_examples(str(tmp_path))
    assert found.examples["text"][:] == ["a", "b"] and load_examples(str(tmp_path), "test")["text"][:] == ["c"]
    assert [(Path(name).name, why) for name, why in found.passed_over] == [
        ("001.png", "not in the metadata"),
        ("009.png", "in the metadata, but not a picture there"),
    ]


@pytest.mark.parametrize(
    "files, message",
    [
        (
            {"metadata.csv": "name,text\n000.png,a\n"},
            r"no column file_name, which names the pictures; it has \['name'",
        ),
        ({"metadata.csv": "file_name,text\nx.png,a\n"}, "none of the 1 rows names a picture"),
        ({"metadata.csv": "file_name,text\n1,a\n"}, "other values than names of files"),
        ({"metadata.csv": "file_name,image\n000.png,a\n"}, "a column image"),
        ({"metadata.jsonl": "{"}, "metadata.jsonl cannot be read"),
        ({"metadata.parquet": "PAR1"}, "metadata.parquet cannot be read"),
        ({"metadata.csv": "file_name\n000.png\n", "metadata.jsonl": "{}"}, "several metadata files"),
        ({}, r"pictures alone, and no column text.*metadata.csv with the columns file_name and text"),
    ],
)
def test_metadata_that_cannot_be_used_says_why(tmp_path, files, message):
    write_pictures(tmp_path, 1)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert len(load_images(str(tmp_path))) == 1  # nobody asked for captions
    with pytest.raises(ValueError, match=message):
        load_captions(load_examples(str(tmp_path)), ["text"])


def test_metadata_in_another_encoding_and_of_two_types_is_named(tmp_path):
    write_pictures(tmp_path / "train", 1)
    write_pictures(tmp_path / "test", 1)
    (tmp_path / "train" / "metadata.csv").write_bytes("file_name,text\n000.png,Лиса\n".encode("cp1251"))
    with pytest.raises(ValueError, match=r"train/metadata\.csv: the column text is not UTF-8; save the file as UTF-8"):
        load_examples(str(tmp_path))
    for split, label in (("train", "1"), ("test", "x")):
        (tmp_path / split / "metadata.csv").write_text(f"file_name,label\n000.png,{label}\n")
    with pytest.raises(ValueError, match=r"metadata files that do not fit together\. \(.*label.*\)"):
        load_examples(str(tmp_path))


# What is skipped


def test_links_are_followed_once_and_loops_end(tmp_path):
    write_pictures(tmp_path / "store" / "monet", 5)
    folder = tmp_path / "folder"
    write_pictures(folder / "own", 2)
    for name, target in (("a monet", "../store/monet"), ("again", "../store/monet"), ("own/loop", "..")):
        (folder / name).symlink_to(target if name != "own/loop" else folder, target_is_directory=True)
    (folder / "gone.png").symlink_to("nowhere.png")
    found = find_images(str(folder))
    assert len(found.examples) == 7
    assert sorted((os.path.relpath(name, folder), why) for name, why in found.passed_over) == [
        ("again", "a link to a folder that was already read"),
        ("gone.png", "a broken link"),
        ("own/loop", "a link to a folder that was already read"),
    ]
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    assert len(load_images(str(tmp_path / "linked"))) == 7


def test_what_cannot_be_used_is_counted_by_reason_and_named(tmp_path, monkeypatch):
    write_pictures(tmp_path, 3)
    for i in range(4):
        (tmp_path / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    for name in ("x.svg", "no_ending", "000.png~", "001.png.bak", "._000.png", "notes.txt", ".DS_Store"):
        (tmp_path / name).write_bytes(b"<svg/>")
    for name in (b"caf\xe9.png", b"text.caf\xe9"):  # as an old archive unpacks them
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(encoded(patchwork(0), "PNG"))
    found = find_images(str(tmp_path))
    assert len(found.examples) == 3 and len(found.passed_over) == 10
    assert found.description.splitlines()[1] == (
        "skipped: 1 × hidden: its name begins with a dot; 2 × a backup or an unfinished download; "
        "4 × HEIC, which needs the package pillow-heif; 1 × its name is not UTF-8; 1 × without a file extension; "
        "1 × SVG, a drawing without pixels; 2 other files (.txt, .caf\\udce9)"
    )
    assert (str(tmp_path / "caf\\xe9.png"), "its name is not UTF-8") in found.passed_over
    found.description.encode()
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"has no images: .*skipped: .*4 × HEIC"):
        load_images(str(tmp_path))


def test_formats_of_plugins_are_opened(tmp_path):
    for ending in ("avif", "webp"):
        patchwork(0).save(tmp_path / f"picture.{ending}")
    batch = TrainingImages(load_images(str(tmp_path)), Preparation(32), seed=0).__getitems__([0, 1])
    assert batch["pixel_values"].shape == (2, 3, 32, 32) and not batch["bad"]


def test_formats_that_pillow_lacks_are_named(tmp_path, monkeypatch):
    patchwork(0).save(tmp_path / "a.avif")
    patchwork(0).save(tmp_path / "b.png")
    monkeypatch.setattr("diffusers_ccld.data.decoding.features.check", lambda feature: feature != "avif")
    found = find_images(str(tmp_path))
    assert len(found.examples) == 1 and found.passed_over[0][1] == "AVIF, which needs a Pillow that is built with it"


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_saved_dataset_is_named(tmp_path, name):
    datasets.Dataset.from_dict({"image": ["a.png"]}).save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"saved: the saved dataset cannot be loaded\. \(.*\)"):
        load_images(str(tmp_path / "saved"))


# Lists


def test_lists_are_read_as_people_write_them(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_pictures(tmp_path / "d", 2)
    write_pictures(tmp_path / "home", 1)
    remark = "# a remark, which may be longer than the name of a file " + 300 * "."
    lines = "\r\n".join([remark, "d/000.png", "", "d/001.png", "~/000.png"])
    for name, encoding in (("plain", "utf-8"), ("bom", "utf-8-sig"), ("wide", "utf-16")):
        (tmp_path / f"{name}.txt").write_bytes(lines.encode(encoding))
        paths = [source["path"] for source in load_images(str(tmp_path / f"{name}.txt"))["image"]]
        assert paths == [str(tmp_path / name) for name in ("d/000.png", "d/001.png", "home/000.png")]
    (tmp_path / "#1.png").touch()
    (tmp_path / "plain.txt").write_text("#1.png")
    with pytest.raises(
        ValueError, match=r"plain.txt, line 1: # begins a comment, and #1.png is a file; write ./#1.png"
    ):
        load_images(str(tmp_path / "plain.txt"))
    with pytest.raises(ValueError, match="a list has no splits"):
        load_images(str(tmp_path / "bom.txt"), split="test")
