"""Some hundred damaged and foreign inputs of every reader but that of checkpoints; `make fuzz` tries thousands."""

import datasets

from support.mutated_inputs import KINDS, complaints


def test_damaged_inputs_are_read_or_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found, ends = complaints(tmp_path, 12 * len(KINDS), seed=1)
    assert not found, "\n".join(found)
    assert min(ends["read"], ends["refused"]) > len(KINDS)
