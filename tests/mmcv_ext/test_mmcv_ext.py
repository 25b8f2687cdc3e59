"""The stand-in for mmcv's compiled operators, called through mmcv's own functions."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from make_golden import CASES, GOLDEN, run
from torch.autograd import gradcheck

from mmatm import mmcv_ext

DEVICES = ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]
MODULES = (
    'deform_conv',
    'focal_loss',
    'info',
    'modulated_deform_conv',
    'multi_scale_deform_attn',
    'nms',
    'roi_align',
    'roi_pool',
)


@pytest.fixture(scope='module', autouse=True)
def ops():
    """The operators of mmcv, made to call the stand-in even where mmcv is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        for name in MODULES:
            patch.setattr(import_module(f'mmcv.ops.{name}'), 'ext_module', mmcv_ext)
        yield import_module('mmcv.ops')


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def uniform(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def boxes(count, seed=0, dtype=torch.float64):
    corner, size = uniform(2, count, 2, seed=seed)
    return torch.cat([corner * 60, corner * 60 + size * 30 + 1], dim=1).to(dtype)


def rois(count, dtype=torch.float64):
    image = torch.arange(count, dtype=dtype).remainder(2).unsqueeze(1)
    return torch.cat([image, boxes(count, dtype=dtype) - 10], dim=1)


# Against compiled mmcv


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('name', CASES)
def test_equals_compiled_mmcv(golden, name, device):
    results = run(name, device)
    expected = [golden[f'{name}/{i}'] for i in range(len(results))]
    assert f'{name}/{len(results)}' not in golden
    for result, value in zip(results, expected, strict=True):
        assert result.dtype == value.dtype
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-5)


def test_golden_has_no_other_case(golden):
    assert {key.rpartition('/')[0] for key in golden} == set(CASES)


# Gradients


def attend(ops, value, locations, weights):
    function = ops.multi_scale_deform_attn.MultiScaleDeformableAttnFunction
    shapes, starts = torch.tensor([[3, 4], [2, 2]]), torch.tensor([0, 12])
    return function.apply(value, shapes, starts, locations, weights, 1)


DIFFERENTIABLE = {
    'roi_align avg': (
        lambda ops, x: ops.roi_align(x, rois(5), (2, 3), 0.2, 0, 'avg', True),
        [normal(2, 2, 7, 9)],
    ),
    'roi_align max': (
        lambda ops, x: ops.roi_align(x, rois(5), (2, 3), 0.2, 2, 'max', False),
        [normal(2, 2, 7, 9)],
    ),
    'roi_pool': (
        lambda ops, x: ops.roi_pool(x, rois(5), (2, 3), 0.2),
        [normal(2, 2, 7, 9)],
    ),
    'deform_conv': (
        lambda ops, *inputs: ops.deform_conv2d(*inputs, 1, 1, 1, 2, 2, False, 1),
        [normal(2, 4, 4, 5), 2 * normal(2, 36, 4, 5, seed=1), normal(2, 2, 3, 3)],
    ),
    'modulated_deform_conv': (
        lambda ops, *inputs: ops.modulated_deform_conv2d(*inputs, (2, 1), 1, 1, 1, 1),
        [
            normal(2, 2, 4, 5),
            2 * normal(2, 18, 2, 5, seed=1),
            uniform(2, 9, 2, 5),
            normal(2, 2, 3, 3),
            normal(2),
        ],
    ),
    'ms_deform_attn': (
        attend,
        [normal(2, 16, 2, 3), uniform(2, 3, 2, 2, 2, 2) * 1.4 - 0.2, uniform(2, 3, 2, 2, 2)],
    ),
    'sigmoid_focal_loss': (
        lambda ops, x: ops.sigmoid_focal_loss(x, torch.arange(5), 2.0, 0.25, None, 'none'),
        [normal(5, 4)],
    ),
    'softmax_focal_loss': (
        lambda ops, x: ops.softmax_focal_loss(x, torch.arange(5) - 1, 2.0, 0.25, uniform(4)),
        [normal(5, 4)],
    ),
}


@pytest.mark.parametrize('name', DIFFERENTIABLE)
def test_gradient_is_that_of_the_result(ops, name):
    function, inputs = DIFFERENTIABLE[name]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert gradcheck(lambda *x: function(ops, *x), inputs)


@pytest.mark.parametrize('name', DIFFERENTIABLE)
def test_memory_layout_does_not_matter(ops, name):
    function, inputs = DIFFERENTIABLE[name]
    results = []
    for arrange in (torch.clone, lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0)):
        tensors = [arrange(x).requires_grad_() for x in inputs]
        output = function(ops, *tensors)
        results.append([output, *torch.autograd.grad(output.square().sum(), tensors)])
    torch.testing.assert_close(*results)


