#!/usr/bin/env python
"""Write a config that trains on your own data: python tools/new_config.py DATA --out CONFIG

DATA is a folder with COCO JSON, Pascal VOC, YOLO, label maps, or a folder per class.
"""

from mmatm.cli.new import main

if __name__ == '__main__':
    main()
