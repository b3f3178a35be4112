import itertools
import json

import datasets
import numpy as np
import pytest
import torch

from diffusers_ccld.data.decoding import resize_and_crop
from diffusers_ccld.data.fingerprints import images_fingerprint, quick_fingerprint
from diffusers_ccld.data.images import Preparation, StreamedImages, TrainingImages
from diffusers_ccld.data.randomness import BatchPositions, image_at
from diffusers_ccld.data.sources import load_images, name_of
from diffusers_ccld.training.bad_images import BadImages
from support.picture_files import encoded, patchwork, write_broken_pictures, write_pictures

WIKIART = {
    "image": datasets.Image(),
    "artist": datasets.ClassLabel(129),
    "genre": datasets.ClassLabel(11),
    "style": datasets.ClassLabel(27),
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """At the end of a stream `datasets` waits five seconds for threads that real streams have."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "set" / "a", 6)
    write_pictures(folder / "set" / "b", 6)
    (folder / "set" / "notes.md").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def wikiart(folder):
    """A dataset with WikiArt's columns, the pictures inside."""
    columns = {"image": [patchwork(i) for i in range(12)], **{name: [1] * 12 for name in ("artist", "genre", "style")}}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(WIKIART))


@pytest.fixture(params=["folder", "list", "saved", "saved splits", "parquet file", "parquet folder"])
def source(request, folder, wikiart, tmp_path):
    path = tmp_path / request.param
    if request.param == "folder":
        return folder / "set"
    if request.param == "list":
        paths = sorted((folder / "set").rglob("*.png"))
        relative = [f"../{paths[0].name}", *paths[1:]]
        (tmp_path / "lists").mkdir()
        (tmp_path / paths[0].name).write_bytes(paths[0].read_bytes())
        (tmp_path / "lists" / "train.txt").write_text("\n".join(map(str, relative)) + "\n\n")
        return tmp_path / "lists" / "train.txt"
    if request.param == "saved":
        wikiart.save_to_disk(path)
    elif request.param == "saved splits":
        datasets.DatasetDict(train=wikiart, test=wikiart.select(range(2))).save_to_disk(path)
    elif request.param == "parquet file":
        path = path.with_suffix(".parquet")
        embedded = wikiart.cast_column("image", datasets.Image(decode=False))
        embedded.to_parquet(path)
    else:
        path.mkdir()
        wikiart.cast_column("image", datasets.Image(decode=False)).to_parquet(path / "train-00000-of-00001.parquet")
    return path


def test_images_come_from_everywhere(source):
    images = load_images(str(source))
    assert images.column_names == ["image"] and len(images) == 12
    batch = TrainingImages(images, Preparation(32), seed=0).__getitems__(list(range(12)))
    assert batch["pixel_values"].shape == (12, 3, 32, 32) and batch["pixel_values"].dtype == torch.uint8
    assert sorted(batch["indices"].tolist()) == list(range(12)) and not batch["bad"]
    assert len({pixels.numpy().tobytes() for pixels in batch["pixel_values"]}) > 5


def test_pixels_are_those_of_the_picture(folder):
    images = load_images(str(folder / "set" / "a"))
    batch = TrainingImages(images, Preparation(32), seed=0).__getitems__([3])
    index = image_at(0, 3, 6)
    expected = resize_and_crop(patchwork(index, (40 + index % 7, 40 + index % 5)), 32)
    assert (batch["pixel_values"][0].permute(1, 2, 0).numpy() == np.asarray(expected)).all()


def test_crops_and_flips_are_random_and_the_same_again(folder):
    images = load_images(str(folder / "set"))
    plain = TrainingImages(images, Preparation(32), seed=0)
    for preparation in (Preparation(32, random_crop=True), Preparation(32, random_flip=True)):
        varied = TrainingImages(images, preparation, seed=0)
        a, b = (varied.__getitems__(list(range(24)))["pixel_values"] for _ in range(2))
        assert torch.equal(a, b)
        same = (a == plain.__getitems__(list(range(24)))["pixel_values"]).flatten(1).all(1)
        assert 0 < same.sum() < 24 if preparation.random_flip else not same.all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_the_same_whatever_reads_it(folder, workers):
    dataset = TrainingImages(load_images(str(folder / "set")), Preparation(32, True, True), seed=0)
    positions = BatchPositions(0, 4).batches()
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=positions, collate_fn=lambda batch: batch, num_workers=workers
    )
    batches = list(itertools.islice(loader, 4))
    assert torch.equal(
        torch.cat([batch["pixel_values"] for batch in batches]), dataset.__getitems__(list(range(16)))["pixel_values"]
    )


