"""Templates of real models, their arguments, and what rows bring for them."""

import json
from pathlib import Path

import pytest
import trl
from datasets import Dataset

from lightning_dpo.data.parts import Part
from lightning_dpo.data.tokens.chat_template import ChatTemplate
from lightning_dpo.data.tokens.tokenization import Tokenization
from lightning_dpo.errors import UserError
from tests.support.chat import CHATML, EXPLICIT, chat_tokenizer, decoded, pairs_of, same_ids, tokens
from tests.support.trl_trainer import trl_trainer

TEMPLATES = {
    "llama3": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2_5": ["<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>"],
    "gemma3": ["<start_of_turn>", "<end_of_turn>"],
    "phi3": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
    "deepseek_r1_distill": ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"],
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_real_models_give_trls_token_ids_and_every_turn_can_be_found(tokenizer, tmp_path, name):
    """Single turns and several; a template without a system role is given none."""
    template = Path(trl.__file__).with_name("chat_templates") / f"{name}.jinja"
    if not template.exists():
        pytest.skip(f"this TRL has no {name}.jinja")
    chat = chat_tokenizer(tokenizer, template.read_text(), bos_token="<|begin_of_text|>")
    chat.add_special_tokens({"additional_special_tokens": TEMPLATES[name]})
    rows = [row | {"prompt": [turn for turn in row["prompt"] if turn["role"] != "system"]} for row in EXPLICIT]
    ours = tokens(chat, rows)
    assert set(ours["invalid"][:]) == {""}
    same_ids(ours, trl_trainer(tmp_path, chat, Dataset.from_list(rows)).train_dataset)
    every = tokens(chat, rows[:1], score="all")
    assert decoded(chat, every[0], "chosen") == decoded(chat, ours[0], "chosen")


def test_arguments_of_the_template_for_all_rows_and_for_one(tokenizer):
    greeting = "{{ greeting | default('none') }}" + CHATML
    chat = chat_tokenizer(tokenizer, greeting)
    rows = [EXPLICIT[0] | {"chat_template_kwargs": options} for options in ("", json.dumps({"greeting": "own"}))]
    pairs = pairs_of(rows)
    plain, given = (Tokenization(chat, 400, "drop", "last", {"greeting": g} if g else {}) for g in ("", "all"))
    starts = [[chat.decode(ids)[:4] for ids in one.tokenize(pairs)["prompt_ids"]] for one in (plain, given)]
    assert starts == [["none", "own<"], ["all<", "own<"]]
    assert plain.cache_key(pairs) != given.cache_key(pairs)
    text = Dataset.from_dict({"prompt": ["a"], "chosen": [" b"], "rejected": [" c"]})
    with pytest.raises(UserError, match=r"data.chat_template_kwargs has no effect: it applies only to messages"):
        given.tokenize(text)


def test_an_argument_that_the_template_does_not_read_is_an_error(tokenizer):
    chat = chat_tokenizer(tokenizer)
    with pytest.raises(
        UserError, match=r"chat_template_kwargs.date_string has no effect: the chat template of .* does"
    ):
        Tokenization(chat, 400, "drop", "last", {"date_string": "1 May"}).tokenize(pairs_of(EXPLICIT[:1]))


def test_a_template_with_a_date_is_warned_of_and_not_cached_over_days(tokenizer, caplog, monkeypatch):
    dated = "{{ date_string | default(strftime_now('%d %b')) }}" + CHATML
    tokens(chat_tokenizer(tokenizer, dated), EXPLICIT[:1])
    assert "contains today's date, so token ids change daily; to set a date, use" in caplog.text
    tokens(chat_tokenizer(tokenizer, "{{ strftime_now('%d %b') }}" + CHATML), EXPLICIT[:1])
    assert "the template has no argument for another date" in caplog.text
    chat, pairs, digests = chat_tokenizer(tokenizer, dated), Dataset.from_dict({"prompt": ["a"]}), set()
    for day in ("21 Nov", "22 Nov"):
        monkeypatch.setattr(ChatTemplate, "probe", lambda self, day=day: day)
        digests.add(Tokenization(chat, 9, "drop").cache_key(pairs))
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"tools": "search(query)"}, "tools must be JSON, not text ('search(query)')"),
        ({"tools": '{"name": "search"}'}, "tools must be a list"),
        (
            {"chat_template_kwargs": '{"chat_template": "x"}'},
            "chat_template_kwargs must be an object without",
        ),
        ({"chat_template_kwargs": "[1]"}, "chat_template_kwargs must be an object without"),
    ],
)
def test_tools_and_arguments_are_checked(columns, reason):
    assert pairs_of([EXPLICIT[0] | columns])["invalid"][0].startswith(reason)
    text = {"prompt": "a", "chosen": "b", "rejected": "c", "tools": "[]"}
    assert pairs_of([text | columns])["invalid"][0] == "tools and chat_template_kwargs need messages, not text"


def test_fields_that_arrow_fills_up_are_not_part_of_a_tool():
    first, second = ({"type": "function", "function": {"name": name, name: 1}} for name in "ab")
    rows = Dataset.from_list([EXPLICIT[0] | {"tools": [first]}, EXPLICIT[1] | {"tools": [second]}])
    pairs, _ = Part(lambda row: row, rows=lambda split: rows).read("train", "")
    assert [json.loads(tools) for tools in pairs["tools"]] == [[first], [second]]
