"""Codec strings."""

import pytest

from softlabel_codec import ArgumentError, Codec


@pytest.mark.parametrize(
    "text",
    [
        "hard",
        "smoothing",
        "smoothing:values=f16",
        "marginal_smoothing:k=5",
        "marginal_smoothing:k=65535,values=f32",
        "marginal_smoothing:t=0.02",
        "marginal_smoothing:t=0.02,step=0.25",
        "marginal_renorm:k=10,values=f16",
        "dense",
        "dense:values=f16",
        "dense:content=logits",
    ],
)
def test_canonical_strings_stay_as_they_are(text):
    assert str(Codec.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("marginal_smoothing:k=5,values=log8,step=1/5", "marginal_smoothing:k=5"),
        ("marginal_smoothing:tail=100,t=1/20", "marginal_smoothing:t=0.05,tail=100"),
        ("marginal_smoothing:t=1/20,tail=100,step=1/2", "marginal_smoothing:t=0.05,tail=100"),
        ("marginal_smoothing:t=1/20,tail=100,step=0.2", "marginal_smoothing:t=0.05,step=0.2,tail=100"),
        ("marginal_smoothing:step=1/4,k=5", "marginal_smoothing:k=5,step=0.25"),
        ("marginal_smoothing: k = 5 , step = 12/255", "marginal_smoothing:k=5,step=0.047058823529411764"),
        ("smoothing,values=f16", "smoothing:values=f16"),
        ("dense:f16", "dense:values=f16"),
        ("dense:f32", "dense"),
        ("marginal_renorm:t=1/50", "marginal_renorm:t=0.02"),
    ],
)
def test_other_spellings_become_canonical(text, canonical):
    assert str(Codec.parse(text)) == canonical
    assert Codec.parse(canonical) == Codec.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("marginal_smothing:k=5", "did you mean 'marginal_smoothing'"),
        ("", "unknown strategy ''"),
        ("marginal_smoothing", "needs exactly one of k=NUMBER .* and t=PROBABILITY"),
        ("marginal_smoothing:k=5,t=0.1", "needs exactly one"),
        ("marginal_smoothing:k=0", "k must be an integer from 1 to 65535, got '0'"),
        ("marginal_smoothing:k=65536", "k must be an integer from 1 to 65535"),
        ("marginal_smoothing:k=five", "k must be an integer"),
        ("marginal_smoothing:5", "did you mean 'k=5'"),
        ("marginal_smoothing:k=" + 100 * "9", "k must be an integer"),
        ("marginal_smoothing:k=" + 5000 * "9", "at most 256 characters, got 5021"),
        ("marginal_smoothing:t=0", "t must be a number from"),
        ("marginal_smoothing:t=1e-99999999", "t must be a number from"),
        ("marginal_smoothing:t=1e400", "t must be a number from"),
        ("marginal_smoothing:t=nan", "t must be a number from"),
        ("marginal_smoothing:t=1/0", "t must be a number from"),
        ("marginal_smoothing:k=5,k=5", "option 'k' is given twice"),
        ("marginal_smoothing:k=5,value=f16", "did you mean 'values'"),
        ("marginal_smoothing:k=5,values=f8", "did you mean 'f"),
        ("marginal_smoothing:k=5,step=0.01", "step must be a number from 0.04 to 1, got '0.01'"),
        ("marginal_smoothing:k=5,values=f16,step=0.25", "step belongs to values=log8"),
        ("hard:k=1", "'hard' takes no options"),
        ("dense:k=5", "'dense' has no option 'k=5'"),
        ("dense:values=log8", "unknown values 'log8'"),
        ("dense:content=labels", "unknown content 'labels'"),
    ],
)
def test_wrong_strings_are_refused_with_what_was_expected(text, message):
    with pytest.raises(ArgumentError, match=message):
        Codec.parse(text)


def test_anything_but_text_is_refused():
    with pytest.raises(ArgumentError, match="expected a string"):
        Codec.parse(5)


def test_more_classes_than_there_are():
    with pytest.raises(ArgumentError, match="expected k <= 3, got 5"):
        Codec.parse("marginal_smoothing:k=5").check_classes(3)
