import json

import pytest

from lightning_dpo.data.rows.messages import dialogue
from lightning_dpo.data.rows.pair_forms import as_chat, explicit_pair
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
        (ASKED, GOOD, "No."),
        ([user("Hi?")], [{"role": "ai", "content": "Hello."}], [{"role": "model", "content": "No."}]),
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
        ("Q: \U0001f44d\U0001f3fd yes", "Q: \U0001f44d\U0001f3fb yes", "Q:"),  # the skin tone belongs to the hand
        ("सवाल: हिन्दी", "सवाल: हिन्दु", "सवाल:"),  # so does a vowel sign to its letter
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
        ((ASKED, 1, BAD), r"chosen must be text or messages, not a number \(1\)"),
        ((ASKED, [{"content": "?"}], BAD), r"chosen\[0\] has no role; its fields are content"),
        ((ASKED, [assistant(3)], BAD), r"the content of chosen\[0\] must be text, not a number \(3\)"),
        (
            ("Bye?", ASKED + GOOD, ASKED + BAD),
            r"the prompt \('Bye\?'\) is not one of the messages that both dialogues share \(\['Hi\?'\]\)",
        ),
        (
            (None, [user("a"), *GOOD], [user("b"), *BAD]),
            r"chosen and rejected have no common message of the user \(the prompt\); they begin with .*'a'.*",
        ),
        (
            (ASKED, [user("b"), *GOOD], BAD),
            "chosen begins with other messages than the prompt: message 0 is .*b.* and .*Hi.*",
        ),
        ((None, ASKED + GOOD, ASKED + GOOD), "both answers are identical"),
        (
            (ASKED, [*GOOD, user("b")], BAD),
            "chosen must end with a message of the assistant; it ends with the role 'user'",
        ),
        ((ASKED, [], BAD), "chosen must end with a message of the assistant; nothing follows the prompt"),
        ((ASKED, [assistant(" ")], BAD), "an answer is empty"),
        ((ASKED + GOOD, GOOD, BAD), "prompt ends with a message of the assistant, and must end before the answer; .*"),
        (([user(" ")], GOOD, BAD), "the prompt is empty"),
    ],
)
def test_messages_that_are_not_a_pair_have_a_reason(pair, reason):
    with pytest.raises(InvalidRow, match=f"^({reason})$"):
        explicit_pair(*pair)


