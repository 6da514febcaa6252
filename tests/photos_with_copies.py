"""A folder of photos with a split, in which everything is wrong that `hf-cl data` looks for."""

import io

import numpy as np
from PIL import Image

CLASSES = ("apple", "birch", "cloud")
TRAIN, TEST = 12, 5


def photo(label, number, side=64):
    """A smooth picture of its own, in its class's colour."""
    noise = np.random.default_rng((label, number)).integers(0, 150, (6, 6, 3))
    noise[..., label] += 105
    return Image.fromarray(noise.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def again(image, quality=85):
    """The picture as JPEG, a little smaller."""
    file = io.BytesIO()
    image.resize((56, 56), Image.Resampling.BICUBIC).save(file, format="JPEG", quality=quality)
    return Image.open(file)


def write_photos(folder):
    """Clean photos, then: a training picture tested on under another name (exact) and as JPEG (near); one under two labels; one twice;
    one in the folder of another class."""
    for label, name in enumerate(CLASSES):
        for part, numbers in (("train", range(TRAIN)), ("test", range(100, 100 + TEST))):
            (folder / part / name).mkdir(parents=True)
            for number in numbers:
                photo(label, number).save(folder / part / name / f"{number}.png")
    photo(0, 3).save(folder / "test" / "apple" / "leak.bmp")
    again(photo(1, 4)).save(folder / "test" / "birch" / "near.png")
    photo(0, 5).save(folder / "train" / "cloud" / "two labels.png")
    photo(2, 6).save(folder / "train" / "cloud" / "twice.png")
    photo(2, 50).save(folder / "train" / "birch" / "wrong.png")
    return folder
