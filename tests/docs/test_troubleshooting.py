"""docs/troubleshooting.md quotes messages that exist, and the links of all pages lead somewhere."""

import ast
import re

import pytest

from commands import ROOT

GAP = '…'  # where a message names a value
ROWS = (ROOT / 'docs' / 'troubleshooting.md').read_text().splitlines()
PHRASES = [
    p for row in ROWS if row.startswith('|') for p in re.findall('`(.+?)`', row.split('|')[1])
]
PAGES = [ROOT / 'README.md', *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')]


def texts():
    """All strings in the source, with gaps for what is formatted into them."""
    for folder in ('mmatm', 'tools'):
        for file in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield ''.join(
                        part.value if isinstance(part, ast.Constant) else GAP
                        for part in node.values
                    )


def test_quoted_messages_exist():
    assert len(PHRASES) > 20
    source = list(texts())
    patterns = {p: re.compile('.*'.join(map(re.escape, p.split(GAP))), re.S) for p in PHRASES}
    assert not [p for p, pattern in patterns.items() if not any(map(pattern.search, source))]


def anchors(file):
    """The anchors of the headings in a page, as GitHub and MkDocs make them."""
    headings = re.findall(r'^#+ (.+)$', file.read_text(), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if '://' in link:
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
