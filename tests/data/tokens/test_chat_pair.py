"""What a chat template omits from messages: the row is invalid, or it is reported."""

import pytest

from tests.support.chat import CHATML, EXPLICIT, TOOLS, assistant, chat_tokenizer, decoded, tokens, user

ONLY_KNOWN = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role in KNOWN %}")
ONLY_KNOWN = ONLY_KNOWN.replace("KNOWN", "['user', 'assistant']")
CALL = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"n": 12}}}]}


@pytest.mark.parametrize(
    ("template", "row", "reason"),
    [
        (
            ONLY_KNOWN,
            {"prompt": [{"role": "developer", "content": "In French."}, user("Hi?")]},
            "the chat template omits the content of a message with the role 'developer'; to convert the role, set "
            "data.source.roles",
        ),
        (
            CHATML,
            {"chosen": [assistant("4") | {"reasoning_content": "two and two"}]},
            "the chat template omits the reasoning of a message with the role 'assistant'",
        ),
        (
            CHATML.replace("message.content or ''", "(message.content or '').split('</think>')[-1]"),
            {"chosen": [assistant("<think>two and two</think>4")]},
            "the chat template omits the reasoning of a message with the role 'assistant'",
        ),
        (
            CHATML.replace("{{ call.function | tojson }}", ""),
            {"chosen": [CALL]},
            "the chat template omits the tool_calls of a message with the role 'assistant'",
        ),
        (
            CHATML.replace("call.function | tojson", "call.function.name"),
            {"chosen": [CALL]},
            "the chat template omits the tool_calls of a message with the role 'assistant'",
        ),
        (CHATML.replace("tools | tojson", "'some'"), {"tools": TOOLS}, "the chat template does not render the tools"),
        # The same word in another message does not hide that one is missing.
        (
            ONLY_KNOWN,
            {"prompt": [user("Hi?"), {"role": "note", "content": "Hi?"}, user("So?")]},
            "the chat template omits the content of a message with the role 'note'; to convert the role, set "
            "data.source.roles",
        ),
    ],
)
def test_what_a_template_omits_makes_a_row_invalid(tokenizer, template, row, reason):
    chat = chat_tokenizer(tokenizer, template)
    (found,) = tokens(chat, [EXPLICIT[0] | row])
    assert found["invalid"] == reason


def test_reasoning_of_earlier_turns_may_be_omitted_and_is_reported(tokenizer):
    """As the templates of thinking models do, in generation too."""
    last = "(message.content or '') if loop.last else (message.content or '').split('</think>')[-1]"
    chat = chat_tokenizer(tokenizer, CHATML.replace("message.content or ''", last))
    row = {
        "prompt": [user("One?"), assistant("<think>easy</think>1"), user("Two?")],
        "chosen": [assistant("<think>sure</think>2")],
        "rejected": [assistant("3")],
    }
    (found,) = tokens(chat, [row])
    assert (found["invalid"], found["ignored"]) == ("", ["reasoning of earlier turns"])
    assert decoded(chat, found, "chosen").startswith("<think>sure</think>2")


def test_fields_that_the_template_does_not_read_are_listed(tokenizer):
    row = EXPLICIT[0] | {"chosen": [assistant("yes") | {"score": 5}], "chat_template_kwargs": {"style": "short"}}
    (found,) = tokens(chat_tokenizer(tokenizer), [row])
    assert (found["invalid"], found["ignored"]) == ("", ["chat_template_kwargs.style", "messages.score"])


def test_a_turn_with_weight_0_is_not_scored(tokenizer):
    chat = chat_tokenizer(tokenizer)
    prompt = [user("One?"), assistant("1") | {"weight": 0}, user("Two?")]
    row = {"prompt": prompt, "chosen": [assistant("2") | {"weight": 1}], "rejected": [assistant("3")]}
    (found,) = tokens(chat, [row], score="all")
    assert decoded(chat, found, "chosen") == "2<|im_end|>\n"
    (found,) = tokens(chat, [row | {"chosen": [assistant("2") | {"loss": False}]}])
    assert found["invalid"] == "the answer has weight 0, so no turn of it would be scored"


