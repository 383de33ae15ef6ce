"""A row as each public dataset has it, through the config of its source, with token ids computed by transformers."""

import json

import pytest
from hydra.utils import instantiate

from lightning_dpo.data.parts import Part
from lightning_dpo.data.tokens.tokenization import Tokenization
from tests.support.chat import assistant, chat_tokenizer, user
from tests.support.compose import composed

HUMAN = "\n\nHuman: Why?\n\nAssistant:"
ASKED = [user("Why?")]
WHOLE = [user("One?"), assistant("1"), user("Why?")]

# The overrides, the row, and its pairs: prompt, chosen, rejected.
ROWS = {
    "PKU-SafeRLHF": (
        ["data=pku_saferlhf"],
        {"prompt": "Why?", "response_0": "bad", "response_1": "good", "better_response_id": 1, "safer_response_id": 0},
        [(HUMAN, " good", " bad")],
    ),
    "PKU-SafeRLHF, the safer response, with the chat template": (
        ["data=pku_saferlhf", "data.source.preference=safer_response_id", "data.source.chat=true"],
        {"prompt": "Why?", "response_0": "safe", "response_1": "not", "better_response_id": 1, "safer_response_id": 0},
        [(ASKED, "safe", "not")],
    ),
    "HelpSteer3": (
        ["data=helpsteer3"],
        {"domain": "code", "context": WHOLE, "response1": "good", "response2": "bad", "overall_preference": -2},
        [(WHOLE, "good", "bad")],
    ),
    "Nectar": (
        ["data=nectar"],
        {
            "prompt": "\n\nHuman: Why?\n\nAssistant: ", "num_responses": 3,
            "answers": [
                {"answer": "worst", "model": "a", "rank": 3.0},
                {"answer": "best", "model": "b", "rank": 1.0},
                {"answer": "middle", "model": "c", "rank": 2.0},
            ],
        },
        [(HUMAN, " best", " middle"), (HUMAN, " best", " worst"), (HUMAN, " middle", " worst")],
    ),
    "Nectar, the best and the worst, with the chat template": (
        ["data=nectar", "data.source.pairs=best_worst", "data.source.chat=true"],
        {
            "prompt": "\n\nHuman: One?\n\nAssistant: 1\n\nHuman: Why?\n\nAssistant: ",
            "answers": [{"answer": text, "rank": rank} for rank, text in enumerate(["best", "middle", "worst"])],
        },
        [(WHOLE, "best", "worst")],
    ),
    "UltraFeedback, raw": (
        ["data=ultrafeedback_ratings"],
        {
            "instruction": "Why?",
            "completions": [{"response": "bad", "overall_score": 3}, {"response": "good", "overall_score": 7.5}],
        },
        [(HUMAN, " good", " bad")],
    ),
    "UltraFeedback, raw, one of its ratings": (
        ["data=ultrafeedback_ratings", "data.source.score=annotations.helpfulness.Rating"],
        {
            "instruction": "Why?",
            "completions": [
                {"response": text, "overall_score": 5, "annotations": {"helpfulness": {"Rating": rating}}}
                for text, rating in (("good", "5"), ("bad", "2"))
            ],
        },
        [(HUMAN, " good", " bad")],
    ),
    "alpaca_eval": (
        ["data=jsonl", "data/source=alpaca_eval"],
        {"instruction": "Why?", "output_1": "bad", "output_2": "good", "preference": 1.8, "annotator": "x"},
        [(HUMAN, " good", " bad")],
    ),
    "ms-swift, a response": (
        ["data=jsonl", "data/source=swift"],
        {"messages": [*WHOLE, assistant("good")], "rejected_response": "bad"},
        [(WHOLE, "good", "bad")],
    ),
    "ms-swift, messages": (
        ["data=jsonl", "data/source=swift"],
        {"messages": [*WHOLE, assistant("good")], "rejected_messages": [*WHOLE, assistant("bad")]},
        [(WHOLE, "good", "bad")],
    ),
    "ms-swift, the last message": (
        ["data=jsonl", "data/source=swift", "data.source.roles={asker: user}"],
        {
            "messages": [*WHOLE[:2], {"role": "asker", "content": "Why?"}, assistant("good")],
            "rejected_messages": [assistant("bad")],
        },
        [(WHOLE, "good", "bad")],
    ),
    "orpo-dpo-mix": (
        ["data=jsonl", "data.source.source=source"],
        {
            "source": "mix", "prompt": "Why?", "question": "Why?",
            "chosen": [*ASKED, assistant("good")], "rejected": [*ASKED, assistant("bad")],
        },
        [(ASKED, "good", "bad")],
    ),
    "argilla, Intel Orca": (
        ["data=jsonl", "data.source.prompt=input", "data.source.system=system", "data.source.chat=true"],
        {"system": "Be brief.", "input": "Why?", "chosen": "good", "rejected": "bad", "rating": [9.0, 8.0]},
        [([{"role": "system", "content": "Be brief."}, *ASKED], "good", "bad")],
    ),
    "argilla, nested columns": (
        ["data=jsonl", *(f"data.source.{name}={name}.text" for name in ("prompt", "chosen", "rejected"))],
        {"prompt": {"text": HUMAN}, "chosen": {"text": " good", "score": 1.0}, "rejected": {"text": " bad"}},
        [(HUMAN, " good", " bad")],
    ),
    "HH-RLHF with the chat template": (
        ["data=hh", "data.source.chat=true"],
        {side: f"\n\nHuman: One?\n\nAssistant: 1{HUMAN} {side}" for side in ("chosen", "rejected")},
        [(WHOLE, "chosen", "rejected")],
    ),
}  # fmt: skip


