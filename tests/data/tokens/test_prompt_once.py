import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lightning_dpo.data.tokens.prompt_once import encoded, encodes_words

# The expressions of Llama 3 and of Qwen 2, which differ in digits.
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA.replace(r"\p{N}{1,3}", r"\p{N}")
TEXTS = [
    "the film was good, and the cake: better\n\nHuman: it's 1234!\n\nAssistant:",
    "  where\tis\r\n the answer?? éà 中文",
]


def byte_level(pattern: str | None = None, bos: bool = False, trim: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of the kind of GPT-2, or with another expression."""
    bpe = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim, use_regex=pattern is None)
    bpe.pre_tokenizer = plain
    if pattern:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|end|>", "<|begin|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS * 5, trainer)
    bpe.post_processor = processors.ByteLevel(trim_offsets=trim)
    if bos:
        start = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
        bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trim), start])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", bos_token="<|begin|>")


TOKENIZERS = {
    "gpt2": byte_level(),
    "gpt2, offsets with spaces": byte_level(trim=False),
    "llama 3": byte_level(LLAMA, bos=True),
    "qwen 2": byte_level(QWEN),
}
WORDS = st.sampled_from(
    [
        "the",
        " film",
        "good",
        ".",
        ":",
        "\n",
        "\n\n",
        " ",
        "  ",
        "\t",
        "\r\n",
        "'s",
        "12",
        "3456",
        "é",
        "中",
        "<|end|>",
        "<|e",
        "nd|>",
    ]
)
TEXT = st.lists(WORDS | st.text(max_size=4), max_size=12).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100)
@given(prompt=TEXT, chosen=TEXT, rejected=TEXT)
def test_ids_are_those_of_the_whole_texts(name, prompt, chosen, rejected):
    tokenizer = TOKENIZERS[name]
    assert encodes_words(tokenizer)
    found = encoded(tokenizer, [prompt], [chosen], [rejected])
    wanted = [tokenizer([text]).input_ids for text in (prompt, prompt + chosen, prompt + rejected)]
    assert list(found) == wanted


def test_the_start_of_a_prompt_is_encoded_once(monkeypatch):
    tokenizer, seen = byte_level(), []
    call = PreTrainedTokenizerFast.__call__
    monkeypatch.setattr(
        PreTrainedTokenizerFast,
        "__call__",
        lambda self, text, **options: (seen.append(text), call(self, text, **options))[1],
    )
    encoded(tokenizer, ["the film was good:"], [" yes"], [" no"])
    assert sum("film" in text for texts in seen for text in texts) == 1


def test_other_tokenizers_encode_whole_texts():
    assert not encodes_words(byte_level(r"(?<=a)b|\w+"))
    other = byte_level()
    other.add_tokens([AddedToken("an ordinary token")])
    assert not encodes_words(other)
    metaspace = byte_level()
    metaspace.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert not encodes_words(metaspace)
    normalized = byte_level()
    normalized.backend_tokenizer.normalizer = normalizers.NFC()
    assert not encodes_words(normalized)
