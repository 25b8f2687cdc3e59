"""Headless Chromium, for tests of the pages that mmatm writes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser'))), None)
chromium = pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed')


@contextmanager
def opened(
    file: Path, *, fragment: str = '', width: int = 1280, height: int = 900
) -> Iterator[Page]:
    """Open an HTML file, and fail if it asks for another file or logs an error meanwhile.

    Args:
        file: The page.
        fragment: What follows ``#`` in its address.
        width: Of the window, in CSS pixels.
        height: Of the window, in CSS pixels.
    """
    address = file.resolve().as_uri() + (f'#{fragment}' if fragment else '')
    requests: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        # Root, which containers have, needs the sandbox off.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': width, 'height': height})
        page.on('request', lambda request: requests.append(request.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('console', lambda text: errors.append(text.text) if text.type == 'error' else None)
        page.goto(address)
        try:
            yield page
        finally:
            browser.close()
    assert not errors
    # A page may use what it holds itself, by data: and blob: addresses.
    own = (file.resolve().as_uri(), 'data:', 'blob:')
    assert all(url.startswith(own) for url in requests), requests