def test_a_misspelt_folder_is_not_looked_for_again_and_again(tmp_path, monkeypatch):
    (tmp_path / "my-pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", None)
    monkeypatch.setattr("diffusers_ccld.utils.hub.HfApi.repo_info", lambda *_, repo_type, timeout: 1 / 0)
    with pytest.raises(ValueError, match=r"There is no folder my-picturs, .* Did you mean my-pictures\?$"):
        load_images("my-picturs")


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("/nowhere/at/all", {}, "no such folder or file"),
        ("./nowhere", {}, "no such folder"),
        ("nobody/nothing", {}, "no folder nobody/nothing, and no dataset of this name could be loaded from the Hub"),
        ("{empty}", {}, "has no images"),
        ("{saved}", {"image_column": "picture"}, "no column 'picture'"),
        ("{splits}", {"split": "validation"}, "no split 'validation'"),
        ("{folder}", {"streaming": True}, "leave out streaming"),
        ("{folder}", {"split": "validation"}, "leave out dataset_split"),
        ("{saved}", {"image_column": "style"}, "'style' has no images"),
        ("{saved}", {"streaming": True}, "leave out streaming"),
        ("{broken}", {}, "no dataset could be loaded"),
    ],
)
def test_wrong_sources(source, options, message, folder, wikiart, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    wikiart.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=wikiart).save_to_disk(tmp_path / "splits")
    places = {name: tmp_path / name for name in ("empty", "saved", "splits")}
    source = source.format(folder=folder / "set", broken=tmp_path / "broken.parquet", **places)
    with pytest.raises(ValueError, match=message):
        load_images(source, **options)


def test_twenty_broken_images_among_two_hundred_are_named_and_replaced(tmp_path):
    good, broken = write_pictures(tmp_path / "good", 180), write_broken_pictures(tmp_path / "broken")
    order = np.random.default_rng(0).permutation(200)
    (tmp_path / "train.txt").write_text("\n".join(str(([*good, *broken])[i]) for i in order))
    images = load_images(str(tmp_path / "train.txt"))
    dataset, bad_images = TrainingImages(images, Preparation(32), seed=0), BadImages(0.2, 200, tmp_path / "bad.jsonl")
    for first in range(0, 200, 8):
        batch = dataset.__getitems__(list(range(first, first + 8)))
        assert batch["pixel_values"].shape == (8, 3, 32, 32)
        bad_images.add(batch["looked_at"], batch["bad"])
    assert set(bad_images.reasons) == set(map(str, broken))
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert {entry["image"] for entry in listed} == set(map(str, broken)) and all(entry["reason"] for entry in listed)
    assert BadImages(0.2, 200, tmp_path / "bad.jsonl").reasons == bad_images.reasons


def test_too_many_broken_images_stop_a_run(tmp_path):
    bad_images = BadImages(0.1)
    bad_images.add(range(99), [(f"{i}.png", "damaged") for i in range(50)])  # too few to tell
    with pytest.raises(ValueError, match=r"50 of 100 pictures are bad, more than a share of 0.1.*0.png: damaged"):
        bad_images.add([99], [])
    write_broken_pictures(tmp_path)
    dataset = TrainingImages(load_images(str(tmp_path)), Preparation(32), seed=0)
    with pytest.raises(ValueError, match="in a row are bad"):
        dataset.__getitems__([0])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_picture_that_is_drawn_again_counts_once(tmp_path, streaming):
    pictures = [encoded(patchwork(i), "PNG") for i in range(5)]
    pictures[2] = b"broken"
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = [{"image": {"bytes": data, "path": None}} for data in pictures]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "pictures.parquet")
    images = load_images(str(tmp_path / "pictures.parquet"), streaming=streaming)
    if streaming:
        batches = stream_batches(images, 0, 8)
    else:
        dataset = TrainingImages(images, Preparation(32), seed=0)
        batches = [dataset.__getitems__([first, first + 1]) for first in range(0, 60, 2)]
    assert sum(len(batch["bad"]) for batch in batches) > 3
    one_in_five, fewer = BadImages(0.2, num_images=5), BadImages(0.19, num_images=5)
    for batch in batches:
        one_in_five.add(batch["looked_at"], batch["bad"])
    looked_at, bad = ([entry for batch in batches for entry in batch[name]] for name in ("looked_at", "bad"))
    with pytest.raises(ValueError, match="1 of 5 pictures are bad"):
        fewer.add(looked_at, bad)


