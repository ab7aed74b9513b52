"""Writing to file objects in place of paths."""

import io
import socket
import threading

import pytest
from conftest import write_labels

from softlabel_codec import ArgumentError, SoftLabelReader, SoftLabelWriter, StateError, TruncatedError
from softlabel_codec.sampler import CropSampler


class OnlyWrite:
    """Takes bytes, and has nothing else."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += data


class AFewBytes(io.RawIOBase):
    """Takes at most seven bytes at a time, as a socket may."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data[:7])
        return min(7, len(data))


def written_to_a_path(tmp_path, **options):
    write_labels(tmp_path / "labels.slc", **options)
    return (tmp_path / "labels.slc").read_bytes()


@pytest.mark.parametrize("stream", [OnlyWrite, AFewBytes])
@pytest.mark.parametrize(
    "options", [{"codec": "marginal_smoothing:t=0.05,tail=4"}, {"codec": "dense", "crops": "derived", "sampler": CropSampler(seed=0)}]
)
def test_a_file_object_gets_the_bytes_of_a_file(tmp_path, stream, options):
    written = stream()
    write_labels(written, **options)
    assert written.data == written_to_a_path(tmp_path, **options)


def test_a_file_object_is_flushed_and_not_closed(tmp_path):
    with open(tmp_path / "stream.slc", "wb") as file:
        file.write(b"before")
        write_labels(file)
        assert not file.closed
        assert (tmp_path / "stream.slc").read_bytes() == b"before" + written_to_a_path(tmp_path)


def test_labels_go_through_a_socket(tmp_path):
    here, there = socket.socketpair()
    received = bytearray()
    reader = threading.Thread(target=lambda: received.extend(there.makefile("rb").read()))
    reader.start()
    with here, here.makefile("wb", buffering=0) as stream:
        write_labels(stream)
        here.shutdown(socket.SHUT_WR)
    reader.join()
    there.close()
    assert bytes(received) == written_to_a_path(tmp_path)


def test_an_exception_leaves_a_file_without_an_end(tmp_path):
    stream = OnlyWrite()
    keys = ["a", "a"]
    with pytest.raises(ArgumentError, match="an image with this key was added before"):
        write_labels(stream, "hard", counts=(300, 1), keys=keys)
    (tmp_path / "cut.slc").write_bytes(stream.data)
    assert len(stream.data) > 300, "a whole block was written"
    with pytest.raises(TruncatedError, match="it is cut off, or was never finished"):
        SoftLabelReader(tmp_path / "cut.slc")


def test_a_file_object_that_fails_ends_the_writer():
    class Full(OnlyWrite):
        def write(self, data):
            if self.data:
                raise OSError(28, "No space left on device")
            super().write(data)

    with SoftLabelWriter(Full(), 20, "hard") as writer:
        with pytest.raises(OSError, match="No space left"):
            writer.finish()
        with pytest.raises(StateError, match="<Full>: the writer is failed. What was written is incomplete, and cannot be continued"):
            writer.finish()


class WouldWait(AFewBytes):
    def write(self, data):
        return None


class Stuck(OnlyWrite):
    def write(self, data):
        return 0


@pytest.mark.parametrize("stream", [WouldWait, Stuck])
def test_a_file_object_that_takes_nothing_is_an_error(stream):
    with pytest.raises(OSError, match="expected a file object that waits until it has written some of"):
        SoftLabelWriter(stream(), 20, "hard")


def test_arguments_that_do_not_fit_a_file_object(tmp_path):
    with (
        open(tmp_path / "labels.txt", "w") as file,
        pytest.raises(ArgumentError, match="labels.txt: expected a file object that takes bytes, got one that takes text"),
    ):
        SoftLabelWriter(file, 20, "hard")
    for option in ("resume", "overwrite"):
        with pytest.raises(ArgumentError, match="resume, overwrite, partial: are for paths"):
            SoftLabelWriter(OnlyWrite(), 20, "hard", **{option: True})
