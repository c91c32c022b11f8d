"""From a file's pixels to the study's: intensities to [0, 1], colours, and resampling. Pure, and the same on every machine.

The declared intensities come first, so that resampling mixes what may be mixed: a metal implant beyond the window weighs no more
than the window's end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unisono.site.data.image_formats import Picture, Pixels
from unisono.study.document import ImageVariable, Intensity

_LUMA = (0.299, 0.587, 0.114)
"""Grey from red, green and blue (ITU-R BT.601)."""


def prepared(picture: Picture, variable: ImageVariable) -> NDArray[np.float32]:
    """(channels, height, width) within [0, 1], as the study declares."""
    pixels = _channels(picture.pixels, variable.channels)
    unit = _intensity(pixels, variable.intensity, picture.dark_is_high)
    along = _nearest if variable.resample == "nearest" else _linear
    height, width = variable.size
    sized = along(along(unit, height).swapaxes(1, 2), width).swapaxes(1, 2)
    made: NDArray[np.float32] = np.ascontiguousarray(np.clip(sized, 0.0, 1.0), np.float32)
    return made


def _channels(pixels: Pixels, channels: int) -> Pixels:
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    red, green, blue = (weight * plane for weight, plane in zip(_LUMA, pixels, strict=True))
    grey: Pixels = red + green + blue
    return grey[np.newaxis]


def _intensity(pixels: Pixels, rule: Intensity, dark_is_high: bool) -> Pixels:
    """Within [0, 1]. A file whose high values are shown dark is turned, so that bright is high in every hospital's."""
    if rule.window is not None:
        low, high = rule.window
        above = high - pixels if dark_is_high else pixels - low
        return np.clip(above / (high - low), 0.0, 1.0)
    assert rule.percentiles is not None
    turned = -pixels if dark_is_high else pixels
    low, high = (float(v) for v in np.percentile(turned, rule.percentiles))
    if not low < high:
        return np.zeros_like(turned)
    return np.clip((turned - low) / (high - low), 0.0, 1.0)


def _nearest(pixels: Pixels, wanted: int) -> Pixels:
    """(c, wanted, k) of (c, given, k): the pixels in which the centres of the new ones lie."""
    place = np.floor((np.arange(wanted) + 0.5) * (pixels.shape[1] / wanted)).astype(np.intp)
    return pixels[:, place]


def _linear(pixels: Pixels, wanted: int) -> Pixels:
    """(c, wanted, k) of (c, given, k): linear interpolation between the centres of pixels. Where the picture shrinks, the triangle
    of weights is as wide as the new pixels are far apart, so that no fine structure aliases (as Pillow and PyTorch do it)."""
    given = pixels.shape[1]
    if given == wanted:
        return pixels
    scale = given / wanted
    width = max(scale, 1.0)
    made = np.empty((len(pixels), wanted, pixels.shape[2]))
    for i in range(wanted):
        centre = (i + 0.5) * scale - 0.5
        first, last = max(int(np.ceil(centre - width)), 0), min(int(np.floor(centre + width)), given - 1)
        weights = np.maximum(1.0 - np.abs(np.arange(first, last + 1) - centre) / width, 0.0)
        # Not a matrix product, whose last bits depend on the linear algebra library.
        np.einsum("j,cjk->ck", weights / weights.sum(), pixels[:, first : last + 1], out=made[:, i])
    return made
