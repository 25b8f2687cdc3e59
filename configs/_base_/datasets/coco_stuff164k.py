"""COCO-Stuff 164k, read and evaluated like ADE20K."""

_base_ = './ade20k.py'
data_root = 'data/coco_stuff164k'
dataset = dict(type='COCOStuffDataset', data_root=data_root)
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        **dataset,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'), **dataset
    )
)
test_dataloader = val_dataloader
del dataset
