"""`stats --against`: what differs between the labels of two files."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_labels

from softlabel_codec import CropSampler, Padding, SoftLabelReader, SoftLabelWriter, TruncatedError, copy_labels
from softlabel_codec.cli.main import main
from softlabel_codec.report import against, fidelity, stats_against
from softlabel_codec.report.fidelity import FidelityMeter, SpreadMeter

PROBS = np.float32([[0.7, 0.2, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])


def run(*arguments, code=0):
    """Run a command, check its exit code and return what it printed."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def write(path, probs, key="a", codec="dense", *, crops=None, size=(9, 9), flips=None, **options):
    """Write a file of one image."""
    crops = [[0, 0, 5, 5]] * len(probs) if crops is None else crops
    with SoftLabelWriter(path, len(probs[0]), codec, **options) as writer:
        extra = {"image_crc32": 7} if options.get("image_checksums") else {}
        name = "vectors" if "content" in codec else "probs"
        flips = [False] * len(probs) if flips is None else flips
        writer.add(key, image_size=size, crops=crops, flips=flips, **{name: np.float32(probs)}, **extra)
    return path


def test_divergences_are_those_of_the_targets(tmp_path):
    others = np.float32([[0.6, 0.2, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    report = stats_against(write(tmp_path / "a.slc", PROBS), write(tmp_path / "b.slc", others))
    p, q = PROBS.astype(np.float64), others.astype(np.float64)
    kl = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0).sum(axis=1)
    assert report.kl.mean == pytest.approx(kl.mean(), abs=1e-6)
    assert report.kl.quantiles["50%"] == pytest.approx(np.median(kl), abs=1e-6)
    assert report.total_variation.mean == pytest.approx(np.abs(p - q).sum(axis=1).mean() / 2, abs=1e-6)
    assert (report.top1_agreement, report.identical, report.infinite_kl) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 0)
    assert (report.compared_crops, report.sampled_images, report.common_images) == (3, 1, 1)
    assert not report.same_bytes
    assert (report.not_comparable, report.differences) == ("", {})
    turned = stats_against(tmp_path / "b.slc", tmp_path / "a.slc")  # the first crop of which has a class that is impossible in the other
    assert turned.infinite_kl == pytest.approx(1 / 3)
    finite = (q[1:] * np.log(q[1:] / p[1:])).sum(axis=1)
    assert turned.kl.mean == pytest.approx(finite.mean(), abs=1e-6)


def softened(rows, power):
    powers = rows.astype(np.float64) ** power
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("of_one", "of_other"), [(None, None), (1.0, 2.0)])
def test_at_higher_temperatures(tmp_path, of_one, of_other):
    probs = np.float32([[0.7, 0.2, 0.06, 0.04], [0.1, 0.2, 0.3, 0.4]])
    others = np.float32([[0.6, 0.2, 0.15, 0.05], [0.1, 0.1, 0.4, 0.4]])
    said = [{} if made_at is None else {"temperature": made_at} for made_at in (of_one, of_other)]
    write(tmp_path / "a.slc", probs, metadata=said[0])
    write(tmp_path / "b.slc", others, metadata=said[1])
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert [found.temperature for found in report.fidelity] == [1, 4, 20]
    for found in report.fidelity:
        p = softened(probs, (of_one or 1) / found.temperature)
        q = softened(others, (of_other or 1) / found.temperature)
        kl = (p * np.log(p / q)).sum(axis=1).mean()
        assert found.kl == pytest.approx(kl, rel=1e-5)
        assert found.lost == pytest.approx(kl / (p * np.log(p * 4)).sum(axis=1).mean(), rel=1e-5)
        assert found.total_variation == pytest.approx(np.abs(p - q).sum(axis=1).mean() / 2, rel=1e-5)
    wanted = [rows.astype(np.float64).std(axis=0).mean() / np.sqrt(320) for rows in (probs, others)]
    assert report.mean_probability_spread == pytest.approx(tuple(wanted), rel=1e-5)
    text = run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc")
    lost = report.fidelity[1].lost
    assert "At temperature T, means" in text
    assert f"{report.fidelity[1].kl:.4f}" in text
    assert f"{lost:.1%}" in text
    assert f"spread of the mean probability over 320 crops: {wanted[0]:.6f} in A, {wanted[1]:.6f} in B" in text
    found = json.loads(run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc", "--json"))
    assert found["fidelity"][1] == dataclasses.asdict(report.fidelity[1])


def test_what_is_lost_entirely_is_no_number(tmp_path):
    write(tmp_path / "a.slc", PROBS[2:])
    write(tmp_path / "b.slc", PROBS[2:], codec="marginal_renorm:k=2")
    for found in stats_against(tmp_path / "a.slc", tmp_path / "b.slc").fidelity:
        assert (found.kl, found.lost, found.total_variation) == (None, None, pytest.approx(0.5))
    uniform = stats_against(tmp_path / "a.slc", tmp_path / "a.slc").fidelity[0]
    assert (uniform.kl, uniform.lost) == (0, None)  # of labels that say nothing, nothing is lost


def test_the_spread_is_that_of_means_of_independent_draws():
    rng = np.random.default_rng(0)
    labels = rng.dirichlet(np.full(10, 0.3), 4000)
    spread = SpreadMeter()
    for start in range(0, 4000, 700):
        spread.add(labels[start : start + 700])
    means = np.stack([labels[rng.integers(0, 4000, 320)].mean(axis=0) for _ in range(2000)])
    assert spread.result() == pytest.approx(means.std(axis=0).mean(), rel=0.02)


def test_a_large_batch_is_measured_like_small_ones(monkeypatch):
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(10), 50).astype(np.float32) for _ in range(2))
    whole = FidelityMeter()
    whole.add(p, q)
    monkeypatch.setattr(fidelity, "_NUMBERS_AT_A_TIME", 70)
    parts = FidelityMeter()
    parts.add(p, q)
    for one, other in zip(whole.result(), parts.result(), strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-12)


