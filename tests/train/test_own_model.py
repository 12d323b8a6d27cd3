"""What the README shows: a user's model, a user's LightningModule, and MSQ as a callback."""

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from msq.recipe import Budget
from train.bit_pruner import PruningRule
from train.methods.msq import Msq
from train.quantize import quantize


class OwnModule(lightning.LightningModule):
    """As a user would write it, for any task; MSQ needs only `loss(batch)`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def test_a_users_own_model_and_module_train_to_the_budget() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, stride=2, groups=8),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8 * 2 * 2, 4),
    )  # fmt: skip
    images, labels = torch.rand(64, 3, 10, 10) * 2 - 1, torch.randint(0, 4, (64,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    model = quantize(net, input_range=(-1.0, 1.0))
    with torch.no_grad(), model.activations("calibrate"):
        model(images)
    msq = Msq(model, PruningRule(interval=4, hessian_batch=8), Budget(average_bits=3.0), epochs=2, seed=0)
    trainer = lightning.Trainer(
        max_epochs=3, callbacks=[msq], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(OwnModule(model), loader)
    assert 2.5 < model.average_bits <= 3.0
    assert set(model.bits()) == {"0", "3", "7"}
    assert torch.isfinite(model.eval()(images)).all()