# Narrow dtypes


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    'name', ['deform_conv', 'modulated_deform_conv', 'ms_deform_attn', 'sigmoid_focal_loss']
)
def test_narrow_dtypes_are_computed_in_float32(ops, name, dtype):
    function, inputs = DIFFERENTIABLE[name]
    narrow = [x.to(dtype).requires_grad_() for x in inputs]
    wide = [x.detach().float().requires_grad_() for x in narrow]
    output, expected = function(ops, *narrow), function(ops, *wide)
    grad = normal(*output.shape, dtype=dtype)
    gradients = torch.autograd.grad(output, narrow, grad)
    expected_gradients = torch.autograd.grad(expected, wide, grad.float())
    for result, value in zip((output, *gradients), (expected, *expected_gradients), strict=True):
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), value, rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [
        ('roi_align avg', torch.bfloat16),
        ('roi_align max', torch.bfloat16),
        ('roi_align max', torch.float16),
        ('roi_pool', torch.bfloat16),
        ('roi_pool', torch.float16),
    ],
)
def test_narrow_features_are_pooled_in_float32(ops, name, dtype):
    function, [x] = DIFFERENTIABLE[name]
    x = x.to(dtype)
    pooled = function(ops, x)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, function(ops, x.float()).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_takes_any_dtype(ops, dtype, offset):
    narrow, scores = boxes(60, dtype=dtype), torch.randperm(60).to(dtype)
    kept = ops.nms(narrow, scores, 0.4, offset)[1]
    assert torch.equal(kept, ops.nms(narrow.float(), scores.float(), 0.4, offset)[1])
    assert torch.equal(kept, ops.nms(narrow, scores.float(), 0.4, offset)[1])
    assert 0 < len(kept) < 60
    dets, indices = ops.soft_nms(narrow, scores / 64, 0.4, offset=offset)
    expected, expected_indices = ops.soft_nms(
        narrow.float(), scores.float() / 64, 0.4, offset=offset
    )
    assert dets.dtype == dtype
    assert torch.equal(indices, expected_indices)
    torch.testing.assert_close(dets.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


# What the golden cases leave open


def test_nms_keeps_a_box_at_the_threshold(ops):
    pair = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    for offset in (0, 1):
        shifted = pair - torch.tensor([0, 0, offset, offset])
        assert len(ops.nms(shifted, torch.tensor([0.9, 0.8]), 0.6, offset)[1]) == 2
        assert len(ops.nms(shifted, torch.tensor([0.9, 0.8]), 0.599, offset)[1]) == 1


def test_equal_scores_are_ordered_as_by_mmcv(ops):
    apart = torch.arange(200.0).unsqueeze(1) * 10 + torch.tensor([0, 0, 5, 5])
    scores = torch.arange(200).remainder(3) / 4
    order = scores.sort(descending=True).indices
    assert torch.equal(ops.nms(apart, scores, 0.5)[1], order)
    groups = ops.nms_match(torch.cat([apart, scores.unsqueeze(1)], dim=1), 0.5)
    assert torch.equal(torch.cat(groups), order)


@pytest.mark.parametrize('pool', ['roi_align', 'roi_pool'])
def test_empty_box_has_no_maximum(ops, pool):
    x = normal(1, 2, 5, 5).requires_grad_()
    if pool == 'roi_align':
        pooled = ops.roi_align(x, x.new_tensor([[0, 2, 2, 2, 4]]), 2, 1.0, 0, 'max', True)
    else:
        pooled = ops.roi_pool(x, x.new_tensor([[0, 2, 2, 1, 4]]), 2, 1.0)
    assert not pooled.any()
    assert not torch.autograd.grad(pooled.sum(), x)[0].any()


def test_chunks_of_the_batch_do_not_matter(ops):
    inputs = [normal(4, 2, 5, 5), normal(4, 18, 5, 5), normal(3, 2, 3, 3)]
    results = []
    for step in (1, 2, 4):
        tensors = [x.clone().requires_grad_() for x in inputs]
        output = ops.deform_conv2d(*tensors, 1, 1, 1, 1, 1, False, step)
        results.append([output, *torch.autograd.grad(output.sin().sum(), tensors)])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=0)


def test_gradient_of_weights_is_scaled_and_added():
    x, offset, grad_output = normal(2, 2, 5, 5), normal(2, 18, 5, 5), normal(2, 3, 5, 5)
    empty = x.new_empty(0)
    geometry = dict(
        kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1, group=1,
        deformable_group=1, im2col_step=2,
    )  # fmt: skip
    once, more = torch.zeros(3, 2, 3, 3).double(), torch.ones(3, 2, 3, 3).double()
    arguments = (x, offset, grad_output)
    mmcv_ext.deform_conv_backward_parameters(*arguments, once, empty, empty, scale=1, **geometry)
    mmcv_ext.deform_conv_backward_parameters(*arguments, more, empty, empty, scale=0.5, **geometry)
    torch.testing.assert_close(more, 1 + once / 2)


