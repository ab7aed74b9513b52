"""Which crops are drawn when: by plain indices that the dataset counts, and by `SoftLabelSampler`."""

import copy
import json
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered import IMAGES, KEYS, NUM_CROPS, NUM_IMAGES, PIXELS, draws_of, joined, never_again, write_numbered
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, DistributedSampler, Subset, WeightedRandomSampler

import softlabel_codec
from softlabel_codec import ArgumentError, MismatchError
from softlabel_codec.crops.choice import choose_crops
from softlabel_codec.torch import ImageTurn, SoftLabelDataset, SoftLabelSampler, collate_crops

CONTEXTS = ["fork", "spawn", "forkserver"]
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture
def labels(tmp_path):
    return write_numbered(tmp_path / "labels.slc")


def make(labels, n=3, **options):
    return SoftLabelDataset(IMAGES, labels, n, **{**PIXELS, **options})


def load(dataset, **options):
    return DataLoader(dataset, **{"batch_size": 2, "collate_fn": collate_crops, **options})


def epochs_of(loader, epochs, n=3):
    """Return the draws of some epochs."""
    return [draws_of(list(loader), n) for _ in range(epochs)]


def turn(image, number, n=3):
    """Return the crops of a turn of an image, as they must be."""
    return tuple(choose_crops(0, number, [image], [NUM_CROPS], n)[0].tolist())


class RepeatedAugmentation:
    """Each image several times in a row, as timm's RepeatAugSampler gives them to one process."""

    def __iter__(self):
        return iter(np.arange(NUM_IMAGES).repeat(2).tolist())

    def __len__(self):
        return 2 * NUM_IMAGES


@forking
@pytest.mark.parametrize("workers", [{}, *({"num_workers": 2, "multiprocessing_context": name} for name in CONTEXTS)])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_forgotten_set_epoch_draws_other_crops_in_each_epoch(labels, workers, persistent):
    options = {**workers, "persistent_workers": persistent and bool(workers), "shuffle": True}
    found = joined(*epochs_of(load(make(labels), **options), 4))
    assert found == {image: [turn(image, number) for number in range(4)] for image in range(NUM_IMAGES)}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sampler", [RepeatedAugmentation(), WeightedRandomSampler([9.0, 9.0, 1.0, 1.0, 1.0, 1.0], 10)])
def test_an_image_that_is_drawn_again_brings_other_crops(labels, sampler, workers):
    torch.manual_seed(0)
    dataset = make(labels, n=1)
    found = joined(*epochs_of(load(dataset, sampler=sampler, num_workers=workers, persistent_workers=workers > 0), 2, n=1))
    assert max(map(len, found.values())) > 2
    assert never_again(found)


def test_repeated_draws_in_one_batch_differ(labels):
    dataset = make(labels)
    samples = dataset.__getitems__([4, 4, 1, 4])
    assert [tuple(sample.labels.indices[:, 0].tolist()) for sample in samples] == [turn(4, 0), turn(4, 1), turn(1, 0), turn(4, 2)]
    assert tuple(dataset[-2].labels.indices[:, 0].tolist()) == turn(4, 3)


@pytest.mark.parametrize("wrap", [lambda dataset: Subset(dataset, [5, 2]), lambda dataset: ConcatDataset([dataset])])
def test_wrapped_datasets_draw_other_crops_too(labels, wrap):
    found = joined(*epochs_of(load(wrap(make(labels)), shuffle=True, num_workers=1, persistent_workers=True), 4))
    assert all(len(draws) == 4 for draws in found.values())
    assert never_again(found)


def test_the_epoch_that_is_set_counts_if_each_image_comes_once(labels):
    dataset = make(labels)
    dataset.set_epoch(7)
    (found,) = epochs_of(load(dataset, shuffle=True), 1)
    assert found == {image: [turn(image, 7)] for image in range(NUM_IMAGES)}
    dataset.set_epoch(2)  # a turn that was had does not come back
    assert epochs_of(load(dataset), 1)[0][3] == [turn(3, 8)]