@pytest.mark.parametrize("codec", ["marginal_smoothing:k=2", "marginal_renorm:k=2", "hard", "marginal_smoothing:t=0.3,tail=2", "dense"])
def test_each_file_is_read_as_its_codec_says(tmp_path, codec):
    write(tmp_path / "a.slc", PROBS)
    write(tmp_path / "b.slc", PROBS, codec=codec)
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    with SoftLabelReader(tmp_path / "b.slc") as reader:
        targets = reader[0].labels.dense()
    assert report.total_variation.mean == pytest.approx(np.abs(PROBS - targets).sum(axis=1).mean() / 2, abs=1e-6)
    assert report.top1_agreement == 1
    assert report.differences == ({} if codec == "dense" else {"codec": ("dense", codec)})


def test_the_same_file(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[5, 7, 30])
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc")
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert report.same_bytes
    assert (report.identical, report.top1_agreement, report.kl.mean, report.compared_crops) == (1, 1, 0, 42)
    assert "3 in both, the same bytes" in run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc")


@pytest.mark.parametrize(("num_classes", "why"), [(2**22, ""), (2**22 + 1, "they are of 4194305 classes, and targets of more than")])
def test_targets_of_too_many_classes_are_not_made(tmp_path, num_classes, why):
    for name, top in (("a", 3), ("b", num_classes - 1)):
        with SoftLabelWriter(tmp_path / f"{name}.slc", num_classes, "hard") as writer:
            writer.add("k", image_size=(9, 9), crops=[[0, 0, 5, 5]], flips=[False], indices=[[top]], values=[[1.0]])
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert report.not_comparable[: len(why)] == why
    assert (report.not_comparable == "") == (num_classes == 2**22)
    assert report.common_images == 1


