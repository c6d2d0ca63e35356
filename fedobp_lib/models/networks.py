"""The two networks of the paper: AvgCNN (Table 3) and ResNet-18 (Table 4)."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from http.client import HTTPException
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import forks
from ..errors import UserError, unknown

# No network, a download cut off or with a wrong checksum, a file that was torn.
CANNOT_LOAD = (OSError, HTTPException, RuntimeError, EOFError, UnpicklingError)


class ImageModel(nn.Module):
    """A network whose last layer, the classifier, is known by name."""

    classifier: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """What the classifier is given: (batch, width)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of normalized images (batch, channels, height, width)."""
        return self.classifier(self.features(images))


class AvgCNN(ImageModel):
    """Two 5x5 convolutions and two linear layers (paper, Table 3).

    The paper writes convolution, ReLU, max-pool. ReLU and max-pool commute exactly, values
    and gradients alike, so the pool comes first here and ReLU has a quarter of the work.

    Args:
        shape: (height, width, channels) of an image.
        classes: width of the classifier.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        if min(height, width) < 16:
            raise UserError(f"AvgCNN needs images of at least 16x16, got {height}x{width}")
        side = [((n - 4) // 2 - 4) // 2 for n in (height, width)]
        self.conv1 = nn.Conv2d(channels, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 5)
        self.fc1 = nn.Linear(64 * side[0] * side[1], 512)
        self.classifier = nn.Linear(512, classes)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier is given: (batch, 512)."""
        x = F.max_pool2d(self.conv1(images), 2).relu_()
        x = F.max_pool2d(self.conv2(x), 2).relu_()
        return self.fc1(x.flatten(1)).relu_()


class ResNet18(ImageModel):
    """torchvision's ResNet-18 with a classifier of its own behind the 512 features.

    The paper's Table 4 lists a further linear layer of 1,000; the authors' code replaces
    torchvision's `fc` by the identity, and so does this. Grey images are repeated to three
    channels.

    Args:
        shape: (height, width, channels) of an image.
        classes: width of the classifier.
        pretrained: start from the ImageNet weights (needs a network the first time).

    Raises:
        UserError: images of another number of channels than 1 or 3, or the weights could not be
            downloaded, or their file is damaged.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, pretrained: bool = False) -> None:
        super().__init__()
        from torchvision.models import ResNet18_Weights, resnet18

        if shape[2] not in (1, 3):
            raise UserError(
                f"ResNet-18 needs images of 1 or 3 channels, got {shape[2]} "
                "(images are height, width, channels)"
            )
        weights = ResNet18_Weights.IMAGENET1K_V1 if pretrained else None
        try:
            # torchvision reports its download on standard output, which is for results.
            with contextlib.redirect_stdout(sys.stderr):
                net = resnet18(weights=weights)
        except CANNOT_LOAD as error:
            if not pretrained:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the ImageNet weights of ResNet-18 could not be loaded ({reason}); "
                "connect to a network once, or run without pretrained weights"
            ) from error
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4
        self.classifier = nn.Linear(512, classes)

    def features(self, images: Tensor) -> Tensor:
        """What the classifier is given: (batch, 512)."""
        x = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu_(), 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


_RANDOM_STATE = forks.lock()

MODELS: dict[str, Callable[..., ImageModel]] = {"avgcnn": AvgCNN, "resnet18": ResNet18}


def build_model(
    name: str, shape: tuple[int, int, int], classes: int, seed: int, pretrained: bool = False
) -> ImageModel:
    """Build a model whose initial weights depend on `seed` alone.

    Args:
        name: a key of `MODELS`.
        shape: (height, width, channels) of an image.
        classes: number of classes.
        seed: seed of the initial weights; global random state is left as it was.
        pretrained: ImageNet weights, where the model has them.

    Raises:
        UserError: unknown model, or pretrained weights asked of a model without any.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    if pretrained and name != "resnet18":
        raise UserError(f"there are no pretrained weights for {name!r}; only for 'resnet18'")
    options = {"pretrained": pretrained} if name == "resnet18" else {}
    # Initial weights are drawn from global random state, which runs in other threads share.
    with _RANDOM_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name](shape, classes, **options)
