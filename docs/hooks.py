"""Pages of the model zoo are the READMEs of the configs, taken in when the site is built."""

import re
from pathlib import Path
from typing import Any


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Replace a page that names a ``source`` by that file; configs become names, not links.

    Links to ``docs/`` are turned to where the page lies, in a folder of it.
    """
    source = page.meta.get('source')
    if source is None:
        return markdown
    text = (Path(config.config_file_path).parent / source).read_text()
    text = text.replace('](../../docs/', '](../')
    return re.sub(r'\[[^]]*\]\((\w+\.py)\)', r'`\1`', text)
