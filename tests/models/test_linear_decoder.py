import pytest
import torch

from diffusers_ccld import LinearDecoder


def test_a_linear_map_is_found_again():
    truth, fitted = LinearDecoder(2, 4, 3), LinearDecoder(2, 4, 3)
    latents = torch.randn(20, 2, 6, 5)
    pixels = truth(latents).detach()
    assert pixels.shape == (20, 3, 24, 20)
    assert fitted.fit(latents, pixels, ridge=1e-9) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(fitted(latents), pixels, atol=1e-4, rtol=1e-4)


def test_the_share_that_it_explains_is_that_of_the_variance():
    latents = torch.randn(50, 1, 4, 4)
    pixels = latents.expand(-1, 3, -1, -1) + torch.randn(50, 3, 4, 4)
    assert LinearDecoder(1, 1, 1).fit(latents, pixels) == pytest.approx(0.5, abs=0.06)


def test_too_few_latents_are_refused():
    with pytest.raises(ValueError, match="4 latents cannot determine 37 coefficients"):
        LinearDecoder(4, 8, 3).fit(torch.randn(1, 4, 2, 2), torch.randn(1, 3, 16, 16))