CALL = {"name": "add", "arguments": {"a": 1, "unit": None}}
AS_OPENAI = CALL | {"arguments": json.dumps(CALL["arguments"])}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": AS_OPENAI}]},
        {"role": "assistant", "tool_calls": json.dumps([{"type": "function", "function": CALL}])},
        {"role": "assistant", "content": None, "function_call": AS_OPENAI},
        {"role": "tool_call", "content": json.dumps(CALL)},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "function_call", "value": json.dumps([CALL])},
        {"role": "tool_call", "content": json.dumps({"name": "add", "parameters": CALL["arguments"]})},
    ],
)  # fmt: skip
def test_a_call_of_a_tool_has_its_arguments_as_an_object_with_their_nulls(message):
    assert dialogue(message) == [{"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}]


def test_calls_in_consecutive_messages_are_one_turn():
    calls = [{"role": "tool_call", "content": json.dumps(CALL | {"name": name})} for name in ("add", "divide")]
    (message,) = dialogue(calls)
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["add", "divide"]


@pytest.mark.parametrize(
    ("role", "known"),
    [
        ("human", "user"), ("User", "user"), ("prompter", "user"), ("gpt", "assistant"), ("ai", "assistant"),
        ("model", "assistant"), ("chatgpt", "assistant"), ("Assistant", "assistant"), ("observation", "tool"),
        ("tool_response", "tool"), ("developer", "developer"), ("environment", "tool"),
    ],
)  # fmt: skip
def test_names_of_roles(role, known):
    for field, text in (("role", "content"), ("from", "value")):
        (message,) = dialogue({field: role, text: "Hi"}, roles={"environment": "tool"})
        assert message == {"role": known, "content": "Hi"}


def test_ids_scores_and_surrounding_whitespace_do_not_make_two_messages_different():
    chosen = [user("Hi?") | {"id": "c0", "loss": 0}, assistant("Hello.") | {"id": "c1", "score": 5}]
    rejected = [user("Hi? ") | {"id": "r0"}, assistant("No.") | {"id": "r1"}]
    for prompt in (None, ASKED, "Hi?"):
        pair = explicit_pair(prompt, chosen, rejected)
        assert [message["content"] for side in pair.values() for message in side] == ["Hi?", "Hello.", "No."]


@pytest.mark.parametrize("field", ["weight", "loss", "train", "training"])
def test_a_message_that_is_excluded_from_the_loss(field):
    assert dialogue([assistant("a") | {field: 0}, assistant("b") | {field: 1}, user("c") | {field: False}]) == [
        assistant("a") | {"weight": 0},
        assistant("b"),
        user("c"),
    ]
    with pytest.raises(InvalidRow, match=rf"{field} of messages\[0\] must be 0 or 1, not a number \(0.5\)"):
        dialogue(assistant("a") | {field: 0.5})


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (user([{"type": "image"}, {"type": "text", "text": "?"}]), "has a part that is not text ('image')"),
        (user([{"type": "text", "text": "?", "image": "cat.png"}]), "the content of messages[0] has image"),
        (user("?") | {"images": ["cat.png"]}, "messages[0] has images: only text is supported"),
        ({"role": 3, "content": "?"}, "the role of messages[0] must be text, not a number (3)"),
        ("Hi", "messages must be text or messages, not text ('Hi')"),
        ({"role": "user", "text": "Hi"}, "messages[0] has no content; its fields are role, text"),
        (
            assistant("") | {"tool_calls": [{"function": "add"}]},
            "the function of a tool call of messages[0] must be an object",
        ),
        (
            {"from": "function_call", "value": "no"},
            "messages[0] is a tool call, and must be a JSON object, not",
        ),
        ([["Hi"]], "messages[0] must be a message with role and content, not a list (['Hi'])"),
        (assistant("") | {"tool_calls": "add(1)"}, "tool_calls of messages[0] must be a list of objects"),
    ],
)
def test_what_cannot_be_read_is_named(message, reason):
    with pytest.raises(InvalidRow) as error:
        dialogue(message)
    assert reason in str(error.value)


def test_messages_as_json_are_messages():
    prompt, chosen, rejected = (json.dumps(side) for side in (ASKED, ASKED + GOOD, ASKED + BAD))
    for question in (prompt, None, "Hi?", ASKED):
        assert explicit_pair(question, chosen, rejected) == EXPLICIT
    assert explicit_pair(prompt, json.dumps(GOOD), json.dumps(BAD)) == EXPLICIT
    with pytest.raises(InvalidRow, match=r"chosen is a list of messages as a Python repr: write it with json.dumps"):
        explicit_pair("Hi?", str(ASKED + GOOD), "No.")


@pytest.mark.parametrize(
    "answers",
    [("[1]", "{"), (json.dumps(GOOD), json.dumps(BAD)), (json.dumps(ASKED + GOOD), "No."), ('{"role": "x"}', "a")],
)
def test_an_answer_that_is_json_is_text(answers):
    """A request for messages in this format has such answers."""
    assert explicit_pair("Write JSON.", *answers) == dict(zip(EXPLICIT, ("Write JSON.", *answers), strict=True))


def test_texts_as_a_question_and_its_answers_with_a_system_message():
    pair = as_chat({"prompt": "Hi?", "chosen": "Hello.", "rejected": "No."}, "Be kind.")
    assert pair == EXPLICIT | {"prompt": [{"role": "system", "content": "Be kind."}, *ASKED]}
