"""What a configuration says of training reaches the stage, and what no method can do is refused before it begins."""

import pytest
import yaml

from divalign.cli.app import Serving
from divalign.config import Config, load_config
from divalign.lm.server import ServerOptions
from divalign.sections import as_yaml
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


def test_wordings_reach_a_rubric_and_are_refused_for_a_judge_that_has_one() -> None:
    config = small("measure.judge=harm_rubric@m", "measure.wordings=2")
    check_names(config)
    assert judge_plan(config).wordings == 2
    with pytest.raises(ValueError, match="refusal_strings has one wording"):
        check_names(small("measure.judge=refusal_strings", "measure.wordings=2"))


def test_a_baseline_of_the_prompt_is_asked_for_by_the_run_or_by_the_method() -> None:
    """The name says it in results, and a run without it has the configuration that it always had."""
    config = small("train.baseline=prompt", "train.methods=[kldo,bco+prompt]", "train.baseline_learning_rate=0.3")
    models = aligned_models(config, read_inputs(config).corpora)
    assert {(model.plan.method, model.plan.baseline_learning_rate) for model in models} == {
        ("kldo+prompt", 0.3), ("bco+prompt", 0.3),
    }  # fmt: skip
    assert all("_prompt" in model.name for model in models)
    assert not {"baseline", "baseline_learning_rate"} & as_plain(small())["train"].keys()
    plans = [train_plan(small(), method=method, recipe="cr", seed=0) for method in ("kldo", "kldo+prompt")]
    assert ["baseline_learning_rate" in plan.identity() for plan in plans] == [False, True]
    with pytest.raises(ValueError, match=r"dpo reads .* from which a baseline of the prompt cancels"):
        read_inputs(small("train.baseline=prompt", "train.methods=[dpo]"))


def test_a_model_that_stands_there_twice_is_refused() -> None:
    config = small("train.baseline=prompt", "train.methods=[kldo,kldo+prompt]")
    with pytest.raises(ValueError, match="2 models of the run are called cr-kldo_prompt; leave one out"):
        read_inputs(config)


def as_plain(config: Config) -> dict:
    return yaml.safe_load(as_yaml(config))


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
