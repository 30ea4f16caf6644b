"""Pictures of what a model answers, the worst objects first: one sheet a case of a labelled folder, or drawn images.

Each tile shows one object on its largest slice: the box in yellow, the true outline in green, the answer in magenta,
name and Dice above. Knows drawing. Must not know how a predictor works. The sheets contain the folder's images: mind
their licences before showing them to anybody.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.cases import Case, SliceObject, read_cases
from export.pretrain.dataset import make_example
from export.pretrain.metrics import dice
from export.pretrain.predictors import Predictor
from export.pretrain.prompts import PromptMix, tight_box

__all__ = ["draw_case", "write_drawn", "write_gallery"]

_TILE = 192
_COLUMNS = 6
_TITLE = 16
_DRAWN_SEED = 99  # no training run's
_WORST = 18
_YELLOW, _GREEN, _MAGENTA = (0, 220, 255), (60, 230, 60), (255, 60, 255)  # BGR


def write_gallery(predictor: Predictor, folder: Path, output: Path) -> list[Path]:
    """Write ``<case>.png`` for every case of the labelled folder into ``output``; returns the files."""
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for case in read_cases(folder):
        path = output / f"{case.name}.png"
        _write(path, draw_case(predictor, case))
        written.append(path)
    return written


def draw_case(predictor: Predictor, case: Case) -> NDArray[np.uint8]:
    """Sheet (H, W, 3), BGR, of all objects of one case."""
    tiles: list[tuple[float, NDArray[np.uint8]]] = []
    for item in case.objects:
        image = case.slice_image(item)
        truth = case.slice_mask(item)
        answer = predictor.decode(predictor.encode(image), item.box[np.newaxis]).masks[0]
        value = dice(answer, truth)
        tiles.append((value, _tile(image, item, truth, answer, value)))
    return _sheet(tiles)


def write_drawn(predictor: Predictor, images: int, output: Path) -> Path:
    """Write the worst answers to tight boxes on images of the generator, one an image, as one PNG or JPEG."""
    tiles: list[tuple[float, NDArray[np.uint8]]] = []
    for index in range(images):
        example = make_example(_DRAWN_SEED, index, prompts=1, mix=PromptMix(neighbour_share=0.0, point_share=0.0))
        image = np.ascontiguousarray(example.pixels.transpose(1, 2, 0))
        truth = example.targets[0] > 0
        box = tight_box(truth).astype(np.float64)
        answer = predictor.decode(predictor.encode(image), box[np.newaxis]).masks[0]
        value = dice(answer, truth)
        item = SliceObject(1, f"drawn {index}", 0, None, box, None, small=False)
        tiles.append((value, _tile(image, item, truth, answer, value)))
    _write(output, _sheet(sorted(tiles, key=lambda tile: tile[0])[:_WORST]))
    return output


def _sheet(tiles: list[tuple[float, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """All tiles, the lowest value first."""
    tiles.sort(key=lambda tile: tile[0])
    pictures = [picture for _, picture in tiles]
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % min(_COLUMNS, len(pictures)))
    columns = min(_COLUMNS, len(pictures))
    rows = [np.hstack(pictures[start : start + columns]) for start in range(0, len(pictures), columns)]
    return np.vstack(rows)


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(path.suffix, picture)
    assert done
    path.write_bytes(encoded.tobytes())


def _tile(
    image: NDArray[np.uint8], item: SliceObject, truth: NDArray[np.bool_], answer: NDArray[np.bool_], value: float
) -> NDArray[np.uint8]:
    """What lies around the box, enlarged."""
    x0, y0, x1, y1 = item.box
    side = 1.7 * max(x1 - x0 + 1, y1 - y0 + 1, 12)
    scale = _TILE / side
    shift = np.array([(x0 + x1) / 2 - side / 2, (y0 + y1) / 2 - side / 2]) + 0.5
    place = np.array([[scale, 0, -scale * shift[0] + 0.5 * scale], [0, scale, -scale * shift[1] + 0.5 * scale]])
    colour = image[..., ::-1] if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
    tile = cv2.warpAffine(np.ascontiguousarray(colour), place, (_TILE, _TILE), flags=cv2.INTER_LINEAR)
    for mask, hue in ((truth, _GREEN), (answer, _MAGENTA)):
        large = cv2.warpAffine(mask.astype(np.uint8), place, (_TILE, _TILE), flags=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, outlines, -1, hue, 1)
    corners = (np.array([[x0 - 0.5, y0 - 0.5], [x1 + 0.5, y1 + 0.5]]) - shift + 0.5) * scale
    (left, top), (right, bottom) = np.rint(corners).astype(int).tolist()
    cv2.rectangle(tile, (left, top), (right, bottom), _YELLOW, 1)
    bar = np.zeros((_TITLE, _TILE, 3), np.uint8)
    cv2.putText(bar, f"{value:.2f} {item.name}"[:30], (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (255, 255, 255), 1)
    return np.asarray(np.vstack([bar, tile]), np.uint8)
