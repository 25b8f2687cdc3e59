#!/usr/bin/env python
"""Run an exported model on images: python tools/onnx_demo.py MODEL.onnx IMAGE_OR_FOLDER...

It needs numpy, Pillow and onnxruntime and nothing else of mmatm: copy it, it is a whole program.
Writes OUT_DIR/NAME.png, the image with what was found drawn in, and OUT_DIR/NAME.json. An image
that cannot be used is named and skipped, and the exit status is then 1.
"""

import argparse
import colorsys
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps

Image.MAX_IMAGE_PIXELS = None  # photographs may be larger than Pillow expects
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def find_font() -> Any:
    """A font of the system, because Pillow's own has no letters beyond ASCII."""
    for name in ('DejaVuSans.ttf', 'Arial.ttf', 'arial.ttf'):  # of Linux, macOS and Windows
        try:
            return ImageFont.truetype(name, 12)
        except OSError:
            continue
    return ImageFont.load_default()


FONT = find_font()


class Model:
    """An exported model, and what its file says about it.

    Args:
        path: file that tools/export.py wrote.
        threads: cores to use; 0 takes all.
    """

    def __init__(self, path: Path, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
        texts = self.session.get_modelmeta().custom_metadata_map
        if 'preparation' not in texts:
            sys.exit(f'{path} was not written by tools/export.py: it does not say how to use it')
        self.kind = texts['kind']  # classifier, segmentor or detector
        self.classes: list[str] = json.loads(texts['classes'])
        self.steps: list[dict] = json.loads(texts['preparation'])
        self.min_size: int = json.loads(texts['min_size'])
        self.mask_threshold: float = json.loads(texts.get('mask_threshold', '0.5'))
        self.palette = json.loads(texts.get('palette', 'null')) or [
            [int(255 * v) for v in colorsys.hsv_to_rgb(0.618 * i % 1, 0.75, 0.95)]
            for i in range(len(self.classes))
        ]
        self.inputs = {i.name: i.type for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def __call__(self, image: Image.Image) -> dict[str, np.ndarray]:
        """The outputs of the file by name, for an RGB image of any size.

        Raises:
            ValueError: the image is too small.
        """
        prepared = image
        for step in self.steps:
            prepared = prepare(prepared, step)
        if min(prepared.size) < self.min_size:
            raise ValueError(
                f'it is {prepared.width}x{prepared.height} pixels when prepared, but must have at '
                f'least {self.min_size} on each side'
            )
        pixels = np.asarray(prepared).transpose(2, 0, 1)[None]  # [1, 3, H, W], 0 to 255
        if 'float' in self.inputs['image']:
            pixels = pixels.astype(np.float32)
        values = dict(image=pixels, size=np.array([image.height, image.width], np.int64))
        found = self.session.run(None, {name: values[name] for name in self.inputs})
        return dict(zip(self.outputs, found, strict=True))


def prepare(image: Image.Image, step: dict) -> Image.Image:
    """One step of the preparation that the model was tested with."""
    width, height = image.size
    if step['type'] == 'CenterCrop':
        crop = pair(step['crop_size'])
        left, top = (max(0, round((a - b) / 2)) for a, b in zip(image.size, crop, strict=True))
        return image.crop((left, top, min(width, left + crop[0]), min(height, top + crop[1])))
    if step['type'] == 'ResizeEdge':
        sides = dict(short=min(width, height), long=max(width, height), width=width, height=height)
        other = sides[step.get('edge', 'short')]
        size = int(step['scale'] * width / other), int(step['scale'] * height / other)
    elif step.get('keep_ratio'):
        short, long = sorted(pair(step['scale']))
        factor = min(long / max(width, height), short / min(width, height))
        size = int(width * factor + 0.5), int(height * factor + 0.5)
    else:
        size = pair(step['scale'])
    return resize(image, size, step.get('interpolation', 'bilinear'), step.get('backend', 'cv2'))


def resize(image: Image.Image, size: tuple[int, int], how: str, backend: str) -> Image.Image:
    """Resize as OpenCV does, or as Pillow where the model was trained so."""
    size = max(1, size[0]), max(1, size[1])
    if size == image.size:
        return image
    if how == 'area':
        return image.resize(size, Image.Resampling.BOX)
    if backend == 'pillow':
        return image.resize(size, Image.Resampling[how.upper()])
    # OpenCV takes the nearest pixels when it shrinks an image; Pillow's resize would average more.
    step = (image.width / size[0], 0, 0, 0, image.height / size[1], 0)
    return image.transform(size, Image.Transform.AFFINE, step, Image.Resampling[how.upper()])


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def paste(mask: np.ndarray, box: np.ndarray, width: int, height: int) -> np.ndarray:
    """The probabilities ``[h, w]`` of a grid over a box as those of all pixels, [H, W]."""

    def weights(size: int, start: float, end: float, cells: int) -> np.ndarray:
        place = (np.arange(size) + 0.5 - start) / max(end - start, 1e-6) * cells - 0.5
        return np.maximum(0, 1 - abs(place[:, None] - np.arange(cells)))  # linear interpolation

    down = weights(height, box[1], box[3], mask.shape[0])
    return down @ mask @ weights(width, box[0], box[2], mask.shape[1]).T


def draw(model: Model, image: Image.Image, found: dict, threshold: float) -> tuple[Any, dict]:
    """The image with what was found in it, and the same as JSON."""
    if model.kind == 'classifier':
        best = np.argsort(-found['scores'][0])[:5]
        scores = {model.classes[i]: round(float(found['scores'][0][i]), 4) for i in best}
        text = '\n'.join(f'{name} {score:.2f}' for name, score in scores.items())
        image = image.copy()
        label(ImageDraw.Draw(image), (2, 2), text, (0, 0, 0))
        return image, dict(scores=scores)
    pixels = np.asarray(image, dtype=np.float32)
    if model.kind == 'segmentor':
        labels = found['labels'][0]
        mixed = 0.5 * pixels + 0.5 * np.float32(model.palette)[labels]
        shares = np.bincount(labels.ravel(), minlength=len(model.classes)) / labels.size
        named = {c: round(float(s), 6) for c, s in zip(model.classes, shares, strict=True) if s}
        return Image.fromarray(mixed.astype(np.uint8)), dict(shares=named)

    chosen = [i for i, score in enumerate(found['scores']) if score >= threshold]
    objects = []
    for i in chosen:
        name = model.classes[found['labels'][i]]
        box = [round(float(v), 2) for v in found['boxes'][i]]
        objects.append(dict(name=name, score=round(float(found['scores'][i]), 4), box=box))
        if 'masks' in found:
            mask = paste(found['masks'][i], found['boxes'][i], image.width, image.height)
            inside = mask >= model.mask_threshold
            color = np.float32(model.palette[found['labels'][i]])
            pixels = np.where(inside[..., None], 0.5 * pixels + 0.5 * color, pixels)
            objects[-1]['area'] = int(inside.sum())
    image = Image.fromarray(pixels.astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for i, item in zip(chosen, objects, strict=True):
        color = tuple(model.palette[found['labels'][i]])
        canvas.rectangle(item['box'], outline=color, width=max(1, image.width // 400))
        label(canvas, item['box'][:2], f'{item["name"]} {item["score"]:.2f}', color)
    return image, dict(objects=objects)


def label(canvas: ImageDraw.ImageDraw, place: Any, text: str, color: tuple) -> None:
    canvas.rectangle(canvas.textbbox(place, text, FONT), fill=color)
    canvas.text(place, text, 'white' if sum(color) < 450 else 'black', FONT)


def read(file: Path) -> Image.Image:
    """An image file as RGB, turned as its camera says."""
    image = Image.open(file)
    if image.mode.startswith('I'):  # 16 bits, of which OpenCV keeps the upper 8, and Pillow clips
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert('RGB')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', type=Path, help='file written by tools/export.py')
    parser.add_argument('images', type=Path, nargs='+', help='images, or folders of images')
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'))
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score that is drawn')
    parser.add_argument('--force', action='store_true', help='overwrite files in the folder')
    parser.add_argument('--threads', type=int, default=0, help='cores to use (default: all)')
    args = parser.parse_args()
    for path in (args.model, *args.images):
        if not path.exists():
            sys.exit(f'{path} does not exist')
    files: list[Path] = []
    for path in args.images:
        inside = path.iterdir() if path.is_dir() else [path]
        files += sorted(p for p in inside if p == path or p.suffix.lower() in SUFFIXES)
    if not files:
        sys.exit(f'no image ({" ".join(SUFFIXES)}) in {", ".join(map(str, args.images))}')
    by_name: dict[str, Path] = {}
    for file in files:
        if (other := by_name.setdefault(file.stem, file)) != file:
            sys.exit(f'{other} and {file} have one name, so one result would replace the other')
    targets = [args.out_dir / f'{f.stem}{suffix}' for f in files for suffix in ('.png', '.json')]
    if inputs := {file.resolve() for file in files} & {target.resolve() for target in targets}:
        sys.exit(f'{min(inputs)} would be overwritten: choose another --out-dir')
    if not args.force and (found := next(filter(Path.exists, targets), None)):
        sys.exit(f'{found} exists: choose another --out-dir, or pass --force to overwrite')
    try:
        model = Model(args.model, args.threads)
    except Exception as error:  # onnxruntime has a class of its own for every failure
        reason = str(error).splitlines()[0]
        sys.exit(f'{args.model} must be an .onnx file of tools/export.py, but: {reason}')

    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f'--out-dir {args.out_dir} cannot be made: {error.strerror}')
    skipped = 0
    for file in files:
        try:
            image = read(file)
            drawn, result = draw(model, image, model(image), args.score_thr)
            drawn.save(args.out_dir / f'{file.stem}.png')
            text = json.dumps(dict(image=str(file), **result))
            (args.out_dir / f'{file.stem}.json').write_text(text)
        except Exception as error:  # decoders and onnxruntime raise many types
            print(f'{file} is skipped: {error}', file=sys.stderr)
            skipped += 1
    print(f'{len(files) - skipped} images: {args.out_dir.resolve()}')
    sys.exit(1 if skipped else 0)


if __name__ == '__main__':
    main()
