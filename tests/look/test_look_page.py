"""The page that mmatm.look writes, in headless Chromium."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
import torch

pytest.importorskip('playwright')

from browser import chromium, opened
from commands import ROOT
from mmatm.look import Block, Capture, LookError
from mmatm.look.page import LIMIT, payload, render
from mmatm.look.running import NOTHING, Look, Prediction

DETECTED = [
    dict(label=0, score=0.9, box=[10, 10, 50, 50], polygons=[[10, 10, 50, 10, 50, 50, 10, 50]]),
    dict(label=1, score=0.6, box=[60, 20, 90, 60], polygons=[]),
]


def made_up(height=64, width=96, depths=(2, 3), groups=4, spread=2.0, found='instances', seed=0):
    """A look at an image by a model that does not exist: offsets of a few waves."""
    random = torch.Generator().manual_seed(seed)
    blocks = []
    for stage, depth in enumerate(depths):
        size = height // 4 // 2**stage, width // 4 // 2**stage
        for index in range(depth):
            generates = index % 2 == 0 and index != depth - 1
            if generates:
                y, x = (torch.linspace(0, 6, n) for n in size)
                phases = 6 * torch.rand(2 * groups, generator=random)
                waves = torch.sin(y[:, None, None] + phases) + torch.cos(x[:, None] + 2 * phases)
                offset = spread * 2**stage * waves
            gate = torch.randn(4 * groups, 3, generator=random).softmax(-1)
            blocks.append(Block(stage, index, generates, offset, gate))
    numbers = np.random.default_rng(0)
    coarse = numbers.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    labels = np.full((height, width), NOTHING, np.uint16)
    labels[8:40, 8:40], labels[8:40, 56:80], labels[48:, :] = 0, 0, 1
    kinds = dict(
        instances=Prediction(
            'instances', ['cat', 'dog'], [[230, 60, 60], [70, 110, 240]], DETECTED
        ),
        labels=Prediction('labels', ['sky', 'road'], [[230, 60, 60], [70, 110, 240]], [], labels),
    )
    cams = {'cat': np.linspace(0, 1, height * width).reshape(height, width)}
    pixels = coarse.repeat(8, 0).repeat(8, 1)
    return Look(f'epoch_{seed}.pth', pixels, Capture(torch.empty(0), blocks), kinds[found], cams)


@pytest.fixture
def show(tmp_path):
    """A function that opens the page of some looks."""

    def show(*looks, **options):
        file = tmp_path / 'look.html'
        file.write_text(render(payload(list(looks), 'model', '<b>&.jpg')))
        return opened(file, **options)

    return show


READY = 'body[data-ready]'
IMAGES = """() => {
  const hash = (c) => c.toDataURL().split('').reduce((h, s) => (h * 31 + s.charCodeAt()) | 0, 7);
  const of = (selector) => [...document.querySelectorAll(selector)].map(hash).join();
  return {base: of('.panel canvas:first-child'), over: of('.panel canvas:last-child'),
          gate: of('.gate canvas'), histogram: of('.histogram'), thumbs: of('.thumb canvas'),
          legend: of('#legend canvas'), address: location.hash, caption: caption.textContent};
}"""


def images(page):
    """Hashes of all drawings, when they are complete."""
    page.wait_for_timeout(120)
    return page.evaluate(IMAGES)


def address(page):
    return dict(part.split('=') for part in page.evaluate('location.hash')[1:].split('&'))


def changed(page, action):
    """Which drawings an action changes."""
    before = images(page)
    action()
    after = images(page)
    return {name for name in before if before[name] != after[name]}


@chromium
def test_positions_in_the_page_are_those_captured(show):
    look = made_up(spread=3)
    with show(look) as page:
        page.wait_for_selector(READY)
        blocks = page.evaluate(
            'look.models[0].blocks.map((b) => ({step: b.step, offset: [...b.offset],'
            'gate: [...b.gate], weight: b.weight.map((w) => [...w])}))'
        )
    for found, block in zip(blocks, look.captured.blocks, strict=True):
        offset = np.reshape(found['offset'], block.offset.permute(2, 0, 1).shape) * found['step']
        error = abs(offset - block.offset.permute(2, 0, 1).numpy()).max()
        assert error <= found['step'] / 2 + 1e-6
        gate = np.reshape(found['gate'], (3, -1)).T
        np.testing.assert_allclose(gate, block.gate, atol=1e-5)
        weights = block.gate.unflatten(0, (4, 4)).mean(1)[:, :2].T
        np.testing.assert_allclose(found['weight'], weights, atol=1e-5)


@chromium
def test_every_control_changes_what_it_says(show):
    with show(made_up()) as page:
        page.wait_for_selector(READY)

        def press(name, value):
            return lambda: page.click(f'#{name} [data-value="{value}"]')

        assert changed(page, press('stage', 0)) >= {'base', 'over', 'gate', 'histogram', 'address'}
        assert changed(page, press('block', 1)) >= {'over', 'gate', 'address'}
        assert address(page)['block'] == '1.2'
        assert 'block 1' in page.inner_text('#source')
        assert changed(page, press('axis', 'row')) >= {'over', 'histogram', 'thumbs', 'address'}
        assert 'column samples' not in page.inner_text('.outside')
        assert changed(page, press('axis', 'both')) >= {'over', 'histogram', 'thumbs'}
        assert changed(page, lambda: page.click('#after')) >= {'over', 'gate', 'histogram'}
        assert address(page)['group'] == '1'
        page.click('#before')
        assert changed(page, lambda: page.select_option('#group', '2')) >= {'over', 'gate'}
        gate = page.locator('.gate canvas')
        gate.click(position=dict(x=2, y=20))
        assert address(page)['group'] == '1'
        gate.click(position=dict(x=2, y=20))
        assert address(page)['group'] == 'all'
        for layer in ('grid', 'found', 'fade'):
            assert changed(page, press('layers', layer)) == {'base', 'address'}
            assert layer not in address(page).get('layers', '').split(',')
        assert changed(page, lambda: page.select_option('#cam', 'cat')) >= {'base', 'address'}
        page.select_option('#cam', '')
        for view in ('reverse', 'chain', 'samples'):
            assert changed(page, press('view', view)) >= {'base', 'thumbs', 'caption', 'address'}
        for subject in ('all', 'i0', 'i1', 'token'):
            pick = lambda subject=subject: page.select_option('#subject', subject)  # noqa: E731
            assert changed(page, pick) >= {'base', 'caption', 'thumbs', 'address'}
        assert changed(page, lambda: page.click('.thumb >> nth=3')) >= {'over', 'gate', 'address'}
        assert address(page)['block'] == '2.2'


@chromium
def test_pointer_and_keys(show):
    with show(made_up()) as page:
        page.wait_for_selector(READY)
        panel = page.locator('.panel')
        area = panel.bounding_box()
        spots = [
            (area['x'] + area['width'] * x, area['y'] + area['height'] / 2) for x in (0.3, 0.6)
        ]
        page.mouse.move(*spots[0])
        assert changed(page, lambda: page.mouse.move(*spots[1])) >= {'over', 'thumbs', 'histogram'}
        page.mouse.click(*spots[1])
        pinned = address(page)['at']
        assert not changed(page, lambda: page.mouse.move(*spots[0]))
        assert changed(page, lambda: page.keyboard.press('ArrowLeft')) >= {'over', 'address'}
        x, y = map(int, address(page)['at'].split(','))
        assert x < int(pinned.split(',')[0])
        page.keyboard.press('Shift+ArrowDown')
        assert int(address(page)['at'].split(',')[1]) > y
        page.keyboard.press('Escape')
        assert address(page)['at'] == 'free'
        for key, name, value in (
            (']', 'block', '2.2'), ('[', 'block', '2.1'), ('1', 'block', '1.1'),
            ('v', 'view', 'reverse'), ('x', 'axis', 'row'), ('+', 'group', '1'),
            ('-', 'group', 'all'), ('a', 'subject', 'all'), ('r', 'subject', 'i0'),
            ('t', 'subject', 'token'), ('g', 'layers', 'found,fade,lens'),
        ):  # fmt: skip
            page.keyboard.press(key)
            assert address(page)[name] == value, key
        page.keyboard.press('?')
        assert page.locator('#help').is_visible()
        page.keyboard.press('Escape')
        assert not page.locator('#help').is_visible()


@chromium
def test_address_restores_the_page(show):
    fragment = 'view=chain&subject=token&block=2.3&axis=both&group=2&at=50,40&layers=grid'
    with show(made_up(), fragment=fragment) as page:
        page.wait_for_selector(READY)
        first = images(page)
        page.keyboard.press('ArrowRight')
        assert address(page) | {'at': ''} == dict(p.split('=') for p in fragment.split('&')) | {
            'at': ''
        }
        page.evaluate(f"location.hash = '{fragment}'")
        again = images(page)
        assert [again[name] for name in ('base', 'over')] == [
            first[name] for name in ('base', 'over')
        ]
    with show(made_up(), fragment='view=no&block=9.9&group=77&at=1e9,x&subject=i9') as page:
        page.wait_for_selector(READY)  # what does not exist is ignored


@chromium
def test_weights_are_conserved(show):
    """What is read, and who reads it, is the same matrix; a chain within the map loses nothing."""
    with show(made_up(spread=0.2, height=128, width=128)) as page:
        page.wait_for_selector(READY)
        sums = page.evaluate("""() => {
          const { models, state } = look, block = models[0].blocks[0];
          const pin = ({ width, stride }, t) => {
            state.pin = [(t % width + 0.5) * stride, (Math.floor(t / width) + 0.5) * stride];
          };
          const one = 9 * block.width + 9;
          const others = [1, -1, block.width, -block.width].map((d) => one + d);
          state.block = 0;
          pin(block, one);
          const read = others.map((t) => look.heatOf(models[0], block)[t]);
          state.view = 'reverse';
          const readers = others.map((t) => {
            pin(block, t);
            return look.heatOf(models[0], block)[one];
          });
          state.view = 'chain';
          state.block = models[0].blocks.length - 1;
          pin(look.current(), 2 * look.current().width + 2);
          return [read, readers, look.chainOf(models[0])[0].reduce((a, b) => a + b, 0)];
        }""")
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)
    assert sum(sums[0]) > 0
    assert sums[2] == pytest.approx(1, abs=0.05)


@chromium
def test_segments_of_a_label_map(show):
    with show(made_up(found='labels')) as page:
        page.wait_for_selector(READY)
        page.select_option('#subject', 'c0')
        assert 'sky' in page.inner_text('#caption')
        whole = images(page)
        panel = page.locator('.panel').bounding_box()
        page.mouse.click(panel['x'] + panel['width'] / 4, panel['y'] + panel['height'] / 3)
        assert re.fullmatch(r's\d+,\d+', address(page)['subject'])
        assert images(page)['base'] != whole['base']  # one of two segments


@chromium
def test_two_checkpoints_side_by_side(show):
    with show(made_up(), made_up(seed=1)) as page:
        page.wait_for_selector(READY)
        assert page.locator('.panel').count() == page.locator('.histogram').count() == 2
        second = page.locator('.panel').nth(1).bounding_box()
        before = images(page)['over'].split(',')
        page.mouse.move(second['x'] + second['width'] / 3, second['y'] + second['height'] / 3)
        after = images(page)['over'].split(',')
        assert before[0] != after[0]
        assert before[1] != after[1]
        assert 'epoch_1.pth' in page.inner_text('#panels')


@chromium
@pytest.mark.parametrize('view', ['samples', 'chain'])
def test_figures_are_saved(show, view, tmp_path):
    with show(made_up(), fragment=f'view={view}&block=2.1') as page:
        page.wait_for_selector(READY)
        for kind, start in (('svg', b'<svg'), ('png', b'\x89PNG')):
            with page.expect_download() as download:
                page.click(f'#{kind}')
            download.value.save_as(tmp_path / kind)
            assert download.value.suggested_filename == f'look-2.1-{view}.{kind}'
            assert (tmp_path / kind).read_bytes().startswith(start)
    drawn = (tmp_path / 'svg').read_text()
    assert drawn.count('<image') == (1 if view == 'samples' else 2)
    assert (drawn.count('<circle') > 8) == (view == 'samples')


@chromium
def test_tour_has_six_steps(show):
    with show(made_up()) as page:
        page.wait_for_selector(READY)
        page.keyboard.press('t')
        before = address(page)
        page.click('#tour')
        titles = []
        while page.locator('#card').is_visible():
            titles.append(page.inner_text('#cardtitle'))
            assert page.locator('.shown').is_visible()
            page.keyboard.press('Enter')
        assert len(set(titles)) == 6
        assert address(page) == before
        page.click('#tour')
        page.keyboard.press('Escape')
        assert not page.locator('#card').is_visible()


@chromium
def test_phone(show):
    with show(made_up(), made_up(seed=1), width=390, height=800) as page:
        page.wait_for_selector(READY)
        assert page.evaluate('document.documentElement.scrollWidth') <= 390
        panel = page.locator('.panel').first.bounding_box()
        assert panel['x'] >= 0
        assert panel['x'] + panel['width'] <= 390


@chromium
def test_hovering_a_large_image(show):
    look = made_up(800, 1344, depths=(2, 3, 10, 3), groups=32)
    with show(look, fragment='block=1.1') as page:
        page.wait_for_selector(READY)
        area = page.locator('.panel').bounding_box()
        page.evaluate('look.times.length = 0')
        for i in range(60):
            page.mouse.move(area['x'] + 30 + 10 * i, area['y'] + 60 + 5 * i)
        times = page.evaluate('look.times')
    assert len(times) >= 60
    print(f'hovering at 800x1344: {np.median(times):.1f} ms, at most {max(times):.1f} ms')


@chromium
@pytest.mark.parametrize('name', ['detector', 'segmentor'])
def test_live_pages_of_the_docs(name, tmp_path):
    page = tmp_path / f'{name}.html'
    page.write_text(render(json.loads((ROOT / f'docs/look/{name}.json').read_text())))
    assert page.stat().st_size < 1_500_000
    with opened(page, width=690) as opened_page:
        opened_page.wait_for_selector(READY)
        assert opened_page.locator('.thumb').count() == 8


def test_a_page_stays_below_its_limit():
    look = made_up(256, 256)
    noise = torch.Generator().manual_seed(0)
    for block in look.captured.blocks:
        block.offset = 3 * torch.randn(block.offset.shape, generator=noise)
    whole = payload([look], 'model', 'a.jpg')
    assert {entry['step'] for entry in whole['models'][0]['offsets']} == {2**-6}
    size = len(render(whole))
    tight = payload([look], 'model', 'a.jpg', limit=size - 10_000)
    assert len(render(tight)) <= size - 10_000
    assert max(entry['step'] for entry in tight['models'][0]['offsets']) > 2**-6
    with pytest.raises(LookError, match='--max-size'):
        payload([look], 'model', 'a.jpg', limit=size // 4)
    assert LIMIT == 10_000_000


def test_offsets_that_are_not_numbers_are_outside():
    look = made_up()
    look.captured.blocks[0].offset[0, 0, 0] = torch.nan
    look.captured.blocks[0].offset[1, 1, 0] = -torch.inf
    content = payload([look], 'model', 'a.jpg')
    entry = content['models'][0]['offsets'][0]
    planes = np.frombuffer(zlib.decompress(base64.b64decode(entry['data'])), np.uint8)
    folded = planes.reshape(2, -1).astype(np.uint16)
    folded = (folded[0] | (folded[1] << 8)).reshape(8, entry['height'], entry['width'])
    steps = (folded >> 1).astype(np.int16) ^ -(folded & 1).astype(np.int16)
    offset = steps.cumsum(1, dtype=np.int16) * entry['step']
    assert offset[0, 0, 0] < -500
    assert offset[0, 1, 1] < -500
    expected = look.captured.blocks[0].offset.permute(2, 0, 1)[1:]
    np.testing.assert_allclose(offset[1:], expected, atol=entry['step'] / 2)


def test_names_cannot_break_the_page():
    page = render(payload([made_up()], '</script><script>alert(1)</script>', 'a.jpg'))
    assert page.count('</script>') == 2
    data = re.search(r'id="data">(.*?)</script>', page, re.S)[1]
    assert json.loads(data)['title'].startswith('</script>')


def test_figure_of_a_label_map_has_three_tokens():
    pytest.importorskip('matplotlib')
    from mmatm.look.figure import draw

    assert len(draw([made_up(found='labels')]).axes) == 3 * 2  # of two stages


def test_activation_maps_need_a_class():
    pytest.importorskip('pytorch_grad_cam', reason='the extra "cam" is not installed')
    from mmatm.look.cam import activation_maps

    look = made_up()
    look.prediction.items = []
    with pytest.raises(LookError, match='found none'):
        activation_maps(None, None, look)
