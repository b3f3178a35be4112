"""Reading files safely: nothing in them runs, and whatever is wrong with them is said in one sentence."""

import pickle

import numpy as np
import pytest
import torch

from diffusers_ccld.original.reading.checkpoints import CheckpointError, read_checkpoint, sha256
from diffusers_ccld.original.reading.cloob_pickles import read_cloob_pickle
from diffusers_ccld.original.tensors.tables import Entry, from_original
from support import original_files
from support.mutated_files import Exploit


def test_a_lightning_header_is_read_without_its_classes(originals):
    checkpoint = read_checkpoint(originals.training)
    assert checkpoint["global_step"] == 149999
    assert checkpoint["state_dict"]["scale_factor"] == pytest.approx(2.55)


def test_the_format_before_pytorch_1_6_is_read(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.ckpt")["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("is_new_format", [True, False])
def test_a_checkpoint_that_would_run_code_does_not(tmp_path, is_new_format):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    content = {"state_dict": {"w": torch.ones(1)}, "callbacks": Exploit(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=is_new_format)
    with pytest.raises(CheckpointError, match=r"evil.ckpt.*[Nn]othing in it was run"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_does_not(tmp_path, protocol):
    path, trace = tmp_path / "evil.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"params": ({}, {}), "epoch": Exploit(trace)}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"evil.pkl.*mkdir.*Nothing in it was run"):
        read_cloob_pickle(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_numpys_own_pickles_are_read(tmp_path, protocol):
    params = original_files.cloob_params("tiny")
    (tmp_path / "cloob.pkl").write_bytes(pickle.dumps({"params": params, "epoch": np.int64(16)}, protocol=protocol))
    state, ignored = read_cloob_pickle(tmp_path / "cloob.pkl")
    assert ignored == ["epoch"]
    assert torch.equal(state["text_encoder/proj/b"], torch.from_numpy(params[1]["text_encoder/proj"]["b"]))


def test_jax_arrays_are_explained(tmp_path):
    # A pickle's instruction to look up jax._src.array._reconstruct_array, as JAX writes it.
    (tmp_path / "jax.pkl").write_bytes(b"\x80\x04cjax._src.array\n_reconstruct_array\n.")
    with pytest.raises(CheckpointError, match=r"JAX arrays.*numpy.asarray"):
        read_cloob_pickle(tmp_path / "jax.pkl")


@pytest.mark.parametrize("read", [read_checkpoint, read_cloob_pickle])
def test_missing_truncated_and_foreign_files(read, originals, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.ckpt: the file does not exist"):
        read(tmp_path / "nowhere.ckpt")
    whole = originals.unet if read is read_checkpoint else originals.cloob
    for name, content in (("half", whole.read_bytes()[:100_000]), ("empty", b""), ("text", b"<html>404</html>")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"truncated|is empty|is a web page"):
            read(tmp_path / name)


@pytest.mark.parametrize("read", [read_checkpoint, read_cloob_pickle])
def test_a_pickle_with_a_text_longer_than_any_file_is_refused(read, tmp_path):
    (tmp_path / "long.pkl").write_bytes(b"\x80\x04\x8d" + (2**60).to_bytes(8, "little") + b"text")
    with pytest.raises(CheckpointError, match=r"long\.pkl: the .* truncated or damaged"):
        read(tmp_path / "long.pkl")


def test_what_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match=r"contains a list"):
        read_checkpoint(tmp_path / "list.ckpt")
    for content in ([1], {"weights": 1}, {"params": ({"a": {"b": [1.0]}}, {})}, {"params": 3}):
        (tmp_path / "other.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match=r"not a CLOOB checkpoint|not an array"):
            read_cloob_pickle(tmp_path / "other.pkl")
    for array, message in (
        (np.array([None]), "not a plain numeric type"),
        (np.arange(3), "m/w is not an array of float"),
    ):
        (tmp_path / "objects.pkl").write_bytes(pickle.dumps({"params": ({"m": {"w": array}}, {})}))
        with pytest.raises(CheckpointError, match=message):
            read_cloob_pickle(tmp_path / "objects.pkl")


class Call:
    """Unpickles to the result of a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    "forged",
    [
        Call(np.ndarray, (1,), np.dtype("O"), b"AAAAAAAA"),  # an array of pointers of the file's choice
        Call(np.ndarray, Call(np.ndarray, (1,), np.dtype("O"), b"AAAAAAAA")),
        Call(np.dtype, "O"),
        Call(np.dtype, [("f", "O")]),
        Call(np.dtype, "V8"),
        Call(np._core.multiarray.scalar, np.dtype("f8"), b"short"),
    ],
)
def test_numpys_own_functions_are_out_of_reach(tmp_path, forged):
    (tmp_path / "forged.pkl").write_bytes(pickle.dumps({"params": ({"m": {"w": forged}}, {})}, protocol=2))
    with pytest.raises(CheckpointError, match=r"forged\.pkl"):
        read_cloob_pickle(tmp_path / "forged.pkl")


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf")


def test_every_tensor_is_used_once_or_named():
    table = [Entry("a", ("x", "y")), Entry("b", ("z",), "transposed")]
    shapes = {"x": torch.Size([2]), "y": torch.Size([2]), "z": torch.Size([3, 2])}
    state = {"a": torch.arange(4.0), "b": torch.zeros(2, 3), "loss.w": torch.zeros(1)}
    converted, ignored = from_original(state, table, shapes, r"loss\..*")
    assert converted["y"].tolist() == [2, 3] and ignored == ["loss.w"]
    for change, message in (
        ({"a": None}, "lacks a"),
        ({"c": torch.zeros(1)}, "unexpected tensors: c"),
        ({"b": torch.zeros(3, 2)}, r"wrong shape: b \(3, 2\)"),
        ({"b": torch.full((2, 3), float("nan"))}, "NaN or infinite values in b"),
        ({"b": torch.zeros(2, 3, dtype=torch.long)}, "b is not a tensor of floating-point"),
        ({"loss": torch.zeros(1)}, "unexpected tensors: loss"),
    ):
        wrong = {name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}
        with pytest.raises(CheckpointError, match=message):
            from_original(wrong, table, shapes, r"loss\..*")
    with pytest.raises(CheckpointError, match=r"lacks the tensors for w"):
        from_original(state, table, {**shapes, "w": torch.Size([1])}, r"loss\..*")
