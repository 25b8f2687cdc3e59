"""UperNet on ATMNet-xt with narrow heads, for training from scratch, also on a CPU.

Heads have norms of single images, and Linear layers do not begin close to zero as in the paper:
without pretrained weights and with small batches both learn faster so.
"""

_base_ = './upernet_atmnet.py'
head = dict(channels=64, dropout_ratio=0.0, norm_cfg=dict(type='GN', num_groups=16))
model = dict(
    # A padding of zeros stays zero while the biases are, and norms multiply its gradients by 1000.
    data_preprocessor=dict(pad_val=1),
    backbone=dict(arch='xt', drop_path_rate=0.0, init_cfg=dict(type='Xavier', layer='Linear')),
    decode_head=dict(pool_scales=(1, 2), **head),
    auxiliary_head=head,
)
del head
