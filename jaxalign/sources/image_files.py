"""Pictures in files: PNG, JPEG and whatever else Pillow reads, of any size, decoded one at a time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxalign.errors import DataError
from jaxalign.sources.media import Asked, Listing, checked_index, content_sha256, listed

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

GREY = 128
"""What is seen through transparent pixels, the same in red, green and blue."""

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Images:
    """Pictures of a folder, or those that a table names.

    Every picture becomes red, green and blue, 8 bits each, upright (the EXIF orientation is applied). Transparency is
    laid on mid grey (128), palettes are looked up, grey becomes three equal colours, and 16 bits become 8 by rounding
    grey values and by the upper byte of colours. Embedded colour profiles are ignored: values are taken as sRGB. A
    picture stays as large as it is.

    Attributes:
        path: folder; with a table, the folder that its files are in (that of the table when empty). Relative folders are
            looked for here and under the data folders.
        pattern: of file names, such as "cat_*.png".
        recursive: look into folders within the folder, too.
        table: CSV or TSV file with the columns stimulus_id, file and, if folds must not split some, group. Without it a
            stimulus id is a file's name without its suffix.
    """

    path: str = ""
    pattern: str = "*"
    recursive: bool = False
    table: str = ""

    @cached_property
    def _listing(self) -> Listing:
        return listed(Asked("images", self.path, self.pattern, self.recursive, self.table, SUFFIXES))

    def ids(self) -> tuple[str, ...]:
        """Stimulus ids in order: natural order of names (2 before 10), or the order of the table.

        Raises:
            ConfigError: if no folder or table is named, or the folder does not exist.
            DataError: if there are no files, some are missing, or two have one id.
        """
        return self._listing.ids

    def groups(self) -> np.ndarray | None:
        """(n_stimuli,) number of each stimulus' group, or None where the table names no groups."""
        return self._listing.groups

    def content_sha256(self) -> str:
        """Digest of all ids and of the bytes of all files; reads them all."""
        return content_sha256(self._listing)

    def images(self) -> Iterator[np.ndarray]:
        """Stimuli in order, each (height, width, 3) uint8; see `image`."""
        return (self.image(index) for index in range(len(self.ids())))

    def image(self, index: int) -> np.ndarray:
        """One stimulus, decoded now. -> (height, width, 3) uint8

        Args:
            index: position among the ids.
        Raises:
            DataError: if the file is no picture, damaged, cut short, or has several frames; others can still be read.
        """
        path = self._listing.paths[checked_index(index, len(self.ids()))]
        return _decoded(path)


def _decoded(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            n_frames = getattr(opened, "n_frames", 1)
            if n_frames > 1 and opened.format != "MPO":  # the first frame of a camera's MPO is the picture
                raise DataError(f"{path} has {n_frames} frames: a stimulus is one picture. Save one frame of it.")
            opened.load()
            return np.array(_rgb(ImageOps.exif_transpose(opened), path))
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        if isinstance(error, DataError):
            raise
        size = path.stat().st_size if path.is_file() else 0
        raise DataError(
            f"{path} ({size} bytes) cannot be decoded as a picture: {error}. Copy or download it again, or leave the stimulus out."
        ) from error


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """Any mode of Pillow as 8-bit RGB."""
    from PIL import Image

    is_wide_grey = image.mode in SIXTEEN_BIT or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if is_wide_grey:
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        raise DataError(
            f"{path} holds numbers from {low} to {high} of 32 bits, and which of them is white is unknown: save it with 8 or 16 bits."
        )
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (GREY, GREY, GREY, 255)), over).convert("RGB")
    return image.convert("RGB")