def test_images_that_only_one_has(tmp_path):
    write_labels(tmp_path / "a.slc", counts=[2] * 20, keys=[f"k{number}" for number in range(20)])
    copy_labels(tmp_path / "a.slc", tmp_path / "b.slc", match=["k1*", "k3"])
    write_labels(tmp_path / "c.slc", counts=[2] * 2, keys=["x", "y"])
    copy_labels([tmp_path / "b.slc", tmp_path / "c.slc"], tmp_path / "d.slc")
    report = stats_against(tmp_path / "a.slc", tmp_path / "d.slc")
    assert (report.num_images, report.against_images, report.common_images) == (20, 14, 12)
    assert (report.only_here.count, report.only_here.first) == (8, ["k0", "k2", "k4", "k5", "k6"])
    assert (report.only_there.count, report.only_there.first) == (2, ["x", "y"])
    assert report.identical == 1
    text = run("stats", tmp_path / "a.slc", "--against", tmp_path / "d.slc")
    assert "only in A  8 images: k0, k2, k4, k5, k6, ..." in text
    assert "only in B  2 images: x, y\n" in text
    apart = stats_against(tmp_path / "a.slc", tmp_path / "c.slc")
    assert (apart.common_images, apart.sampled_images, apart.compared_crops, apart.kl) == (0, 0, 0, None)
    assert "0 in both" in run("stats", tmp_path / "a.slc", "--against", tmp_path / "c.slc")


def test_metadata_that_differ(tmp_path):
    said = {"teacher": {"name": "one", "source": "timm"}, "temperature": 1.0, "note": {}}
    write(tmp_path / "a.slc", PROBS, metadata=said)
    write(tmp_path / "b.slc", PROBS, metadata={**said, "teacher": {"name": "two", "source": "timm"}, "more": [1]})
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert report.differences == {"metadata.teacher.name": ("one", "two"), "metadata.more": (None, [1])}
    text = run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc")
    assert "metadata.teacher.name" in text
    assert "two" in text


def test_crops_that_differ_are_not_compared(tmp_path):
    crops = [[0, 0, 5, 5], [1, 1, 4, 4], [2, 2, 3, 3]]
    write(tmp_path / "a.slc", PROBS, crops=crops, flips=[True, False, False])
    write(tmp_path / "b.slc", [*PROBS, PROBS[0]], crops=[[0, 0, 5, 5], [1, 1, 4, 4], [2, 2, 3, 4], [0, 0, 1, 1]])
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert (report.other_crops, report.other_num_crops, report.compared_crops, report.identical) == (2, 1, 1, 1)
    write(tmp_path / "c.slc", PROBS, crops=[[3, 3, 2, 2]] * 3, size=(9, 10))
    report = stats_against(tmp_path / "a.slc", tmp_path / "c.slc")
    assert (report.other_crops, report.other_pictures, report.compared_crops, report.kl) == (3, 1, 0, None)
    text = run("stats", tmp_path / "a.slc", "--against", tmp_path / "c.slc")
    assert "3 crops elsewhere, or mirrored otherwise: their labels are not compared" in text
    assert "1 image of another size, or from another file" in text


def test_derived_crops_are_compared_with_stored_ones(tmp_path):
    sampler = CropSampler(5)
    crops, flips = sampler.sample("a", (9, 9), range(3))
    with SoftLabelWriter(tmp_path / "a.slc", 4, "dense", crops="derived", sampler=sampler) as writer:
        writer.add("a", image_size=(9, 9), probs=PROBS)
    write(tmp_path / "b.slc", PROBS, crops=crops, flips=flips)
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert (report.compared_crops, report.identical) == (3, 1)
    assert report.differences == {"crops": ("derived", "pixels"), "sampler": (sampler.describe(), None)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"probs": np.full((3, 5), 0.2)}, "they are of 4 and of 5 classes"),
        ({"padding": Padding(2)}, "crops lie in images with other padding"),
        ({"crops": np.full((3, 4), 0.5, np.float32), "mode": "fractions:f32"}, "crops are stored as pixels and as fractions:f32"),
        ({"codec": "dense:content=features"}, "only one of them holds features"),
    ],
)
def test_labels_that_are_not_comparable(tmp_path, change, reason):
    write(tmp_path / "a.slc", PROBS)
    if "mode" in change:
        with SoftLabelWriter(tmp_path / "b.slc", 4, "dense", crops=change["mode"]) as writer:
            writer.add("a", crops=change["crops"], flips=[False] * 3, probs=PROBS)
    else:
        write(tmp_path / "b.slc", **{"probs": PROBS, **change})
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert (report.not_comparable, report.compared_crops, report.kl, report.identical) == (reason, 0, None, None)
    assert f"labels are not comparable: {reason}" in run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc")


