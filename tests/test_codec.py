"""Codec strings."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from softlabel_codec import ArgumentError, Codec, SoftLabelReader, SoftLabelWriter
from softlabel_codec.block.families import FAMILIES
from softlabel_codec.codec import STRATEGIES, VALUES


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
        "marginal_smoothing:gain=0.005,tail=99",
        "marginal_smoothing:gain=0.005,values=f16,tail=99",
        "marginal_renorm:k=10,values=f16",
        "marginal_smoothing:t=0.05,tail=all",
        "marginal_smoothing:t=0.05,tail=all,mean=log",
        "marginal_smoothing:k=3,values=f16,tail=all,mean=log",
        "dense",
        "dense:values=f16",
        "dense:content=logits",
        "dense:values=log8",
        "dense:values=log8,step=0.5,content=logits",
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
        ("marginal_smoothing:mean=log,tail=all,t=1/20,step=1/2", "marginal_smoothing:t=0.05,tail=all,mean=log"),
        ("marginal_smoothing:k=5,tail=9,mean=arithmetic", "marginal_smoothing:k=5,tail=9"),
        ("marginal_smoothing:step=1/4,k=5", "marginal_smoothing:k=5,step=0.25"),
        ("marginal_smoothing: k = 5 , step = 12/255", "marginal_smoothing:k=5,step=0.047058823529411764"),
        ("smoothing,values=f16", "smoothing:values=f16"),
        ("dense:f16", "dense:values=f16"),
        ("dense:f32", "dense"),
        ("dense:log8,step=1", "dense:values=log8"),
        ("dense:content=logits,step=2,log8", "dense:values=log8,step=2.0,content=logits"),
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
        ("marginal_smoothing:k=5,gain=0.1,tail=5", "needs exactly one of k=NUMBER .*, or gain=NATS with a tail"),
        ("marginal_smoothing:gain=0.1", "expected tail=NUMBER beside it"),
        ("marginal_smoothing:gain=0.1,tail=all", "expected tail=NUMBER beside it, got tail=all. Use t=PROBABILITY"),
        ("marginal_smoothing:gain=0,tail=5", "gain must be a number from 3.05176e-05 to 1, got 0"),
        ("marginal_renorm:gain=0.1", "'marginal_renorm' has no option 'gain=0.1'"),
        ("marginal_smoothing:k=0", "k must be an integer from 1 to 65535, got 0"),
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
        ("marginal_smoothing:k=5,step=0.01", "step must be a number from 0.04 to 1, got 0.01"),
        ("marginal_smoothing:k=5,values=f16,step=0.25", "step belongs to values=log8"),
        ("marginal_smoothing:k=5,tail=most", r"tail must be an integer from 1 to 65535, got 'most' \(or all\)"),
        ("marginal_smoothing:k=5,tail=9,mean=log", "mean=log belongs to tail=all"),
        ("marginal_smoothing:k=5,mean=log", "mean=log belongs to tail=all"),
        ("marginal_smoothing:k=5,tail=all,mean=geometric", "unknown mean 'geometric'"),
        ("marginal_renorm:k=5,tail=all", "'marginal_renorm' has no option 'tail=all'"),
        ("hard:k=1", "'hard' takes no options"),
        ("dense:k=5", "'dense' has no option 'k=5'"),
        ("dense:values=log9", "unknown values 'log9': did you mean 'log8'"),
        ("dense:values=log8,step=2.1", "step must be a number from 0.04 to 2, got 2.1"),
        ("dense:step=0.5", "step belongs to values=log8, not to values=f32"),
        ("dense:values=log8,content=features", "expected content=probs or content=logits, got features"),
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


def test_a_tail_of_all_classes_is_for_at_most_65535():
    Codec.parse("marginal_smoothing:k=5,tail=all").check_classes(65535)
    with pytest.raises(ArgumentError, match="tail=all is for at most 65535 classes, got 65536: use tail=100"):
        Codec.parse("marginal_smoothing:k=5,tail=all").check_classes(65536)


def test_a_codec_is_also_made_of_its_options():
    assert Codec("marginal_smoothing", k=5, tail="all", mean="log") == Codec.parse("marginal_smoothing:k=5,tail=all,mean=log")
    assert Codec("marginal_smoothing", k=np.int64(5), tail=100) == Codec.parse("marginal_smoothing:k=5,tail=100")
    assert Codec("marginal_renorm", t=np.float32(0.5), values="f16") == Codec.parse("marginal_renorm:t=0.5,values=f16")
    assert Codec("dense", content="logits") == Codec.parse("dense:content=logits")
    assert (Codec("hard").values, Codec("smoothing").values, Codec("dense").values) == ("none", "log8", "f32")


@pytest.mark.parametrize("text", ["hard", "smoothing:values=f16", "marginal_smoothing:t=0.02,tail=9", "dense:content=features"])
def test_copies_are_equal(text):
    codec = Codec.parse(text)
    for copied in (pickle.loads(pickle.dumps(codec)), copy.deepcopy(codec), dataclasses.replace(codec)):
        assert copied == codec
        assert hash(copied) == hash(codec)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nonsense", {"k": -3}, "unknown strategy 'nonsense': did you mean 'dense'"),
        (5, {}, "unknown strategy 5"),
        ("marginal_smoothing", {}, "needs exactly one of k=NUMBER"),
        ("marginal_smoothing", {"k": 5, "t": 0.5}, "needs exactly one of k=NUMBER"),
        ("marginal_smoothing", {"k": -3}, "k must be an integer from 1 to 65535, got -3"),
        ("marginal_smoothing", {"k": True}, "k must be an integer from 1 to 65535, got True"),
        ("marginal_smoothing", {"k": 5.0}, "k must be an integer from 1 to 65535, got 5.0"),
        ("marginal_smoothing", {"k": 5, "tail": -1}, "tail must be an integer from 1 to 65535, got -1"),
        ("marginal_smoothing", {"t": float("nan")}, "t must be a number from 3.05176e-05 to 1, got nan"),
        ("marginal_smoothing", {"t": "0.5"}, "t must be a number from 3.05176e-05 to 1, got '0.5'"),
        ("marginal_smoothing", {"k": 5, "step": 10**400}, "step must be a number from 0.04 to 1, got 1000"),
        ("marginal_smoothing", {"k": 5, "values": "none"}, "unknown values 'none'"),
        ("marginal_smoothing", {"k": 5, "values": "f16", "step": 0.1}, "step belongs to values=log8"),
        ("marginal_smoothing", {"k": 5, "content": "logits"}, "'marginal_smoothing' has no option 'content=logits'"),
        ("marginal_renorm", {"k": 5, "tail": 9}, "'marginal_renorm' has no option 'tail=9'"),
        ("smoothing", {"k": 1}, "'smoothing' has no option 'k=1'"),
        ("hard", {"values": "f32"}, "unknown values 'f32': expected one of 'none'"),
        ("hard", {"t": 0.5}, "'hard' has no option 't=0.5': 'hard' takes no options"),
        ("dense", {"values": "none"}, "unknown values 'none'"),
        ("dense", {"values": "f16", "step": 0.5}, "step belongs to values=log8"),
        ("dense", {"content": "labels"}, "unknown content 'labels'"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(name, options, message):
    with pytest.raises(ArgumentError, match=message):
        Codec(name, **options)


def test_no_tail_is_not_written():
    with pytest.raises(ArgumentError, match="tail must be an integer from 1 to 65535, got 0"):
        Codec.parse("marginal_smoothing:k=5,tail=0")


def test_every_strategy_is_of_a_family():
    assert {strategy.family for strategy in STRATEGIES.values()} == set(VALUES) == set(FAMILIES)


def test_a_writer_takes_a_codec_and_a_reader_has_it(tmp_path):
    codec = Codec("marginal_smoothing", k=2, tail=3)
    with SoftLabelWriter(tmp_path / "a.slc", 4, codec) as writer:
        writer.add("a.jpg", image_size=(9, 9), crops=[[0, 0, 9, 9]], flips=[False], probs=np.full((1, 4), 0.25, np.float32))
    with SoftLabelReader(tmp_path / "a.slc") as reader:
        assert (reader.codec, reader.parsed_codec) == (str(codec), codec)


@pytest.mark.parametrize("tail", [False, True, "", [], {}, -1, 65536, 1.0, np.array([1, 2])])
@pytest.mark.parametrize("name", ["hard", "dense", "smoothing"])
def test_a_tail_that_is_no_number(name, tail):
    with pytest.raises(ArgumentError, match=r"tail must be an integer from 1 to 65535"):
        Codec(name, tail=tail)


@pytest.mark.parametrize("k", [np.array([5]), "5", 5.0, True, -3])
def test_a_number_of_classes_that_is_none(k):
    with pytest.raises(ArgumentError, match=r"k must be an integer from 1 to 65535"):
        Codec("marginal_smoothing", k=k)
    assert Codec("marginal_smoothing", k=np.int64(5), tail=np.int64(0)) == Codec.parse("marginal_smoothing:k=5")
