"""diffusers' scheduler suite on `CCLDScheduler`, once for every algorithm."""

import tempfile

from diffusers_ccld import CCLDScheduler
from tests.schedulers import test_schedulers as suites


class Common(suites.SchedulerCommonTest):
    """The suite, and further tests that diffusers has for its own schedulers."""

    __test__ = False
    scheduler_classes = (CCLDScheduler,)
    forward_default_kwargs = (("num_inference_steps", 50),)
    algorithm_type = "plms"

    def get_scheduler_config(self, **kwargs):
        return {"num_train_timesteps": 1000, "algorithm_type": self.algorithm_type, **kwargs}

    def test_from_pretrained(self):
        """The suite's test, but for one private key: `algorithm_type` stays listed as left at its default."""
        scheduler = CCLDScheduler(**self.get_scheduler_config())
        with tempfile.TemporaryDirectory() as folder:
            scheduler.save_pretrained(folder)
            loaded = CCLDScheduler.from_pretrained(folder)
        assert dict(loaded.config) == {**scheduler.config, "_use_default_values": ["algorithm_type"]}

    def test_options(self):
        for options in (
            {"num_train_timesteps": 100},
            {"timestep_schedule": "log"},
            {"timestep_schedule": "ddpm"},
            {"prediction_type": "epsilon"},
        ):
            self.check_over_configs(time_step=0, **options)

    def test_inference_steps(self):
        for num_inference_steps, time_step in ((1, 999), (10, 500), (50, 1)):
            self.check_over_forward(num_inference_steps=num_inference_steps, time_step=time_step)


def suite_for(algorithm):
    return type(f"Test{algorithm.title()}", (Common,), {"algorithm_type": algorithm, "__test__": True})


TestPlms = suite_for("plms")
TestPlms2 = suite_for("plms2")
TestIplms = suite_for("iplms")
TestPrk = suite_for("prk")
TestPie = suite_for("pie")
TestDpmpp = suite_for("dpmpp")
TestUnipc = suite_for("unipc")
TestDdim = suite_for("ddim")
TestDdpm = suite_for("ddpm")