def test_features_are_the_same_or_not(tmp_path):
    write(tmp_path / "a.slc", PROBS, codec="dense:content=features")
    write(tmp_path / "b.slc", PROBS * [[1], [1], [2]], codec="dense:content=features")
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert (report.identical, report.kl, report.top1_agreement) == (pytest.approx(2 / 3), None, None)
    assert report.cosine.mean == pytest.approx(1)  # one is twice as long
    said = run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc")
    assert "the same labels: 66.67% of the crops\n" in said
    assert "cosine similarity" in said
    write(tmp_path / "c.slc", np.roll(PROBS, 1, axis=1), codec="dense:content=features")
    wanted = [row @ np.roll(row, 1) / (row @ row) for row in np.float64(np.float32(PROBS))]
    assert stats_against(tmp_path / "a.slc", tmp_path / "c.slc").cosine.mean == pytest.approx(np.mean(wanted))
    write(tmp_path / "d.slc", PROBS * 0, codec="dense:content=features")
    assert stats_against(tmp_path / "a.slc", tmp_path / "d.slc").cosine.mean == 0


def test_files_of_other_pictures(tmp_path):
    for name, crc32 in (("a", 1), ("b", 2)):
        with SoftLabelWriter(tmp_path / f"{name}.slc", 4, "dense", image_checksums=True) as writer:
            writer.add("x", image_size=(9, 9), crops=[[0, 0, 5, 5]] * 3, flips=[False] * 3, probs=PROBS, image_crc32=crc32)
    report = stats_against(tmp_path / "a.slc", tmp_path / "b.slc")
    assert (report.other_pictures, report.identical) == (1, 1)


def test_a_sample_is_compared_where_there_is_much(tmp_path, monkeypatch):
    write_labels(tmp_path / "a.slc", counts=[10] * 50, num_classes=20)
    assert stats_against(tmp_path / "a.slc", tmp_path / "a.slc", max_images=7).sampled_images == 7
    monkeypatch.setattr(against, "MAX_NUMBERS", 20 * 10 * 12)
    monkeypatch.setattr(against, "NUMBERS_PER_BATCH", 60)
    report = stats_against(tmp_path / "a.slc", tmp_path / "a.slc")
    assert (report.sampled_images, report.compared_crops, report.common_images) == (12, 120, 50)
    assert "compared 120 crops of 12 images" in " ".join(run("stats", tmp_path / "a.slc", "--against", tmp_path / "a.slc").split())


def test_the_command(tmp_path):
    write(tmp_path / "a.slc", PROBS)
    write(tmp_path / "b.slc", PROBS, codec="hard")
    found = json.loads(run("stats", tmp_path / "b.slc", "--against", tmp_path / "a.slc", "--json"))
    assert found["differences"] == {"codec": ["hard", "dense"]}
    assert set(found) == set(vars(stats_against(tmp_path / "b.slc", tmp_path / "a.slc")))
    assert "infinite KL: 100.00% of the crops" in run("stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc")
    assert "--plot does not apply" in run(
        "stats", tmp_path / "a.slc", "--against", tmp_path / "b.slc", "--plot", tmp_path / "x.png", code=2
    )
    SoftLabelWriter(tmp_path / "c.slc", 4, "hard").close()
    with pytest.raises(TruncatedError):
        stats_against(tmp_path / "a.slc", tmp_path / "c.slc.partial")
