"""The backbone is what a model's head reads, whatever transformers calls it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Llama4Config, Llama4ForConditionalGeneration, LlamaForSequenceClassification, LlamaModel

from divalign.lm.backbone import backbone_of
from divalign.lm.reward import rewards_at_end
from tests.tiny import ARCHITECTURES, tiny_model

IDS = torch.arange(7, 17)[None]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_ordinary_models_backbone_is_transformers_base_model(architecture: str) -> None:
    model, _ = tiny_model(architecture)
    assert backbone_of(model) is model.base_model


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "Llama4"])
def test_the_head_reads_the_backbones_last_hidden_states(architecture: str) -> None:
    model, _ = tiny_model(architecture, final_logit_softcapping=None)
    states = backbone_of(model)(input_ids=IDS, use_cache=False).last_hidden_state
    assert torch.allclose(model.get_output_embeddings()(states), model(input_ids=IDS).logits, atol=1e-5)


def test_the_backbone_of_a_model_with_pictures_is_its_text_models() -> None:
    text = tiny_model("Llama4")[0].config.to_dict()
    model = Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=VISION)).eval()
    assert backbone_of(model) is model.language_model.model


def test_a_model_without_a_head_is_its_own_backbone() -> None:
    model = tiny_model("Llama")[0].model
    assert isinstance(model, LlamaModel)
    assert backbone_of(model) is model


def test_a_reward_is_read_from_the_backbone_under_an_adapter_too() -> None:
    model = LlamaForSequenceClassification(tiny_model("Llama")[0].config).eval()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"))
    expected = rewards_at_end(model, IDS, torch.ones_like(IDS))
    assert torch.allclose(rewards_at_end(adapted, IDS, torch.ones_like(IDS)), expected)


VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
}