def test_a_look_at_labels_is_no_turn(labels):
    dataset = make(labels)
    looked = [tuple(dataset.labels_of([3])[0].labels.indices[:, 0].tolist()) for _ in range(2)]
    assert looked == [turn(3, 0)] * 2 == [tuple(dataset[3].labels.indices[:, 0].tolist())] * 2


@forking
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_copy_goes_on_counting_and_its_workers_hear_of_epochs(labels, copied, context):
    dataset = make(labels)
    epochs_of(load(dataset), 2)
    other = copied(dataset)
    loader = load(other, num_workers=2, persistent_workers=True, multiprocessing_context=context)
    assert epochs_of(loader, 2) == [{image: [turn(image, number)] for image in range(NUM_IMAGES)} for number in (2, 3)]
    other.set_epoch(9)
    assert epochs_of(loader, 1)[0][0] == [turn(0, 9)]
    assert epochs_of(load(dataset), 1)[0][0] == [turn(0, 2)]  # the first one counts by itself


def test_the_dataset_pickles_small_with_many_images(tmp_path):
    from softlabel_codec import SoftLabelWriter

    with SoftLabelWriter(tmp_path / "a.slc", 2, "hard") as writer:
        for number in range(3000):
            writer.add(f"{number:05}", image_size=(9, 9), crops=[[0, 0, 9, 9]], flips=[False], indices=[[0]], values=[[1.0]])
    images = dict.fromkeys([f"{number:05}" for number in range(3000)], "x")
    dataset = SoftLabelDataset(images, tmp_path / "a.slc", 1, normalized=False)
    dataset._turns.due(range(3000))
    assert len(pickle.dumps(dataset)) - len(pickle.dumps(images)) < 3000


@pytest.mark.parametrize("epoch", [1.5, -1, "1", True, 1_700_000_000_000_000_000])
def test_epochs_that_are_none(labels, epoch):
    for what in (make(labels), SoftLabelSampler(KEYS)):
        with pytest.raises(ArgumentError, match="epoch: expected (an integer of at least 0|at most 1073741824), got"):
            what.set_epoch(epoch)
        what.set_epoch(2**30)
    dataset = make(labels)
    dataset.set_epoch(2**30)
    assert [tuple(dataset[4].labels.indices[:, 0].tolist()) for _ in range(2)] == [turn(4, 2**30), turn(4, 2**30 + 1)]


@forking
@pytest.mark.parametrize("workers", [{}, *({"num_workers": 2, "multiprocessing_context": name} for name in CONTEXTS)])
def test_the_epoch_travels_with_the_index(labels, workers):
    dataset = make(labels)
    sampler = SoftLabelSampler(dataset, seed=3)
    loader = load(dataset, sampler=sampler, persistent_workers=bool(workers), **workers)
    found = epochs_of(loader, 3)
    assert found == [{image: [turn(image, number)] for image in range(NUM_IMAGES)} for number in range(3)]
    assert len({tuple(draws) for draws in found}) == 3  # each in an order of its own
    sampler.set_epoch(1)
    with pytest.warns(UserWarning, match="epoch 1 begins a second time, with the same crops in the same order. Call set_epoch"):
        again = epochs_of(loader, 1)[0]
    assert (again, list(again)) == (found[1], list(found[1]))


def test_repeats_and_images(labels):
    dataset = make(labels)
    sampler = SoftLabelSampler(dataset, images=[5, 2, 3], repeats=2, shuffle=False)
    loader = load(dataset, sampler=sampler)
    assert (len(sampler), len(loader)) == (6, 3)
    sampler.set_epoch(1)
    assert [(int(index), index.turn) for index in sampler] == [(5, 2), (5, 3), (2, 2), (2, 3), (3, 2), (3, 3)]
    found = joined(*epochs_of(loader, 2))
    assert found == {image: [turn(image, number) for number in range(4, 8)] for image in (2, 3, 5)}


