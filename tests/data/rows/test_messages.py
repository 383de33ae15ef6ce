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
        ((ASKED, 1, BAD), "wrong_type"),
        ((ASKED, [{"content": "?"}], BAD), "wrong_type"),
        ((ASKED, [assistant(3)], BAD), "wrong_type"),
        (("Bye?", ASKED + GOOD, ASKED + BAD), "different_prompts"),
        ((None, [user("a"), *GOOD], [user("b"), *BAD]), "different_prompts"),
        ((ASKED, [user("b"), *GOOD], BAD), "different_prompts"),
        ((None, ASKED + GOOD, ASKED + GOOD), "different_prompts|identical_answers"),
        ((ASKED, GOOD, GOOD), "identical_answers"),
        ((ASKED, [*GOOD, user("b")], BAD), "no_answer"),
        ((ASKED, [], BAD), "no_answer"),
        ((ASKED, [assistant(" ")], BAD), "empty_answer"),
        ((ASKED + GOOD, GOOD, BAD), "no_question"),
        (([user(" ")], GOOD, BAD), "empty_prompt"),
    ],
)
def test_what_is_no_pair_of_messages_has_a_reason(pair, reason):
    with pytest.raises(InvalidRow, match=f"^({reason})$"):
        explicit_pair(*pair)


def test_sharegpts_calls_of_tools_become_the_templates():
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}
    result = {"from": "observation", "value": "2"}
    assert dialogue([call, result]) == [
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "2"},
    ]
    with pytest.raises(InvalidRow, match="wrong_type"):
        dialogue([{"from": "function_call", "value": "not JSON"}])


def test_texts_as_a_question_and_its_answers_with_a_system_message():
    pair = as_chat({"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "Be kind.")
    assert pair == EXPLICIT | {"prompt": [{"role": "system", "content": "Be kind."}, *ASKED]}
