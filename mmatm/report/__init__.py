"""The report of a training run: one HTML file that needs nothing else.

:mod:`.work_dir` and :mod:`.history` read what training left, :mod:`.evaluation` runs the test set
once, :mod:`.detection`, :mod:`.segmentation` and :mod:`.classification` say what came out of it,
and :mod:`.page` writes the file. Its charts are a few hundred lines of SVG and JavaScript of our
own: Plotly and Bokeh add 1 to 5 MB to a file and draw neither masks nor label maps.
"""
