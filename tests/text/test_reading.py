"""Options on how data is read: what they mean, and one line on what is wrong with them."""

import pytest

from penjing.errors import InputError
from penjing.text.reading import Reading


def test_options_mean_what_they_say() -> None:
    assert Reading().labels() == {} and Reading().names == [] and Reading().columns == []
    assert Reading(label_map=" a = negative, b=positive").labels() == {"a": "negative", "b": "positive"}
    assert Reading(label_map='{"a, b": "x=y"}').labels() == {"a, b": "x=y"}
    assert Reading(delimiter="tab").separator == Reading(delimiter="\\t").separator == "\t"
    assert Reading(header="id, text,,label").names == ["id", "text", "", "label"]
    assert Reading(text_columns="a, b").columns == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoding": "utf-88"}, "encoding: 'utf-88' is none; give one that Python knows"),
        ({"encoding": "hex"}, "encoding: 'hex' is none"),
        ({"encoding": "a\0b"}, "encoding"),
        ({"delimiter": "||"}, "delimiter: '||' is not allowed; give one character"),
        ({"delimiter": '"'}, "delimiter"),
        ({"header": "text,text"}, "header: 'text,text' names a column twice"),
        ({"header": " , "}, "header: ' , ' names no column"),
        ({"label_map": "a"}, "label_map: 'a' has no one '=' in each part"),
        ({"label_map": "a=b=c"}, "label_map"),
        ({"label_map": "a=b,a=c"}, "names a label twice"),
        ({"label_map": "a="}, "label_map"),
        ({"label_map": '{"a": 1}'}, "is no JSON object of names"),
        ({"label_map": '{"a": '}, "is no JSON object of names"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Reading(**options)  # type: ignore[arg-type]
    assert said in str(caught.value) and "\n" not in str(caught.value)
