from diffusers_ccld.evaluation.painting_scores import draw


def test_every_combination_comes_before_one_comes_again():
    chosen = draw(180, True, 0)
    assert all(chosen.count(attributes) in (2, 3) for attributes in set(chosen)) and len(set(chosen)) == 86