def test_plain_and_told_indices_in_one_batch(labels):
    samples = make(labels).__getitems__([ImageTurn(2, 5), 2, ImageTurn(2, 0)])
    assert [tuple(sample.labels.indices[:, 0].tolist()) for sample in samples] == [turn(2, 5), turn(2, 0), turn(2, 0)]


def test_it_works_as_part_of_a_batch_sampler(labels):
    dataset = make(labels)
    batches = BatchSampler(SoftLabelSampler(dataset), batch_size=4, drop_last=True)
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate_crops, num_workers=1)
    assert [sorted(map(len, draws.values())) for draws in epochs_of(loader, 2)] == [[1] * 4] * 2


def test_indices_pickle_small_and_say_what_they_are():
    index = pickle.loads(pickle.dumps(ImageTurn(3, turn=8)))
    assert (index, index.turn, repr(index)) == (3, 8, "ImageTurn(3, turn=8)")
    assert len(pickle.dumps([ImageTurn(number, 8) for number in range(64)])) < 1500


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_share_an_epoch(world_size, repeats, drop_last):
    options = {"seed": 4, "repeats": repeats, "drop_last": drop_last}
    samplers = [SoftLabelSampler(range(11), rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    given = [[(int(index), index.turn) for index in sampler] for sampler in samplers]
    total = 11 * repeats
    wanted = total // world_size if drop_last else -(-total // world_size)
    assert [len(draws) for draws in given] == [wanted] * world_size == [len(sampler) for sampler in samplers]
    together = [draw for draws in given for draw in draws]
    assert len(set(together)) == min(total, wanted * world_size)
    assert {image for image, _ in together} <= set(range(11))
    alone = [(int(index), index.turn) for index in SoftLabelSampler(range(11), **options)]
    assert [given[place % world_size][place // world_size] for place in range(min(total, wanted * world_size))] == alone[
        : len(set(together))
    ]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_several_epochs_may_make_a_pass(world_size, drop_last):
    def epochs(number, **place):
        sampler = SoftLabelSampler(range(13), parts=4, drop_last=drop_last, **place)
        return [[(int(index), index.turn) for index in sampler] for _ in range(number)]

    alone = epochs(8)
    assert {len(draws) for draws in alone} == {3 if drop_last else 4}
    for first in (0, 4):
        images = [image for draws in alone[first : first + 4] for image, _ in draws]
        assert len(set(images)) == (12 if drop_last else 13)  # none comes before all have been
        assert {turn for draws in alone[first : first + 4] for _, turn in draws} == {first // 4}
    assert [image for image, _ in alone[0]] != [image for image, _ in alone[4]]
    shared = [epochs(8, rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch, draws in enumerate(alone):
        together = {draw for process in shared for draw in process[epoch]}
        assert together <= set(draws)
        assert len(together) == (len(draws) // world_size * world_size if drop_last else len(draws))


def test_a_pass_in_parts_goes_on_in_the_middle():
    sampler = SoftLabelSampler(range(12), parts=3)
    unbroken = [list(sampler) for _ in range(3)]
    other = SoftLabelSampler(range(12), parts=3)
    other.load_state_dict({**other.state_dict(), "epoch": 1, "taken": 2})
    assert [list(other), list(other)] == [unbroken[1][2:], unbroken[2]]
    with pytest.raises(MismatchError, match="state: expected that of a sampler with parts=1, got parts=3"):
        SoftLabelSampler(range(12)).load_state_dict(sampler.state_dict())


def test_fewer_images_than_processes():
    samplers = [SoftLabelSampler(range(2), rank=rank, world_size=5) for rank in range(5)]
    assert [len(list(sampler)) for sampler in samplers] == [1] * 5
    with pytest.raises(ArgumentError, match="world_size: 2 images in 1 epoch are too few for 5 processes"):
        SoftLabelSampler(range(2), rank=0, world_size=5, drop_last=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_stopped_in_the_middle_of_an_epoch_goes_on_exactly(labels, workers):
    def resumable():
        dataset = make(labels)
        sampler = SoftLabelSampler(dataset, seed=1, repeats=2)
        return sampler, load(dataset, sampler=sampler, num_workers=workers)

    sampler, loader = resumable()
    unbroken = [[(pixels.tolist(), targets.indices.tolist()) for pixels, targets in loader] for _ in range(3)]
    sampler, loader = resumable()
    list(loader)
    batches = iter(loader)
    for _ in range(4):
        next(batches)  # workers have read further
    state = json.loads(json.dumps(sampler.state_dict(taken=8)))
    assert (state["epoch"], state["taken"]) == (1, 8)
    sampler, loader = resumable()
    sampler.load_state_dict(state)
    assert sampler.state_dict() == state
    for epoch, first in ((1, 4), (2, 0)):
        sampler.set_epoch(epoch)  # as a training loop does
        assert [(pixels.tolist(), targets.indices.tolist()) for pixels, targets in loader] == unbroken[epoch][first:]


def test_states_at_the_end_of_an_epoch_and_before_the_first():
    sampler = SoftLabelSampler(range(5))
    assert sampler.state_dict()["epoch"] == 0
    list(sampler)
    assert {**sampler.state_dict(), "epoch": 0} == SoftLabelSampler(range(5)).state_dict()
    assert sampler.state_dict()["epoch"] == 1
    sampler.set_epoch(6)
    assert (sampler.state_dict()["epoch"], sampler.epoch) == (6, 6)
    first = iter(sampler)
    next(first)
    second = iter(sampler)  # gives the first one up
    next(first)
    assert (sampler.state_dict()["epoch"], sampler.state_dict()["taken"]) == (7, 0)
    next(second)
    assert sampler.state_dict()["taken"] == 1
    for taken in (2, -1, 1.0):
        with pytest.raises(ArgumentError, match="taken: expected"):
            sampler.state_dict(taken)


def test_steps_counted_from_where_a_run_was_continued_are_refused():
    sampler = SoftLabelSampler(range(9))
    sampler.load_state_dict({**sampler.state_dict(), "taken": 4})
    given = iter(sampler)
    next(given), next(given)
    with pytest.raises(ArgumentError, match="taken: expected 4 to 6, counted from the beginning of epoch 0, got 2"):
        sampler.state_dict(taken=2)
    assert sampler.state_dict(taken=6)["taken"] == 6


def test_states_of_other_samplers_are_refused():
    state = SoftLabelSampler(range(5)).state_dict()
    for other, message in (
        (SoftLabelSampler(range(6)), "num_images=6, got num_images=5"),
        (SoftLabelSampler(range(5), seed=1), "seed=1, got seed=0"),
        (SoftLabelSampler(range(5), rank=0, world_size=2), "world_size=2, got world_size=1"),
    ):
        with pytest.raises(MismatchError, match=f"state: expected that of a sampler with {message}"):
            other.load_state_dict(state)


@pytest.mark.parametrize("taken", [0, 2])
def test_a_loaded_state_is_not_lost_silently(taken):
    sampler = SoftLabelSampler(range(5))
    sampler.load_state_dict({**sampler.state_dict(), "epoch": 3, "taken": taken})
    with pytest.warns(UserWarning, match="epoch 0 was set: the state loaded, of epoch 3, is forgotten"):
        sampler.set_epoch(0)  # as Accelerate does
    assert len(list(sampler)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank and world_size: expected both or neither, got rank=0 and world_size=None"),
        ({"rank": 2, "world_size": 2}, "rank: expected at most 1, as there are 2 processes, got 2"),
        ({"seed": -1}, "seed: expected an integer of at least 0"),
        ({"repeats": 0}, "repeats: expected an integer of at least 1"),
        ({"parts": 0}, "parts: expected an integer of at least 1"),
        ({"images": [0, 9]}, "images: expected numbers of images, 0 to 8, got"),
        ({"images": []}, "images: expected numbers of images"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        SoftLabelSampler(range(9), **arguments)


def test_a_subset_is_given_to_the_sampler(labels):
    dataset = make(labels)
    with pytest.raises(ArgumentError, match="expected a SoftLabelDataset, got a Subset, .* images=subset.indices"):
        SoftLabelSampler(Subset(dataset, [1, 2]))


class EpochsOnTheMove:
    """As timm's MultiEpochsDataLoader: one iterator for all epochs, which reads ahead into the next one, and sets the epoch itself."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        epoch = self.sampler.epoch
        while True:
            self.sampler.set_epoch(epoch)
            epoch += 1
            yield from self.sampler

    def __len__(self):
        return len(self.sampler)


def test_a_loader_that_reads_ahead_into_the_next_epoch(labels):
    dataset = make(labels)
    sampler = SoftLabelSampler(dataset)
    batches = iter(load(dataset, sampler=EpochsOnTheMove(sampler), num_workers=2, persistent_workers=True))
    found = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        found.append(draws_of([next(batches) for _ in range(3)], 3))
    assert found == [{image: [turn(image, number)] for image in range(NUM_IMAGES)} for number in range(3)]


def test_libraries_take_it_for_a_distributed_sampler(monkeypatch):
    sampler = SoftLabelSampler(range(8))  # before the processes know of each other, as in a script that Lightning starts again
    assert isinstance(sampler, DistributedSampler)  # so Lightning does not wrap it
    assert (sampler.rank, sampler.num_replicas) == (0, 1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert (sampler.rank, sampler.num_replicas, len(sampler)) == (1, 2, 4)
    monkeypatch.setitem(sys.modules, "accelerate.state", types.SimpleNamespace(is_initialized=lambda: True))
    with pytest.raises(
        ArgumentError, match="Accelerate splits the batches .* Pass rank=0, world_size=1 .* and rank=1, world_size=2 if not"
    ):
        list(sampler)
    assert len(SoftLabelSampler(range(8), rank=0, world_size=1)) == 8


TOGETHER = """
import sys
import torch
from torch import distributed
from torch.utils.data import DataLoader
from numbered import IMAGES, NUM_IMAGES, PIXELS, draws_of
from softlabel_codec.torch import SoftLabelDataset, SoftLabelSampler, collate_crops

def main():
    dataset = SoftLabelDataset(IMAGES, sys.argv[1], 3, **PIXELS)
    sampler = SoftLabelSampler(dataset, seed=2)
    distributed.init_process_group("gloo")
    options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "spawn"}
    loader = DataLoader(dataset, 2, sampler=sampler, collate_fn=collate_crops, **options)
    for epoch in range(2):
        both = [None, None]
        distributed.all_gather_object(both, draws_of(list(loader), 3))
        assert not both[0].keys() & both[1].keys(), both
        if distributed.get_rank() == 0:
            print(sorted({**both[0], **both[1]}.items()))
    distributed.destroy_process_group()

if __name__ == "__main__":
    main()
"""


def test_two_processes(labels, tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "together.py"), str(labels)]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(softlabel_codec.__file__).parents[1])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    wanted = [[(image, [turn(image, number)]) for image in range(NUM_IMAGES)] for number in range(2)]
    assert done.stdout.splitlines() == [str(draws) for draws in wanted]


@pytest.mark.parametrize("options", [{}, {"stored_crops": 5}, {"keys": KEYS[3:6][::-1]}])
def test_the_reader_draws_what_the_dataset_does(labels, options):
    dataset = make(labels, 2, seed=9, **options)
    dataset.set_epoch(4)
    wanted = dataset.labels_of(range(3))
    stored = {name: value for name, value in options.items() if name == "stored_crops"}
    drawn = dataset.reader.draw(dataset.reader.find(dataset.keys[:3]), crops_per_image=2, seed=9, epoch=4, **stored)
    for mine, theirs in zip(drawn, wanted, strict=True):
        np.testing.assert_array_equal(mine.crops, theirs.crops)
        np.testing.assert_array_equal(mine.flips, theirs.flips)
        np.testing.assert_array_equal(mine.labels.dense(), theirs.labels.dense())
