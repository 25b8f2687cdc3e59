"""``compile=True`` for whole models of mm, whose images differ in size."""

import copy
import re
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch._dynamo.testing import CompileCounterWithBackend

from commands import DETECTOR, ROOT, SEGMENTOR, run
from marks import compiles
from mmatm.engine.compiling import compile_networks
from mmatm.utils.compat import ORDERS_SYMBOLS

TINY = dict(depths=(2, 2, 2, 2), widths=(8, 16, 24, 32), mlp_ratios=(2, 2, 2, 2),
            shares=(2, 4, 4, 8), interval=2)  # fmt: skip
SIZES = [(64, 96), (96, 64), (80, 128), (128, 160), (96, 96)] if ORDERS_SYMBOLS else [(64, 96)]

pytestmark = compiles


@pytest.fixture(autouse=True)
def _forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def detector():
    config = one_stage(DETECTOR)
    config.model.neck.in_channels = [8]
    return build(config)


def one_stage(file):
    """A config whose backbone has one stage, because tracing takes seconds for each."""
    config = Config.fromfile(ROOT / file)
    config.model.backbone.update(arch=TINY, out_indices=(0,))
    return config


def segmentor_config():
    config = one_stage(SEGMENTOR)
    config.model.neck.update(in_channels=[8], out_channels=16, num_outs=1)
    config.model.decode_head.update(
        in_channels=[16], in_index=[0], feature_strides=[4], channels=16
    )
    return config


def build(config):
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    return MODELS.build(config.model)


def images(size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def objects(size):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    sample = DetDataSample(
        metainfo=dict(
            img_shape=size,
            ori_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            scale_factor=(1, 1),
        )
    )
    masks = np.zeros((2, *size), np.uint8)
    masks[0, 8:40, 8:40] = masks[1, 20:60, 16:48] = 1
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40], [16, 20, 48, 60]]),
        labels=torch.tensor([1, 2]),
        masks=BitmapMasks(masks, *size),
    )
    return [sample, sample]


def labels(size):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size))
    sample.gt_sem_seg = PixelData(data=images(size)[0, :1].gt(0).long())
    return [sample, sample]


def losses_and_gradients(model, inputs, samples):
    torch.manual_seed(0)  # of the sampling of proposals
    total, _ = model.parse_losses(model.loss(inputs, samples))
    trained = [p for p in model.parameters() if p.requires_grad]
    return total, torch.autograd.grad(total, trained, allow_unused=True)


@pytest.mark.skipif(not shutil.which('g++'), reason='Inductor needs g++')
def test_inductor_serves_a_segmentor_at_all_sizes():
    model, eager = (build(segmentor_config()).eval() for _ in range(2))
    counter = CompileCounterWithBackend('inductor')
    assert compile_networks(model, backend=counter) == ['backbone', 'neck', 'decode_head']
    graphs = 0
    with torch.no_grad():
        for size in SIZES:
            found, expected = (m(images(size), labels(size)) for m in (model, eager))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            graphs = graphs or counter.frame_count
    assert counter.frame_count == graphs


def test_networks_of_a_detector_train_at_all_sizes():
    """Without Inductor, which takes minutes for the gradients."""
    model, eager = detector().train(), detector().train()
    counter = CompileCounterWithBackend('aot_eager')
    names = compile_networks(model, backend=counter)
    assert names == ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head']
    for size in SIZES:
        found, gradients = losses_and_gradients(model, images(size), objects(size))
        expected, expected_gradients = losses_and_gradients(eager, images(size), objects(size))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for one, other in zip(gradients, expected_gradients, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert (one - other).norm() <= 1e-2 * other.norm() + 1e-5
    assert counter.frame_count <= 2 * len(names)  # forward and backward passes


def test_copy_computes_with_its_own_weights():
    model = build(segmentor_config())
    compile_networks(model, backend='eager')
    backbone = copy.deepcopy(model).backbone
    for parameter in backbone.parameters():
        parameter.data.zero_()
    with torch.no_grad():
        assert not backbone(images(SIZES[0]))[0].any()
        assert model.backbone(images(SIZES[0]))[0].any()


def test_config_compiles_training_and_evaluation(seg_options, tmp_path):
    config = tmp_path / 'config.py'
    segmentor_config().dump(config)
    compiled = [*seg_options, 'compile.backend=eager']
    printed = run('tools/train.py', config, '--work-dir', tmp_path, *compiled)
    assert 'Compiling backbone, neck, decode_head' in printed
    arguments = [config, tmp_path / 'iter_2.pth', '--work-dir', tmp_path]
    printed = run('tools/test.py', *arguments, *compiled)
    assert 'Compiling backbone, neck, decode_head' in printed
    assert _metrics(printed) == _metrics(run('tools/test.py', *arguments, *seg_options))


def _metrics(printed):
    return re.findall(r'(?:mIoU|mAcc|aAcc): [0-9.]+', printed)[-3:]
