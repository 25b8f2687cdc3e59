"""What the site is built with: the model zoo, docstrings in Markdown, and live pages."""

import json
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Add the live pages of look.md. ``make look`` writes their data."""
    from mmatm.look.page import render

    for data in sorted(Path(config.docs_dir, 'look').glob('*.json')):
        page = render(json.loads(data.read_text()))
        files.append(File.generated(config, f'look/{data.stem}.html', content=page))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Replace a page that names a ``source`` with that file, the README of a folder of configs.

    Configs become names, not links. Links to ``docs/`` are made relative to the page.
    """
    source = page.meta.get('source')
    if source is None:
        return markdown
    text = (Path(config.config_file_path).parent / source).read_text()
    text = text.replace('](../../docs/', '](../')
    return re.sub(r'\[[^]]*\]\((\w+\.py)\)', r'`\1`', text)


class MarkdownDocstrings(griffe.Extension):
    """Turns what docstrings write in reStructuredText into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(docstring: str) -> str:
    """Roles such as ``:func:`name``` become code, ``Example`` becomes a section of code."""
    text = re.sub(r':\w+:`[.~]?([^`]+)`', r'`\1`', docstring)
    text = re.sub(r'^( *)Example:$', r'\1Examples:', text, flags=re.M)
    return re.sub(r'::$', ':', text, flags=re.M)
