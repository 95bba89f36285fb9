"""What a configuration says of training reaches the stage, and what no method can do is refused before it begins."""

import re

import pytest
import yaml

from divalign.cli.app import Serving
from divalign.config import Config, load_config
from divalign.lm.server import ServerOptions
from divalign.sections import as_yaml
from divalign.study.plan import aligned_models, attack_plan, check_names, judge_plan, train_plan
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


def strict(_prompts: list[str], _texts: list[str]) -> list[bool]:
    """No judge: a function that is not in one."""
    return []


FUNCTION = "tests.study.test_plan:strict"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["measure.judge=harm_rubric@/nonexistent/model"], "no model folder at '/nonexistent/model'"),
        ([f"measure.judge={FUNCTION}"], "is a function, expected a Judge"),
        (["measure.judge=refusal_strings@toy"], "asks no model; leave out @toy"),
        (["measure.judge=refusal_string"], "did you mean 'refusal_strings'"),
        (["measure.judge=strongreject_finetuned@http://localhost:1/v1#m", "measure.question='{prompt} {response}'"],
         "the probabilities of its next token, which"),
        (["measure.judge=wildguard@toy"], "name the file: --question FILE"),
        (["measure.question='{prompt} {response}'"], "a question is given, and refusal_combined takes none"),
        (["measure.question='{prompt} {response}'", "measure.judge=harm_rubric@toy"], "and harm_rubric takes none"),
        (["measure.attacker=toy"], "an attacker is given, and none of the attacks direct, prefill has one"),
        (["measure.gcg={methods_on: {cr: [bco]}}"], "methods_on has bco on cr, which the run does not train"),
        (["measure.gcg={methods_on: {cr_plus: [kldo]}}"], "methods_on has kldo on cr_plus, which the run does not"),
    ],
)  # fmt: skip
def test_what_cannot_work_or_has_no_effect_is_refused_before_training(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_names(small("measure.attacks=[direct,prefill]", "data.recipes=[cr]", "train.methods=[kldo]", *overrides))


def test_a_judge_of_a_local_model_is_looked_up_and_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divalign.stages.models.load_lm", None)
    check_names(small("measure.judge=harm_rubric@toy"))
    check_names(small("measure.judge=wildguard@toy", "measure.question='{prompt} {response}'"))


@pytest.mark.parametrize("overrides", [["train.baseline=prompt"], ["train.methods=[kldo+prompt]"], []])
def test_a_search_reaches_its_methods_with_the_baseline_that_the_run_gives_them(overrides: list[str]) -> None:
    searched = "measure.gcg={methods_on: {cr: [%s]}}" % ("kldo+prompt" if "[" in "".join(overrides) else "kldo")
    config = small("data.recipes=[cr]", "train.methods=[kldo]", searched, *overrides)
    check_names(config)
    (model,) = aligned_models(config, read_inputs(config).corpora)
    assert "gcg" in attack_plan(config, method=model.plan.method, recipe="cr").names
    check_names(small("data.recipes=[cr]", "train.methods=[kldo]", "measure.gcg={}"))  # the default names dpo too


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
