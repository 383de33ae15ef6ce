import pytest

from lightning_dpo.data.rows.messages import as_chat, dialogue, explicit_pair
from lightning_dpo.data.rows.reasons import InvalidRow
from tests.support.chat import assistant, user

ASKED, GOOD, BAD = [user("Hi?")], [assistant("Hello.")], [assistant("No.")]
EXPLICIT = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        (ASKED, GOOD, BAD),
        (None, ASKED + GOOD, ASKED + BAD),
        (ASKED, ASKED + GOOD, ASKED + BAD),
        ("Hi?", ASKED + GOOD, ASKED + BAD),
        ("Hi?", GOOD, BAD),
        (ASKED, "Hello.", "No."),
        (ASKED, GOOD[0], BAD[0]),
        ([{"from": "human", "value": "Hi?"}], {"from": "gpt", "value": "Hello."}, {"from": "gpt", "value": "No."}),
        ([user("Hi?") | {"tool_calls": None}], GOOD, BAD),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}], GOOD, BAD),
    ],
)
def test_every_form_becomes_the_explicit_one(prompt, chosen, rejected):
    assert explicit_pair(prompt, chosen, rejected) == EXPLICIT


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Q: why? A: because", "Q: why? A: no", "Q: why? A:"),
        ("Q: why? A: because", "Q: why? A: before", "Q: why? A:"),  # TRL: `Q: why? A: be`, within a word
        ("Q:\n\nYes", "Q:\n\nYes I do", "Q:\n\n"),  # TRL leaves the shorter answer one letter
        ("Hello there", "No", ""),
    ],
)
def test_whole_texts_part_where_they_differ_and_never_within_a_word(chosen, rejected, prompt):
    pair = explicit_pair(None, chosen, rejected)
    assert pair == {"prompt": prompt, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]}


def test_turns_before_the_last_stay_in_the_prompt_and_later_ones_in_the_answers():
    start = [{"role": "system", "content": "Be kind."}, *ASKED, *GOOD, user("And?")]
    assert explicit_pair(None, [*start, *GOOD], [*start, *BAD])["prompt"] == start
    longer = [*GOOD, user("More?"), assistant("Yes.")]
    assert explicit_pair(start, longer, BAD)["chosen"] == longer


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        ((ASKED, 1, BAD), "prompt and answers must both be text or both be messages, not int"),
        ((ASKED, [{"content": "?"}], BAD), "a message has no role"),
        ((ASKED, [assistant(3)], BAD), "the content of a message must be text, not int"),
        (
            ("Bye?", ASKED + GOOD, ASKED + BAD),
            "the prompt is not one of the messages that both dialogues share",
        ),
        (
            (None, [user("a"), *GOOD], [user("b"), *BAD]),
            "the two dialogues have no message in common, so the prompt is missing",
        ),
        (
            (ASKED, [user("b"), *GOOD], BAD),
            "an answer does not begin with a message of the assistant",
        ),
        ((None, ASKED + GOOD, ASKED + GOOD), "both answers are identical"),
        ((ASKED, [*GOOD, user("b")], BAD), "an answer does not end with a message of the assistant"),
        ((ASKED, [], BAD), "an answer does not end with a message of the assistant"),
        ((ASKED, [assistant(" ")], BAD), "an answer is empty"),
        ((ASKED + GOOD, GOOD, BAD), "the prompt ends with a message of the assistant"),
        (([user(" ")], GOOD, BAD), "the prompt is empty"),
    ],
)
def test_messages_that_are_not_a_pair_have_a_reason(pair, reason):
    with pytest.raises(InvalidRow, match=f"^({reason})$"):
        explicit_pair(*pair)


def test_sharegpts_calls_of_tools_become_the_templates():
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
    result = {"from": "observation", "value": "2"}
    assert dialogue([call, result]) == [
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "2"},
    ]
    with pytest.raises(InvalidRow, match="the value of a function_call must be JSON"):
        dialogue([{"from": "function_call", "value": "not JSON"}])


def test_texts_as_a_question_and_its_answers_with_a_system_message():
    pair = as_chat({"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "Be kind.")
    assert pair == EXPLICIT | {"prompt": [{"role": "system", "content": "Be kind."}, *ASKED]}
