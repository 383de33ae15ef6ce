"""Random dialogues under the templates of 15 families: every text is in the tokens, or the row is invalid.

Each text begins with a mark that occurs nowhere else, so that it cannot be found by chance.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import trl
from hypothesis import given, settings, strategies
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightning_dpo.data.rows.checked_pair import checked_pair
from lightning_dpo.data.rows.reasons import InvalidRow
from lightning_dpo.data.tokens.chat_pair import ChatRenderer
from lightning_dpo.data.tokens.chat_template import ChatTemplate
from lightning_dpo.data.tokens.encoding import ChatEncoder

TEMPLATES = Path(trl.__file__).with_name("chat_templates")
# The tokens that end a turn. The others that a template writes are ordinary text here.
ENDS = {
    "qwen2_5": ["<|im_end|>"], "qwen3": ["<|im_end|>"], "qwen3_8": ["<|im_end|>"], "llama3": ["<|eot_id|>"],
    "llama3_2": ["<|eot_id|>", "<|eom_id|>"], "gemma": ["<end_of_turn>"], "gemma3": ["<end_of_turn>"],
    "gemma4_v5": ["<turn|>", "<|tool_response>"], "gptoss": ["<|return|>", "<|call|>", "<|end|>"],
    "phi3_5": ["<|end|>"], "deepseekv3": ["<｜end▁of▁sentence｜>"], "deepseek_r1_distill": ["<｜end▁of▁sentence｜>"],
    "cohere": ["<|END_OF_TURN_TOKEN|>"], "lfm2": ["<|im_end|>"], "nemotron_3_nano": ["<|im_end|>"],
}  # fmt: skip


@cache
def encoder(family: str, score: str) -> ChatEncoder:
    ends = ENDS[family]
    alphabet = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token=ends[0])
    tokenizer.add_special_tokens({"additional_special_tokens": ends})
    tokenizer.chat_template = (TEMPLATES / f"{family}.jinja").read_text()
    return ChatEncoder(ChatRenderer(ChatTemplate(tokenizer), score))


# Any text, also with quotes, tags, other scripts and characters that JSON escapes.
ANYTHING = strategies.text(
    strategies.characters(exclude_categories=["Cs", "Cc"]) | strategies.sampled_from('\n\t"\\<>{}&'), max_size=12
)


@strategies.composite
def texts(draw) -> str:
    number = draw(strategies.integers(0, 10**9))
    return f"m{number}x{draw(ANYTHING)}m{number}y"


VALUES = (
    texts() | strategies.none() | strategies.booleans() | strategies.integers() | strategies.lists(texts(), max_size=2)
)
CALLS = strategies.builds(
    lambda name, arguments, as_json: {
        "type": "function",
        "id": "abcdefghi",
        "function": {"name": f"call_{name}", "arguments": json.dumps(arguments) if as_json else arguments},
    },
    strategies.integers(0, 10**9),
    strategies.dictionaries(strategies.integers(0, 10**9).map("key_{}".format), VALUES, max_size=3),
    strategies.booleans(),
)
THOUGHT = strategies.builds("<think>{}</think>{}".format, texts(), texts())


def ending_otherwise(last: dict) -> dict:
    """The last message of the rejected answer, different from that of the chosen one."""
    return last | {"content": (last.get("content") or "") + "otherwise"}


def message(role: str, content=None, **optional) -> strategies.SearchStrategy:
    content = content if content is not None else texts()
    return strategies.fixed_dictionaries({"role": strategies.just(role), "content": content}, optional=optional)


QUESTION = message("user", name=texts()) | message("human")
SAID = message("assistant") | message(
    "assistant", texts() | THOUGHT, reasoning_content=texts(), weight=strategies.just(1)
)
CALLED = message(
    "assistant",
    texts() | strategies.sampled_from([None, ""]),
    tool_calls=strategies.lists(CALLS, min_size=1, max_size=2),
)
RESULT = message("tool") | message("observation")
# Roles and fields that few templates know, or none.
ODD = strategies.sampled_from(["developer", "environment", "system", "note"]).flatmap(
    lambda role: message(role, texts() | strategies.none(), reasoning_content=texts())
)


def joined(*parts) -> strategies.SearchStrategy:
    return strategies.tuples(*parts).map(lambda lists: [one for many in lists for one in many])


def maybe(strategy) -> strategies.SearchStrategy:
    return strategies.lists(strategy, max_size=1)


def one(strategy) -> strategies.SearchStrategy:
    return strategy.map(lambda message: [message])


TURN = joined(one(QUESTION), one(SAID)) | joined(one(QUESTION), one(CALLED), one(RESULT), one(SAID))
TURNS = joined(TURN) | joined(TURN, TURN) | strategies.just([])
FEW_ODD = strategies.just([]) | strategies.just([]) | maybe(ODD)
PROMPT = joined(maybe(message("system")), FEW_ODD, TURNS, one(QUESTION))
ANSWER = (
    one(SAID)
    | one(SAID)
    | one(CALLED)
    | joined(one(CALLED), one(RESULT), one(SAID))
    | joined(one(SAID), FEW_ODD, one(QUESTION), one(SAID))
)
TOOL = strategies.builds(
    lambda name, text: {
        "type": "function",
        "function": {
            "name": f"tool_{name}",
            "description": text,
            "parameters": {"type": "object", "properties": {"a": {"type": "string", "default": None}}},
        },
    },
    strategies.integers(0, 10**9),
    texts(),
)
ROW = strategies.fixed_dictionaries(
    {
        "prompt": PROMPT,
        "chosen": ANSWER,
        "rejected": ANSWER,
    },
    optional={"tools": strategies.lists(TOOL, min_size=1, max_size=2)},
).map(lambda row: row | {"rejected": [*row["rejected"][:-1], ending_otherwise(row["rejected"][-1])]})


def texts_of(message: dict) -> list[str]:
    """Every text that the author of a message wrote, except its role, ids and name."""
    thought, _, content = (message.get("content") or "").rpartition("</think>")
    found = [thought.removeprefix("<think>"), content, message.get("reasoning_content", "")]
    for call in message.get("tool_calls", []):
        arguments = call["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        found += [call["function"]["name"], *arguments]
        for value in arguments.values():
            found += [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    return [text for text in found if text]


def is_in(text: str, decoded: str) -> bool:
    return text.strip() in decoded or json.dumps(text.strip(), ensure_ascii=False)[1:-1] in decoded


def reasoning_of(message: dict) -> set[str]:
    return {
        (message.get("content") or "").rpartition("</think>")[0].removeprefix("<think>"),
        message.get("reasoning_content", ""),
    }


def check(family: str, score: str, row: dict) -> str:
    """The reason why a row is invalid; empty for a row of which every text was found."""
    try:
        pair = checked_pair(row)
    except InvalidRow as reason:
        return str(reason)
    if pair.get("invalid"):
        return pair["invalid"]
    encode = encoder(family, score)
    (encoded,) = encode([pair])
    if encoded.invalid:
        return encoded.invalid
    decode = encode.render.template.tokenizer.decode
    for ids in (encoded.chosen[0], encoded.rejected[0]):
        side = "chosen" if ids is encoded.chosen[0] else "rejected"
        # With score=all, the earlier turns of the prompt are part of the completion.
        whole = decode([*encoded.prompt, *ids])
        for part, decoded in (("prompt", whole), (side, decode(ids))):
            for message in row[part]:
                missing = {text for text in texts_of(message) if not is_in(text, decoded)}
                if missing and "reasoning of earlier turns" in encoded.ignored:
                    missing -= reasoning_of(message)
                assert not missing, (family, message, whole)
    for tool in row.get("tools", []):
        assert is_in(tool["function"]["name"], decode(encoded.prompt))
    return ""


def count_outcomes(examples: int) -> dict[str, int]:
    counts: dict[str, int] = {}

    @settings(max_examples=examples)
    @given(strategies.sampled_from(sorted(ENDS)), strategies.sampled_from(["last", "all"]), ROW)
    def every_text_is_used(family, score, row):
        outcome = "used" if not check(family, score, row) else "invalid"
        counts[outcome] = counts.get(outcome, 0) + 1

    every_text_is_used()
    return counts


@pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.extended)])
def test_every_text_of_every_message_is_used_or_the_row_is_invalid(examples):
    counts = count_outcomes(examples)
    assert min(counts["used"], counts["invalid"]) > examples / 20  # both kinds occur