def read(folder, overrides, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = composed(folder, *overrides)
    return Part(instantiate(config.data.source), path=str(path)).read("train", "")


def ids_of(tokenizer, prompt, answer: str) -> tuple[list[int], list[int]]:
    """Prompt and answer as transformers tokenizes them."""
    if isinstance(prompt, str):
        start, whole = tokenizer(prompt).input_ids, tokenizer(prompt + answer).input_ids
        return start, [*whole[len(start) :], tokenizer.eos_token_id]
    render = tokenizer.apply_chat_template
    start = render(prompt, add_generation_prompt=True, return_dict=False)
    return start, render([*prompt, assistant(answer)], return_dict=False)[len(start) :]


@pytest.mark.parametrize("name", ROWS)
def test_the_token_ids_are_those_of_transformers(tmp_path, tokenizer, name):
    overrides, row, expected = ROWS[name]
    chat = chat_tokenizer(tokenizer)
    pairs, _ = read(tmp_path, overrides, row)
    tokens = Tokenization(chat, 400, "drop").tokenize(pairs)
    assert tokens["invalid"][:] == [""] * len(expected)
    for pair, (prompt, chosen, rejected) in zip(tokens, expected, strict=True):
        assert (pair["prompt_ids"], pair["chosen_ids"]) == ids_of(chat, prompt, chosen)
        assert pair["rejected_ids"] == ids_of(chat, prompt, rejected)[1]


@pytest.mark.parametrize(
    ("overrides", "row"),
    [
        (["data=helpsteer3"], {"context": ASKED, "response1": "a", "response2": "b", "overall_preference": 0}),
        (
            ["data=jsonl", "data/source=alpaca_eval"],
            {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.5},
        ),
    ],
)
def test_a_tie_is_skipped_and_counted(tmp_path, overrides, row):
    preference = next(name for name in row if "preference" in name)
    pairs, counts = read(tmp_path, overrides, row, row | {preference: 1})
    assert (len(pairs), counts.skipped) == (1, 1)


REASONS = {
    "better_response_id must be a number between 0 and 1, not a number (2)": (
        "pku_saferlhf", {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": 2},
    ),
    "better_response_id must be a number between 0 and 1, not null": (
        "pku_saferlhf", {"prompt": "q", "response_0": "a", "response_1": "b", "better_response_id": None},
    ),
    "the rejected answer must be text, not null": (
        "pku_saferlhf", {"prompt": "q", "response_0": "a", "response_1": None, "better_response_id": 0},
    ),
    "answers must be a list of objects, not text ('a')": ("nectar", {"prompt": "q", "answers": "a"}),
    "an item of answers has no field 'rank'; there are answer": (
        "nectar", {"prompt": "q", "answers": [{"answer": "a"}, {"answer": "b"}]},
    ),
    "rank must be a number, not text ('N/A')": (
        "nectar", {"prompt": "q", "answers": [{"answer": "a", "rank": "N/A"}, {"answer": "b", "rank": 1}]},
    ),
    "column 'completions' is missing; there are instruction": ("ultrafeedback_ratings", {"instruction": "q"}),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_a_row_that_is_not_a_comparison_has_a_reason(tmp_path, reason):
    data, row = REASONS[reason]
    pairs, _ = read(tmp_path, [f"data={data}"], row)
    assert pairs["invalid"][:] == [reason]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"messages": [*ASKED, assistant("a")], "rejected_response": ["b"]},
            "rejected_response must be text, not a list",
        ),
        ({"messages": ASKED, "rejected_response": "b"}, "messages must end with a message of the assistant"),
        ({"messages": [*ASKED, assistant("a")]}, "column 'rejected_response' is missing"),
        (
            {"messages": [*ASKED, assistant("a")], "rejected_response": "b", "images": ["cat.png"]},
            "the row has images (['cat.png']): only text is supported",
        ),
    ],
)
def test_rows_of_swift_that_are_not_pairs(tmp_path, row, reason):
    pairs, _ = read(tmp_path, ["data=jsonl", "data/source=swift"], row)
    assert pairs["invalid"][0].startswith(reason)