def test_bad_images_that_are_known_already_do_not_count_against_those_looked_at(tmp_path):
    known = [(f"{i}.png", "damaged") for i in range(500)]
    earlier = BadImages(0.2, 10_000, tmp_path / "bad.jsonl")
    earlier.record(known)
    resumed = BadImages(0.2, 10_000, tmp_path / "bad.jsonl")
    for _ in range(20):  # the same bad image again in every epoch
        resumed.add(range(100), [("0.png", "damaged")] * 15)
    assert len(resumed.reasons) == 500


def test_pictures_are_named_so_that_no_two_are_one():
    assert name_of({"bytes": None, "path": "a/b.png"}, 5) == "a/b.png"
    assert name_of({"bytes": b"x", "path": "image.png"}, 5) == "image.png [5]"
    assert name_of({"bytes": b"x", "path": None}, 5) == "image [5]" and name_of(None, 5) == "image [5]"
    assert name_of({"bytes": b"x", "path": None}) != name_of({"bytes": b"y", "path": None})


def test_pictures_that_are_not_there_are_bad_ones(tmp_path):
    features = datasets.Features({"image": datasets.Image(decode=False)})
    good = {"bytes": encoded(patchwork(0), "PNG"), "path": None}
    images = datasets.Dataset.from_list([{"image": good}, {"image": None}, {"image": good}], features=features)
    images.to_parquet(tmp_path / "images.parquet")
    images = load_images(str(tmp_path / "images.parquet"))
    assert quick_fingerprint(images) and images_fingerprint(images)["contents"]
    batch = TrainingImages(images, Preparation(32), seed=0).__getitems__([0, 1, 2])
    assert batch["pixel_values"].shape[0] == 3 and ("image [1]", "there is no picture") in batch["bad"]


def test_a_folder_is_searched_for_what_can_be_read(tmp_path):
    write_pictures(tmp_path, 3)
    for name in ("notes.pdf", "._000.png", "data.csv", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"no picture")
    assert len(load_images(str(tmp_path))) == 3


@pytest.fixture
def stream(wikiart, tmp_path):
    """A stream of 12 pictures, the fourth of which is broken."""
    undecoded = wikiart.cast_column("image", datasets.Image(decode=False))
    rows = [
        {"image": {"bytes": b"broken" if i == 3 else row["image"]["bytes"], "path": f"{i}.png"}}
        for i, row in enumerate(undecoded)
    ]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "stream.parquet")
    return load_images(str(tmp_path / "stream.parquet"), streaming=True)


def stream_batches(stream, start, count, rank=0, world_size=1, epoch=0, offset=0, batch_size=2):
    positions = BatchPositions(start, batch_size, rank, world_size)
    return list(itertools.islice(StreamedImages(stream, Preparation(32), 0, positions, epoch, offset), count))


def contents(batches):
    return [pixels.numpy().tobytes() for batch in batches for pixels in batch["pixel_values"]]


def test_a_stream_gives_every_image_once_an_epoch_and_another_order_in_the_next(stream):
    batches = stream_batches(stream, 0, 11)
    seen = contents(batches)
    assert len(set(seen[:11])) == 11 and set(seen[11:]) == set(seen[:11]) and seen[:11] != seen[11:]
    (bad,) = {name for batch in batches for name, _ in batch["bad"]}  # the same in both epochs
    assert bad.startswith("3.png [")


@pytest.mark.parametrize("done", range(1, 9))
def test_a_resumed_stream_leaves_nothing_out_and_repeats_nothing(stream, done):
    whole = stream_batches(stream, 0, 10)
    first = stream_batches(stream, 0, done)
    rest = stream_batches(stream, 2 * done, 10 - done, epoch=first[-1]["epoch"], offset=first[-1]["offset"])
    assert contents(first) + contents(rest) == contents(whole)


def test_processes_share_a_stream_without_overlap(stream):
    first, second = (contents(stream_batches(stream, 0, 2, rank, 2)) for rank in range(2))
    assert not set(first) & set(second)


def test_a_stream_that_has_nothing_good_ends(tmp_path):
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = [{"image": {"bytes": b"broken", "path": None}}] * 3
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "stream.parquet")
    broken = load_images(str(tmp_path / "stream.parquet"), streaming=True)
    with pytest.raises(ValueError, match="in a row are bad"):
        stream_batches(broken, 0, 1)
