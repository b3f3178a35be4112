import pytest
import torch

from diffusers_ccld.models.losses_cloob import (
    cloob_loss,
    cosine_distance,
    hopfield_retrieval,
    info_loob_loss,
    info_nce_loss,
)
from support import original_files

REFERENCE = original_files.reference("cloob_loss")


@pytest.mark.parametrize("key", [key for key in REFERENCE if "loss" in key])
def test_the_loss_is_the_originals(key):
    size, _, options = key.partition("/loss_invtau")
    inverse_temperature, hopfield_scale = options.split("_hopfield")
    image, text = (torch.from_numpy(REFERENCE[f"{size}/{kind}"]) for kind in ("image", "text"))
    loss = cloob_loss(image, text, float(inverse_temperature), float(hopfield_scale))
    torch.testing.assert_close(loss.item(), REFERENCE[key].item(), atol=1e-9, rtol=1e-9)


def test_retrieval_leaves_well_separated_patterns_alone():
    stored = torch.eye(8)
    torch.testing.assert_close(hopfield_retrieval(stored, stored, scale=50.0), stored)


def test_info_loob_leaves_the_positive_out():
    x = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    logits = 30 * x @ x.T
    others = torch.stack([logits[i][torch.arange(4) != i].logsumexp(0) for i in range(4)])
    torch.testing.assert_close(info_loob_loss(x, x, 30.0), (others - logits.diagonal()).mean())


def test_order_does_not_matter():
    image, text = (torch.nn.functional.normalize(torch.randn(6, 16), dim=-1) for _ in range(2))
    order = torch.randperm(6)
    torch.testing.assert_close(cloob_loss(image, text), cloob_loss(image[order], text[order]))


def test_a_single_pair_is_refused():
    with pytest.raises(ValueError, match="two or more pairs"):
        cloob_loss(torch.ones(1, 4), torch.ones(1, 4))


def test_info_nce_is_the_cross_entropy_of_picking_ones_own():
    image, text = (torch.nn.functional.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    similarities = 20 * image @ text.T
    rows = torch.stack([similarities[i].logsumexp(0) - similarities[i, i] for i in range(5)])
    columns = torch.stack([similarities[:, i].logsumexp(0) - similarities[i, i] for i in range(5)])
    torch.testing.assert_close(info_nce_loss(image, text, 20.0), (rows.mean() + columns.mean()) / 2)


def test_the_cosine_distance_ends_where_embeddings_agree():
    x = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    torch.testing.assert_close(cosine_distance(x, x).item(), 0.0, atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine_distance(x, -x).item(), 2.0, atol=1e-6, rtol=0)
