"""`training/precompute.py` and the cache it makes."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.data.decoding import ImageLimits
from diffusers_ccld.data.encoding import encode_images, model_fingerprint
from diffusers_ccld.data.images import Preparation
from diffusers_ccld.data.latent_cache import LatentCache, Manifest
from diffusers_ccld.data.sources import load_images
from diffusers_ccld.training.state import read_state
from support.picture_files import patchwork, write_pictures
from support.scripts import run, run_here, start

SCRIPT = "training/precompute.py"


def precompute(model, dataset, output, *arguments):
    options = ("--model", model, "--dataset", dataset, "--output", output, "--dataloader_num_workers", 0)
    return run_here(SCRIPT, *options, *arguments)


@pytest.fixture(scope="module")
def cache(trainable_folder, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "plain"
    assert precompute(trainable_folder, pictures, folder, "--chunk_size", 7) == 0
    return folder


@pytest.fixture
def trainable(trainable_folder):
    return CCLDPipeline.from_pretrained(trainable_folder)


def encode(pipe, pixels):
    pixels = torch.from_numpy(np.stack(pixels))
    return encode_images(pipe.vae, pipe.image_encoder, pipe.feature_extractor, pixels)


def test_a_cache_holds_what_would_be_computed(cache, pictures, trainable):
    data = LatentCache.open(cache, seed=0)
    assert len(data) == 24 and not data.bad
    batch = data.__getitems__(list(range(24)))
    assert sorted(batch["indices"].tolist()) == list(range(24))
    images, preparation = load_images(str(pictures)), Preparation(32)
    pixels = [preparation.pixels(images[i]["image"], np.random.default_rng()) for i in batch["indices"].tolist()]
    for name, expected in encode(trainable, pixels)._asdict().items():
        torch.testing.assert_close(batch[name], expected, atol=1e-5, rtol=1e-5)
    data.check(trainable.vae, trainable.image_encoder, Preparation(32))


def test_variants_are_crops_and_flips(trainable_folder, pictures, tmp_path, trainable):
    options = ("--random_crop", "--random_flip", "--variants", 3)
    assert precompute(trainable_folder, pictures, tmp_path / "cache", *options) == 0
    data = LatentCache.open(tmp_path / "cache", seed=0)
    data.check(trainable.vae, trainable.image_encoder, Preparation(32, True, True))
    assert len(data) == 24
    seen = {}
    for first in range(0, 240, 24):
        batch = data.__getitems__(list(range(first, first + 24)))
        assert sorted(batch["indices"].tolist()) == list(range(24))
        for index, mean in zip(batch["indices"].tolist(), batch["latent_mean"]):
            seen.setdefault(index, set()).add(mean.numpy().tobytes())
    counts = [len(variants) for variants in seen.values()]  # variants of a picture that is square may coincide
    assert max(counts) == 3 and sum(counts) > 48 and len(data.rows) == 72


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--random_crop"], "--variants"),
        (["--variants", "2"], "--random-crop or --random-flip"),
        (["--resolution", "33"], "multiple of 8"),
        (["--num_shards", "2", "--shard_index", "2"], "shard_index"),
        (["--batch_size", "0"], "batch_size"),
        (["--dataset", "/nowhere"], "no such folder"),
        (["--model", "/nowhere"], "error: /nowhere: this is neither a folder"),
    ],
)
def test_wrong_arguments_write_nothing(arguments, message, trainable_folder, pictures, tmp_path, capsys):
    assert precompute(trainable_folder, pictures, tmp_path / "cache", *arguments) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "cache").exists()


def test_a_dry_run_writes_nothing_and_says_how_long(trainable_folder, pictures, tmp_path, capsys):
    assert precompute(trainable_folder, pictures, tmp_path / "cache", "--dry_run") == 0
    printed = capsys.readouterr().out
    assert "24 images" in printed and "GiB on disk" in printed and "minutes" in printed
    assert not (tmp_path / "cache").exists()


def test_shards_make_the_same_cache(cache, trainable_folder, pictures, tmp_path, capsys):
    for shard in (1, 0):
        if shard == 0:
            with pytest.raises(ValueError, match="2 of 4 chunks are missing, the first chunk-00000"):
                LatentCache.open(tmp_path / "cache", 0)
        options = ("--chunk_size", 7, "--num_shards", 2, "--shard_index", shard)
        assert precompute(trainable_folder, pictures, tmp_path / "cache", *options) == 0
    whole, sharded = LatentCache.open(cache, 0), LatentCache.open(tmp_path / "cache", 0)
    a, b = whole.__getitems__(list(range(24))), sharded.__getitems__(list(range(24)))
    assert all(torch.equal(a[name], b[name]) for name in ("latent_mean", "latent_std", "image_embeds", "indices"))


def test_killed_and_started_again_it_makes_the_same_cache(cache, trainable_folder, pictures, tmp_path):
    folder = tmp_path / "cache"
    arguments = ["--model", trainable_folder, "--dataset", pictures, "--output", folder, "--chunk_size", 7]
    process = start(SCRIPT, *arguments, "--batch_size", 1)
    while not (folder / "chunk-00000").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = sorted(path.name for path in folder.glob("chunk-*"))
    printed = run(SCRIPT, *arguments)
    assert f"in {4 - len(done)} chunks left to do" in printed
    resumed, whole = LatentCache.open(folder, 0), LatentCache.open(cache, 0)
    assert resumed.rows["index"] == whole.rows["index"]
    np.testing.assert_allclose(resumed.rows["latent_mean"], whole.rows["latent_mean"], atol=1e-5)
    assert not list(folder.glob(".*"))


def test_bad_images_are_left_out_and_named(trainable_folder, tmp_path, capsys):
    paths = write_pictures(tmp_path / "pictures", 10)
    paths[4].write_bytes(b"broken")
    paths[9].write_bytes(b"")
    assert precompute(trainable_folder, tmp_path / "pictures", tmp_path / "cache", "--chunk_size", 3) == 0
    assert f"skipped {paths[4]}" in capsys.readouterr().out
    data = LatentCache.open(tmp_path / "cache", 0)
    assert len(data) == 8 and [name for name, _ in data.bad] == [str(paths[4]), str(paths[9])]
    indices = data.__getitems__(list(range(8)))["indices"].tolist()
    assert sorted(indices) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_too_many_bad_images_stop_it(trainable_folder, tmp_path, capsys):
    for path in write_pictures(tmp_path / "pictures", 10)[:3]:
        path.write_bytes(b"broken")
    assert precompute(trainable_folder, tmp_path / "pictures", tmp_path / "cache") == 2
    assert "3 of 10 pictures are bad" in capsys.readouterr().err


def test_another_cache_is_not_written_over(cache, trainable_folder, pictures, capsys):
    assert precompute(trainable_folder, pictures, cache, "--chunk_size", 8) == 2
    assert "holds another cache" in capsys.readouterr().err and len(LatentCache.open(cache, 0)) == 24


class TestStaleCaches:
    @pytest.mark.parametrize(
        "preparation, word",
        [
            (Preparation(64), "resolution is 32 here and 64 there"),
            (Preparation(32, random_flip=True), "random_flip"),
            (Preparation(32, random_crop=True), "random_crop"),
            (Preparation(32, limits=ImageLimits(16)), "min_image_side"),
        ],
    )
    def test_another_preparation(self, cache, trainable, preparation, word):
        with pytest.raises(ValueError, match=f"is stale.*{word}"):
            LatentCache.open(cache, 0).check(trainable.vae, trainable.image_encoder, preparation)

    def test_another_model(self, cache, trainable):
        with torch.no_grad():
            trainable.vae.decoder.conv_out.bias[0] += 1e-3
        with pytest.raises(ValueError, match=r"stale.*vae is"):
            LatentCache.open(cache, 0).check(trainable.vae, trainable.image_encoder, Preparation(32))

    def test_another_scaling_factor_is_no_other_model(self, cache, trainable):
        trainable.vae.register_to_config(scaling_factor=0.1)
        LatentCache.open(cache, 0).check(trainable.vae, trainable.image_encoder, Preparation(32))

    def test_another_dataset_and_a_copy_of_the_same(self, cache, trainable, pictures, tmp_path):
        models = (trainable.vae, trainable.image_encoder, Preparation(32))
        write_pictures(tmp_path / "others", 3)
        shutil.copytree(pictures, tmp_path / "copy", copy_function=shutil.copyfile)
        LatentCache.open(cache, 0).check(*models, str(tmp_path / "copy"))
        with pytest.raises(ValueError, match=r"stale.*images: there were 24 and are 3"):
            LatentCache.open(cache, 0).check(*models, str(tmp_path / "others"))
        with pytest.raises(ValueError, match=r"stale.*dataset is"):
            LatentCache.open(cache, 0).check(*models, "somebody/else")

    def test_changed_images(self, trainable_folder, trainable, tmp_path):
        paths = write_pictures(tmp_path / "pictures", 4)
        assert precompute(trainable_folder, tmp_path / "pictures", tmp_path / "cache") == 0
        patchwork(77).save(paths[1])
        with pytest.raises(ValueError, match=r"stale.*images: their contents differ, not their names"):
            LatentCache.open(tmp_path / "cache", 0).check(trainable.vae, trainable.image_encoder, Preparation(32))
        for path in [*paths, tmp_path / "pictures"]:  # a cache may outlive its images
            path.unlink() if path.is_file() else path.rmdir()
        LatentCache.open(tmp_path / "cache", 0).check(trainable.vae, trainable.image_encoder, Preparation(32))


FIRST_NAMES = {"dataset_split": "split", "resolution": "size", "min_image_side": "min_side"}
FIRST_NAMES |= {"max_image_pixels": "max_pixels"}


def in_first_version(manifest):
    return {FIRST_NAMES.get(name, name): value for name, value in manifest.items()} | {"version": 1}


def test_a_cache_of_the_first_version_is_read_and_continued(cache, trainable_folder, pictures, tmp_path, capsys):
    shutil.copytree(cache, tmp_path / "cache")
    path = tmp_path / "cache" / "manifest.json"
    path.write_text(json.dumps(in_first_version(json.loads(path.read_text()))))
    assert Manifest.read(tmp_path / "cache") == Manifest.read(cache)
    assert precompute(trainable_folder, pictures, tmp_path / "cache", "--chunk_size", 7) == 0
    assert "0 in 0 chunks left to do" in capsys.readouterr().out


def test_a_checkpoint_of_the_first_version_is_of_the_same_run(cache, tmp_path):
    manifest = json.loads((cache / "manifest.json").read_text())
    identity = {"seed": 0, "resolution": 32, "min_image_side": 32, "max_image_pixels": 100, "cache": manifest}
    before = {"seed": 0, "resolution": 32, "min_side": 32, "max_pixels": 100, "cache": in_first_version(manifest)}
    values = {"step": 3, "images_seen": 12, "log": {}, "stream": None, "identity": before}
    (tmp_path / "progress.json").write_text(json.dumps(values))
    assert read_state(tmp_path, identity).step == 3
    for change in ({"min_image_side": 16}, {"cache": manifest | {"seed": 1}}):
        with pytest.raises(ValueError, match=f"another run: {next(iter(change))}(: seed)? was"):
            read_state(tmp_path, identity | change)


def test_folders_that_are_no_cache(cache, tmp_path):
    with pytest.raises(ValueError, match="is not a cache"):
        LatentCache.open(tmp_path, 0)
    (tmp_path / "manifest.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(ValueError, match="damaged or of another version"):
        Manifest.read(tmp_path)
    later = json.loads((cache / "manifest.json").read_text()) | {"version": 4}
    (tmp_path / "manifest.json").write_text(json.dumps(later))
    with pytest.raises(ValueError, match="version 4"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("damage", ["state.json", "bad_images.json", "data-00000-of-00001.arrow"])
def test_a_damaged_chunk_is_found(damage, cache, tmp_path):
    shutil.copytree(cache, tmp_path / "cache")
    (tmp_path / "cache" / "chunk-00001" / damage).unlink()
    with pytest.raises(ValueError, match="chunk-00001 is damaged; delete it"):
        LatentCache.open(tmp_path / "cache", 0)


def test_fingerprints_tell_models_apart(trainable):
    assert model_fingerprint(trainable.vae) == model_fingerprint(trainable.vae.to(torch.float32))
    assert model_fingerprint(trainable.vae) != model_fingerprint(trainable.vae.half())
    assert model_fingerprint(trainable.image_encoder) != model_fingerprint(trainable.text_encoder)
