"""Tests of distillation: features, guided predictions, progressive-distillation schedule, conditions."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffusers_ccld import CCLDScheduler, CCLDUNet2DConditionModel
from diffusers_ccld.models.prediction import predict_velocity
from diffusers_ccld.schedulers.noise_schedule import t_to_timestep
from diffusers_ccld.training.distillation import (
    OtherConditions,
    Prediction,
    ProgressiveSchedule,
    Student,
    Teacher,
    draw_guidance_scales,
    feature_losses,
    long_step_velocity,
    make_projections,
)
from support.networks import STOCK, make_unet, question


@pytest.fixture
def unet():
    return make_unet("ours", None)


# The teacher


def test_a_teacher_guides_by_the_formula(unet):
    scales = torch.tensor([1.0, 4.0])
    noisy, timesteps, condition = question()
    guided = Teacher(unet)(noisy, timesteps, condition, scales).velocity
    plain = predict_velocity(unet, noisy, timesteps, condition)
    none = predict_velocity(unet, noisy, timesteps, torch.zeros_like(condition))
    assert torch.allclose(guided[0], plain[0], atol=1e-6)
    assert torch.allclose(guided[1], none[1] + 4 * (plain[1] - none[1]), atol=1e-5)
    # Without gradients layers compute faster, with other last bits.
    assert torch.allclose(Teacher(unet)(noisy, timesteps, condition).velocity, plain, atol=1e-5)


def test_a_teacher_that_is_told_the_scale_is_asked_once():
    unet, calls = make_unet("ours"), []
    unet.register_forward_hook(lambda *_: calls.append(1))
    scales = torch.tensor([1.0, 4.0])
    velocity = Teacher(unet)(*question(), scales).velocity
    assert len(calls) == 1 and torch.allclose(velocity, predict_velocity(unet, *question(), scales), atol=1e-5)


def test_a_teacher_does_not_learn(unet):
    prediction = Teacher(unet, compares_features=True)(*question(), torch.tensor([2.0, 3.0]))
    assert not prediction.velocity.requires_grad and not any(p.requires_grad for p in unet.parameters())


# Features


def test_features_are_those_between_levels(unet):
    student = CCLDUNet2DConditionModel(sample_size=4, block_out_channels=(64, 128), layers_per_block=2, mapping_dim=32)
    projections = make_projections(student, unet)
    assert [(p.in_channels, p.out_channels) for p in projections] == [(64, 64), (128, 64), (64, 64)]
    prediction, target = Student(student, projections)(*question()), Teacher(unet, compares_features=True)(*question())
    assert [tuple(f.shape) for f in prediction.features] == [(2, 64, 4, 4), (2, 64, 2, 2), (2, 64, 4, 4)]
    assert [f.shape for f in prediction.features] == [f.shape for f in target.features]
    assert torch.equal(prediction.velocity, predict_velocity(student, *question()))
    feature_losses(prediction.features, target.features).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in projections.parameters())
    assert student.down_blocks[0].resnets[0].conv1.weight.grad.abs().max() > 0


def test_features_of_one_evaluation_do_not_mix_with_those_of_another(unet):
    teacher, student = Teacher(unet, compares_features=True), Student(unet, make_projections(unet, unet))
    once = teacher(*question(), torch.tensor([2.0, 3.0])).features
    again = teacher(*question(), torch.tensor([2.0, 3.0])).features
    assert len(once) == 3 and all(torch.equal(a, b) for a, b in zip(once, again))
    assert len(student(*question()).features) == len(student(*question()).features) == 3


def test_the_loss_of_features_is_a_share_of_them():
    features = [torch.randn(2, 8, 4, 4), 100 * torch.randn(2, 3, 2, 2)]
    assert torch.equal(feature_losses(features, features), torch.zeros(2))
    nothing = [torch.zeros_like(f) for f in features]
    assert torch.allclose(feature_losses(nothing, features), torch.ones(2))


@pytest.mark.parametrize(
    "student",
    [
        UNet2DConditionModel(**STOCK),
        CCLDUNet2DConditionModel(block_out_channels=(64, 64, 64), layers_per_block=1, mapping_dim=32),
    ],
)
def test_features_of_other_networks_are_refused(student, unet):
    with pytest.raises(ValueError, match="equally many levels"):
        make_projections(student, unet)


# Few steps


def test_its_steps_are_the_samplers():
    schedule, scheduler = ProgressiveSchedule(4, 12, "spliced"), CCLDScheduler(algorithm_type="ddim")
    times = schedule.times(torch.tensor([0.99, 0.6, 0.3, 0.0]))
    assert times.shape == (4, 4)
    scheduler.set_timesteps(4)
    assert torch.allclose(t_to_timestep(times[0]), scheduler.timesteps.float(), atol=1e-3)
    scheduler.set_timesteps(12)
    assert torch.allclose(t_to_timestep(times[:3].T.flatten()), scheduler.timesteps.float(), atol=1e-3)
    assert torch.equal(times[-1, :3], times[0, 1:]) and times[-1, -1] == 0


def test_every_step_comes_equally_often():
    firsts = ProgressiveSchedule(4, 8, "spliced").times(torch.arange(100) / 100)[0]
    assert sorted(firsts.tolist().count(t) for t in set(firsts.tolist())) == [25] * 4


@pytest.mark.parametrize("index", range(4))
def test_one_step_with_its_velocity_leads_where_the_teachers_steps_lead(unet, index):
    schedule = ProgressiveSchedule(4, 12, "spliced")
    noisy, _, condition = question(1)
    times = schedule.times(torch.tensor([(3 - index + 0.5) / 4]))
    velocity = long_step_velocity(Teacher(unet), noisy, times, condition)

    scheduler, expected = CCLDScheduler(algorithm_type="ddim"), noisy
    scheduler.set_timesteps(12)
    scheduler.set_begin_index(3 * index)
    with torch.no_grad():
        for timestep in scheduler.timesteps[3 * index : 3 * index + 3]:
            output = predict_velocity(unet, expected, timestep.float()[None], condition)
            expected = scheduler.step(output, timestep, expected).prev_sample
    scheduler = CCLDScheduler(algorithm_type="ddim")
    scheduler.set_timesteps(4)
    scheduler.set_begin_index(index)
    mine = scheduler.step(velocity, scheduler.timesteps[index], noisy).prev_sample
    assert torch.allclose(mine, expected, atol=1e-4)


def test_a_single_step_of_the_teacher_is_its_own_velocity(unet):
    noisy, _, condition = question()
    times = ProgressiveSchedule(4, 4, "spliced").times(torch.tensor([0.9, 0.1]))
    velocity = long_step_velocity(Teacher(unet), noisy, times, condition)
    target = predict_velocity(unet, noisy, t_to_timestep(times[0]), condition)
    assert torch.allclose(velocity, target, atol=1e-4)


@pytest.mark.parametrize("steps", [(4, 6), (0, 4), (4, 0), (4, -4)])
def test_steps_of_unequal_length_are_refused(steps):
    with pytest.raises(ValueError, match="multiple of student_steps"):
        ProgressiveSchedule(*steps, "spliced")


# Conditions and scales


def test_other_conditions_do_not_depend_on_the_batch():
    others = OtherConditions(7, 0.5)
    condition = torch.randn(8, 1, 16)
    drawn, is_own = others.draw(condition, range(8))
    parts = [others.draw(condition[first : first + 2], range(first, first + 2)) for first in range(0, 8, 2)]
    assert torch.equal(drawn, torch.cat([part[0] for part in parts]))
    assert torch.equal(is_own, torch.cat([part[1] for part in parts]))
    assert 0 < is_own.sum() < 8
    assert torch.equal(drawn[is_own], condition[is_own]) and not torch.equal(drawn[~is_own], condition[~is_own])


def test_a_turned_condition_is_as_long_and_within_ninety_degrees():
    condition = 3 * torch.randn(400, 1, 16)
    drawn, is_own = OtherConditions(1, 1.0).draw(condition, range(400))
    assert not is_own.any()
    assert torch.allclose(drawn.norm(dim=-1), condition.norm(dim=-1), rtol=1e-4)
    angles = torch.cosine_similarity(drawn, condition, dim=-1).clamp(-1, 1).acos()
    assert angles.max() < math.pi / 2 + 1e-3 and abs(angles.mean() - math.pi / 4) < 0.1


def test_the_zero_condition_stays():
    condition = torch.zeros(5, 1, 16)
    drawn, is_own = OtherConditions(1, 1.0).draw(condition, range(5))
    assert is_own.all() and torch.equal(drawn, condition)


def test_prompts_are_drawn_from_all_of_them():
    prompts = torch.randn(5, 16)
    drawn, is_own = OtherConditions(1, 0.8, prompts).draw(torch.randn(200, 1, 16), range(200))
    assert 0.7 < (~is_own).float().mean() < 0.9
    matches = (drawn[~is_own] == prompts).all(dim=-1)
    assert (matches.sum(dim=1) == 1).all() and matches.any(dim=0).all()


def test_guidance_scales_cover_their_range_whatever_the_batch():
    scales = draw_guidance_scales(3, range(500), 8)
    assert 1 <= scales.min() < 1.2 and 7.8 < scales.max() <= 8
    assert torch.equal(scales[10:20], draw_guidance_scales(3, range(10, 20), 8))
    assert not torch.equal(scales[10:20], draw_guidance_scales(4, range(10, 20), 8))


def test_a_prediction_without_features(unet):
    prediction = Student(unet, torch.nn.ModuleList())(*question())
    assert isinstance(prediction, Prediction) and prediction.features == []
