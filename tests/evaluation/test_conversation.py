import pytest
import torch

from lightning_dpo import DPOModule
from lightning_dpo.data.tokens.chat_template import ChatTemplate
from lightning_dpo.errors import UserError
from lightning_dpo.evaluation.conversation import Conversation
from tests.support.chat import CHATML, chat_tokenizer, user
from tests.support.models import VOCABULARY, make_llama

WITH_OPTION = "{% if brief %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}" + CHATML


@pytest.fixture
def module():
    module = DPOModule(make_llama(vocab_size=VOCABULARY + 2))  # of the chat template
    module.configure_model()
    return module.eval()


def test_a_message_is_rendered_with_the_options_of_the_training(module, tokenizer):
    tokenizer = chat_tokenizer(tokenizer, WITH_OPTION)
    rendered = tokenizer.apply_chat_template([user("Hi")], tokenize=False, add_generation_prompt=True, brief=True)
    assert "Be brief." in rendered
    chat = Conversation(module, tokenizer, 400, 8, ChatTemplate(tokenizer, {"brief": True}), greedy=True)
    text, other = (
        Conversation(module, tokenizer, 400, 8, template, greedy=True) for template in (None, ChatTemplate(tokenizer))
    )
    assert chat.answers("Hi") == text.answers(rendered)
    assert chat.answers("Hi") != other.answers("Hi")


def test_the_reward_of_an_answer_depends_on_the_options_of_the_template(module, tokenizer):
    tokenizer = chat_tokenizer(tokenizer, WITH_OPTION)
    with torch.no_grad():
        module.policy.model.embed_tokens.weight.mul_(1.5)  # as after training
    plain, brief = (
        Conversation(module, tokenizer, 400, 8, ChatTemplate(tokenizer, options)) for options in ({}, {"brief": 1})
    )
    assert plain.reward("Hi", "Good.") != brief.reward("Hi", "Good.")


def test_an_empty_prompt_without_a_bos_token_is_rejected(module, tokenizer):
    with pytest.raises(UserError, match="the prompt is empty"):
        Conversation(module, tokenizer, 400, 8).answers("")
