import pytest
from datasets import Dataset
from tokenizers import processors
from transformers import AddedToken, PreTrainedTokenizerFast

from lightning_dpo.data.parts import Part
from lightning_dpo.data.sources import hh_pair
from lightning_dpo.data.tokens.tokenization import Tokenization
from tests.support.pairs import HH_FILE

END = 0


@pytest.fixture
def with_bos(tokenizer) -> PreTrainedTokenizerFast:
    """The same tokenizer, writing a beginning of sequence before every text."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
        eos_token="<|end|>",
        pad_token="<|end|>",
    )
    fast.add_special_tokens({"bos_token": "<|begin|>"})
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", fast.bos_token_id)]
    )
    return fast


def tokenize(tokenizer, *rows, max_length: int = 100, on_overlong: str = "drop") -> list[dict]:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(("prompt", "chosen", "rejected"))}
    return list(Tokenization(tokenizer, max_length, on_overlong).tokenize(Dataset.from_dict(columns)))


def test_completions_end_with_one_end_of_sequence(tokenizer):
    (row,) = tokenize(tokenizer, ("the film", " was good", " was better<|end|>"))
    assert row["invalid"] == ""
    assert row["chosen_ids"] == [*tokenizer(" was good").input_ids, END]
    assert row["rejected_ids"] == [*tokenizer(" was better").input_ids, END]
    assert tokenizer.decode(row["prompt_ids"] + row["chosen_ids"]) == "the film was good<|end|>"


def test_tokens_that_merge_across_the_boundary_belong_to_the_completions(tokenizer):
    """Without a space before the answers, `...go` + `od` is encoded as one word whose pieces reach over the cut."""
    (row,) = tokenize(tokenizer, ("the film was g", "ood", "rand"))
    whole = tokenizer("the film was good").input_ids
    assert row["prompt_ids"] + row["chosen_ids"] == [*whole, END]
    assert row["prompt_ids"] == whole[: len(row["prompt_ids"])]
    assert tokenizer.decode(row["chosen_ids"][:-1]).endswith("good")


def test_one_beginning_of_sequence_and_only_at_the_start(with_bos):
    (row,) = tokenize(with_bos, ("the film", " was good", " was better"))
    assert row["invalid"] == ""
    assert row["prompt_ids"][0] == with_bos.bos_token_id
    assert (row["prompt_ids"] + row["chosen_ids"] + row["rejected_ids"]).count(with_bos.bos_token_id) == 1


@pytest.mark.parametrize("place", range(3))
def test_special_tokens_in_the_text_would_be_control_tokens(tokenizer, place):
    texts = ["the film", " was good", " was better"]
    texts[place] = texts[place].replace(" ", " <|end|> ", 1)
    (row,) = tokenize(tokenizer, tuple(texts))
    assert row["invalid"].startswith("the text contains a special token of the tokenizer ('<|")


def test_a_second_beginning_of_sequence_in_the_text_is_noticed(with_bos):
    (row,) = tokenize(with_bos, ("<|begin|>the film", " was good", " was better"))
    assert row["invalid"].startswith("the text contains a special token of the tokenizer ('<|")


def test_an_unknown_word_is_noticed():
    from lightning_dpo.reviews.policy import TinyReviewer

    (row,) = tokenize(TinyReviewer().tokenizer(), ("A review of Alien :", " gripping", " soothing"))
    assert row["invalid"] == "the tokenizer does not know words or characters of the text"


def test_an_unknown_token_that_is_the_end_of_sequence_gives_no_information(tokenizer):
    """GPT-2's tokenizer names one token for both."""
    tokenizer.unk_token = "<|end|>"
    try:
        (row,) = tokenize(tokenizer, ("the film", " was good", " was better"))
    finally:
        tokenizer.unk_token = None
    assert row["invalid"] == ""


def test_overlong_pairs_are_marked_by_the_longer_answer(tokenizer):
    prompt, chosen = tokenizer("the film").input_ids, tokenizer(" was better").input_ids
    length = len(prompt) + len(chosen) + 1
    rows = ("the film", " was better", " was"), ("the film", " was", " was better")
    assert [row["overlong"] for row in tokenize(tokenizer, *rows, max_length=length)] == [False, False]
    assert [row["overlong"] for row in tokenize(tokenizer, *rows, max_length=length - 1)] == [True, True]


def test_truncation_takes_the_prompts_start_first_and_keeps_the_beginning_of_sequence(with_bos):
    whole, cut = (
        tokenize(
            with_bos, ("where is the answer to the film", " good", " better"), max_length=n, on_overlong="truncate"
        )[0]
        for n in (100, 12)
    )
    longest = max(len(whole["chosen_ids"]), len(whole["rejected_ids"]))
    assert cut["prompt_ids"] == [whole["prompt_ids"][0], *whole["prompt_ids"][-(12 - longest - 1) :]]
    assert cut["chosen_ids"] == whole["chosen_ids"]
    assert not cut["overlong"]


def test_an_answer_that_is_cut_has_no_end_of_sequence(tokenizer):
    answer = " was good and better and better"
    (row,) = tokenize(tokenizer, ("the", answer, " was"), max_length=5, on_overlong="truncate")
    assert len(row["prompt_ids"]) == 1
    assert row["chosen_ids"] == tokenizer(answer).input_ids[:4]
    assert row["rejected_ids"][-1] == END


def test_answers_that_truncation_makes_equal_are_invalid(tokenizer):
    (row,) = tokenize(tokenizer, ("the", " was good", " was better"), max_length=2, on_overlong="truncate")
    assert row["invalid"] == "truncation leaves no difference between the answers"


def test_the_cache_is_keyed_by_rows_settings_and_tokenizer(tokenizer, with_bos):
    rows = Dataset.from_dict({"prompt": ["the film"], "chosen": [" was good"], "rejected": [" was"]})
    changed = Dataset.from_dict({"prompt": ["the film"], "chosen": [" was good"], "rejected": [" is"]})

    def key(tokenizer=tokenizer, max_length=9, on_overlong="drop", rows=rows):
        return Tokenization(tokenizer, max_length, on_overlong).cache_key(rows)

    assert key() == key()
    others = [key(with_bos), key(max_length=8), key(on_overlong="truncate"), key(rows=changed)]
    assert len({key(), *others}) == 5


@pytest.mark.skipif(not HH_FILE.exists(), reason="the HH sample is not here")
def test_fifty_hh_rows_have_trls_token_ids(tokenizer, tmp_path):
    """All fifty: prompts end with `Assistant:` and answers begin with a space, so no token merges across."""
    from tests.support.trl_trainer import trl_trainer

    pairs = Part(hh_pair, path=HH_FILE).read("train", "")[0]
    pairs = pairs.select([row for row, reason in enumerate(pairs["invalid"]) if not reason][:50])
    ours = Tokenization(tokenizer, 2048, "drop").tokenize(pairs)
    theirs = trl_trainer(tmp_path, tokenizer, pairs.select_columns(["prompt", "chosen", "rejected"])).train_dataset
    for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[name][:] == theirs[name][:]


def test_added_special_tokens_count_as_special(tokenizer, with_bos):
    with_bos.add_tokens([AddedToken("<|tool|>", special=True)])
    (row,) = tokenize(with_bos, ("the <|tool|> film", " was good", " was better"))
    assert row["invalid"].startswith("the text contains a special token of the tokenizer ('<|")
