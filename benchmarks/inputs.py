"""The calibration and test images of the measurements in docs/, as the networks want them.

    python benchmarks/inputs.py resnet20 -o r20        # r20/calib.npz, 512 training images; r20/test.npz, 2,000 others
    python benchmarks/inputs.py mobilenet_v2 -o mv2    # mv2/calib.npz, 250 photographs; mv2/test.npz, 500 others
    python benchmarks/inputs.py resnet50 -o r50        # r50/calib.npz, 256 images of seeded normal numbers

Test files hold `labels`, too. Reads, below `--data` (by default beside the checkout), `cifar10/cifar10_subset.npz`,
with uint8 `x_train`, `x_test` [n, 32, 32, 3] and `y_test`, and `imagenet/calib_250.zip` and `eval_500.zip`, JPEG files
of 224 x 224 pixels with `labels.json`. Reading JPEG needs `pip install "smec[test]"`.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR10 = "cifar10/cifar10_subset.npz"
IMAGENET_CALIB = "imagenet/calib_250.zip"
IMAGENET_EVAL = "imagenet/eval_500.zip"

# Channel statistics of ImageNet (RGB, of values in 0..1), which the ResNet-20 was trained with.
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

#: float32 [n, c, h, w], and the classes, int64 [n].
Images = tuple[np.ndarray, np.ndarray]


@cache
def cifar10(data: Path = DATA) -> dict[str, np.ndarray]:
    """`x_train`, `y_train`, `x_test`, `y_test` as they are stored: images uint8 [n, 32, 32, 3], values 0..255."""
    with np.load(data / CIFAR10) as file:
        return {name: file[name] for name in file.files}


def cifar10_test(count: int = 2000, data: Path = DATA) -> Images:
    """The first `count` CIFAR-10 test images as the ResNet-20 wants them, float32 [n, 3, 32, 32]; labels, int64 [n]."""
    stored = cifar10(data)
    return _normalised(stored["x_test"][:count]), stored["y_test"][:count].astype(np.int64).ravel()


def cifar10_calib(count: int = 500, data: Path = DATA) -> np.ndarray:
    """The first `count` CIFAR-10 training images as the ResNet-20 wants them, float32 [n, 3, 32, 32]."""
    return _normalised(cifar10(data)["x_train"][:count])


def _normalised(images: np.ndarray) -> np.ndarray:
    """uint8 NHWC -> float32 NCHW, ((x / 255) - MEAN) / STD."""
    scaled = (images.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def photographs(archive: Path, count: int | None = None) -> Images:
    """The first `count` (default all) photographs of `archive`, by name, as MobileNet-v2 wants them.

    Returns float32 [n, 3, 224, 224], RGB / 127.5 - 1, and the ImageNet classes, int64 [n], 0..999.
    """
    from PIL import Image

    with zipfile.ZipFile(archive) as file:
        labels: dict[str, int] = json.loads(file.read("labels.json"))
        names = sorted(labels)[:count]
        images = np.empty((len(names), 3, 224, 224), dtype=np.float32)
        for index, name in enumerate(names):
            with Image.open(io.BytesIO(file.read(name))) as image:
                pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
            images[index] = pixels.transpose(2, 0, 1) / np.float32(127.5) - np.float32(1)
    return images, np.array([labels[name] for name in names], dtype=np.int64)


def _resnet20(data: Path) -> tuple[np.ndarray, Images]:
    return cifar10_calib(512, data), cifar10_test(data=data)


def _mobilenet_v2(data: Path) -> tuple[np.ndarray, Images]:
    return photographs(data / IMAGENET_CALIB)[0], photographs(data / IMAGENET_EVAL)


def _resnet50(_: Path) -> tuple[np.ndarray, None]:
    return np.random.default_rng(1).standard_normal((256, 3, 224, 224), np.float32), None


#: By network: the name of its input, and what makes calibration images and test images.
NETWORKS: dict[str, tuple[str, Callable[[Path], tuple[np.ndarray, Images | None]]]] = {
    "resnet20": ("input", _resnet20),
    "mobilenet_v2": ("input", _mobilenet_v2),
    "resnet50": ("image", _resnet50),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for calib.npz and test.npz")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    name, images_of = NETWORKS[arguments.network]
    calib, test = images_of(arguments.data)
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.output / "calib.npz", **{name: calib})
    print(f"{arguments.output / 'calib.npz'}: {len(calib)} images")
    if test is not None:
        np.savez(arguments.output / "test.npz", **{name: test[0]}, labels=test[1])
        print(f"{arguments.output / 'test.npz'}: {len(test[0])} images and labels")


if __name__ == "__main__":
    main()
