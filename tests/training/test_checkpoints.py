import json

import pytest
import torch
from accelerate import Accelerator

from diffusers_ccld.training.checkpoints import (
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    tidy_checkpoints,
)
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.state import STATE_NAME, RunState, read_state


def network():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    return net


def test_the_average_begins_as_the_weights_and_follows_them():
    net = network()
    average = EMA(net)
    expected = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
    for decay in (0.5, 0.9, 0.99):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        average.update(decay)
        for name, p in net.named_parameters():
            if p.requires_grad:
                expected[name] = decay * expected[name] + (1 - decay) * p.detach()
    assert set(average.averages) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(average.averages[name], value)

    trained = {name: p.detach().clone() for name, p in net.named_parameters()}
    with average.applied():
        assert all(torch.equal(net.get_parameter(name), value) for name, value in average.averages.items())
        assert torch.equal(net[0].bias, trained["0.bias"])
    assert all(torch.equal(p, trained[name]) for name, p in net.named_parameters())


def test_the_average_of_half_precision_weights_moves():
    net = network().to(torch.bfloat16)
    average = EMA(net)
    before = average.averages["1.weight"].clone()
    with torch.no_grad():
        net[1].weight.mul_(2)
    for _ in range(10):
        average.update(0.9999)
    assert (average.averages["1.weight"] - before * (2 - 0.9999**10)).abs().max() < 1e-6


def test_an_average_of_another_network_is_refused(tmp_path):
    EMA(network()).save(tmp_path / "average.safetensors")
    with pytest.raises(ValueError, match="another network"):
        EMA(torch.nn.Linear(4, 4)).load(tmp_path / "average.safetensors")


@pytest.fixture
def run():
    accelerator = Accelerator(cpu=True)
    net = network()
    optimizer = torch.optim.AdamW(p for p in net.parameters() if p.requires_grad)
    net, optimizer = accelerator.prepare(net, optimizer)
    yield accelerator, net, optimizer, EMA(net)
    accelerator.free_memory()


def train(net, optimizer, average):
    net(torch.randn(3, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    average.update(0.9)


def test_checkpoints_restore_everything_and_old_ones_go(run, tmp_path):
    accelerator, net, optimizer, average = run
    for step in (1, 2, 3, 4):
        train(net, optimizer, average)
        state = RunState(step=step, identity={"seed": 0, "size": [4, 4]})
        save_checkpoint(accelerator, average, state, tmp_path / f"step-{step:08d}", limit=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    newest = find_checkpoint(tmp_path, "latest")
    assert read_state(newest, {"seed": 0, "size": (4, 4)}).step == 4
    with pytest.raises(ValueError, match="another run: seed was 0 and is 1"):
        read_state(newest, {"seed": 1})

    train(net, optimizer, average)
    after = [p.detach().clone() for p in net.parameters()] + [a.clone() for a in average.averages.values()]
    train(net, optimizer, average)
    load_checkpoint(accelerator, average, newest)  # the generator's state, too: the inputs are the same ones
    train(net, optimizer, average)
    assert all(torch.equal(a, b) for a, b in zip(after, [*net.parameters(), *average.averages.values()]))


def test_only_complete_checkpoints_count(tmp_path):
    assert find_checkpoint(tmp_path, None) is None and find_checkpoint(tmp_path, "latest") is None
    for name in (
        ".step-00000009.part",
        ".step-00000001.old",
        "failed-step-00000005",
        "step-00000002",
        "step-00000003",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / STATE_NAME).write_text(json.dumps({}))
    assert find_checkpoint(tmp_path, "latest").name == "step-00000003"
    assert find_checkpoint(tmp_path, str(tmp_path / "step-00000002")).name == "step-00000002"
    with pytest.raises(
        ValueError, match=f"{tmp_path.parent} has a run already, of 3 steps. --resume latest continues "
    ):
        find_checkpoint(tmp_path, None)
    with pytest.raises(ValueError, match="not a checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "nowhere"))
    (tmp_path / "new" / "step-00000001").mkdir(parents=True)
    with pytest.raises(ValueError, match="checkpoints of another run"):
        find_checkpoint(tmp_path / "new", str(tmp_path / "step-00000002"))


def test_what_killed_processes_left_behind_goes_and_so_does_the_abandoned_future(tmp_path):
    names = (".step-00000009.part", ".failed-step-00000009.part", ".step-00000001.old", "failed-step-00000005")
    for name in (*names, "step-00000002", "step-00000003", "step-00000004"):
        (tmp_path / name).mkdir()
    tidy_checkpoints(tmp_path, None)
    left = ["failed-step-00000005", "step-00000002", "step-00000003", "step-00000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    tidy_checkpoints(tmp_path, tmp_path / "step-00000002")
    assert sorted(path.name for path in tmp_path.iterdir()) == left[:2]


def test_a_checkpoint_that_is_damaged_says_so_in_one_line(run, tmp_path):
    accelerator, _, _, average = run
    save_checkpoint(accelerator, average, RunState(step=1), tmp_path / "step-00000001")
    weights = tmp_path / "step-00000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="step-00000001 cannot be loaded: it is damaged") as error:
        load_checkpoint(accelerator, average, tmp_path / "step-00000001")
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_fails_leaves_the_old_ones(run, tmp_path, monkeypatch):
    accelerator, _, _, average = run
    save_checkpoint(accelerator, average, RunState(step=1), tmp_path / "step-00000001", limit=1)

    def fail(path):
        raise OSError("No space left on device")

    monkeypatch.setattr(average, "save", fail)
    with pytest.raises(OSError):
        save_checkpoint(accelerator, average, RunState(step=2), tmp_path / "step-00000002", limit=1)
    assert find_checkpoint(tmp_path, "latest").name == "step-00000001"
    monkeypatch.undo()
    save_checkpoint(accelerator, average, RunState(step=2), tmp_path / "step-00000002", limit=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002"]
