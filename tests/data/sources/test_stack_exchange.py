import pytest
from bs4 import BeautifulSoup

from lightning_dpo.data.sources import stack_exchange_pairs


def question(*scores: int) -> dict:
    answers = [{"text": f"<p>answer <b>{score}</b></p>", "pm_score": score} for score in scores]
    return {"question": "<p>Why 0 &lt; 1?</p>\n<pre><code>x\ny</code></pre>", "answers": answers}


def test_every_pair_of_answers_whose_scores_differ():
    pairs = stack_exchange_pairs(question(1, 3, 3, 0))
    # 6 pairs of 4 answers, without the tie.
    found = sorted((pair["chosen"], pair["rejected"]) for pair in pairs)
    three = [(" answer 3", " answer 0")] * 2 + [(" answer 3", " answer 1")] * 2
    assert found == [(" answer 1", " answer 0"), *three]
    assert {pair["prompt"] for pair in pairs} == {"\n\nHuman: Why 0 < 1?\nx\ny\n\nAssistant:"}


@pytest.mark.parametrize(
    "html",
    [
        "a &amp; b &#8364; &lt;i&gt;",
        "<p>x<br/>y</p><!-- z --><ul><li>1</li>\n<li>2</li></ul>",
        "1 < 2 & 3 <b>bold",
        "é",
    ],
)
def test_text_is_that_of_beautiful_soup(html):
    row = {"question": html, "answers": [{"text": "a", "pm_score": 0}, {"text": "b", "pm_score": 1}]}
    (pair,) = stack_exchange_pairs(row, chat=True)
    assert pair["prompt"][0]["content"] == BeautifulSoup(html, "html.parser").get_text().strip()


def test_messages_on_request():
    (pair,) = stack_exchange_pairs(question(1, 3), chat=True)
    assert pair["prompt"][0]["role"] == "user"
