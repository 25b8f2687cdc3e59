"""Tiny data sets in the layouts that users have, for tests to damage."""

import json

import numpy as np
from PIL import Image

SIZE = (64, 48)  # width, height


def photo(path, size=SIZE, mode='RGB', **options):
    """Write an image of noise, which no reader takes for a label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name) + sum(path.stem.encode()))
    noise = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return path


def write(path, text):
    """Write a text file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def voc_xml(objects, size=SIZE, filename='', **extra):
    """An annotation; objects are (name, xmin, ymin, xmax, ymax[, difficult])."""
    words = ['<annotation>', f'<filename>{filename}</filename>']
    if size:
        words.append(f'<size><width>{size[0]}</width><height>{size[1]}</height></size>')
    for name, *box in objects:
        corners = zip(('xmin', 'ymin', 'xmax', 'ymax', 'difficult'), box, strict=False)
        inner = ''.join(f'<{key}>{value}</{key}>' for key, value in corners)
        words.append(f'<object><name>{name}</name><bndbox>{inner}</bndbox>')
        words.append(f'<difficult>{box[4] if len(box) > 4 else 0}</difficult></object>')
    return ''.join([*words, '</annotation>'])


def voc(root, number=6, name='cell'):
    """A VOC folder without lists: one object per image, two on the first."""
    for at in range(number):
        photo(root / 'JPEGImages' / f'{at}.jpg')
        objects = [(name, 5, 5, 25 + at, 30)]
        if at == 0:
            objects.append((name, 40, 20, 60, 40))
        write(root / 'Annotations' / f'{at}.xml', voc_xml(objects, filename=f'{at}.jpg'))
    return root


def square(x, y, side):
    """A COCO annotation without ids."""
    corners = [x, y, x + side, y, x + side, y + side - 4, x + side / 2, y + side, x, y + side]
    box = [x, y, side, side]
    return {'bbox': box, 'area': side * side, 'segmentation': [corners], 'iscrowd': 0}


def coco(root, split='train', number=4, categories=((3, 'red cell'), (7, 'dust')), start=0):
    """A COCO split: an object of each category per image, none on the last."""
    images, annotations = [], []
    for at in range(start, start + number):
        image = photo(root / split / f'{at:03}.png')
        images.append({'id': at, 'file_name': image.name, 'width': SIZE[0], 'height': SIZE[1]})
        for place, (category, _) in enumerate(categories if at < start + number - 1 else ()):
            ids = {'id': 100 * at + place, 'image_id': at, 'category_id': category}
            annotations.append({**ids, **square(2 + 20 * place, 5, 14 + at % 3)})
    content = {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': key, 'name': name} for key, name in categories],
    }
    write(root / 'annotations' / f'instances_{split}.json', json.dumps(content))
    return root


def change(file, edit):
    """Edit a JSON file."""
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def yolo(root, number=6, folder='images', names=('cell',), line='0 0.4 0.5 0.3 0.4'):
    """A YOLO folder: one object per image."""
    for at in range(number):
        image = photo(root / folder / f'{at}.jpg')
        labels = image.parent.parts
        labels = [('labels' if part == 'images' else part) for part in labels]
        write(type(root)(*labels, f'{at}.txt'), line + '\n')
    if names:
        write(root / 'classes.txt', '\n'.join(names))
    return root


def label_map(path, labels, palette=None):
    """Write an array as 8-bit grayscale or RGB, or with a palette of 256 colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(labels, np.uint8))
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def stripes(values, size=SIZE):
    """Vertical stripes of the values: [H, W] or [H, W, 3]."""
    values = np.asarray(values)
    columns = np.arange(size[0]) * len(values) // size[0]
    return np.repeat(values[columns][None], size[1], axis=0)


def segnet(root, values, splits=('train', 'val'), number=3):
    """Folders train, trainannot and so on, with PNG images and stripes of the values."""
    for split in splits:
        for at in range(number):
            photo(root / split / f'{split}_{at}.png')
            label_map(root / f'{split}annot' / f'{split}_{at}.png', stripes(values))
    return root


def class_folders(root, classes=('red cell', 'train'), number=4):
    """A folder of images per class."""
    for name in classes:
        for at in range(number):
            photo(root / name / f'{at}.jpg')
    return root