@pytest.mark.parametrize("text", ["a", "user", "start", "4"])
def test_a_short_text_is_not_found_in_the_words_of_the_template(tokenizer, text):
    row = EXPLICIT[0] | {"prompt": [{"role": "developer", "content": text}, user("Hi?")]}
    (found,) = tokens(chat_tokenizer(tokenizer, ONLY_KNOWN), [row])
    assert found["invalid"].startswith("the chat template omits the content of a message with the role 'developer'")
    (found,) = tokens(chat_tokenizer(tokenizer), [row])
    assert found["invalid"] == ""


SEARCH = {"type": "function", "function": {"name": "search", "arguments": {}}}


@pytest.mark.parametrize(
    ("row", "part"),
    [
        # What is missing has the words of what is not.
        ({"chosen": [assistant("Let me search.") | {"tool_calls": [SEARCH]}]}, "the tool_calls of a message"),
        ({"chosen": [assistant("2 + 2 = 4") | {"reasoning_content": "4"}]}, "the reasoning of a message"),
        ({"prompt": [{"role": "developer", "content": "Translate it to French."}, user("Translate it to French. Hi")]},
         "the content of a message with the role 'developer'"),
    ],
)  # fmt: skip
def test_the_same_words_elsewhere_do_not_hide_what_is_missing(tokenizer, row, part):
    template = ONLY_KNOWN.replace("{{ call.function | tojson }}", "")
    (found,) = tokens(chat_tokenizer(tokenizer, template), [EXPLICIT[0] | row])
    assert found["invalid"].startswith(f"the chat template omits {part}")


def test_tools_are_not_found_in_the_words_of_the_prompt(tokenizer):
    silent = chat_tokenizer(tokenizer, CHATML.replace("tools | tojson", "'some'"))
    row = EXPLICIT[0] | {"prompt": [user("Should I search the web?")], "tools": TOOLS}
    (found,) = tokens(silent, [row])
    assert found["invalid"] == "the chat template does not render the tools"


CONTENT, CALLED = "{{ message.content or '' }}", "{{ call.function | tojson }}"
WEATHER = {"role": "tool", "content": 'a "b"\nc'}
AS_JSON = "{{ message.content | tojson if message.role == 'tool' else message.content or '' }}"
# The content of a call follows its result.
LATER = (
    "{{ (messages[loop.index0 - 1].content or '') if message.role == 'tool' else '' }}"
    "{{ message.content or '' if not message.tool_calls else '' }}"
)
# As the templates of some multimodal models.
PARTS = "{% for part in message.content %}{{ part.text }}{% endfor %}"
ESCAPED = """{{ call.function.name }}(q={{ call.function.arguments.q | replace("'", "\\\\'") }})"""
APOSTROPHE = {"function": {"name": "find", "arguments": {"q": "what's new"}}}
OTHER_FORMS = {
    "a generation prompt that begins like the answer": (
        CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"),
        {"chosen": [assistant("<table>")]},
    ),
    "JSON of a text that also occurs as it is": (
        CHATML.replace(CONTENT, AS_JSON),
        {"prompt": [user('The file is: a "b"\nc'), CALL, WEATHER]},
    ),
    "another order": (
        CHATML.replace(CONTENT, LATER),
        {"prompt": [user("Hi?"), CALL | {"content": "I look at the weather."}, WEATHER]},
    ),
    "parts": (CHATML.replace(CONTENT, PARTS), {}),
    "escaped quotes": (
        CHATML.replace(CALLED, ESCAPED),
        {"chosen": [{"role": "assistant", "tool_calls": [APOSTROPHE]}]},
    ),
}


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_what_is_written_in_another_form_or_order_is_found(tokenizer, name):
    template, row = OTHER_FORMS[name]
    (found,) = tokens(chat_tokenizer(tokenizer, template), [EXPLICIT[0] | row])
    assert found["invalid"] == ""


def test_parts_of_a_tools_schema_that_the_template_omits_are_reported(tokenizer):
    schema = {"type": "object", "properties": {"city": {"type": "string", "default": "Paris"}}}
    tools = [{"type": "function", "function": {"name": "search", "parameters": schema}}]
    names_only = CHATML.replace("tools | tojson", "tools | map(attribute='function.name') | list | tojson")
    for template, ignored in ((CHATML, []), (names_only, ["tools: parts of the schema"])):
        (found,) = tokens(chat_tokenizer(tokenizer, template), [EXPLICIT[0] | {"tools": tools}])
        assert (found["invalid"], found["ignored"]) == ("", ignored)
