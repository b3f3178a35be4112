"""Each benchmark imports and describes its options; tests/evaluation tests what the benchmarks call."""

import pytest

from support.scripts import ROOT, run_here

NAMES = [path.name for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_describes_its_options(name, capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as Python does for a script
    assert run_here(f"benchmarks/{name}", "--help") == 0
    assert "--help" in capsys.readouterr().out