def test_gradient_of_features_is_added():
    grad_output, boxes = normal(5, 2, 3, 3), rois(5)
    empty = grad_output.new_empty(0)
    once, more = torch.zeros(2, 2, 7, 9).double(), torch.ones(2, 2, 7, 9).double()
    for total in (once, more):
        mmcv_ext.roi_align_backward(
            grad_output, boxes, empty, empty, total, 3, 3, 0.2, 2, pool_mode=1, aligned=True
        )
    torch.testing.assert_close(more, 1 + once)


def test_levels_may_lie_in_any_order(ops):
    maps = [normal(2, size, 2, 3, seed=size) for size in (12, 4)]
    shapes = torch.tensor([[3, 4], [2, 2]])
    rest = uniform(2, 3, 2, 2, 2, 2), uniform(2, 3, 2, 2, 2), 64
    function = mmcv_ext.ms_deform_attn_forward
    torch.testing.assert_close(
        function(torch.cat(maps, 1), shapes, torch.tensor([0, 12]), *rest),
        function(torch.cat(maps[::-1], 1), shapes, torch.tensor([4, 0]), *rest),
    )


def test_saturated_focal_loss_is_finite(ops):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    least = -np.log(np.finfo(np.float32).tiny)  # 87.3
    for target, losses in ((0, [0, 0]), (1, [0.75 * least, 0.25 * least])):
        loss = ops.sigmoid_focal_loss(logits, torch.tensor([target]), 2.0, 0.25, None, 'none')
        torch.testing.assert_close(loss, torch.tensor([losses], dtype=torch.float32))
        assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()
    loss = ops.softmax_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'sum')
    torch.testing.assert_close(loss.item(), 0.25 * least.item())
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_background_has_no_class_weight(ops):
    logits, weights = normal(2, 3), torch.tensor([2.0, 3, 4], dtype=torch.float64)
    arguments = logits, torch.tensor([3, 1]), 2.0, 0.25
    plain = ops.sigmoid_focal_loss(*arguments, None, 'none')
    weighted = ops.sigmoid_focal_loss(*arguments, weights, 'none')
    torch.testing.assert_close(weighted, plain * torch.tensor([[1], [3]]))


# The module


@pytest.mark.parametrize(
    ('name', 'call'),
    [
        ('torchvision::nms', lambda ops: ops.nms(boxes(9).float(), torch.arange(9.0), 0.5)),
        ('torchvision::roi_align', lambda ops: ops.RoIAlign(7)(normal(2, 3, 9, 9), rois(4))),
        (
            'torchvision::deform_conv2d',
            lambda ops: ops.DeformConv2dPack(2, 2, 1)(torch.ones(1, 2, 3, 3)),
        ),
    ],
)
def test_usual_arguments_take_the_fast_path(ops, name, call):
    with torch.profiler.profile() as profile:
        call(ops)
    called = {event.key for event in profile.key_averages()}
    assert name in called
    assert not called & {'aten::argmax', 'aten::item'}


def test_unknown_operator_fails_when_it_is_called():
    carafe = mmcv_ext.carafe_forward
    assert carafe is mmcv_ext.carafe_forward
    assert carafe.__name__ == 'carafe_forward'
    with pytest.raises(RuntimeError, match='carafe_forward is not available, because mmcv was'):
        carafe(torch.ones(1), kernel_size=5)


def test_dunder_names_are_no_operators():
    assert not hasattr(mmcv_ext, '__wrapped__')
    with pytest.raises(AttributeError, match='__wrapped__'):
        mmcv_ext.__getattr__('__wrapped__')


def test_all_that_mmcv_asks_for_is_there(ops):
    asked = set()
    for file in Path(ops.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == 'ext_loader.load_ext':
                asked.update(ast.literal_eval(node.args[1]))
    assert len(asked) > 100
    assert all(callable(getattr(mmcv_ext, name)) for name in asked)
    assert set(mmcv_ext.SUPPLIED) <= asked
    assert list(mmcv_ext.SUPPLIED) == sorted(mmcv_ext.SUPPLIED)


def test_mmcv_tells_where_its_operators_are_from(ops):
    assert 'mmatm' in ops.get_compiler_version()
    assert ops.get_compiling_cuda_version() == 'not available'


def test_nothing_but_torch_and_numpy_is_imported():
    for file in Path(mmcv_ext.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                root = name.partition('.')[0]
                assert root in {'torch', 'numpy'} or root in sys.stdlib_module_names
