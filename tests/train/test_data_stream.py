"""Images read while they are used: the same batches however many workers and processes there are."""

import gc
import multiprocessing
import os
import signal
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.Image import Resampling
from pydantic import ValidationError
from torch import Tensor

from msq.errors import DataError
from msq.framing import frame, readable
from msq.preprocessing import normalise
from train.data.decoders import Decoders, Part
from train.data.sets import imagenet
from train.data.stream import StreamedDataset, StreamLoader
from train.data.tree import File
from train.data.views import CentreView

N = 13
FORMATS = ("JPEG", "png", "webp", "jpg")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A class for every training image, so that its label says which it is; images of several sizes and formats."""
    root = tmp_path_factory.mktemp("data") / "flowers"
    random = np.random.default_rng(0)
    for index in range(N):
        for part, count in (("train", 1), ("val", 1 + index % 3)):
            folder = root / part / f"class{index:02}"
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = random.integers(9, 60, 2)
                coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
                picture = Image.fromarray(coarse).resize((int(width), int(height)))
                picture.save(folder / f"{number}.{FORMATS[index % 4]}")
    return root


def data(tree: Path, **options: object) -> StreamedDataset:
    chosen = {"path": tree, "size": 8, "resize": 10, "workers": 0} | options
    return imagenet.load(imagenet.Options.model_validate(chosen))


def labels_of(loader: StreamLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def by_label(loader: StreamLoader) -> dict[int, Tensor]:
    return {int(label): image for images, labels in loader for image, label in zip(images, labels, strict=True)}


def epochs(loader: StreamLoader, *wanted: int) -> list[tuple[Tensor, Tensor]]:
    found = []
    for epoch in wanted:
        loader.set_epoch(epoch)
        found += list(loader)
    return found


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


@pytest.fixture
def children() -> set[int]:
    """Processes that there were before."""
    return {child.pid or 0 for child in multiprocessing.active_children()}


# ---- order and looks


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_however_many_workers_there_are(tree, workers):
    alone, shared = data(tree), data(tree, workers=workers)
    assert same(epochs(alone.training(4, seed=7), 0, 1, 5), list(epochs(shared.training(4, seed=7), 0, 1, 5)))
    assert same(list(alone.testing(4)), list(shared.testing(4)))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), before=st.lists(st.integers(0, 5), max_size=2))
def test_an_epoch_is_a_function_of_seed_and_epoch_alone(tree, seed, epoch, before):
    fresh, used = data(tree).training(4, seed=seed), data(tree).training(4, seed=seed)
    epochs(used, *before)
    torch.manual_seed(seed % 1000)
    assert same(epochs(fresh, epoch), epochs(used, epoch))


def test_epochs_and_seeds_differ_in_order_and_in_looks(tree):
    found = [by_label(data(tree).training(1, seed=seed)) for seed in (0, 1)]
    loader = data(tree).training(1, seed=0)
    loader.set_epoch(1)
    found.append(by_label(loader))
    assert len({str(list(seen)) for seen in found}) == 3
    for label in range(N):
        assert len({seen[label].numpy().tobytes() for seen in found}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_left_and_resumed_at_any_batch(tree, workers):
    loader = data(tree, workers=workers).training(3, seed=1)
    loader.set_epoch(3)
    whole = list(loader)
    for start in range(len(loader) + 1):
        next(iter(loader))
        loader.set_epoch(3, start_batch=start)
        assert same(list(loader), whole[start:])
    assert same(list(loader), whole), "only one iteration starts late"


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_inside_another_disturbs_neither(tree, workers):
    loader = data(tree, workers=workers).training(3, seed=1)
    whole = list(loader)
    outer = []
    for batch in loader:
        outer.append(batch)
        assert same(list(loader), whole)
    assert same(outer, whole)


def test_workers_are_kept_from_one_epoch_and_one_loader_to_the_next(tree, children):
    streamed = data(tree, workers=2)
    seen = set()
    for loader in (streamed.training(4, seed=0), streamed.training(3, seed=1), streamed.testing(5)):
        epochs(loader, 0, 1)
        next(iter(loader))
        seen |= {child.pid for child in multiprocessing.active_children()} - children
    assert len(seen) == 2


def test_workers_end_with_their_dataset_though_it_be_in_a_circle_of_references(tree, children):
    circle: list[object] = [data(tree, workers=2)]
    circle.append(circle)
    loader = circle[0].training(4, seed=0)  # type: ignore[attr-defined]
    next(iter(loader))
    workers = {child for child in multiprocessing.active_children() if child.pid not in children}
    assert len(workers) == 2
    del circle, loader
    gc.collect()
    assert not any(worker.is_alive() for worker in workers)


def test_the_global_generator_is_left_alone(tree):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    list(data(tree, workers=1).training(4, seed=0))
    assert torch.equal(torch.rand(1), wanted)


@given(batch_size=st.integers(1, N), world_size=st.integers(1, 4), epoch=st.integers(0, 9))
def test_shards_are_disjoint_and_together_the_batches_of_one_process(tree, batch_size, world_size, epoch):
    if batch_size * world_size > N:
        return
    streamed = data(tree)
    shards = [streamed.training(batch_size, seed=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    alone = streamed.training(batch_size * world_size, seed=2)
    for loader in (*shards, alone):
        loader.set_epoch(epoch)
    seen = [labels_of(shard) for shard in shards]
    assert all(len(batch) == batch_size for batches in seen for batch in batches)
    assert [sorted(chain(*step)) for step in zip(*seen, strict=True)] == [sorted(batch) for batch in labels_of(alone)]
    assert len(set(chain(*chain(*seen)))) == len(alone) * batch_size * world_size
    # An image looks alike in whichever process it falls.
    looks = by_label(alone)
    for shard in shards:
        assert all(torch.equal(looks[label], image) for label, image in by_label(shard).items())


# ---- the test set


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_tested_is_what_the_checkpoint_keeps(tree, workers):
    streamed = data(tree, workers=workers)
    kept = torch.cat(list(streamed.evaluation()))
    assert (kept.dtype, kept.shape) == (torch.uint8, (len(streamed.test_labels), 8, 8, 3))
    files = [path for name in streamed.labels for path in sorted((tree / "val" / name).iterdir())]
    framed = {frame(Image.open(path), streamed.input).tobytes() for path in files}
    assert {image.numpy().tobytes() for image in kept} == framed  # the framing that is kept is what was tested
    images, labels = (torch.cat(found) for found in zip(*streamed.testing(4), strict=True))
    assert torch.equal(labels, streamed.test_labels)
    wanted = normalise(kept.numpy(), imagenet.Options(path=tree).mean, imagenet.Options(path=tree).std)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), wanted)
    assert images[:1].is_contiguous(memory_format=torch.channels_last)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), most=st.integers(1, 60), seed=st.randoms())
def test_kept_images_are_of_all_classes_alike_and_the_same_on_every_machine(counts, most, seed):
    files = [File(f"c{label}/{i}.png", label, 1, 0) for label, count in enumerate(counts) for i in range(count)]
    shuffled = list(files)
    seed.shuffle(shuffled)
    kept = imagenet.chosen(files, most)
    assert kept == imagenet.chosen(shuffled, most)
    assert len(set(kept)) == len(kept) == min(most, len(files))
    taken = [sum(file.label == label for file in kept) for label in range(len(counts))]
    # A class has one less than another only by its turn, or because it has no more.
    assert all(n == count or n >= max(taken) - 1 for n, count in zip(taken, counts, strict=True))


def test_fewer_kept_images_are_a_part_of_more(tree):
    many, few = data(tree), data(tree, test_images=5)
    assert len(few.test_labels) == few.id().test == 5
    assert torch.equal(next(few.evaluation()), next(many.evaluation())[:5])


# ---- identity


def test_the_identity_depends_on_names_and_sizes_of_files(tree, tmp_path):
    def copy(name: str) -> Path:
        for file in tree.rglob("*.*"):
            target = tmp_path / name / file.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        return tmp_path / name

    renamed, grown = copy("renamed"), copy("grown")
    (renamed / "train/class00/0.JPEG").rename(renamed / "train/class00/1.JPEG")
    with (grown / "val/class01/0.png").open("ab") as stream:
        stream.write(b"\0")
    found = {data(path).id().sha256 for path in (tree, copy("same"), renamed, grown)}
    assert len(found) == 3
    assert data(tree).id().sha256 == data(tmp_path / "same").id().sha256
    assert (data(tree).id().name, data(tree).id().train) == ("flowers", N)


# ---- errors


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "cut"])
def test_an_unreadable_image_is_named_in_one_line(tmp_path, workers, content):
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        for index in range(6):
            Image.fromarray(random.integers(0, 256, (30, 20, 3), np.uint8)).save(tmp_path / part / f"cat/{index}.JPEG")
    bad = tmp_path / "train" / "cat" / "4.JPEG"
    bad.write_bytes(bad.read_bytes()[:800] if content is None else content)
    with pytest.raises(DataError, match=r"train/cat/4\.JPEG: not a readable image") as caught:
        list(data(tmp_path, workers=workers).training(2, seed=0))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert caught.value.hint == "mend or remove the file"
    assert len(list(data(tmp_path, workers=workers).testing(2))) == 3


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(["JPEG", "PNG", "WEBP"]), place=st.floats(0, 1), junk=st.binary(max_size=40))
def test_a_damaged_file_gives_pixels_or_a_clear_error(tmp_path, suffix, place, junk):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.arange(48 * 3, dtype=np.uint8).reshape(6, 8, 3)).save(path)
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] + junk + content[at + len(junk) :] if junk else content[:at])
    try:
        with readable(path) as image:
            seen = CentreView(4, 5, Resampling.BILINEAR)(image, np.random.default_rng(0))
    except DataError as error:
        assert str(error).startswith(f"{path}: not a readable image")
    else:
        assert (seen.size, seen.mode) == ((4, 4), "RGB")


class Dying:
    """A view whose process is killed, as the system does when memory runs out."""

    size = 4

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        return image


def test_a_worker_that_dies_is_reported_in_one_line(tree):
    decoders = Decoders([Part(tree / "train", np.array([b"class00/0.JPEG"]), Dying())], workers=1)
    with pytest.raises(DataError, match="a process that decodes images died") as caught:
        list(decoders.batches([(0, 0, 0, [0])]))
    assert "data.workers" in caught.value.hint


def test_fewer_images_than_one_step_are_refused(tree):
    streamed = data(tree)
    with pytest.raises(DataError, match="flowers: 13 training images are fewer than the 14 of one step") as caught:
        streamed.training(7, seed=0, world_size=2)
    assert caught.value.hint == "set float.batch_size to 6 or less"


@pytest.fixture
def small(tmp_path) -> Path:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / part / name / "0.png")
    return tmp_path


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_class_without_images_is_refused(small, part):
    (small / part / "dog" / "0.png").rename(small / part / "dog" / "0.txt")
    with pytest.raises(DataError, match=f"{part}/dog: no images of this class"):
        data(small)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_that_is_missing_or_has_no_classes_is_refused(small, part):
    (small / part).rename(small / "elsewhere")
    with pytest.raises(DataError, match=f"{part}: no such folder"):
        data(small)
    (small / part).mkdir()
    Image.new("RGB", (9, 9)).save(small / part / "flat.png")
    with pytest.raises(DataError, match=f"{part}: no class folders") as caught:
        data(small)
    assert "folder per class" in caught.value.hint


def test_a_class_that_is_only_tested_is_refused(small):
    (small / "val" / "horse").mkdir()
    with pytest.raises(DataError, match="class 'horse' is not among"):
        data(small)


def test_a_link_to_nothing_is_named(small):
    (small / "train" / "cat" / "1.png").symlink_to(small / "gone.png")
    with pytest.raises(DataError, match=r"cat/1\.png: a link to a file that is not there"):
        data(small)


def test_a_centre_larger_than_the_image_is_refused(small):
    with pytest.raises(ValidationError, match=r"resize \(6\) is less than size \(8\)"):
        data(small, resize=6)
