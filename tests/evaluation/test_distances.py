import pytest
import torch
from torch.nn import functional as F

from diffusers_ccld.evaluation.distances import frechet_inception_distance, inception_metric, kernel_distance


def unit_vectors(*shape):
    return F.normalize(torch.randn(*shape), dim=-1)


def test_kernel_distance_separates_other_features_and_keeps_the_random_state():
    first, second, other = unit_vectors(80, 6), unit_vectors(70, 6), F.normalize(torch.rand(70, 6), dim=1)
    state = torch.random.get_rng_state()
    near, far = kernel_distance(first, second), kernel_distance(first, other)
    assert abs(near) < 0.1 * far
    assert kernel_distance(first, other) == far
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_file_that_is_not_an_inception_network_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    (tmp_path / "other.pth").write_bytes(b"nothing")
    for name in ("weights.pth", "other.pth", "nowhere.pth"):
        with pytest.raises(ValueError, match="Inception"):
            inception_metric(tmp_path / name, [])


@pytest.mark.slow
def test_inception_distance_with_weights_from_a_file(tmp_path, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *args, **kwargs: {})
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], "anything")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    images, others = (torch.randint(0, high, (4, 3, 64, 64), dtype=torch.uint8) for high in (256, 40))
    metric = inception_metric(tmp_path / "weights.pth", images.split(2))
    same, different = (frechet_inception_distance(metric, x.split(3)) for x in (images, others))
    assert same == pytest.approx(0, abs=1e-3 * different) and different > 0
