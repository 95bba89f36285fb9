"""What a configuration says of training reaches the stage, and what no method can do is refused before it begins."""

import pytest

from divalign.cli.app import Serving
from divalign.config import as_yaml, load_config
from divalign.lm.server import ServerOptions
from divalign.study.plan import aligned_models, check_names, judge_plan, train_plan
from divalign.study.run import read_inputs
from tests.study.test_run import small


def test_every_setting_of_training_reaches_the_plan() -> None:
    config = small(
        "train={epochs: 1.5, sft_weight: 0.5, variant: paper_code, too_long: skip, methods: [bco]}",
        "train.lora.continue=true",
    )
    plan = train_plan(config, method="bco", recipe="cr_plus", seed=3)
    assert (plan.updates, plan.epochs, plan.sft_weight, plan.variant, plan.too_long) == (
        None, 1.5, 0.5, "paper_code", "skip",
    )  # fmt: skip
    assert plan.continue_adapter


def test_a_variant_is_refused_for_a_method_that_has_none() -> None:
    with pytest.raises(ValueError, match=r"paper_code is for kldo and bco, and train\.methods has dpo"):
        read_inputs(small("train.variant=paper_code"))
    config = small("train.variant=paper_code", "train.methods=[bco,kldo]")
    assert {model.plan.variant for model in aligned_models(config, read_inputs(config).corpora)} == {"paper_code"}


def test_an_adapter_is_continued_where_there_is_one() -> None:
    with pytest.raises(ValueError, match=r"train\.lora\.continue is true, and toy has no adapter"):
        check_names(small("train.lora.continue=true"))


def test_options_of_a_server_reach_the_judge_of_a_run_and_stay_out_of_other_configurations() -> None:
    typed = Serving(system_prompt="Be brief: yes.", temperature="server", timeout=2.5, retries=0).overrides()
    config = small("measure.judge=harm_rubric@http://h:1/v1#guard", *typed)
    options = judge_plan(config).options
    assert options is not None
    assert options.server == ServerOptions(system_prompt="Be brief: yes.", temperature=None, timeout=2.5, attempts=1)
    check_names(config)
    assert "server" not in as_yaml(load_config(None))  # a run folder of before stays the same run's
    with pytest.raises(ValueError, match="no model is on one"):
        check_names(small("measure.server.concurrency=3"))
